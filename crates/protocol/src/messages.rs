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
    /// `thinking`, `text` and `tool_use` blocks.
    #[schema(value_type = Vec<Object>)]
    pub content: Vec<Value>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`; null until then.
    pub stop_reason: Option<String>,
    /// Which one.
    pub stop_sequence: Option<String>,
    /// Token counts.
    pub usage: MessageUsage,
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
