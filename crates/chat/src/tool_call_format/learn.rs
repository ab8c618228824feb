//! Learns a tool call format from what a chat template renders of conversations with calls.
//!
//! No list of models says how they call tools. A template renders past calls; the text before, between and after the
//! call's name and arguments is the format. Arguments that are numbers instead of texts show whether values are bare,
//! quoted, or follow a word for their type. Formats that the parser could not use, because a delimiter is missing or
//! depends on the call, are rejected (`is_usable`).

use serde_json::{Map, Value, json};

use super::{ArgumentFormat, PROBE_ID, ToolCallFormat, ValueFormat, common_prefix};
use crate::channels;
use crate::reasoning::ReasoningFormat;
use crate::template::jinja::{JinjaTemplate, RenderOptions};
use crate::turn::{Call, Turn};

/// The names of tools, keys and texts in the rendered conversations. No template writes them itself.
const NAMES: [&str; 2] = ["probe_alpha", "probe_omega"];
const KEYS: [&str; 2] = ["key_one", "key_two"];
const VALUES: [&str; 2] = ["value one", "value two"];
/// Values that are numbers.
const NUMBERS: [&str; 2] = ["73917", "73918"];
/// An id such as servers generate.
const LONG_ID: &str = "call_0123456789abcdef01234567";

/// The longest rendering that a format is learned from, in bytes: the conversations are short.
const MAX_RENDERED: usize = 128 * 1024;
/// The longest delimiter, in bytes. The parser compares each with the text wherever it may begin.
const MAX_DELIMITER: usize = 4096;
/// The longest quote, in bytes.
const MAX_QUOTE: usize = 16;

/// The tool call format of a template with this `source`. `ends` are the texts of the tokens that end a reply.
///
/// Markers identify the format where the template describes tools and renders no calls. If nothing is found, it is
/// [`ToolCallFormat::fallback`]. Renders some twenty short conversations.
pub(crate) fn learn(
    template: &JinjaTemplate,
    source: &str,
    reasoning: Option<&ReasoningFormat>,
    ends: &[&str],
) -> ToolCallFormat {
    if reasoning.is_some_and(ReasoningFormat::in_channels) {
        return channel_format();
    }
    let rendered = |as_text| rendered_format(template, as_text, ends).filter(is_usable);
    let learned = [false, true].into_iter().find_map(rendered);
    learned.or_else(|| marked_format(template, source)).unwrap_or_else(ToolCallFormat::fallback)
}

/// The format in channels: a call is a message to a tool, and the last message of its reply.
fn channel_format() -> ToolCallFormat {
    let (open, after_name) = channels::CALL;
    ToolCallFormat {
        describes_tools: true,
        renders_calls: true,
        open: open.to_owned(),
        after_name: after_name.to_owned(),
        between_calls: None,
        close: String::new(),
        content_prefix: channels::CONTENT_PREFIX,
        ..ToolCallFormat::fallback()
    }
}

/// The format of a template that describes tools without rendering calls, by markers in its source.
fn marked_format(template: &JinjaTemplate, source: &str) -> Option<ToolCallFormat> {
    let probe = Probe { template, arguments_as_text: false, id: PROBE_ID.to_owned() };
    if !probe.describes_tools() {
        return None;
    }
    let described = ToolCallFormat { describes_tools: true, ..ToolCallFormat::fallback() };
    if source.contains("<|tool_call|>") {
        return Some(ToolCallFormat {
            open: "<|tool_call|>[{\"name\": \"".to_owned(),
            between_calls: Some("}, {\"name\": \"".to_owned()),
            close: "}]".to_owned(),
            ..described
        });
    }
    let is_list =
        ["<|tool_list_start|>", "List of tools: ["].iter().any(|one| source.contains(one));
    is_list.then(|| ToolCallFormat {
        open: "<|tool_call_start|>[".to_owned(),
        after_name: "(".to_owned(),
        between_calls: Some("), ".to_owned()),
        close: ")]<|tool_call_end|>".to_owned(),
        arguments: ArgumentFormat::OneByOne {
            key_value: "=".to_owned(),
            value_key: ", ".to_owned(),
            no_arguments: "()]<|tool_call_end|>".to_owned(),
            values: ValueFormat::Quoted("'".to_owned()),
        },
        ..described
    })
}

