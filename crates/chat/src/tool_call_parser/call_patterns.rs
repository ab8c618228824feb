//! The patterns of a tool call format, made once when the template is loaded.

use super::pattern::Pattern;
use crate::tool_call_format::{ArgumentFormat, ToolCallFormat, ValueFormat};

/// The patterns of a tool call format.
#[derive(Debug)]
pub(crate) struct CallPatterns {
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
    /// The quote around texts.
    pub(super) quote: Option<String>,
    /// The end of a value without quotes.
    pub(super) value_end: String,
    /// What follows a value: first the delimiter before the next key, then the end of the call.
    pub(super) ends: [Pattern; 2],
}

impl CallPatterns {
    pub(crate) fn new(format: &ToolCallFormat) -> Self {
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
            arguments: ArgumentPatterns::new(format),
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
    fn new(format: &ToolCallFormat) -> Option<Self> {
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
        Some(Self {
            key_end: key_end.to_owned(),
            type_word,
            quote,
            value_end: format.value_end().to_owned(),
            ends: [value_key.as_str(), format.ends().call].map(Pattern::new),
        })
    }

    /// Whether values have neither quotes nor a word for their type.
    pub(super) fn is_bare(&self) -> bool {
        self.type_word.is_none() && self.quote.is_none()
    }
}
