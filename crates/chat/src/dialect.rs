//! How a model calls tools, learned from its own chat template.
//!
//! A template says how it wants past calls to look. So it is given a conversation with a call in it,
//! and what it makes of the call's name and arguments shows what stands before, between and
//! behind them. From these pieces come the reader of calls (`calls.rs`) and the grammar of calls that
//! have to be made (`forced.rs`). A template that knows no tools gets them described in a system
//! message, in the form that Hermes and Qwen models use.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

use crate::channels;
use crate::template::ChatTemplate;
use crate::turn::Turn;

mod learn;

/// Mistral's templates want nine letters or digits. Where it shows, any id may stand.
pub(crate) const ID: &str = "probe1234";

/// The longest piece of a dialect, in bytes: readers compare with them wherever one may begin.
const LONGEST_PIECE: usize = 4096;
/// The longest quote of a dialect, in bytes.
const LONGEST_QUOTE: usize = 16;

/// How calls are spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// Whether the template itself describes tools.
    pub native: bool,
    /// Whether the template itself spells calls.
    pub(crate) renders: bool,
    /// What begins an answer's first call, up to its name.
    pub(crate) open: String,
    /// Between a call's name and its arguments.
    pub(crate) middle: String,
    /// Between a call's arguments and the next one's name; `None` where there is only one.
    pub(crate) between: Option<String>,
    /// Behind the last call's arguments.
    pub(crate) close: String,
    pub(crate) arguments: Arguments,
    /// Whether the template wants past calls' arguments as text.
    pub(crate) takes_text: bool,
    /// Whether the template takes no other ids than nine letters and digits.
    pub(crate) short_ids: bool,
    /// What begins an answer that is no call; empty where it just begins.
    pub(crate) answer: &'static str,
}

/// How a call's arguments are spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// As a JSON object.
    Json,
    /// One by one; `middle` is what stands before the first key.
    Each {
        /// Between a key and its value.
        key_value: String,
        /// Between a value and the next key.
        value_key: String,
        /// Behind a name without arguments, up to the end of the call.
        none: String,
        values: Values,
    },
}

/// How the values of arguments that come one by one are spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Values {
    /// Just so: the schema says what is a text and what is JSON.
    Bare,
    /// As literals of some language, texts in these quotes.
    Quoted(String),
    /// A word before the value says what kind it is of.
    Told {
        /// Between a key and the word.
        front: String,
        /// Between the word and the value.
        back: String,
        /// The word for texts.
        texts: String,
        /// The words for the other kinds of JSON Schema, by their names there.
        others: Vec<(&'static str, String)>,
    },
}

/// How calls end and go on, all behind a call's arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<'d> {
    /// What ends each call.
    pub(crate) call: &'d str,
    /// What begins the next one, up to its name; empty where there is none.
    pub(crate) next: &'d str,
    /// What ends the last one, besides.
    pub(crate) all: &'d str,
}

impl Dialect {
    /// The dialect of a template. `ends` are the names of the tokens that end an answer.
    pub fn learn(template: &ChatTemplate, ends: &[&str]) -> Self {
        if template.thinking().is_some_and(|thinking| thinking.in_channels()) {
            return Self::channels();
        }
        let learn = |text| learn::learn(template, text, ends).filter(Self::is_clear);
        let learned = [false, true].into_iter().find_map(learn);
        learned.or_else(|| Self::known(template)).unwrap_or_else(Self::fallback)
    }

    /// Whether its pieces are the same for every call, short, and there where readers need them.
    fn is_clear(&self) -> bool {
        let probed = || learn::NAMES.iter().chain(&learn::KEYS).chain(&learn::VALUES);
        let clear = |piece: &&str| {
            piece.len() <= LONGEST_PIECE && probed().all(|probe| !piece.contains(probe))
        };
        let complete = match &self.arguments {
            Arguments::Json => true,
            Arguments::Each { key_value, values, .. } => match values {
                Values::Bare => !key_value.trim().is_empty() && !self.value_end().is_empty(),
                Values::Quoted(quote) => {
                    !key_value.trim().is_empty() && quote.len() <= LONGEST_QUOTE
                }
                Values::Told { front, back, .. } => {
                    !front.is_empty() && !back.is_empty() && !self.value_end().is_empty()
                }
            },
        };
        complete && self.pieces().iter().all(clear) && !self.marker_or_object().is_empty()
    }

