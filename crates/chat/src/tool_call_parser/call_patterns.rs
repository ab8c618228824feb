//! The patterns of a tool call format, and the kinds of arguments by the schemas of a request's tools: made once for each
//! request.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::pattern::Pattern;
use crate::schema::argument_kinds::ArgumentKinds;
use crate::schema::value_types::ArgumentKind;
use crate::tool_call_format::{ArgumentFormat, ToolCallFormat, ValueFormat};

/// What the parsers of all replies to a request share.
#[derive(Debug)]
pub(super) struct CallPatterns {
    /// The tools' names, each with its parameters' schema.
    pub(super) tools: Arc<BTreeMap<String, Value>>,
    /// The length of the longest name, in bytes.
    pub(super) longest_name: usize,
    /// Whether a call is one JSON object that holds the name.
    pub(super) is_json_object: bool,
    /// The text that announces calls; empty if they start without any.
    pub(super) marker: String,
    /// What may follow a call: first the ends of it or of all calls, then the starts of the next one.
    pub(super) after: Vec<Pattern>,
    /// How many patterns of `after` are ends.
    pub(super) end_count: usize,
    /// What a call may start with, up to its name.
    pub(super) starts: Vec<Pattern>,
    /// What may follow a name: first the end of a call without arguments, if that is known, then the text before
    /// arguments.
    pub(super) after_name: Vec<Pattern>,
    /// How many patterns of `after_name` end a call without arguments: 0 or 1.
    pub(super) no_argument_count: usize,
    /// For arguments one by one.
    pub(super) arguments: Option<ArgumentPatterns>,
}

/// The patterns of arguments that come one by one.
#[derive(Debug)]
pub(super) struct ArgumentPatterns {
    /// The end of a key.
    pub(super) key_end: String,
    /// If a word names the type of a value: the end of that word, and the word for texts.
    pub(super) type_word: Option<(String, String)>,
    /// By tool, if nothing but its schema decides between text and JSON.
    kinds: HashMap<String, ArgumentKinds>,
    /// The quote around texts.
    pub(super) quote: Option<String>,
    /// The end of a value without quotes.
    pub(super) value_end: String,
    /// What follows a value: first the delimiter before the next key, then the end of the call.
    pub(super) ends: [Pattern; 2],
}

impl CallPatterns {
    pub(super) fn new(format: &ToolCallFormat, tools: Arc<BTreeMap<String, Value>>) -> Self {
        let is_json_object = format.is_json_object();
        let marker = format.marker().to_owned();
        let ends = format.ends();
        let skipped = |c: char| is_skipped(is_json_object, c) || is_json_object && c == '}';
        let mut after: Vec<Pattern> = [ends.call, ends.all]
            .map(|end| Pattern::new(end.trim_start_matches(skipped)))
            .into_iter()
            .filter(|end| !end.is_empty())
            .collect();
        let end_count = after.len();
        // Of a JSON object, the text before it.
        let next = match ends.next.rfind('{').filter(|_| is_json_object) {
            Some(at) => {
                ends.next[..at].trim_end().trim_end_matches('[').trim_start_matches(skipped)
            }
            None => ends.next,
        };
        let starts = [marker.as_str(), next].map(Pattern::new).into_iter();
        after.extend(starts.filter(|start| !start.is_empty()));
        let starts = [format.open.as_str(), ends.next].map(Pattern::new).into_iter();
        let no_arguments = match &format.arguments {
            ArgumentFormat::JsonObject => "",
            ArgumentFormat::OneByOne { no_arguments, .. } => {
                no_arguments.trim_end().strip_suffix(ends.all.trim()).unwrap_or(no_arguments)
            }
        };
        let no_arguments = Some(Pattern::new(no_arguments)).filter(|pattern| !pattern.is_empty());
        Self {
            longest_name: tools.keys().map(String::len).max().unwrap_or(0),
            is_json_object,
            marker,
            after,
            end_count,
            starts: starts.filter(|start| !start.is_empty()).collect(),
            no_argument_count: usize::from(no_arguments.is_some()),
            after_name: no_arguments
                .into_iter()
                .chain([Pattern::new(&format.after_name)])
                .collect(),
            arguments: ArgumentPatterns::new(format, &tools),
            tools,
        }
    }

    /// Whether this character between calls is skipped.
    pub(super) fn is_skipped(&self, c: char) -> bool {
        is_skipped(self.is_json_object, c)
    }
}

fn is_skipped(is_json_object: bool, c: char) -> bool {
    c.is_whitespace() || is_json_object && matches!(c, ',' | ';' | ']')
}

impl ArgumentPatterns {
    fn new(format: &ToolCallFormat, tools: &BTreeMap<String, Value>) -> Option<Self> {
        let ArgumentFormat::OneByOne { key_value, value_key, values, .. } = &format.arguments
        else {
            return None;
        };
        let (key_end, type_word, quote) = match values {
            ValueFormat::Bare => (key_value.trim(), None, None),
            ValueFormat::Quoted(quote) => (key_value.trim(), None, Some(quote.clone())),
            ValueFormat::Typed { before_type, after_type, text_type, .. } => {
                (before_type.as_str(), Some((after_type.clone(), text_type.clone())), None)
            }
        };
        let kinds = match values {
            ValueFormat::Bare => {
                let kinds =
                    |(name, schema): (&String, &Value)| (name.clone(), ArgumentKinds::of(schema));
                tools.iter().map(kinds).collect()
            }
            ValueFormat::Quoted(_) | ValueFormat::Typed { .. } => HashMap::new(),
        };
        Some(Self {
            kinds,
            key_end: key_end.to_owned(),
            type_word,
            quote,
            value_end: format.value_end().to_owned(),
            ends: [value_key.as_str(), format.ends().call].map(Pattern::new),
        })
    }

    /// Whether an argument of a tool is a text or JSON by its schema.
    pub(super) fn kind_of(&self, tool: &str, key: &str) -> ArgumentKind {
        self.kinds.get(tool).map_or(ArgumentKind::Either, |kinds| kinds.get(key))
    }
}
