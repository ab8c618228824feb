//! Reads tool calls out of an answer's text as it grows.
//!
//! What is known of the call that is being read is worked out anew with each piece of text, from
//! where the call began: whatever the pieces, the result is the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::dialect::{Arguments, Dialect, Values};
use crate::literal;
use crate::partial::members;
use crate::pattern::{Pass, passes};
use crate::thoughts::sure;

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A thought, where answers are messages in channels.
    Thought(String),
    /// Text that is no call.
    Text(String),
    /// A call begins.
    Call {
        /// Its number, from 0.
        index: u32,
        /// The tool's name.
        name: String,
    },
    /// More of a call's arguments, as JSON text.
    Arguments {
        /// The call's number.
        index: u32,
        /// What is added.
        text: String,
    },
}

/// A reader of one answer.
#[derive(Debug, Clone)]
pub struct CallReader {
    dialect: Dialect,
    /// The tools' names, each with its parameters' schema.
    tools: BTreeMap<String, Value>,
    /// Whether what follows the first call is left out.
    only_one: bool,
    /// Text that is not told yet: of a call, or what may begin one.
    held: String,
    /// Space before what may be a call.
    gap: String,
    state: State,
    /// Calls so far, the one being read aside.
    calls: u32,
    /// What of the call being read is told.
    named: bool,
    told: usize,
    /// Whether any text was told.
    spoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Text,
    Call,
    /// Behind a call.
    After,
}

/// What is known of a call.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    name: Option<String>,
    /// Its arguments as far as they are sure.
    arguments: String,
    /// Where it ends, if it does.
    end: Option<usize>,
}

/// The text is no call.
#[derive(Debug, PartialEq, Eq)]
struct NoCall;

impl CallReader {
    /// A reader of calls to `tools`: names, each with its parameters' schema. With `only_one` what
    /// follows the first call is left out.
    pub fn new(dialect: Dialect, tools: BTreeMap<String, Value>, only_one: bool) -> Self {
        Self {
            dialect,
            tools,
            only_one,
            held: String::new(),
            gap: String::new(),
            state: State::Text,
            calls: 0,
            named: false,
            told: 0,
            spoke: false,
        }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        self.calls + u32::from(self.named)
    }