/// Whether the delimiters that the parser needs are there, short, and the same for every call.
fn is_usable(format: &ToolCallFormat) -> bool {
    let is_constant = |delimiter: &&str| {
        let mut probes = NAMES.iter().chain(&KEYS).chain(&VALUES);
        delimiter.len() <= MAX_DELIMITER && probes.all(|probe| !delimiter.contains(probe))
    };
    let has_value_end = || !format.value_end().is_empty();
    let is_complete = match &format.arguments {
        ArgumentFormat::JsonObject => true,
        ArgumentFormat::OneByOne { key_value, values, .. } => match values {
            ValueFormat::Bare => !key_value.trim().is_empty() && has_value_end(),
            ValueFormat::Quoted(quote) => !key_value.trim().is_empty() && quote.len() <= MAX_QUOTE,
            ValueFormat::Typed { before_type, after_type, .. } => {
                !before_type.is_empty() && !after_type.is_empty() && has_value_end()
            }
        },
    };
    let start = if format.is_json_object() { &format.open } else { format.marker() };
    is_complete && format.delimiters().iter().all(is_constant) && !start.is_empty()
}

/// The format of the calls that a template renders; `None` if they show none.
fn rendered_format(
    template: &JinjaTemplate,
    arguments_as_text: bool,
    ends: &[&str],
) -> Option<ToolCallFormat> {
    let with_id = |id: &str| -> Option<Probe<'_>> {
        let probe = Probe { template, arguments_as_text, id: id.to_owned() };
        probe.one_call().filter(|text| text.contains(NAMES[0])).map(|_| probe)
    };
    // Some templates render the id, which holds the name.
    let probe = with_id(PROBE_ID).or_else(|| with_id(&format!("functions.{}:0", NAMES[0])))?;
    let one = probe.one_call()?;
    let name = one.find(NAMES[0])?;
    let open = without_reasoning(&one[..name]).trim_start().to_owned();
    let after_name = &one[name + NAMES[0].len()..];
    let turn_end = probe.turn_end();
    let json = find_object(after_name, &arguments_of(&KEYS));
    let pairs = if json.is_none() { Some(Pairs::find(after_name, VALUES)?) } else { None };
    let (before_arguments, after_arguments) = match (json, &pairs) {
        (Some((start, end)), _) => (&after_name[..start], &after_name[end..]),
        (None, Some(pairs)) => (pairs.before, pairs.after),
        (None, None) => return None,
    };
    let mut close = without_turn_end(after_arguments, &turn_end, ends);
    let mut between_calls = probe.two_calls().and_then(|two| {
        let first = &two[two.find(NAMES[0])?..];
        let end = match json {
            Some(_) => find_object(first, &arguments_of(&KEYS))?.1,
            None => first.find(VALUES[1])? + VALUES[1].len(),
        };
        let second = first.find(NAMES[1])?;
        first.get(end..second).map(|text| text.replace(&probe.id, PROBE_ID))
    });
    let arguments = match &pairs {
        None => ArgumentFormat::JsonObject,
        Some(texts) => {
            let bare = probe.call_without_arguments()?;
            let no_arguments = &bare[bare.find(NAMES[0])? + NAMES[0].len()..];
            let no_arguments = without_turn_end(no_arguments, &turn_end, ends);
            let (mut key_value, mut value_key) = (texts.key_value, texts.value_key);
            let values = probe.value_format(texts);
            if let ValueFormat::Quoted(quote) = &values {
                key_value = key_value.strip_suffix(quote.as_str())?;
                value_key = value_key.strip_prefix(quote.as_str())?;
                close = close.strip_prefix(quote.as_str())?.to_owned();
                between_calls = match between_calls {
                    Some(text) => Some(text.strip_prefix(quote.as_str())?.to_owned()),
                    None => None,
                };
            }
            let (key_value, value_key) = (key_value.to_owned(), value_key.to_owned());
            ArgumentFormat::OneByOne { key_value, value_key, no_arguments, values }
        }
    };
    Some(ToolCallFormat {
        describes_tools: probe.describes_tools(),
        renders_calls: true,
        open,
        after_name: before_arguments.to_owned(),
        between_calls,
        close,
        arguments,
        arguments_as_text,
        short_ids: probe.id == PROBE_ID
            && Probe { id: LONG_ID.to_owned(), ..probe }.one_call().is_none(),
        content_prefix: "",
    })
}

