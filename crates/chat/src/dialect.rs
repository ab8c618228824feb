//! How a model calls tools, learned from its own chat template.
//!
//! A template says how it wants past calls to look. So it is given a conversation with a call in it,
//! and what it makes of the call's name and arguments shows what stands before, between and
//! behind them. From these pieces come the reader of calls (`calls.rs`) and the grammar of calls that
//! have to be made (`forced.rs`). A template that knows no tools gets them described in a system
//! message, in the form that Hermes and Qwen models use.

use serde_json::{Map, Value, json};

use crate::channels;
use crate::template::{ChatTemplate, RenderOptions};
use crate::turn::{Call, Turn};

/// The names that the probes use. No template spells them itself.
const NAMES: [&str; 2] = ["probe_alpha", "probe_omega"];
const KEYS: [&str; 2] = ["key_one", "key_two"];
const VALUES: [&str; 2] = ["value one", "value two"];
/// Mistral's templates want nine letters or digits. Where it shows, any id may stand.
pub(crate) const ID: &str = "probe1234";

/// How calls are spelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// Whether the template itself describes tools.
    pub native: bool,
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
        let learned = [false, true].into_iter().find_map(|text| learn(template, text, ends));
        learned.filter(Self::is_clear).unwrap_or_else(Self::fallback)
    }

    /// Whether its pieces are the same for every call.
    fn is_clear(&self) -> bool {
        let probed = || NAMES.iter().chain(&KEYS).chain(&VALUES);
        let clear = |piece: &&str| probed().all(|probe| !piece.contains(probe));
        self.pieces().iter().all(clear) && !self.marker_or_object().is_empty()
    }

    fn marker_or_object(&self) -> &str {
        if self.is_object() { &self.open } else { self.marker() }
    }

    /// For answers in channels: a call is a message to a tool, and it ends the answer.
    fn channels() -> Self {
        let (open, middle) = channels::CALL;
        Self {
            native: true,
            open: open.to_owned(),
            middle: middle.to_owned(),
            between: None,
            close: String::new(),
            arguments: Arguments::Json,
            takes_text: false,
            answer: channels::ANSWER,
        }
    }

    /// For templates that know no tools.
    pub fn fallback() -> Self {
        Self {
            native: false,
            open: "<tool_call>\n{\"name\": \"".to_owned(),
            middle: "\", \"arguments\": ".to_owned(),
            between: Some("}\n</tool_call>\n<tool_call>\n{\"name\": \"".to_owned()),
            close: "}\n</tool_call>".to_owned(),
            arguments: Arguments::Json,
            takes_text: false,
            answer: "",
        }
    }

    /// Whether a call is one JSON object that holds the name.
    pub(crate) fn is_object(&self) -> bool {
        self.arguments == Arguments::Json
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

    /// All text that the dialect is made of: control tokens in it have to be seen.
    pub fn pieces(&self) -> Vec<&str> {
        let mut all = vec![self.open.as_str(), &self.middle, &self.close];
        all.extend(self.between.as_deref());
        if let Arguments::Each { key_value, value_key, none } = &self.arguments {
            all.extend([key_value.as_str(), value_key, none]);
        }
        all
    }

    /// Whether the template wants past calls' arguments as text.
    pub fn takes_text(&self) -> bool {
        self.takes_text
    }

    /// The conversation as the template takes it: where it knows no tools, they are described, and
    /// calls and their answers are text.
    pub fn adapt(&self, turns: &[Turn], tools: &[Value]) -> Vec<Turn> {
        if self.native {
            return turns.to_vec();
        }
        let mut adapted: Vec<Turn> = turns.iter().map(|turn| self.as_text(turn)).collect();
        if !tools.is_empty() {
            let description = describe(tools);
            match adapted.first_mut().filter(|turn| turn.role == "system") {
                Some(system) => system.content = format!("{}\n\n{description}", system.content),
                None => adapted.insert(0, Turn::of("system", description)),
            }
        }
        adapted
    }

    fn as_text(&self, turn: &Turn) -> Turn {
        if turn.role == "tool" {
            let content = format!("<tool_response>\n{}\n</tool_response>", turn.content);
            return Turn::of("user", content);
        }
        let mut plain = Turn { calls: Vec::new(), ..turn.clone() };
        for call in &turn.calls {
            if !plain.content.is_empty() {
                plain.content.push('\n');
            }
            let name = &call.name;
            plain.content.push_str(&format!(
                "{}{name}{}{}{}",
                self.open, self.middle, call.arguments, self.close
            ));
        }
        plain
    }
}

