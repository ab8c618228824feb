//! The rules of a grammar while it is written.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use serde_json::Value;

use super::lark::lark_literal;
use super::target::{GrammarTarget, MAX_GRAMMAR_BYTES};
use crate::tool_call_format::ToolCallFormat;

/// The rules so far, and the work of writing them.
pub(super) struct RuleWriter<'w> {
    pub(super) format: &'w ToolCallFormat,
    pub(super) target: GrammarTarget<'w>,
    /// The text of the grammar.
    pub(super) rules: String,
    /// The number of generated names.
    names: u32,
    /// Names of rules by their bodies, those that calls share.
    shared: HashMap<String, String>,
    /// Bytes of definitions copied into rules, of all tools.
    pub(super) copied_bytes: usize,
    /// Bytes of schemas written as rules, of all tools, estimated.
    pub(super) written_bytes: usize,
    /// Keywords that are not enforced.
    pub(super) not_enforced: BTreeSet<&'static str>,
}

impl<'w> RuleWriter<'w> {
    pub(super) fn new(format: &'w ToolCallFormat, target: GrammarTarget<'w>) -> Self {
        Self {
            format,
            target,
            rules: String::new(),
            names: 0,
            shared: HashMap::new(),
            copied_bytes: 0,
            written_bytes: 0,
            not_enforced: BTreeSet::new(),
        }
    }

    pub(super) fn push_rule(&mut self, name: &str, body: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.rules, "{name}: {body}");
    }

    /// A name that no rule has yet.
    pub(super) fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("x{}", self.names)
    }

    /// A name that no terminal has yet.
    pub(super) fn fresh_terminal(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// The name of the rule with this body, one for all equal rules.
    pub(super) fn shared_rule(&mut self, body: &str) -> String {
        self.shared_rule_with("", body)
    }

    /// [`Self::shared_rule`] with attributes after the name.
    pub(super) fn shared_rule_with(&mut self, attributes: &str, body: &str) -> String {
        let key = format!("{attributes}: {body}");
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let name = self.fresh_name();
        self.push_rule(&format!("{name}{attributes}"), body);
        self.shared.insert(key, name.clone());
        name
    }

    /// The name of the terminal with this body, one for all equal terminals.
    pub(super) fn shared_terminal(&mut self, body: &str) -> String {
        let key = format!("TEXT: {body}");
        if let Some(name) = self.shared.get(&key) {
            return name.clone();
        }
        let name = self.fresh_terminal("TEXT");
        self.push_rule(&name, body);
        self.shared.insert(key, name.clone());
        name
    }

    /// The name of a rule for JSON by a schema.
    pub(super) fn push_json_rule(&mut self, schema: &Value) -> String {
        let name = self.fresh_name();
        let schema = (self.target.json)(schema);
        self.push_rule(&name, &format!("%json {schema}"));
        name
    }

    /// Literal text of the format.
    pub(super) fn literal(&self, text: &str) -> String {
        lark_literal(text, self.target.control)
    }

    /// Fails with the reason when the rules are too long.
    pub(super) fn check_length(&self) -> Result<(), String> {
        if self.rules.len() > MAX_GRAMMAR_BYTES {
            return Err(format!(
                "without its descriptions it has, together with the tools before it, more than {MAX_GRAMMAR_BYTES} bytes"
            ));
        }
        Ok(())
    }
}
