//! Anthropic's Messages API: requests, answers and stream events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::unions::TextOr;

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
    pub system: Option<TextOr<InputBlock>>,
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
    /// Tools that the model may call.
    pub tools: Option<Vec<InputTool>>,
    /// Which tool the model has to call.
    pub tool_choice: Option<InputToolChoice>,
    /// Whether the model reasons, for templates that support it.
    pub thinking: Option<ThinkingConfig>,
    /// Format of the answer, and how much to reason.
    pub output_config: Option<OutputConfig>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// One message.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(expecting = "a message")]
pub struct InputMessage {
    /// `user`, `assistant` or `system`.
    pub role: String,
    /// A text, or blocks.
    #[schema(value_type = Object)]
    pub content: TextOr<InputBlock>,
}

/// A block of a message: the fields of all kinds of blocks that are read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(expecting = "a block")]
pub struct InputBlock {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of a `text`.
    pub text: Option<String>,
    /// Of `thinking`.
    pub thinking: Option<String>,
    /// Of a `tool_use`: the id that its result refers to.
    pub id: Option<String>,
    /// Of a `tool_use`: the tool's name.
    pub name: Option<String>,
    /// Of a `tool_use`: the arguments, an object.
    pub input: Option<Value>,
    /// Of a `tool_result`: id of the call.
    pub tool_use_id: Option<String>,
    /// Of a `tool_result`: a text, or text blocks.
    pub content: Option<TextOr<InputBlock>>,
    /// Of a `tool_result`: whether the call failed.
    pub is_error: Option<bool>,
}

/// Which tool the model has to call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct InputToolChoice {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Of `tool`: its name.
    pub name: Option<String>,
    /// Whether an answer may hold one call at most; default false.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether and how long the model reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct ThinkingConfig {
    /// `enabled`, `adaptive`, `between_tools` or `disabled`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Upper bound on reasoning tokens.
    pub budget_tokens: Option<i64>,
}

/// Format of an answer, and how much to reason for it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct OutputConfig {
    /// How much to reason: `low`, `medium`, `high`, `xhigh` or `max`; for templates that support it.
    pub effort: Option<String>,
    /// JSON by a schema.
    pub format: Option<OutputFormat>,
}

/// The format of an answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct OutputFormat {
    /// `json_schema`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The schema; without one any JSON object.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// A tool.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(expecting = "a tool")]
pub struct InputTool {
    /// `custom`, or absent; tools of the server's own are refused.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// Description; shown to the model.
    pub description: Option<String>,
    /// JSON Schema of the input.
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
    /// Whether the input has to be valid by the schema.
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
    /// The content, in order.
    pub content: Vec<ContentBlock>,
    /// Why the answer ended.
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
        /// A part of the JSON text.
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
    /// Always 0: cache writes are not reported.
    pub cache_creation_input_tokens: u32,
    /// Prompt tokens whose KV was reused.
    pub cache_read_input_tokens: u32,
    /// Tokens generated.
    pub output_tokens: u32,
}

/// The response of `count_tokens`.
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
    /// The error itself.
    pub error: MessageErrorBody,
}

/// An error's type and message.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MessageErrorBody {
    /// `invalid_request_error`, `not_found_error`, `rate_limit_error`, `overloaded_error`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Message for people.
    pub message: String,
}