/// What a model without a tool template is told.
fn describe(tools: &[Value]) -> String {
    let list: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "You may call these functions:\n<tools>\n{}\n</tools>\nTo call one, answer with a JSON object \
         with its name and arguments between <tool_call> tags:\n<tool_call>\n{{\"name\": \"function\", \
         \"arguments\": {{\"key\": \"value\"}}}}\n</tool_call>",
        list.join("\n")
    )
}

// === Learning ===

fn learn(template: &ChatTemplate, takes_text: bool, ends: &[&str]) -> Option<Dialect> {
    let with_id = |id: &str| -> Option<Probe<'_>> {
        let probe = Probe { template, takes_text, id: id.to_owned() };
        probe.one().filter(|text| text.contains(NAMES[0])).map(|_| probe)
    };
    // Kimi's calls show their id, which holds the name.
    let probe = with_id(ID).or_else(|| with_id(&format!("functions.{}:0", NAMES[0])))?;
    let one = probe.one()?;
    if !probe.describes_tools() {
        return None;
    }
    let name = one.find(NAMES[0])?;
    let open = strip_thinking(&one[..name]).trim_start().to_owned();
    let behind = &one[name + NAMES[0].len()..];
    let json = find_object(behind, &arguments(&KEYS));
    let (middle, tail, form) = match json {
        Some((start, end)) => (&behind[..start], &behind[end..], None),
        None => {
            let at = |text: &str| Some((behind.find(text)?, text.len()));
            let [(k1, k1_len), (k2, k2_len)] = [at(KEYS[0])?, at(KEYS[1])?];
            let [(v1, v1_len), (v2, v2_len)] = [at(VALUES[0])?, at(VALUES[1])?];
            let key_value = behind.get(k1 + k1_len..v1)?;
            let value_key = behind.get(v1 + v1_len..k2)?;
            if behind.get(k2 + k2_len..v2)? != key_value {
                return None;
            }
            let tail = &behind[v2 + v2_len..];
            (&behind[..k1], tail, Some((key_value.to_owned(), value_key.to_owned())))
        }
    };
    let end = probe.end();
    let close = without_end(tail, &end, ends);
    let between = probe.two().and_then(|two| {
        let first = &two[two.find(NAMES[0])?..];
        let behind = match json {
            Some(_) => find_object(first, &arguments(&KEYS))?.1,
            None => first.find(VALUES[1])? + VALUES[1].len(),
        };
        let second = first.find(NAMES[1])?;
        first.get(behind..second).map(|text| text.replace(&probe.id, ID))
    });
    let arguments = match form {
        None => Arguments::Json,
        Some((key_value, value_key)) => {
            let bare = probe.without_arguments()?;
            let none = &bare[bare.find(NAMES[0])? + NAMES[0].len()..];
            Arguments::Each { key_value, value_key, none: without_end(none, &end, ends) }
        }
    };
    let middle = middle.to_owned();
    Some(Dialect { native: true, open, middle, between, close, arguments, takes_text, answer: "" })
}

/// A template and how it is asked.
struct Probe<'t> {
    template: &'t ChatTemplate,
    takes_text: bool,
    id: String,
}

