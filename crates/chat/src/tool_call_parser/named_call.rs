//! The parser of a call whose name stands outside JSON.

use super::call_context::CallContext;
use super::call_patterns::ArgumentPatterns;
use super::pattern::{Choice, PatternSet};
use super::step::{CallStep, PendingCall};
use crate::bare_value::{MAX_KEY, to_json, trim_line_breaks};
use crate::json_scanner::JsonScanner;
use crate::literal::{LiteralParser, LiteralStep, json_string};
use crate::schema::value_types::ArgumentKind;

/// Parses a name followed by a JSON object, or by arguments one by one.
#[derive(Debug, Clone)]
pub(super) struct NamedCall {
    phase: Phase,
    name: String,
    /// Whether an argument is complete.
    has_arguments: bool,
}

#[derive(Debug, Clone)]
enum Phase {
    /// Before the name.
    Start(PatternSet),
    Name,
    /// Between the name and the arguments.
    AfterName(PatternSet),
    /// In arguments that are a JSON object; `None` before it.
    Json(Option<JsonScanner>),
    /// In the key of an argument.
    Key(String),
    /// In the word for the type of a value.
    Type {
        key: String,
        word: String,
    },
    /// In a value without quotes.
    Value {
        key: String,
        text: String,
        kind: ArgumentKind,
    },
    /// In a literal.
    Literal {
        key: String,
        parser: LiteralParser,
    },
    /// After a value.
    AfterValue(PatternSet),
}

impl NamedCall {
    pub(super) fn new(context: &CallContext) -> Self {
        let phase = Phase::Start(PatternSet::new(context.patterns.starts.iter()));
        Self { phase, name: String::new(), has_arguments: false }
    }

    pub(super) fn step(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
        c: char,
    ) -> CallStep {
        match &mut self.phase {
            Phase::Start(start) => match start.step(|which| &context.patterns.starts[which], c) {
                Choice::Pending => CallStep::NEXT,
                Choice::None => CallStep::Invalid,
                Choice::Matched { back, .. } => {
                    self.phase = Phase::Name;
                    CallStep::More { back }
                }
            },
            Phase::Name => self.name(pending, context, c),
            Phase::AfterName(set) => match set.step(|which| &context.patterns.after_name[which], c)
            {
                Choice::Pending => CallStep::NEXT,
                Choice::None => CallStep::Invalid,
                Choice::Matched { which, back } => {
                    self.start_arguments(pending, context, which, back)
                }
            },
            Phase::Json(_) => self.json(pending, c),
            Phase::AfterValue(ends) => {
                let Some(arguments) = &context.patterns.arguments else { return CallStep::Invalid };
                match ends.step(|which| &arguments.ends[which], c) {
                    Choice::Pending => CallStep::NEXT,
                    Choice::None => CallStep::Invalid,
                    Choice::Matched { which: 0, back } => {
                        self.phase = Phase::Key(String::new());
                        CallStep::More { back }
                    }
                    Choice::Matched { back, .. } => {
                        pending.arguments.push('}');
                        CallStep::End { back }
                    }
                }
            }
            Phase::Key(_) | Phase::Type { .. } | Phase::Value { .. } | Phase::Literal { .. } => {
                let Some(arguments) = &context.patterns.arguments else { return CallStep::Invalid };
                self.argument(pending, context, arguments, c)
            }
        }
    }

    /// Signals the end of the reply. If that completes the call, returns how many of the bytes read do not belong to
    /// it.
    pub(super) fn finish(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
    ) -> Option<usize> {
        match (&mut self.phase, &context.patterns.arguments) {
            (Phase::AfterName(set), _) => {
                match set.finish(|which| &context.patterns.after_name[which]) {
                    Choice::Matched { which, back } => {
                        match self.start_arguments(pending, context, which, back) {
                            CallStep::End { back } => Some(back),
                            CallStep::More { .. } | CallStep::Invalid => None,
                        }
                    }
                    Choice::Pending | Choice::None => None,
                }
            }
            (Phase::AfterValue(ends), Some(arguments)) => {
                match ends.finish(|which| &arguments.ends[which]) {
                    Choice::Matched { which: 1, back } => {
                        pending.arguments.push('}');
                        Some(back)
                    }
                    Choice::Matched { .. } | Choice::Pending | Choice::None => None,
                }
            }
            _ => None,
        }
    }

    /// Whether no text is read again from here on.
    pub(super) fn reads_once(&self) -> bool {
        matches!(self.phase, Phase::Json(_) | Phase::Literal { .. })
    }

