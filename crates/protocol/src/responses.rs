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
    pub metadata: Option<BTreeMap<String, Value>>,
    /// Whether the response is kept, to be retrieved and followed on; default true. The answer tells
    /// whether it is.
    pub store: Option<bool>,
    /// A kept response that this one follows on; its instructions do not count any more.
    pub previous_response_id: Option<String>,
    /// A conversation, as id or `{"id": ...}`, that this response follows on and becomes a part of.
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<Value>,
    /// Whether to answer at once and generate meanwhile; default false. Needs `store`.
    pub background: Option<bool>,
    /// Log probabilities with `message.output_text.logprobs`; what else it may name is not there.
    pub include: Option<Vec<String>>,
    /// Alternatives to report for each token of the text.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// What becomes of input that is longer than the context: `disabled` (default), an error; `auto`,
    /// the oldest items are left out.
    pub truncation: Option<String>,
    /// Only what requests with the same salt computed is reused for this one.
    pub cache_salt: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// `POST /v1/conversations` and `POST /v1/conversations/{id}`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ConversationRequest {
    /// What it begins with: at most 20 items; only where one is made.
    #[schema(value_type = Option<Vec<Object>>, max_items = 20)]
    pub items: Option<Vec<Value>>,
    /// Up to 16 pairs.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<BTreeMap<String, Value>>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// `POST /v1/conversations/{id}/items`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ItemsRequest {
    /// At most 20 items.
    #[schema(value_type = Vec<Object>, max_items = 20)]
    pub items: Vec<Value>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}