    /// Takes in more text.
    pub fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.held.push_str(text);
        self.read(false, out);
    }

    /// Takes in that there is no more.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        self.read(true, out);
        if self.state == State::Call && self.named {
            // Cut off within its arguments.
            self.held.clear();
        } else if !self.held.is_empty() {
            let rest = std::mem::take(&mut self.gap) + &std::mem::take(&mut self.held);
            let rest = if self.calls > 0 { rest.trim_end() } else { &rest };
            self.tell(rest.to_owned(), out);
        }
    }

    fn read(&mut self, last: bool, out: &mut Vec<Part>) {
        loop {
            let goes_on = match self.state {
                State::Text => self.read_text(last, out),
                State::Call => self.read_call(last, out),
                State::After => self.read_after(last),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Tells text up to where a call begins, or may.
    fn read_text(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        let marker = self.dialect.marker().to_owned();
        if marker.is_empty() {
            // Calls without a mark are the whole answer.
            let trimmed = self.held.trim_start();
            let begins = !self.spoke && (trimmed.starts_with('{') || trimmed.starts_with('['));
            if begins {
                self.state = State::Call;
            } else if !trimmed.is_empty() || last {
                let text = std::mem::take(&mut self.held);
                self.tell(text, out);
            }
            return begins;
        }
        if let Some(at) = self.held.find(&marker) {
            let mut text: String = self.held.drain(..at).collect();
            self.gap = text.split_off(text.trim_end().len());
            self.tell(text, out);
            self.state = State::Call;
            return true;
        }
        // The end may be a part of the mark, and space before it is not told.
        let sure = if last { self.held.len() } else { sure(&self.held, &marker) };
        let rest = self.held.split_off(sure);
        let text = std::mem::replace(&mut self.held, rest);
        self.tell(text, out);
        false
    }

    fn read_call(&mut self, last: bool, out: &mut Vec<Part>) -> bool {
        let index = self.calls;
        match self.scan() {
            Ok(scan) => {
                if let (Some(name), false) = (scan.name, self.named) {
                    self.named = true;
                    out.push(Part::Call { index, name });
                }
                if self.named && scan.arguments.len() > self.told {
                    let text = scan.arguments[self.told..].to_owned();
                    self.told = scan.arguments.len();
                    out.push(Part::Arguments { index, text });
                }
                let Some(end) = scan.end else { return false };
                self.held.drain(..end);
                (self.named, self.told) = (false, 0);
                self.gap.clear();
                self.calls += 1;
                self.state = State::After;
                true
            }
            Err(NoCall) if self.named => {
                // Not what a call looks like any more: what was told stands.
                (self.named, self.told) = (false, 0);
                self.calls += 1;
                self.state = State::After;
                !last
            }
            Err(NoCall) => {
                let first = self.dialect.marker().len().max(1).min(self.held.len());
                let text: String = self.held.drain(..first).collect();
                let gap = std::mem::take(&mut self.gap);
                self.tell(gap + &text, out);
                self.state = State::Text;
                true
            }
        }
    }

    /// Passes what stands between calls and behind them.
    fn read_after(&mut self, last: bool) -> bool {
        if self.only_one {
            self.held.clear();
            return false;
        }
        let object = self.dialect.is_object();
        let skipped = |c: char| c.is_whitespace() || object && matches!(c, ',' | ';' | ']');
        let ends = self.dialect.ends();
        let behind: Vec<&str> = [ends.call, ends.all]
            .map(|end| end.trim_start_matches(|c| skipped(c) || object && c == '}').trim_end())
            .into_iter()
            .filter(|end| !end.is_empty())
            .collect();
        let marker = self.dialect.marker();
        let begins: Vec<&str> =
            [marker, ends.next].into_iter().filter(|begin| !begin.is_empty()).collect();
        loop {
            let from = self.held.len() - self.held.trim_start_matches(skipped).len();
            self.held.drain(..from);
            let over = behind.iter().find_map(|end| match passes(end, &self.held) {
                Pass::Over(len) => Some(len),
                Pass::Short | Pass::Not => None,
            });
            if let Some(len) = over {
                self.held.drain(..len);
                continue;
            }
            let is = |pass: fn(&Pass) -> bool| begins.iter().any(|b| pass(&passes(b, &self.held)));
            if is(|pass| matches!(pass, Pass::Over(_))) || object && self.held.starts_with('{') {
                self.state = State::Call;
                return true;
            }
            let may = is(|pass| *pass == Pass::Short)
                || behind.iter().any(|end| passes(end, &self.held) == Pass::Short);
            if self.held.is_empty() || may && !last {
                return false;
            }
            self.state = State::Text;
            return true;
        }
    }

    fn tell(&mut self, text: String, out: &mut Vec<Part>) {
        if !text.is_empty() {
            self.spoke = true;
            out.push(Part::Text(text));
        }
    }

    // === One call ===

    fn scan(&self) -> Result<Scan, NoCall> {
        if self.dialect.is_object() { self.scan_object() } else { self.scan_named() }
    }

    fn known(&self, name: &str) -> Result<String, NoCall> {
        if self.tools.contains_key(name) { Ok(name.to_owned()) } else { Err(NoCall) }
    }

    /// A call that is one JSON object.
    fn scan_object(&self) -> Result<Scan, NoCall> {
        let marker = self.dialect.marker();
        let held = self.held.as_str();
        let body = held.strip_prefix(marker).unwrap_or(held);
        let body = body.trim_start_matches(|c: char| c.is_whitespace() || c == '[');
        if body.is_empty() {
            return Ok(Scan::default());
        }
        if !body.starts_with('{') {
            return Err(NoCall);
        }
        let before = held.len() - body.len();
        let members = members(body);
        let get = |keys: &[&str]| members.list.iter().find(|m| keys.contains(&m.key.as_str()));
        // Some spell the whole of OpenAI's object.
        if let Some(inner) = get(&["function"]).filter(|m| m.text(body).starts_with('{')) {
            let reader = Self { held: inner.text(body).to_owned(), ..self.clone() };
            let scan = reader.scan_object()?;
            return Ok(Scan { end: members.end.map(|end| before + end), ..scan });
        }
        let name = get(&["name", "tool_name", "function_name"]).filter(|m| m.complete);
        let name = name.and_then(|m| serde_json::from_str::<String>(m.text(body)).ok());
        let name = name.map(|name| self.known(&name)).transpose()?;
        let arguments = match get(&["arguments", "parameters", "args", "input"]) {
            // JSON within JSON.
            Some(m) if m.text(body).starts_with('"') => {
                let text = serde_json::from_str::<String>(m.text(body));
                if m.complete { text.unwrap_or_default() } else { String::new() }
            }
            Some(m) => m.text(body).to_owned(),
            None if members.end.is_some() => "{}".to_owned(),
            None => String::new(),
        };
        if members.end.is_some() && name.is_none() {
            return Err(NoCall);
        }
        Ok(Scan { name, arguments, end: members.end.map(|end| before + end) })
    }

    /// A call whose name stands outside JSON.
    fn scan_named(&self) -> Result<Scan, NoCall> {
        let dialect = &self.dialect;
        let held = self.held.as_str();
        let begins = [dialect.open.as_str(), dialect.ends().next];
        let mut at = None;
        for begin in begins.into_iter().filter(|begin| !begin.is_empty()) {
            match passes(begin, held) {
                Pass::Over(len) => at = at.max(Some(len)),
                Pass::Short => return Ok(Scan::default()),
                Pass::Not => {}
            }
        }
        let body = &held[at.ok_or(NoCall)?..];
        let before = held.len() - body.len();
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let name_len = body.find(|c: char| !in_name(c)).unwrap_or(body.len());
        let rest = &body[name_len..];
        if rest.is_empty() {
            return Ok(Scan::default());
        }
        let scan = match &dialect.arguments {
            Arguments::Json => match passes(&dialect.middle, rest) {
                Pass::Over(len) => json_argument(&rest[len..], len),
                Pass::Short => return Ok(Scan::default()),
                Pass::Not => return Err(NoCall),
            },
            Arguments::Each { .. } => self.each_argument(&body[..name_len], rest),
        };
        let name = self.known(&body[..name_len])?;
        let scan = scan?;
        let end = scan.end.map(|end| before + name_len + end);
        Ok(Scan { name: Some(name), end, ..scan })
    }

    fn each_argument(&self, name: &str, text: &str) -> Result<Scan, NoCall> {
        let Arguments::Each { value_key, none, .. } = &self.dialect.arguments else {
            return Err(NoCall);
        };
        let ends = self.dialect.ends();
        let none = none.trim_end().strip_suffix(ends.all.trim()).unwrap_or(none);
        let schema = self.tools.get(name);
        let mut arguments = String::new();
        let mut at = match (passes(&self.dialect.middle, text), passes(none, text)) {
            (_, Pass::Over(len)) => {
                return Ok(Scan { arguments: "{}".to_owned(), end: Some(len), name: None });
            }
            (_, Pass::Short) | (Pass::Short, _) => return Ok(Scan::default()),
            (Pass::Over(len), Pass::Not) => len,
            (Pass::Not, Pass::Not) => return Err(NoCall),
        };
        loop {
            let Some(pair) = self.pair(&text[at..], schema) else { break };
            arguments.push_str(if arguments.is_empty() { "{" } else { ", " });
            arguments.push_str(&format!("{}: {}", json!(pair.key), pair.value));
            at += pair.len;
            match (passes(value_key, &text[at..]), passes(ends.call, &text[at..])) {
                (Pass::Over(len), _) => at += len,
                (_, Pass::Over(len)) => {
                    arguments.push('}');
                    return Ok(Scan { arguments, end: Some(at + len), name: None });
                }
                _ => break,
            }
        }
        Ok(Scan { arguments, end: None, name: None })
    }

    /// The key and the value that a text begins with, if they are all there.
    fn pair(&self, text: &str, schema: Option<&Value>) -> Option<Pair> {
        let Arguments::Each { key_value, value_key, values, .. } = &self.dialect.arguments else {
            return None;
        };
        let (key_end, value_at, is_text) = match values {
            Values::Told { front, back, texts, .. } => {
                let key_end = text.find(front.as_str())?;
                let behind = &text[key_end + front.len()..];
                let kind_len = behind.find(back.as_str())?;
                let value_at = key_end + front.len() + kind_len + back.len();
                (key_end, value_at, Some(behind[..kind_len] == *texts))
            }
            Values::Bare | Values::Quoted(_) => {
                let key_end = text.find(key_value.trim())?;
                (key_end, key_end + key_value.trim().len(), None)
            }
        };
        let (key, value) = (text[..key_end].trim(), &text[value_at..]);
        if let Values::Quoted(quote) = values {
            let (value, len) = literal::read(value, quote)?;
            return Some(Pair { key: key.to_owned(), value, len: value_at + len });
        }
        // What ends a value is how both that which leads to the next key and the end begin.
        let same = value_key.bytes().zip(self.dialect.close.bytes()).take_while(|(a, b)| a == b);
        let stop = value_key.get(..same.count()).unwrap_or_default();
        let stop = if stop.trim().is_empty() { value_key.as_str() } else { stop };
        let stop = stop.rfind('>').map_or(stop, |end| &stop[..=end]).trim();
        let end = value.find(stop)?;
        let raw = value[..end].strip_prefix('\n').unwrap_or(&value[..end]);
        let raw = raw.strip_suffix('\n').unwrap_or(raw);
        let value = match is_text {
            Some(true) => Value::String(raw.to_owned()),
            Some(false) => typed(raw, None),
            None => typed(raw, schema.and_then(|s| s["properties"].get(key))),
        };
        Some(Pair { key: key.to_owned(), value, len: value_at + end })
    }
}

/// An argument, and how much of the text it is.
struct Pair {
    key: String,
    value: Value,
    len: usize,
}

/// A value as text, by its schema: text where that is wanted, else JSON or a literal of Python's where
/// it is one.
fn typed(raw: &str, schema: Option<&Value>) -> Value {
    let is_text = schema.is_some_and(|s| s["type"] == "string");
    let text = || Value::String(raw.to_owned());
    if is_text {
        return text();
    }
    let trimmed = raw.trim();
    if let Ok(value) = serde_json::from_str(trimmed) {
        return value;
    }
    let is_literal =
        matches!(trimmed, "True" | "False" | "None") || trimmed.starts_with(['[', '{']);
    let ended = format!("{trimmed},");
    let read = literal::read(&ended, "'").filter(|(_, len)| is_literal && *len == trimmed.len());
    read.map_or_else(text, |(value, _)| value)
}

/// A JSON object as arguments; `before` is what was passed already.
fn json_argument(text: &str, before: usize) -> Result<Scan, NoCall> {
    let body = text.trim_start();
    let before = before + text.len() - body.len();
    if body.is_empty() {
        return Ok(Scan::default());
    }
    if !body.starts_with('{') {
        return Err(NoCall);
    }
    let end = members(body).end;
    let arguments = body[..end.unwrap_or(body.len())].to_owned();
    Ok(Scan { arguments, end: end.map(|end| before + end), name: None })
}

#[cfg(test)]
mod tests;