/// A text with two arguments in it, one after the other, cut at their keys and values.
struct Pairs<'t> {
    before: &'t str,
    key_value: &'t str,
    value_key: &'t str,
    after: &'t str,
}

impl<'t> Pairs<'t> {
    /// Finds both keys with these values; `None` if the text differs between the two keys and values.
    fn find(text: &'t str, values: [&str; 2]) -> Option<Self> {
        let at = |part: &str| Some((text.find(part)?, part.len()));
        let [(k1, k1_len), (k2, k2_len)] = [at(KEYS[0])?, at(KEYS[1])?];
        let [(v1, v1_len), (v2, v2_len)] = [at(values[0])?, at(values[1])?];
        let key_value = text.get(k1 + k1_len..v1)?;
        let same = text.get(k2 + k2_len..v2)? == key_value;
        same.then_some(Self {
            before: &text[..k1],
            key_value,
            value_key: text.get(v1 + v1_len..k2)?,
            after: &text[v2 + v2_len..],
        })
    }
}

/// A template, and how conversations are rendered by it.
struct Probe<'t> {
    template: &'t JinjaTemplate,
    arguments_as_text: bool,
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
            arguments_as_text: self.arguments_as_text,
            now: std::time::SystemTime::UNIX_EPOCH,
        };
        let text = self.template.render(turns, &options).ok()?.concat();
        // `find_object` parses from each of its brackets on.
        (text.len() <= MAX_RENDERED).then_some(text)
    }

    fn call(&self, name: &str, keys: &[&str]) -> Call {
        let id = self.id.replace(NAMES[0], name);
        Call { id, name: name.to_owned(), arguments: arguments_of(keys) }
    }

    /// How values are written if `texts` is the text of two texts.
    fn value_format(&self, texts: &Pairs<'_>) -> ValueFormat {
        let Some(numbers) = self.after_name(NUMBERS.map(|n| json!(n.parse::<u32>().unwrap_or(0))))
        else {
            return ValueFormat::Bare;
        };
        let Some(numbers) = Pairs::find(&numbers, NUMBERS) else { return ValueFormat::Bare };
        let quote = texts.key_value.strip_prefix(numbers.key_value).unwrap_or_default();
        if !quote.is_empty() && texts.value_key.strip_prefix(quote) == Some(numbers.value_key) {
            return ValueFormat::Quoted(quote.to_owned());
        }
        if texts.key_value == numbers.key_value || texts.value_key != numbers.value_key {
            return ValueFormat::Bare;
        }
        // The word for the type is what differs between text and number; a common letter belongs to the word.
        let is_letter = |c: char| c.is_alphanumeric();
        let before = &texts.key_value[..common_prefix(texts.key_value, numbers.key_value)];
        let before = before.trim_end_matches(is_letter);
        let after: String = {
            let (a, b) = (texts.key_value.chars().rev(), numbers.key_value.chars().rev());
            let same: Vec<char> = a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
            same.into_iter().rev().collect()
        };
        let after = after.trim_start_matches(is_letter);
        let word = |text: &str| {
            let word = &text[text.find(before)? + before.len()..];
            Some(word[..word.find(after)?].to_owned())
        };
        let Some(text_type) = word(texts.key_value) else { return ValueFormat::Bare };
        let types = [
            ("number", json!(1)),
            ("integer", json!(1)),
            ("boolean", json!(true)),
            ("null", json!(null)),
            ("array", json!([1])),
            ("object", json!({"inner": 1})),
        ];
        let other_types = types.into_iter().filter_map(|(name, value)| {
            let text = self.after_name([value.clone(), value])?;
            Some((name, word(&text[text.find(KEYS[0])?..])?))
        });
        ValueFormat::Typed {
            other_types: other_types.collect(),
            before_type: before.to_owned(),
            after_type: after.to_owned(),
            text_type,
        }
    }

    /// The text after the name of a call with these arguments.
    fn after_name(&self, values: [Value; 2]) -> Option<String> {
        let pairs = KEYS.iter().map(|key| (*key).to_owned()).zip(values);
        let call = Call { arguments: Value::Object(pairs.collect()), ..self.call(NAMES[0], &[]) };
        let text = self.reply("", vec![call])?;
        Some(text[text.find(NAMES[0])? + NAMES[0].len()..].to_owned())
    }

    /// The rendered assistant turn with these calls.
    fn reply(&self, content: &str, calls: Vec<Call>) -> Option<String> {
        let user = Turn::of("user", "Please do.");
        let reply = Turn { calls, ..Turn::of("assistant", content) };
        let tools = tools();
        let before = self.render(std::slice::from_ref(&user), &tools, true)?;
        let all = self.render(&[user, reply], &tools, false)?;
        Some(all[common_prefix(&all, &before)..].to_owned())
    }

    fn one_call(&self) -> Option<String> {
        self.reply("", vec![self.call(NAMES[0], &KEYS)])
    }

    fn two_calls(&self) -> Option<String> {
        self.reply("", vec![self.call(NAMES[0], &KEYS), self.call(NAMES[1], &KEYS)])
    }

    fn call_without_arguments(&self) -> Option<String> {
        self.reply("", vec![self.call(NAMES[0], &[])])
    }

    /// The text after the content of a turn without calls.
    fn turn_end(&self) -> String {
        let plain = self.reply("Plain text.", Vec::new()).unwrap_or_default();
        let at = plain.find("Plain text.").map(|at| at + "Plain text.".len());
        at.and_then(|at| plain.get(at..)).unwrap_or_default().to_owned()
    }

    /// Whether the template renders tools.
    fn describes_tools(&self) -> bool {
        let user = [Turn::of("user", "Please do.")];
        let with = self.render(&user, &tools(), true);
        with.is_some_and(|text| text.contains(NAMES[0]))
    }
}

