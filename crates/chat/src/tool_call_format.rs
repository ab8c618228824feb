//! The form in which a model writes tool calls: plain data, learned from its chat template.
//!
//! `tool_call_format/learn.rs` finds it, `tool_call_format/adapt.rs` writes past calls in it, `tool_call_parser.rs`
//! reads calls in it, and `tool_call_grammar.rs` enforces it: all from the same texts, so what is enforced is what
//! the template shows the model as its past calls in the next request.

mod adapt;
pub(crate) mod learn;

/// The id of calls in the conversations that formats are learned from. Mistral's templates accept nine letters or
/// digits only. In a format it stands for any id.
pub(crate) const PROBE_ID: &str = "probe1234";

/// How a model writes tool calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCallFormat {
    /// Whether the template itself describes tools to the model.
    pub describes_tools: bool,
    /// Whether the template itself writes past calls.
    pub(crate) renders_calls: bool,
    /// From the start of a reply's first call to its name.
    pub(crate) open: String,
    /// Between a call's name and its arguments.
    pub(crate) after_name: String,
    /// Between a call's arguments and the next call's name; `None` if a reply has one call at most.
    pub(crate) between_calls: Option<String>,
    /// After the last call's arguments.
    pub(crate) close: String,
    pub(crate) arguments: ArgumentFormat,
    /// Whether the template wants past calls' arguments as JSON text.
    pub(crate) arguments_as_text: bool,
    /// Whether the template refuses ids other than nine letters and digits.
    pub(crate) short_ids: bool,
    /// What a reply without calls starts with; empty if with the content itself.
    pub(crate) content_prefix: &'static str,
}

/// How a call's arguments are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ArgumentFormat {
    /// As one JSON object.
    JsonObject,
    /// One after the other. The text before the first key belongs to `after_name`.
    OneByOne {
        /// Between a key and its value.
        key_value: String,
        /// Between a value and the next key.
        value_key: String,
        /// From a name without arguments to the end of the call.
        no_arguments: String,
        values: ValueFormat,
    },
}

/// How the values of arguments that come one by one are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueFormat {
    /// Without a sign of their type: the tool's schema decides between text and JSON.
    Bare,
    /// As literals of a programming language, texts in these quotes.
    Quoted(String),
    /// After a word for their type.
    Typed {
        /// Between a key and the word.
        before_type: String,
        /// Between the word and the value.
        after_type: String,
        /// The word for texts.
        text_type: String,
        /// JSON Schema's names of the other types, each with its word.
        other_types: Vec<(&'static str, String)>,
    },
}

/// What follows a call's arguments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallEnds<'f> {
    /// The end of each call.
    pub(crate) call: &'f str,
    /// The start of the next call up to its name; empty if there is none.
    pub(crate) next: &'f str,
    /// The end of all calls, after that of the last one.
    pub(crate) all: &'f str,
}

impl ToolCallFormat {
    /// The format of Hermes and Qwen models, for models whose template knows no tools.
    pub fn fallback() -> Self {
        Self {
            describes_tools: false,
            renders_calls: false,
            open: "<tool_call>\n{\"name\": \"".to_owned(),
            after_name: "\", \"arguments\": ".to_owned(),
            between_calls: Some("}\n</tool_call>\n<tool_call>\n{\"name\": \"".to_owned()),
            close: "}\n</tool_call>".to_owned(),
            arguments: ArgumentFormat::JsonObject,
            arguments_as_text: false,
            short_ids: false,
            content_prefix: "",
        }
    }

    /// Whether a call's arguments come one by one, rather than as one JSON object.
    pub fn has_separate_arguments(&self) -> bool {
        matches!(self.arguments, ArgumentFormat::OneByOne { .. })
    }

    /// Whether the template wants past calls' arguments as JSON text.
    pub fn arguments_as_text(&self) -> bool {
        self.arguments_as_text
    }

    /// All text that the format consists of. The parser needs the control tokens in it as text.
    pub fn delimiters(&self) -> Vec<&str> {
        let mut all = vec![self.open.as_str(), &self.after_name, &self.close];
        all.extend(self.between_calls.as_deref());
        if let ArgumentFormat::OneByOne { key_value, value_key, no_arguments, values } =
            &self.arguments
        {
            all.extend([key_value.as_str(), value_key, no_arguments]);
            all.extend(match values {
                ValueFormat::Bare => vec![],
                ValueFormat::Quoted(quote) => vec![quote.as_str()],
                ValueFormat::Typed { before_type, after_type, .. } => {
                    vec![before_type.as_str(), after_type]
                }
            });
        }
        all
    }

    /// How values are written, if arguments come one by one.
    pub(crate) fn values(&self) -> Option<&ValueFormat> {
        match &self.arguments {
            ArgumentFormat::JsonObject => None,
            ArgumentFormat::OneByOne { values, .. } => Some(values),
        }
    }

    /// Whether a call is one JSON object that holds the name.
    pub(crate) fn is_json_object(&self) -> bool {
        let object = self.open.rfind('{').unwrap_or(self.open.len());
        self.arguments == ArgumentFormat::JsonObject
            && self.open[object..].contains(':')
            && self.open.ends_with('"')
            && self.after_name.starts_with('"')
    }

    /// The text that announces calls; empty if they start without any.
    pub(crate) fn marker(&self) -> &str {
        let open = self.open.trim_start();
        if self.is_json_object() {
            let object = open.rfind('{').unwrap_or(0);
            return open[..object].trim_end().trim_end_matches('[').trim_end();
        }
        let open = open.find(PROBE_ID).map_or(open, |at| &open[..at]);
        open.split_whitespace().next().unwrap_or_default()
    }

    /// What follows a call's arguments.
    pub(crate) fn ends(&self) -> CallEnds<'_> {
        let close = self.close.as_str();
        let Some(between) = self.between_calls.as_deref() else {
            return CallEnds { call: close, next: "", all: "" };
        };
        let shared = common_prefix(between, close);
        CallEnds {
            call: &between[..shared],
            next: between[shared..].trim_start(),
            all: &close[shared..],
        }
    }

    /// The delimiter that ends a value without quotes: what both another key and the call's end start with, or what
    /// leads to the next key, up to the end of its tag.
    pub(crate) fn value_end(&self) -> &str {
        let ArgumentFormat::OneByOne { value_key, .. } = &self.arguments else { return "" };
        let chars = value_key.chars().zip(self.close.chars()).take_while(|(a, b)| a == b);
        let shared: usize = chars.map(|(c, _)| c.len_utf8()).sum();
        let end = &value_key[..shared];
        let end = if end.trim().is_empty() { value_key.as_str() } else { end };
        end.rfind('>').map_or(end, |at| &end[..=at]).trim()
    }
}

/// The length in bytes of the longest common prefix that does not end within a tag: `<think>` and `<tool_call>` have
/// their first two characters in common, which are no delimiter.
pub(crate) fn common_prefix(text: &str, other: &str) -> usize {
    let chars = text.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let shared: usize = chars.map(|(c, _)| c.len_utf8()).sum();
    let tag = text[..shared].rfind('<').filter(|&at| !text[at..shared].contains('>'));
    tag.unwrap_or(shared)
}
