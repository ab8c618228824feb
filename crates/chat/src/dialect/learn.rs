//! What a template makes of calls shows how they are spelled.

use serde_json::{Map, Value, json};

use super::{Arguments, Dialect, ID, Values, alike};
use crate::template::{ChatTemplate, RenderOptions};
use crate::turn::{Call, Turn};

/// The names that the probes use. No template spells them itself.
pub(super) const NAMES: [&str; 2] = ["probe_alpha", "probe_omega"];
pub(super) const KEYS: [&str; 2] = ["key_one", "key_two"];
pub(super) const VALUES: [&str; 2] = ["value one", "value two"];
/// Values that are no texts, and how each may show.
const NUMBERS: [&str; 2] = ["73917", "73918"];

/// Nothing is learned from a longer rendering, in bytes: the probes say little.
const LONGEST_TEXT: usize = 128 * 1024;

/// An id like those that servers give.
const LONG: &str = "call_0123456789abcdef01234567";

/// The dialect of a template, if its calls show one.
pub(super) fn learn(template: &ChatTemplate, takes_text: bool, ends: &[&str]) -> Option<Dialect> {
    let with_id = |id: &str| -> Option<Probe<'_>> {
        let probe = Probe { template, takes_text, id: id.to_owned() };
        probe.one().filter(|text| text.contains(NAMES[0])).map(|_| probe)
    };
    // Some calls show their id, which holds the name.
    let probe = with_id(ID).or_else(|| with_id(&format!("functions.{}:0", NAMES[0])))?;
    let one = probe.one()?;
    let name = one.find(NAMES[0])?;
    let open = strip_thinking(&one[..name]).trim_start().to_owned();
    let behind = &one[name + NAMES[0].len()..];
    let end = probe.end();
    let json = find_object(behind, &arguments_of(&KEYS));
    let pairs = if json.is_none() { Some(Pairs::of(behind, VALUES)?) } else { None };
    let (middle, tail) = match (json, &pairs) {
        (Some((start, end)), _) => (&behind[..start], &behind[end..]),
        (None, Some(pairs)) => (pairs.before, pairs.behind),
        (None, None) => return None,
    };
    let mut close = without_end(tail, &end, ends);
    let mut between = probe.two().and_then(|two| {
        let first = &two[two.find(NAMES[0])?..];
        let behind = match json {
            Some(_) => find_object(first, &arguments_of(&KEYS))?.1,
            None => first.find(VALUES[1])? + VALUES[1].len(),
        };
        let second = first.find(NAMES[1])?;
        first.get(behind..second).map(|text| text.replace(&probe.id, ID))
    });
    let arguments = match &pairs {
        None => Arguments::Json,
        Some(texts) => {
            let bare = probe.without_arguments()?;
            let none = &bare[bare.find(NAMES[0])? + NAMES[0].len()..];
            let none = without_end(none, &end, ends);
            let (mut key_value, mut value_key) = (texts.key_value, texts.value_key);
            let values = probe.values(texts);
            if let Values::Quoted(quote) = &values {
                key_value = key_value.strip_suffix(quote.as_str())?;
                value_key = value_key.strip_prefix(quote.as_str())?;
                close = close.strip_prefix(quote.as_str())?.to_owned();
                between = match between {
                    Some(text) => Some(text.strip_prefix(quote.as_str())?.to_owned()),
                    None => None,
                };
            }
            let (key_value, value_key) = (key_value.to_owned(), value_key.to_owned());
            Arguments::Each { key_value, value_key, none, values }
        }
    };
    Some(Dialect {
        native: probe.describes_tools(),
        renders: true,
        open,
        middle: middle.to_owned(),
        between,
        close,
        arguments,
        takes_text,
        short_ids: probe.id == ID && Probe { id: LONG.to_owned(), ..probe }.one().is_none(),
        answer: "",
    })
}