/// The byte range of the JSON object with this value.
fn find_object(text: &str, value: &Value) -> Option<(usize, usize)> {
    text.match_indices('{').find_map(|(at, _)| {
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        let found = values.next()?.ok()?;
        (found == *value).then(|| (at, at + values.byte_offset()))
    })
}

/// The text after reasoning.
fn without_reasoning(text: &str) -> &str {
    text.rfind("</think>").map_or(text, |at| &text[at + "</think>".len()..])
}

/// `tail` up to the end of the turn: up to one of `ends`, `turn_end`, or a control token in the same brackets.
fn without_turn_end(tail: &str, turn_end: &str, ends: &[&str]) -> String {
    let first = ends.iter().filter_map(|end| tail.find(end)).min();
    let tail = tail[..first.unwrap_or(tail.len())].trim_end();
    let end = turn_end.trim();
    if !end.is_empty()
        && let Some(at) = tail.rfind(end)
    {
        return tail[..at].trim_end().to_owned();
    }
    // Another control token that ends turns: `<|eom_id|>` for `<|eot_id|>`.
    match tail.rfind("<|").filter(|_| end.starts_with("<|") && tail.ends_with("|>")) {
        Some(at) => tail[..at].trim_end().to_owned(),
        None => tail.to_owned(),
    }
}

/// Arguments with these keys.
fn arguments_of(keys: &[&str]) -> Value {
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
