//! The items of a response's output.

use forebay_protocol::chat::{TokenLogprob, TopLogprob};
use serde::{Serialize, Serializer};

use crate::dialects::responses::items::new_id;

/// How far a response or an item has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "OpenAI's words")]
pub enum Status {
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Failed,
    Cancelled,
}

/// One item of the output.
#[derive(Debug, Serialize)]
pub struct Item {
    /// Its id.
    pub id: String,
    /// `in_progress` while it grows.
    pub status: Status,
    /// What it holds.
    #[serde(flatten)]
    pub content: Content,
}

/// What an item holds. The first part of a content is added right after the item.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    Reasoning {
        summary: [(); 0],
        content: Vec<Part>,
    },
    Message {
        role: &'static str,
        content: Vec<Part>,
    },
    FunctionCall {
        #[serde(flatten)]
        call: Call,
        arguments: String,
    },
    CustomToolCall {
        #[serde(flatten)]
        call: Call,
        input: String,
    },
}

/// Which tool is called.
#[derive(Debug, Serialize)]
pub struct Call {
    /// What its output refers to.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
    /// The tool's namespace, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A part of a content.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    ReasoningText {
        text: String,
    },
    OutputText {
        text: String,
        annotations: [(); 0],
        #[serde(serialize_with = "with_bytes")]
        logprobs: Vec<TokenLogprob>,
    },
}

/// Log probabilities as they are written.
#[derive(Debug, Clone, Copy)]
pub struct Logprobs<'a> {
    entries: &'a [TokenLogprob],
    /// Whether the tokens' bytes are written: in items they are, in events they are not.
    bytes: bool,
}

/// A token at a position, or one of its alternatives.
#[derive(Serialize)]
struct Entry<'a> {
    token: &'a str,
    /// The value as `f64`, which has other digits than the `f32`.
    logprob: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<&'a [u8]>,
}

/// A token and its alternatives.
#[derive(Serialize)]
struct Position<'a> {
    #[serde(flatten)]
    chosen: Entry<'a>,
    top_logprobs: Vec<Entry<'a>>,
}

// === impl Item ===

impl Item {
    /// An item without a text.
    pub fn new(content: Content) -> Self {
        let prefix = match content {
            Content::Reasoning { .. } => "rs",
            Content::Message { .. } => "msg",
            Content::FunctionCall { .. } => "fc",
            Content::CustomToolCall { .. } => "ctc",
        };
        Self { id: new_id(prefix), status: Status::InProgress, content }
    }

    /// Its first part, unless it is a call.
    pub fn part(&self) -> Option<&Part> {
        match &self.content {
            Content::Reasoning { content, .. } | Content::Message { content, .. } => {
                content.first()
            }
            Content::FunctionCall { .. } | Content::CustomToolCall { .. } => None,
        }
    }
}

// === impl Content ===

impl Content {
    /// Reasoning without a part.
    pub fn reasoning() -> Self {
        Self::Reasoning { summary: [], content: Vec::new() }
    }

    /// A message without a part.
    pub fn message() -> Self {
        Self::Message { role: "assistant", content: Vec::new() }
    }

    /// Adds a part; a call has none.
    pub fn add_part(&mut self, part: Part) {
        match self {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => content.push(part),
            Self::FunctionCall { .. } | Self::CustomToolCall { .. } => {}
        }
    }

    /// Appends to the text of the last part, or to what a call passes.
    pub fn append(&mut self, more: &str, new_logprobs: Vec<TokenLogprob>) {
        match self {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => {
                match content.last_mut() {
                    Some(Part::ReasoningText { text }) => text.push_str(more),
                    Some(Part::OutputText { text, logprobs, .. }) => {
                        text.push_str(more);
                        logprobs.extend(new_logprobs);
                    }
                    None => {}
                }
            }
            Self::FunctionCall { arguments: text, .. }
            | Self::CustomToolCall { input: text, .. } => text.push_str(more),
        }
    }
}

// === impl Part ===

impl Part {
    /// Reasoning that is still empty.
    pub fn reasoning() -> Self {
        Self::ReasoningText { text: String::new() }
    }

    /// A text that is still empty.
    pub fn output() -> Self {
        Self::OutputText { text: String::new(), annotations: [], logprobs: Vec::new() }
    }
}

// === impl Logprobs ===

impl<'a> Logprobs<'a> {
    /// As events have them.
    pub fn without_bytes(entries: &'a [TokenLogprob]) -> Self {
        Self { entries, bytes: false }
    }

    fn position(self, chosen: &'a TokenLogprob) -> Position<'a> {
        let TokenLogprob { token, logprob, bytes, top_logprobs } = chosen;
        let top = top_logprobs.iter().map(|TopLogprob { token, logprob, bytes }| {
            self.entry(token, *logprob, bytes.as_deref())
        });
        Position {
            chosen: self.entry(token, *logprob, bytes.as_deref()),
            top_logprobs: top.collect(),
        }
    }

    fn entry(self, token: &'a str, logprob: f32, bytes: Option<&'a [u8]>) -> Entry<'a> {
        Entry { token, logprob: f64::from(logprob), bytes: bytes.filter(|_| self.bytes) }
    }
}

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.entries.iter().map(|entry| self.position(entry)))
    }
}

/// As items have them.
fn with_bytes<S: Serializer>(entries: &[TokenLogprob], serializer: S) -> Result<S::Ok, S::Error> {
    Logprobs { entries, bytes: true }.serialize(serializer)
}