/// Whether a template tells the model of tools.
pub(super) fn describes_tools(template: &ChatTemplate) -> bool {
    Probe { template, takes_text: false, id: ID.to_owned() }.describes_tools()
}

/// Two arguments, one behind the other.
struct Pairs<'t> {
    before: &'t str,
    key_value: &'t str,
    value_key: &'t str,
    behind: &'t str,
}

impl<'t> Pairs<'t> {
    /// Those of a text with both keys, and these values.
    fn of(text: &'t str, values: [&str; 2]) -> Option<Self> {
        let at = |part: &str| Some((text.find(part)?, part.len()));
        let [(k1, k1_len), (k2, k2_len)] = [at(KEYS[0])?, at(KEYS[1])?];
        let [(v1, v1_len), (v2, v2_len)] = [at(values[0])?, at(values[1])?];
        let key_value = text.get(k1 + k1_len..v1)?;
        let same = text.get(k2 + k2_len..v2)? == key_value;
        same.then_some(Self {
            before: &text[..k1],
            key_value,
            value_key: text.get(v1 + v1_len..k2)?,
            behind: &text[v2 + v2_len..],
        })
    }
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
        let text = self.template.render(turns, &options).ok()?.concat();
        // What is learned from is looked through from each of its brackets on.
        (text.len() <= LONGEST_TEXT).then_some(text)
    }

    fn call(&self, name: &str, keys: &[&str]) -> Call {
        let id = self.id.replace(NAMES[0], name);
        Call { id, name: name.to_owned(), arguments: arguments_of(keys) }
    }

    /// How values are spelled whose texts stand like these.
    fn values(&self, texts: &Pairs<'_>) -> Values {
        let Some(numbers) = self.behind_name(NUMBERS.map(|n| json!(n.parse::<u32>().unwrap_or(0))))
        else {
            return Values::Bare;
        };
        let Some(numbers) = Pairs::of(&numbers, NUMBERS) else { return Values::Bare };
        let quote = texts.key_value.strip_prefix(numbers.key_value).unwrap_or_default();
        if !quote.is_empty() && texts.value_key.strip_prefix(quote) == Some(numbers.value_key) {
            return Values::Quoted(quote.to_owned());
        }
        if texts.key_value == numbers.key_value || texts.value_key != numbers.value_key {
            return Values::Bare;
        }
        let letter = |c: char| c.is_alphanumeric();
        let front = &texts.key_value[..alike(texts.key_value, numbers.key_value)];
        let front = front.trim_end_matches(letter);
        let back: String = {
            let (a, b) = (texts.key_value.chars().rev(), numbers.key_value.chars().rev());
            let same: Vec<char> = a.zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
            same.into_iter().rev().collect()
        };
        let back = back.trim_start_matches(letter);
        let word = |text: &str| {
            let behind = &text[text.find(front)? + front.len()..];
            Some(behind[..behind.find(back)?].to_owned())
        };
        let Some(texts) = word(texts.key_value) else { return Values::Bare };
        let kinds = [
            ("number", json!(1)),
            ("integer", json!(1)),
            ("boolean", json!(true)),
            ("null", json!(null)),
            ("array", json!([1])),
            ("object", json!({"inner": 1})),
        ];
        let others = kinds.into_iter().filter_map(|(kind, value)| {
            let behind = self.behind_name([value.clone(), value])?;
            Some((kind, word(&behind[behind.find(KEYS[0])?..])?))
        });
        let others = others.collect();
        Values::Told { front: front.to_owned(), back: back.to_owned(), texts, others }
    }

    /// What stands behind the name of a call with these arguments.
    fn behind_name(&self, values: [Value; 2]) -> Option<String> {
        let pairs = KEYS.iter().map(|key| (*key).to_owned()).zip(values);
        let call = Call { arguments: Value::Object(pairs.collect()), ..self.call(NAMES[0], &[]) };
        let text = self.answer("", vec![call])?;
        Some(text[text.find(NAMES[0])? + NAMES[0].len()..].to_owned())
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
