//! OpenAI's Responses API: requests. The server writes its answers, many shapes of one object, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::unions::{TextOr, TextOrObject};

// Fields that the response repeats are kept as sent; `TextConfig`, `ResponseTool` and the others parse them.
/// `POST /v1/responses`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// Model name or alias.
    pub model: String,
    /// A text, or items: messages, calls and their outputs, reasoning.
    #[schema(value_type = Option<Object>)]
    pub input: Option<TextOr<InputItem>>,
    /// Put before the input, as a system message.
    pub instructions: Option<String>,
    /// Whether to answer as server-sent events; default false.
    pub stream: Option<bool>,
    /// Upper bound on generated tokens, reasoning included.
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// Randomness; default 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Nucleus sampling; default 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// Format of the answer.
    #[schema(value_type = Option<TextConfig>)]
    pub text: Option<Value>,
    /// Tools that the model may call: functions, custom tools and namespaces of them. OpenAI's own tools are
    /// dropped, unless one is chosen.
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or a tool.
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Whether an answer may hold several calls; default true.
    pub parallel_tool_calls: Option<bool>,
    /// `effort`, as far as the model's template knows.
    #[schema(value_type = Option<ReasoningConfig>)]
    pub reasoning: Option<Value>,
    /// Up to 16 pairs, echoed in the answer.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<BTreeMap<String, Value>>,
    /// Whether the response is stored, so that it can be retrieved and continued; default true. The answer
    /// reports whether it is.
    pub store: Option<bool>,
    /// Id of a stored response that this one continues; that one's instructions no longer apply.
    pub previous_response_id: Option<String>,
    /// A conversation, as id or `{"id": ...}`, that this response continues and is added to.
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<TextOrObject<ConversationId>>,
    /// Whether to return at once and generate in the background; default false. Needs `store`.
    pub background: Option<bool>,
    /// `message.output_text.logprobs` adds log probabilities; other values have no effect.
    pub include: Option<Vec<String>>,
    /// Alternatives to report for each token of the text.
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// For input that is longer than the context: `disabled` (default) is an error, `auto` leaves out the
    /// oldest items.
    pub truncation: Option<String>,
    /// Separates prefix caches: only KV of requests with the same salt is reused.
    pub cache_salt: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// The format of an answer, and its verbosity.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct TextConfig {
    /// The format; default text.
    pub format: Option<TextFormat>,
    /// Only `medium`: no model served here has a verbosity control.
    pub verbosity: Option<String>,
}

/// The format of an answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `json_schema`: letters, digits, `_` and `-`, at most 64 of them.
    pub name: Option<String>,
    /// Of `json_schema`: description; not shown to the model.
    pub description: Option<String>,
    /// Of `json_schema`: the schema; without one any JSON object is valid.
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Of `json_schema`: whether a schema that cannot be enforced as a whole is refused.
    pub strict: Option<bool>,
}

/// How to reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(expecting = "an object")]
pub struct ReasoningConfig {
    /// How much, as far as the model's template knows: `none` to `max`.
    pub effort: Option<String>,
    /// Accepted; no summaries are made.
    pub summary: Option<String>,
}

/// A function, a custom tool or a namespace of tools.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(expecting = "a tool")]
pub struct ResponseTool {
    /// `function`, `custom` or `namespace`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Description; shown to the model.
    pub description: Option<String>,
    /// Of a function: JSON Schema of its arguments.
    pub parameters: Option<Value>,
    /// Of a function: whether its arguments have to be valid by the schema.
    pub strict: Option<bool>,
    /// Of a custom tool: format of its text.
    pub format: Option<Value>,
    /// Of a namespace: its tools.
    pub tools: Option<Vec<Value>>,
}

/// Which tool the model has to call: `none`, `auto` or `required`, a tool, or some of them.
pub type ResponseToolChoice = TextOrObject<ToolSelection>;

/// The conversation of a response.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(expecting = "a conversation")]
pub struct ConversationId {
    /// Its id.
    pub id: String,
}

/// A tool, or some of them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(expecting = "a tool")]
pub struct ToolSelection {
    /// `function`, `custom` or `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The tool's name.
    pub name: Option<String>,
    /// Of `allowed_tools`: `auto` or `required`.
    pub mode: Option<String>,
    /// Of `allowed_tools`: the tools that may be called.
    pub tools: Option<Vec<ToolSelection>>,
}

/// An item: a message, a call, its output, reasoning, or a reference to a stored item. Fields that are not
/// here are stored as they were sent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(expecting = "an item")]
pub struct InputItem {
    /// `message` (the default), `function_call`, `custom_tool_call`, their `..._output`, `reasoning`, or
    /// `item_reference`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its id; a new item gets one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `completed` (the default), `in_progress` or `incomplete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Of a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Of a message or of reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<TextOr<InputPart>>,
    /// Of reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Vec<InputPart>>,
    /// Of a call or its output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Of a call: the tool's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of a function call: JSON as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// Of a custom tool's call: its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Of a call's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<TextOr<InputPart>>,
    /// Everything else the client sent.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A part of an item's content.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(expecting = "a part")]
pub struct InputPart {
    /// `input_text`, `output_text`, `text`, `summary_text`, `reasoning_text` or `refusal`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// `POST /v1/conversations` and `POST /v1/conversations/{id}`.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct ConversationRequest {
    /// The first items, at most 20; only when a conversation is created.
    #[schema(value_type = Option<Vec<Object>>, max_items = 20)]
    pub items: Option<Vec<InputItem>>,
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
    pub items: Vec<InputItem>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// A conversation, without its items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    pub id: String,
    /// `conversation`
    pub object: String,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Up to 16 pairs.
    #[schema(value_type = Object)]
    pub metadata: BTreeMap<String, Value>,
}

/// A response or a conversation was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Deleted {
    /// Its id.
    pub id: String,
    /// `response` or `conversation.deleted`.
    pub object: &'static str,
    /// `true`
    pub deleted: bool,
}

/// The number of tokens of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputTokens {
    /// `response.input_tokens` or `chat.completion.input_tokens`.
    pub object: &'static str,
    /// The number.
    pub input_tokens: u32,
}

/// A page of a list of items, oldest or newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemList<'a> {
    /// `list`
    pub object: &'static str,
    /// The items.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<&'a RawValue>,
    /// The first item's id.
    pub first_id: Option<&'a str>,
    /// The last item's id.
    pub last_id: Option<&'a str>,
    /// Whether more items follow.
    pub has_more: bool,
}
