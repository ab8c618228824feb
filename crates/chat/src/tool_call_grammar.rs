//! Grammars of tool calls: for calls that have to be made, and for calls that have to be valid if they are made.
//!
//! A grammar is written from the same [`ToolCallFormat`] as the parser reads, and allows only what the parser reads back
//! as it was written. If arguments are one JSON object, llguidance enforces the tool's schema. If they come one by one,
//! `tool_call_grammar/arguments.rs` writes rules for the arguments of `schema/parameters.rs`. llguidance's lexer never
//! backtracks, so a text and the delimiter after it are one lexeme, and no text contains that delimiter.
//!
//! What cannot be enforced is an error for strict tools, else a keyword in [`ToolCallGrammar::not_enforced`].

mod anchors;
mod arguments;
mod definitions;
mod lark;
mod rules;
mod target;
mod texts;

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub use lark::{escape_regex, lark_literal, lark_regex};
use rules::RuleWriter;
pub use target::{
    GrammarTarget, MAX_GRAMMAR_BYTES, Satisfiability, TextSearch, ToolShape, Unenforceable,
};

use crate::tool_call_format::{ArgumentFormat, ToolCallFormat};

/// The most calls in one reply.
const MAX_CALLS: u32 = 32;

/// A grammar of tool calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallGrammar {
    /// Its source in Lark's notation.
    pub lark: String,
    /// Keywords of schemas that calls by it may violate.
    pub not_enforced: BTreeSet<&'static str>,
}

/// How many calls a reply has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallCount {
    /// Exactly one.
    One,
    /// At least one.
    AtLeastOne,
    /// Any number, with any content before them or instead of them.
    Any,
}

impl ToolCallGrammar {
    /// Writes the grammar of replies that call these tools. `content` is the schema of a reply without calls.
    ///
    /// # Errors
    /// [`Unenforceable`] for the first tool whose schema cannot be enforced, or not as a whole if it is strict.
    pub fn new(
        format: &ToolCallFormat,
        tools: &[ToolShape<'_>],
        calls: CallCount,
        target: GrammarTarget<'_>,
        content: Option<&Value>,
    ) -> Result<Self, Unenforceable> {
        let mut writer = RuleWriter::new(format, target);
        let ends = format.ends();
        let calls_by_tool = tools.iter().enumerate().map(|(tool, shape)| {
            let call = writer.call(shape).and_then(|call| writer.check_length().map(|()| call));
            call.map_err(|why| Unenforceable { tool, why })
        });
        let calls_by_tool: Vec<String> = calls_by_tool.collect::<Result<_, _>>()?;
        writer.push_rule("call", &calls_by_tool.join(" | "));
        let more = match calls {
            CallCount::AtLeastOne | CallCount::Any if !ends.next.is_empty() => {
                format!(" ({} call){{0,{}}}", writer.literal(ends.next), MAX_CALLS - 1)
            }
            CallCount::One | CallCount::AtLeastOne | CallCount::Any => String::new(),
        };
        let (open, end) = (writer.literal(&format.open), writer.literal(ends.all));
        let all_calls = format!("{open} call{more} {end}");
        if calls == CallCount::Any {
            writer.push_optional_calls(&all_calls, content);
        } else {
            writer.push_rule("start", &all_calls);
        }
        Ok(Self { lark: writer.rules, not_enforced: writer.not_enforced })
    }
}

impl RuleWriter<'_> {
    /// A call from the tool's name to its end.
    ///
    /// # Errors
    /// Why it cannot be enforced.
    fn call(&mut self, tool: &ToolShape<'_>) -> Result<String, String> {
        let name = self.literal(tool.name);
        let after_name = self.literal(&self.format.after_name);
        match &self.format.arguments {
            ArgumentFormat::JsonObject => {
                let arguments = self.push_json_rule(&tool.schema);
                let end = self.literal(self.format.ends().call);
                Ok(format!("{name} {after_name} {arguments} {end}"))
            }
            ArgumentFormat::OneByOne { .. } => {
                let arguments = self.arguments_one_by_one(tool, &after_name)?;
                Ok(format!("{name} {arguments}"))
            }
        }
    }

    /// Writes the rule `start` for `all_calls` after any content, or content without calls.
    fn push_optional_calls(&mut self, all_calls: &str, content: Option<&Value>) {
        let marker = self.format.marker();
        let prefix = self.literal(self.format.content_prefix);
        if let Some(schema) = content {
            let content = self.push_json_rule(schema);
            self.push_rule("start", &format!("{all_calls} | {prefix} {content}"));
        } else if !prefix.is_empty() {
            self.push_rule("start", &format!("{all_calls} | {prefix} FREE"));
            self.push_rule("FREE", "/(.|\\n)*/");
        } else if marker.is_empty() {
            self.push_rule("start", &format!("{all_calls} | FREE"));
            self.push_rule("FREE", "/([^{\\[\\s](.|\\n)*)?/");
        } else if (self.target.control)(marker).is_some() {
            self.push_rule("start", &format!("FREE ({all_calls})?"));
            self.push_rule("FREE", "/(.|\\n)*/");
        } else {
            // The marker is one lexeme with the content before it.
            let quoted = json!(marker).to_string();
            let open = self.format.open.trim_start();
            let after_marker = self.literal(open.strip_prefix(marker).unwrap_or_default());
            let open = self.literal(&self.format.open);
            let after_open = all_calls.strip_prefix(&open).unwrap_or(all_calls);
            self.push_rule("start", &format!("FREE | before {after_marker}{after_open}"));
            self.push_rule(&format!("before[suffix={quoted}]"), "/(.|\\n)*/");
            let escaped = escape_regex(marker);
            self.push_rule("FREE", &format!("/(.|\\n)*/ & ~/(.|\\n)*{escaped}(.|\\n)*/"));
        }
    }
}

#[cfg(test)]
mod tests;
