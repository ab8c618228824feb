//! A call whose name stands outside JSON.

use super::spelling::{Each, Spelling};
use super::{Known, Step};
use crate::argument::Kind;
use crate::json_scanner::{JsonScanner, compact};
use crate::literal::{LiteralReader, LiteralStep, json_string, whole};
use crate::pattern::{Alternatives, Choice};

/// The longest key of an argument, or word for its kind, in bytes; with a longer one it is no call.
pub(crate) const LONGEST_KEY: usize = 1024;

/// A value without quotes, without the line break that a template may write at either end of it.
pub(crate) fn without_breaks(raw: &str) -> &str {
    let raw = raw.strip_prefix('\n').unwrap_or(raw);
    raw.strip_suffix('\n').unwrap_or(raw)
}

/// A call in which the name is followed by a JSON object, or by arguments one by one.
#[derive(Debug, Clone)]
pub(super) struct NamedCall {
    phase: Phase,
    name: String,
    /// Whether there is an argument.
    has_arguments: bool,
}

#[derive(Debug, Clone)]
enum Phase {
    /// In what stands before the name.
    Begin(Alternatives),
    Name,
    /// Between the name and the arguments.
    Middle(Alternatives),
    /// In arguments that are a JSON object; `None` before it.
    Json(Option<JsonScanner>),
    /// In the key of an argument.
    Key(String),
    /// In the word that tells what kind a value is of.
    Kind {
        key: String,
        word: String,
    },
    /// In a value without quotes; whether it is a text, if that was said.
    Value {
        key: String,
        text: String,
        is_text: Option<bool>,
    },
    /// In a value in quotes, or some literal.
    Literal {
        key: String,
        reader: LiteralReader,
    },
    /// Behind a value.
    Behind(Alternatives),
}

const MORE: Step = Step::More { back: 0 };

impl NamedCall {
    pub(super) fn new(spelling: &Spelling) -> Self {
        let begin = Phase::Begin(Alternatives::new(spelling.begins.iter()));
        Self { phase: begin, name: String::new(), has_arguments: false }
    }

    pub(super) fn step(&mut self, known: &mut Known, spelling: &Spelling, c: char) -> Step {
        match &mut self.phase {
            Phase::Begin(begin) => match begin.step(|which| &spelling.begins[which], c) {
                Choice::Pending => MORE,
                Choice::None => Step::Broken,
                Choice::Matched { back, .. } => {
                    self.phase = Phase::Name;
                    Step::More { back }
                }
            },
            Phase::Name => self.name(known, spelling, c),
            Phase::Middle(middle) => match middle.step(|which| &spelling.middles[which], c) {
                Choice::Pending => MORE,
                Choice::None => Step::Broken,
                Choice::Matched { which, back } => self.middle(known, spelling, which, back),
            },
            Phase::Json(_) => self.json(known, c),
            Phase::Behind(ends) => {
                let Some(each) = &spelling.each else { return Step::Broken };
                match ends.step(|which| &each.ends[which], c) {
                    Choice::Pending => MORE,
                    Choice::None => Step::Broken,
                    Choice::Matched { which: 0, back } => {
                        self.phase = Phase::Key(String::new());
                        Step::More { back }
                    }
                    Choice::Matched { back, .. } => {
                        known.arguments.push('}');
                        Step::End { back }
                    }
                }
            }
            Phase::Key(_) | Phase::Kind { .. } | Phase::Value { .. } | Phase::Literal { .. } => {
                let Some(each) = &spelling.each else { return Step::Broken };
                self.argument(known, each, c)
            }
        }
    }

    /// Signals the end of the answer; where that completes the call, how many bytes stand behind it.
    pub(super) fn finish(&mut self, known: &mut Known, spelling: &Spelling) -> Option<usize> {
        match (&mut self.phase, &spelling.each) {
            (Phase::Middle(middle), _) => match middle.finish(|which| &spelling.middles[which]) {
                Choice::Matched { which, back } => {
                    match self.middle(known, spelling, which, back) {
                        Step::End { back } => Some(back),
                        Step::More { .. } | Step::Broken => None,
                    }
                }
                Choice::Pending | Choice::None => None,
            },
            (Phase::Behind(ends), Some(each)) => match ends.finish(|which| &each.ends[which]) {
                Choice::Matched { which: 1, back } => {
                    known.arguments.push('}');
                    Some(back)
                }
                Choice::Matched { .. } | Choice::Pending | Choice::None => None,
            },
            _ => None,
        }
    }

    /// Whether no text that was read is read again.
    pub(super) fn reads_once(&self) -> bool {
        matches!(self.phase, Phase::Json(_) | Phase::Literal { .. })
    }

