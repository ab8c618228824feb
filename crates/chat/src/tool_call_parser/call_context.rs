//! What the parsers of all replies to a request share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::call_patterns::{ArgumentPatterns, CallPatterns};
use crate::schema::argument_kinds::ArgumentKinds;
use crate::schema::value_types::ArgumentKind;

/// The patterns of a format and the tools of a request.
#[derive(Debug)]
pub(super) struct CallContext {
    pub(super) patterns: Arc<CallPatterns>,
    /// The tools' names, each with its parameters' schema.
    pub(super) tools: Arc<BTreeMap<String, Value>>,
    /// The length of the longest name, in bytes.
    pub(super) longest_name: usize,
    /// By tool, if nothing but its schema decides between text and JSON.
    kinds: HashMap<String, ArgumentKinds>,
}

impl CallContext {
    pub(super) fn new(patterns: Arc<CallPatterns>, tools: Arc<BTreeMap<String, Value>>) -> Self {
        let is_bare = patterns.arguments.as_ref().is_some_and(ArgumentPatterns::is_bare);
        let bare = tools.iter().filter(|_| is_bare);
        Self {
            kinds: bare.map(|(name, schema)| (name.clone(), ArgumentKinds::of(schema))).collect(),
            longest_name: tools.keys().map(String::len).max().unwrap_or(0),
            patterns,
            tools,
        }
    }

    /// Whether an argument of a tool is a text or JSON by its schema.
    pub(super) fn kind_of(&self, tool: &str, key: &str) -> ArgumentKind {
        self.kinds.get(tool).map_or(ArgumentKind::Either, |kinds| kinds.get(key))
    }
}