impl Probe<'_> {
    fn render(&self, turns: &[Turn], tools: &[Value], opens: bool) -> Option<String> {
        let variables = Map::new();
        let options = RenderOptions {
            add_generation_prompt: opens,
            continue_final_message: false,
            variables: &variables,
            tools,
            arguments_as_text: self.takes_text,
            now: std::time::SystemTime::UNIX_EPOCH,
        };
        self.template.render(turns, &options).ok().map(|pieces| pieces.concat())
    }

    fn call(&self, name: &str, keys: &[&str]) -> Call {
        let id = self.id.replace(NAMES[0], name);
        Call { id, name: name.to_owned(), arguments: arguments(keys) }
    }

    /// What the template makes of an assistant's turn with these calls.
    fn answer(&self, content: &str, calls: Vec<Call>) -> Option<String> {
        let user = Turn::of("user", "Please do.");
        let answer = Turn { calls, ..Turn::of("assistant", content) };
        let tools = tools();
        let before = self.render(std::slice::from_ref(&user), &tools, true)?;
        let all = self.render(&[user, answer], &tools, false)?;
        Some(all[alike(&all, &before)..].to_owned())
    }

    fn one(&self) -> Option<String> {
        self.answer("", vec![self.call(NAMES[0], &KEYS)])
    }

    fn two(&self) -> Option<String> {
        self.answer("", vec![self.call(NAMES[0], &KEYS), self.call(NAMES[1], &KEYS)])
    }

    fn without_arguments(&self) -> Option<String> {
        self.answer("", vec![self.call(NAMES[0], &[])])
    }

    /// What stands behind an answer without calls.
    fn end(&self) -> String {
        let plain = self.answer("Plain text.", Vec::new()).unwrap_or_default();
        let at = plain.find("Plain text.").map(|at| at + "Plain text.".len());
        at.and_then(|at| plain.get(at..)).unwrap_or_default().to_owned()
    }

    fn describes_tools(&self) -> bool {
        let user = [Turn::of("user", "Please do.")];
        let with = self.render(&user, &tools(), true);
        with.is_some_and(|text| text.contains(NAMES[0]))
    }
}

/// How long two texts begin alike, not ending within a tag: `<think>` and `<tool_call>` begin alike.
fn alike(text: &str, other: &str) -> usize {
    let chars = text.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let same: usize = chars.map(|(c, _)| c.len_utf8()).sum();
    let tag = text[..same].rfind('<').filter(|&at| !text[at..same].contains('>'));
    tag.unwrap_or(same)
}

fn arguments(keys: &[&str]) -> Value {
    let pairs = keys.iter().zip(VALUES).map(|(key, value)| ((*key).to_owned(), json!(value)));
    Value::Object(pairs.collect())
}

fn tools() -> Vec<Value> {
    let properties: Map<String, Value> = KEYS
        .iter()
        .map(|key| ((*key).to_owned(), json!({"type": "string", "description": "A text."})))
        .collect();
    let tool = |name: &&str| {
        json!({"type": "function", "function": {
            "name": name, "description": "Does it.",
            "parameters": {"type": "object", "properties": properties.clone(), "required": KEYS},
        }})
    };
    NAMES.iter().map(tool).collect()
}

/// Where a JSON object with this value stands.
fn find_object(text: &str, value: &Value) -> Option<(usize, usize)> {
    text.match_indices('{').find_map(|(at, _)| {
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        let found = values.next()?.ok()?;
        (found == *value).then(|| (at, at + values.byte_offset()))
    })
}

/// What stands behind thoughts.
fn strip_thinking(text: &str) -> &str {
    text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..])
}

/// What of `tail` does not end the turn: `end` does, and so do control tokens that begin like it.
fn without_end(tail: &str, end: &str, ends: &[&str]) -> String {
    let first = ends.iter().filter_map(|end| tail.find(end)).min();
    let tail = tail[..first.unwrap_or(tail.len())].trim_end();
    let end = end.trim();
    if !end.is_empty()
        && let Some(at) = tail.rfind(end)
    {
        return tail[..at].trim_end().to_owned();
    }
    // Another token of the same kind: `<|eom_id|>` for `<|eot_id|>`.
    match tail.rfind("<|").filter(|_| end.starts_with("<|") && tail.ends_with("|>")) {
        Some(at) => tail[..at].trim_end().to_owned(),
        None => tail.to_owned(),
    }
}