    fn name(&mut self, known: &mut Known, spelling: &Spelling, c: char) -> Step {
        if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') {
            self.name.push(c);
            let possible = self.name.len() <= spelling.longest_name;
            return if possible { MORE } else { Step::Broken };
        }
        if self.name.is_empty() && c.is_whitespace() {
            return MORE;
        }
        if !spelling.tools.contains_key(&self.name) {
            return Step::Broken;
        }
        self.phase = Phase::Middle(Alternatives::new(spelling.middles.iter()));
        self.step(known, spelling, c)
    }

    /// What stands between name and arguments is read.
    fn middle(
        &mut self,
        known: &mut Known,
        spelling: &Spelling,
        which: usize,
        back: usize,
    ) -> Step {
        if which < spelling.bare {
            known.name = Some(self.name.clone());
            known.arguments.push_str("{}");
            return Step::End { back };
        }
        if spelling.each.is_some() {
            known.name = Some(self.name.clone());
            self.phase = Phase::Key(String::new());
        } else {
            self.phase = Phase::Json(None);
        }
        Step::More { back }
    }

    /// A character of arguments that are a JSON object.
    fn json(&mut self, known: &mut Known, c: char) -> Step {
        let Phase::Json(scanner) = &mut self.phase else { return Step::Broken };
        let scanner = match scanner {
            Some(scanner) => scanner,
            None if c.is_whitespace() => return MORE,
            None if c == '{' => {
                known.name = Some(self.name.clone());
                scanner.insert(JsonScanner::new())
            }
            None => return Step::Broken,
        };
        if scanner.step(c).is_err() {
            return Step::Broken;
        }
        known.arguments.push(c);
        if scanner.is_done() { Step::End { back: 0 } } else { MORE }
    }

    /// A character of arguments one by one.
    fn argument(&mut self, known: &mut Known, each: &Each, c: char) -> Step {
        match &mut self.phase {
            Phase::Key(key) => {
                key.push(c);
                let Some(len) = key.strip_suffix(each.key_end.as_str()).map(str::len) else {
                    return if key.len() > LONGEST_KEY { Step::Broken } else { MORE };
                };
                let key = key[..len].trim().to_owned();
                self.phase = match (&each.kind, &each.quote) {
                    (Some(_), _) => Phase::Kind { key, word: String::new() },
                    (None, Some(quote)) => {
                        Phase::Literal { key, reader: LiteralReader::new(quote) }
                    }
                    (None, None) => Phase::Value { key, text: String::new(), is_text: None },
                };
            }
            Phase::Kind { key, word } => {
                let Some((end, texts)) = &each.kind else { return Step::Broken };
                word.push(c);
                let Some(kind) = word.strip_suffix(end.as_str()) else {
                    return if word.len() > LONGEST_KEY { Step::Broken } else { MORE };
                };
                let (is_text, key) = (Some(kind == texts), std::mem::take(key));
                self.phase = Phase::Value { key, text: String::new(), is_text };
            }
            Phase::Value { key, text, is_text } => {
                text.push(c);
                let Some(raw) = text.strip_suffix(each.value_end.as_str()) else { return MORE };
                let raw = without_breaks(raw);
                let value = match is_text {
                    Some(true) => json_string(raw),
                    Some(false) => typed(raw),
                    None if each.kind_of(&self.name, key) == Kind::Text => json_string(raw),
                    None => typed(raw),
                };
                let key = std::mem::take(key);
                self.append(known, each, &key, &value);
                // What ends a value is a part of what follows it.
                return Step::More { back: each.value_end.len() };
            }
            Phase::Literal { key, reader } => match reader.step(c) {
                LiteralStep::More => {}
                LiteralStep::Invalid => return Step::Broken,
                LiteralStep::Done { json, taken } => {
                    let key = std::mem::take(key);
                    self.append(known, each, &key, &json);
                    return Step::More { back: if taken { 0 } else { c.len_utf8() } };
                }
            },
            _ => return Step::Broken,
        }
        MORE
    }

    /// An argument is complete.
    fn append(&mut self, known: &mut Known, each: &Each, key: &str, value: &str) {
        known.arguments.push_str(if self.has_arguments { ", " } else { "{" });
        self.has_arguments = true;
        known.arguments.push_str(&json_string(key));
        known.arguments.push_str(": ");
        known.arguments.push_str(value);
        self.phase = Phase::Behind(Alternatives::new(each.ends.iter()));
    }
}

/// A value that may be a text or another as JSON: JSON or a literal of Python's where it is one, else a string.
fn typed(raw: &str) -> String {
    literal(raw).unwrap_or_else(|| json_string(raw))
}

/// Whether a value is a text by what it looks like.
pub(crate) fn is_text(raw: &str) -> bool {
    literal(raw).is_none()
}

/// A value that is JSON or a literal of Python's, as JSON.
fn literal(raw: &str) -> Option<String> {
    let trimmed = raw.trim();
    if serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() {
        return Some(compact(trimmed));
    }
    let is_literal =
        matches!(trimmed, "True" | "False" | "None") || trimmed.starts_with(['[', '{']);
    if is_literal { whole(trimmed) } else { None }
}
