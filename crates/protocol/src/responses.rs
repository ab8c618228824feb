//! OpenAI's Responses API: what it asks. Its answers are many shapes of one object, written as JSON.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

/// `POST /v1/responses`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// Model name or alias.
    pub model: String,
    /// A text, or items: messages, calls and their outputs, reasoning.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// Put before the input, as a system message.
    pub instructions: Option<String>,
    /// Whether to answer as server-sent events; default false.
    pub stream: Option<bool>,
    /// Upper bound on generated tokens, thoughts included.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// Randomness; default 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Nucleus sampling; default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// `format`: `text`, `json_object` or `json_schema` with `name` and `schema`.
    #[schema(value_type = Option<Object>)]
    pub text: Option<Value>,
    /// What the model may call: functions, custom tools and namespaces of them. OpenAI's own tools are
    /// dropped, unless one is chosen.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or a tool.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may hold several calls; default true.
    pub parallel_tool_calls: Option<bool>,
    /// `effort`, as far as the model's template knows.
    #[schema(value_type = Option<Object>)]
    pub reasoning: Option<Value>,
    /// Up to 16 pairs, echoed in the answer.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// Nothing is stored, whatever this says; the answer tells so.
    pub store: Option<bool>,
    /// Only `disabled` is supported.
    pub truncation: Option<String>,
    /// Only what requests with the same salt computed is reused for this one.
    pub cache_salt: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}