    fn marker_or_object(&self) -> &str {
        if self.is_object() { &self.open } else { self.marker() }
    }

    /// For answers in channels: a call is a message to a tool, and it ends the answer.
    fn channels() -> Self {
        let (open, middle) = channels::CALL;
        Self {
            native: true,
            renders: true,
            open: open.to_owned(),
            middle: middle.to_owned(),
            between: None,
            close: String::new(),
            arguments: Arguments::Json,
            takes_text: false,
            short_ids: false,
            answer: channels::ANSWER,
        }
    }

    /// For templates that tell of tools and leave calls out, by marks that they have.
    fn known(template: &ChatTemplate) -> Option<Self> {
        let has = |mark: &str| template.holds(mark);
        if !learn::describes_tools(template) {
            return None;
        }
        let native = Self { native: true, ..Self::fallback() };
        if has("<|tool_call|>") {
            return Some(Self {
                open: "<|tool_call|>[{\"name\": \"".to_owned(),
                between: Some("}, {\"name\": \"".to_owned()),
                close: "}]".to_owned(),
                ..native
            });
        }
        (has("<|tool_list_start|>") || has("List of tools: [")).then(|| Self {
            open: "<|tool_call_start|>[".to_owned(),
            middle: "(".to_owned(),
            between: Some("), ".to_owned()),
            close: ")]<|tool_call_end|>".to_owned(),
            arguments: Arguments::Each {
                key_value: "=".to_owned(),
                value_key: ", ".to_owned(),
                none: "()]<|tool_call_end|>".to_owned(),
                values: Values::Quoted("'".to_owned()),
            },
            ..native
        })
    }

    /// For templates that know no tools.
    pub fn fallback() -> Self {
        Self {
            native: false,
            renders: false,
            open: "<tool_call>\n{\"name\": \"".to_owned(),
            middle: "\", \"arguments\": ".to_owned(),
            between: Some("}\n</tool_call>\n<tool_call>\n{\"name\": \"".to_owned()),
            close: "}\n</tool_call>".to_owned(),
            arguments: Arguments::Json,
            takes_text: false,
            short_ids: false,
            answer: "",
        }
    }

    /// Whether a call's arguments come one by one, and not as one JSON object.
    pub fn takes_each(&self) -> bool {
        matches!(self.arguments, Arguments::Each { .. })
    }

    /// How values are spelled, where arguments come one by one.
    pub(crate) fn values(&self) -> Option<&Values> {
        if let Arguments::Each { values, .. } = &self.arguments { Some(values) } else { None }
    }

    /// Whether a call is one JSON object that holds the name.
    pub(crate) fn is_object(&self) -> bool {
        let object = self.open.rfind('{').unwrap_or(self.open.len());
        self.arguments == Arguments::Json
            && self.open[object..].contains(':')
            && self.open.ends_with('"')
            && self.middle.starts_with('"')
    }

    /// What announces calls; empty where they just begin.
    pub(crate) fn marker(&self) -> &str {
        let open = self.open.trim_start();
        if self.is_object() {
            let object = open.rfind('{').unwrap_or(0);
            return open[..object].trim_end().trim_end_matches('[').trim_end();
        }
        let open = open.find(ID).map_or(open, |at| &open[..at]);
        open.split_whitespace().next().unwrap_or_default()
    }

