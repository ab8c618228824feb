//! Anthropic's Messages API: what it asks and how its answers are spelled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /v1/messages`, and without `max_tokens` `POST /v1/messages/count_tokens`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct MessagesRequest {
    /// Model name or alias.
    pub model: String,
    /// The conversation so far, oldest first.
    pub messages: Vec<InputMessage>,
    /// Upper bound on generated tokens.
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Instructions: a text, or text blocks.
    #[schema(value_type = Option<Object>)]
    pub system: Option<Value>,
    /// Texts that end the answer and are not part of it.
    pub stop_sequences: Option<Vec<String>>,
    /// Whether to answer as server-sent events; default false.
    pub stream: Option<bool>,
    /// Randomness; default 1.
    pub temperature: Option<f64>,
    /// Nucleus sampling; default 1.
    pub top_p: Option<f64>,
    /// Keep this many of the likeliest tokens; default all.
    pub top_k: Option<i64>,
    /// What the model may call.
    pub tools: Option<Vec<InputTool>>,
    /// `{"type": "auto" | "any" | "tool" | "none"}`, with `name` and `disable_parallel_tool_use`.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// `{"type": "enabled" | "adaptive" | "disabled"}`: goes to templates that know it. Thoughts
    /// end after `budget_tokens`.
    #[schema(value_type = Option<Object>)]
    pub thinking: Option<Value>,
    /// `format` with a JSON Schema, and `effort` (`low` to `max`): goes to templates that know it.
    #[schema(value_type = Option<Object>)]
    pub output_config: Option<Value>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// One message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct InputMessage {
    /// `user`, `assistant` or `system`.
    pub role: String,
    /// A text, or blocks.
    #[schema(value_type = Object)]
    pub content: Value,
}

/// A tool.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct InputTool {
    /// `custom`, or absent; tools of the server's own are refused.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// A JSON Schema of its input.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    /// Whether its input has to be valid.
    pub strict: Option<bool>,
}

/// A whole answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Message {
    /// `msg_` and a unique part.
    pub id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Always `assistant`.
    pub role: String,
    /// The name of the model that answered.
    pub model: String,
    /// What it holds, in order.
    pub content: Vec<ContentBlock>,
    /// Why it ended.
    #[serde(flatten)]
    pub end: MessageEnd,
    /// Token counts.
    pub usage: MessageUsage,
}

/// Why an answer ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageEnd {
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null until then.
    pub stop_reason: Option<String>,
    /// The text that ended it, if one of `stop_sequences` did.
    pub stop_sequence: Option<String>,
}

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentBlock {
    /// Reasoning.
    Thinking {
        /// The text.
        thinking: String,
        /// Always empty.
        signature: String,
    },
    /// Text for the user.
    Text {
        /// The text.
        text: String,
    },
    /// A tool call.
    ToolUse {
        /// `toolu_` and a unique part; the tool's result refers to it.
        id: String,
        /// The tool's name.
        name: String,
        /// The arguments, an object.
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// What a stream appends to a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// Reasoning.
    ThinkingDelta {
        /// The text.
        thinking: String,
    },
    /// Text for the user.
    TextDelta {
        /// The text.
        text: String,
    },
    /// Arguments of a tool call.
    InputJsonDelta {
        /// A piece of JSON text.
        partial_json: String,
    },
}

/// An event of a stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The first event.
    MessageStart {
        /// The message, without content.
        message: Message,
    },
    /// A block opens; there is never more than one open.
    ContentBlockStart {
        /// The block's place in the content.
        index: u32,
        /// The block, empty.
        content_block: ContentBlock,
    },
    /// The open block grows.
    ContentBlockDelta {
        /// The block's place in the content.
        index: u32,
        /// What is appended.
        delta: BlockDelta,
    },
    /// The open block is complete.
    ContentBlockStop {
        /// The block's place in the content.
        index: u32,
    },
    /// The message is complete.
    MessageDelta {
        /// Why.
        delta: MessageEnd,
        /// Token counts.
        usage: MessageUsage,
    },
    /// The last event.
    MessageStop,
}

impl StreamEvent {
    /// Its name, which is its `type` as well.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MessageStart { .. } => "message_start",
            Self::ContentBlockStart { .. } => "content_block_start",
            Self::ContentBlockDelta { .. } => "content_block_delta",
            Self::ContentBlockStop { .. } => "content_block_stop",
            Self::MessageDelta { .. } => "message_delta",
            Self::MessageStop => "message_stop",
        }
    }
}

/// Token counts of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageUsage {
    /// Prompt tokens that were computed.
    pub input_tokens: u32,
    /// Always 0: what is cached is not told in advance.
    pub cache_creation_input_tokens: u32,
    /// Prompt tokens whose KV was reused.
    pub cache_read_input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
}

/// What `count_tokens` answers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct TokenCount {
    /// Tokens of the prompt.
    pub input_tokens: u32,
}

/// An error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MessageError {
    /// Always `error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What went wrong.
    pub error: MessageErrorBody,
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MessageErrorBody {
    /// `invalid_request_error`, `not_found_error`, `rate_limit_error`, `overloaded_error`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
}