    fn name(&mut self, pending: &mut PendingCall, context: &CallContext, c: char) -> CallStep {
        if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') {
            self.name.push(c);
            let possible = self.name.len() <= context.longest_name;
            return if possible { CallStep::NEXT } else { CallStep::Invalid };
        }
        if self.name.is_empty() && c.is_whitespace() {
            return CallStep::NEXT;
        }
        if !context.tools.contains_key(&self.name) {
            return CallStep::Invalid;
        }
        self.phase = Phase::AfterName(PatternSet::new(context.patterns.after_name.iter()));
        self.step(pending, context, c)
    }

    /// Emits the name, now that the text between name and arguments is read; ends a call without arguments.
    fn start_arguments(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
        which: usize,
        back: usize,
    ) -> CallStep {
        if which < context.patterns.no_argument_count {
            pending.name = Some(self.name.clone());
            pending.arguments.push_str("{}");
            return CallStep::End { back };
        }
        if context.patterns.arguments.is_some() {
            pending.name = Some(self.name.clone());
            self.phase = Phase::Key(String::new());
        } else {
            self.phase = Phase::Json(None);
        }
        CallStep::More { back }
    }

    /// Reads a character of arguments that are a JSON object.
    fn json(&mut self, pending: &mut PendingCall, c: char) -> CallStep {
        let Phase::Json(scanner) = &mut self.phase else { return CallStep::Invalid };
        let scanner = match scanner {
            Some(scanner) => scanner,
            None if c.is_whitespace() => return CallStep::NEXT,
            None if c == '{' => {
                pending.name = Some(self.name.clone());
                scanner.insert(JsonScanner::new())
            }
            None => return CallStep::Invalid,
        };
        if scanner.step(c).is_err() {
            return CallStep::Invalid;
        }
        pending.arguments.push(c);
        if scanner.is_done() { CallStep::End { back: 0 } } else { CallStep::NEXT }
    }

    /// Reads a character of arguments one by one.
    fn argument(
        &mut self,
        pending: &mut PendingCall,
        context: &CallContext,
        arguments: &ArgumentPatterns,
        c: char,
    ) -> CallStep {
        match &mut self.phase {
            Phase::Key(key) => {
                key.push(c);
                let Some(len) = key.strip_suffix(arguments.key_end.as_str()).map(str::len) else {
                    return if key.len() > MAX_KEY { CallStep::Invalid } else { CallStep::NEXT };
                };
                let key = key[..len].trim().to_owned();
                self.phase = match (&arguments.type_word, &arguments.quote) {
                    (Some(_), _) => Phase::Type { key, word: String::new() },
                    (None, Some(quote)) => {
                        Phase::Literal { key, parser: LiteralParser::new(quote) }
                    }
                    (None, None) => {
                        let kind = context.kind_of(&self.name, &key);
                        Phase::Value { key, text: String::new(), kind }
                    }
                };
            }
            Phase::Type { key, word } => {
                let Some((end, text_type)) = &arguments.type_word else { return CallStep::Invalid };
                word.push(c);
                let Some(type_word) = word.strip_suffix(end.as_str()) else {
                    return if word.len() > MAX_KEY { CallStep::Invalid } else { CallStep::NEXT };
                };
                let is_text = type_word == text_type;
                let kind = if is_text { ArgumentKind::Text } else { ArgumentKind::Json };
                let key = std::mem::take(key);
                self.phase = Phase::Value { key, text: String::new(), kind };
            }
            Phase::Value { key, text, kind } => {
                text.push(c);
                let Some(raw) = text.strip_suffix(arguments.value_end.as_str()) else {
                    return CallStep::NEXT;
                };
                let raw = trim_line_breaks(raw);
                let value = match kind {
                    ArgumentKind::Text => json_string(raw),
                    ArgumentKind::Json | ArgumentKind::Either => to_json(raw),
                };
                let key = std::mem::take(key);
                self.complete_argument(pending, arguments, &key, &value);
                // The end of a value is a part of the pattern after it.
                return CallStep::More { back: arguments.value_end.len() };
            }
            Phase::Literal { key, parser } => match parser.step(c) {
                LiteralStep::More => {}
                LiteralStep::Invalid => return CallStep::Invalid,
                LiteralStep::Done { json, consumed } => {
                    let key = std::mem::take(key);
                    self.complete_argument(pending, arguments, &key, &json);
                    return CallStep::More { back: if consumed { 0 } else { c.len_utf8() } };
                }
            },
            _ => return CallStep::Invalid,
        }
        CallStep::NEXT
    }

    /// Appends a complete argument to the pending JSON.
    fn complete_argument(
        &mut self,
        pending: &mut PendingCall,
        arguments: &ArgumentPatterns,
        key: &str,
        value: &str,
    ) {
        pending.arguments.push_str(if self.has_arguments { ", " } else { "{" });
        self.has_arguments = true;
        pending.arguments.push_str(&json_string(key));
        pending.arguments.push_str(": ");
        pending.arguments.push_str(value);
        self.phase = Phase::AfterValue(PatternSet::new(arguments.ends.iter()));
    }
}