    /// How calls end and go on.
    pub(crate) fn ends(&self) -> Ends<'_> {
        let close = self.close.as_str();
        let Some(between) = self.between.as_deref() else {
            return Ends { call: close, next: "", all: "" };
        };
        let same = alike(between, close);
        Ends { call: &between[..same], next: between[same..].trim_start(), all: &close[same..] }
    }

    /// What ends a value without quotes: what both another key and the call's end begin with, or what
    /// leads to the next key, up to the end of its tag.
    pub(crate) fn value_end(&self) -> &str {
        let Arguments::Each { value_key, .. } = &self.arguments else { return "" };
        let chars = value_key.chars().zip(self.close.chars()).take_while(|(a, b)| a == b);
        let same: usize = chars.map(|(c, _)| c.len_utf8()).sum();
        let end = &value_key[..same];
        let end = if end.trim().is_empty() { value_key.as_str() } else { end };
        end.rfind('>').map_or(end, |at| &end[..=at]).trim()
    }

    /// All text that the dialect is made of: control tokens in it have to be seen.
    pub fn pieces(&self) -> Vec<&str> {
        let mut all = vec![self.open.as_str(), &self.middle, &self.close];
        all.extend(self.between.as_deref());
        if let Arguments::Each { key_value, value_key, none, values } = &self.arguments {
            all.extend([key_value.as_str(), value_key, none]);
            all.extend(match values {
                Values::Bare => vec![],
                Values::Quoted(quote) => vec![quote.as_str()],
                Values::Told { front, back, .. } => vec![front.as_str(), back],
            });
        }
        all
    }

    /// Whether the template wants past calls' arguments as text.
    pub fn takes_text(&self) -> bool {
        self.takes_text
    }

    /// The conversation as the template takes it: where it knows no tools, they are described; where
    /// it spells no calls, calls and their answers are text.
    pub fn adapt(&self, turns: &[Turn], tools: &[Value]) -> Vec<Turn> {
        let mut adapted = turns.to_vec();
        if self.short_ids {
            for turn in &mut adapted {
                let ids = turn.calls.iter_mut().map(|call| &mut call.id);
                ids.chain(&mut turn.call_id).for_each(|id| *id = short(id));
            }
        }
        if !self.renders {
            adapted.iter_mut().for_each(|turn| self.as_text(turn));
        }
        if !self.native && !tools.is_empty() {
            let description = self.describe(tools);
            match adapted.first_mut().filter(|turn| turn.role == "system") {
                Some(system) => system.content = format!("{}\n\n{description}", system.content),
                None => adapted.insert(0, Turn::of("system", description)),
            }
        }
        adapted
    }

    fn as_text(&self, turn: &mut Turn) {
        if turn.role == "tool" && !self.native {
            let content = format!("<tool_response>\n{}\n</tool_response>", turn.content);
            *turn = Turn::of("user", content);
        }
        let calls = std::mem::take(&mut turn.calls);
        for call in calls {
            if !turn.content.is_empty() {
                turn.content.push('\n');
            }
            let call = self.spell(&call.name, &call.arguments);
            turn.content.push_str(&call);
        }
    }

    /// A call by itself.
    fn spell(&self, name: &str, arguments: &Value) -> String {
        let Arguments::Each { key_value, value_key, none, values } = &self.arguments else {
            return format!("{}{name}{}{arguments}{}", self.open, self.middle, self.close);
        };
        let pair = |(key, value): (&String, &Value)| match (value.as_str(), values) {
            (Some(text), Values::Quoted(quote)) => format!("{key}{key_value}{quote}{text}{quote}"),
            (Some(text), _) => format!("{key}{key_value}{text}"),
            (None, _) => format!("{key}{key_value}{value}"),
        };
        let pairs: Vec<String> = arguments.as_object().into_iter().flatten().map(pair).collect();
        match pairs.is_empty() {
            true => format!("{}{name}{none}", self.open),
            false => {
                let pairs = pairs.join(value_key);
                format!("{}{name}{}{pairs}{}", self.open, self.middle, self.close)
            }
        }
    }

    /// What a model is told whose template does not.
    fn describe(&self, tools: &[Value]) -> String {
        let list: Vec<String> = tools.iter().map(Value::to_string).collect();
        let example = self.spell("function", &json!({"key": "value"}));
        let how = match self.renders {
            true => "To call one, answer with its name and arguments like this:",
            false => {
                "To call one, answer with a JSON object with its name and arguments between \
                 <tool_call> tags:"
            }
        };
        format!(
            "You may call these functions:\n<tools>\n{}\n</tools>\n{how}\n{example}",
            list.join("\n")
        )
    }
}

/// An id of nine letters and digits for any other one: always the same.
fn short(id: &str) -> String {
    if id.len() == ID.len() && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let mut rest = hasher.finish();
    let mut digit = || {
        let digit = char::from_digit(u32::try_from(rest % 36).unwrap_or(0), 36);
        rest /= 36;
        digit.unwrap_or('0')
    };
    ID.chars().map(|_| digit()).collect()
}

/// How long two texts begin alike, not ending within a tag: `<think>` and `<tool_call>` begin alike.
fn alike(text: &str, other: &str) -> usize {
    let chars = text.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let same: usize = chars.map(|(c, _)| c.len_utf8()).sum();
    let tag = text[..same].rfind('<').filter(|&at| !text[at..same].contains('>'));
    tag.unwrap_or(same)
}
