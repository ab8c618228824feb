//! `POST /v1/chat/completions`: request, whole answer and stream chunks.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::generation::generation_request;
use crate::unions::TextOr;
use crate::usage::Usage;

generation_request! {
    /// A conversation that the assistant answers.
    pub struct ChatCompletionRequest {
        /// The conversation so far, oldest first.
        #[schema(min_items = 1)]
        pub messages: Vec<ChatMessage>,
        /// Upper bound on generated tokens; wins over `max_tokens`.
        #[schema(minimum = 1)]
        pub max_completion_tokens: Option<i64>,
        /// Whether `logprobs` are wanted for each generated token.
        pub logprobs: Option<bool>,
        /// How many alternatives for each token; needs `logprobs: true`.
        #[schema(minimum = 0, maximum = 20)]
        pub top_logprobs: Option<i64>,
        /// Tools that the model may call.
        pub tools: Option<Vec<crate::tools::Tool>>,
        /// Whether the model has to call a tool, and which; default `auto` with tools, else `none`.
        pub tool_choice: Option<crate::tools::ToolChoice>,
        /// Whether an answer may hold several calls; default true.
        pub parallel_tool_calls: Option<bool>,
        /// How much to reason before answering: `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or
        /// `max`, as far as the model's template knows.
        pub reasoning_effort: Option<String>,
        /// Upper bound on reasoning tokens: at the bound the reasoning is closed and the answer follows. -1
        /// sets no bound.
        #[serde(alias = "thinking_budget_tokens")]
        #[schema(minimum = -1)]
        pub thinking_token_budget: Option<i64>,
        /// Format of the answer: text, a JSON object, or JSON by a schema.
        pub response_format: Option<crate::structured::ResponseFormat>,
        /// Up to 16 pairs, echoed in the answer.
        pub metadata: Option<BTreeMap<String, Value>>,
        /// Whether the template opens the assistant's turn; default true.
        pub add_generation_prompt: Option<bool>,
        /// Leave the last (assistant) message open and continue it; default false.
        pub continue_final_message: Option<bool>,
        /// Extra scalar variables for the chat template.
        #[schema(value_type = Option<Object>)]
        pub chat_template_kwargs: Option<Map<String, Value>>,
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text, whole or in parts.
    pub content: Option<Content>,
    /// Tool calls of an earlier answer.
    pub tool_calls: Option<Vec<crate::tools::ToolCall>>,
    /// Reasoning of an earlier answer; the template decides whether the model sees it.
    pub reasoning_content: Option<String>,
    /// Alias of `reasoning_content`.
    pub reasoning: Option<String>,
    /// Id of the tool call that the message answers.
    pub tool_call_id: Option<String>,
    /// The participant's name; passed to the template.
    pub name: Option<String>,
    /// A refusal that an earlier answer carried; used when there is no content.
    pub refusal: Option<String>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// A message's content: one string, or parts.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Typed parts.
    Parts(Vec<ContentPart>),
}

/// One part of a message's content.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ContentPart {
    /// `text` or `refusal`; other types are refused by name.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The text of a `refusal` part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A whole answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// `chatcmpl-` and a unique part.
    pub id: String,
    /// Always `chat.completion`.
    pub object: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The name of the model that answered.
    pub model: String,
    /// One entry for each of the `n` answers.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Changes when the build or the model does.
    pub system_fingerprint: String,
    /// Present when the request named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// The request's metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, Value>>,
}

/// One of the answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// Which of the `n`.
    pub index: u32,
    /// The answer.
    pub message: AssistantMessage,
    /// Log probabilities, when asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: String,
}

/// The message of an answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// Always `assistant`.
    pub role: String,
    /// The text; null if there are only tool calls.
    pub content: Option<String>,
    /// The reasoning before the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// The tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<crate::tools::ToolCall>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub annotations: Vec<Value>,
}

/// Log probabilities of an answer or of a chunk of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry for each token.
    pub content: Option<Vec<TokenLogprob>>,
    /// Always null.
    #[schema(value_type = Option<Vec<TokenLogprob>>)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// One token's log probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenLogprob {
    /// The token's text; bytes that are not UTF-8 alone appear as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability before temperature and filters; -9999 for zero.
    pub logprob: f32,
    /// The token's exact bytes.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens at this position.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One alternative at a position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TopLogprob {
    /// The token's text; bytes that are not UTF-8 alone appear as U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The token's exact bytes.
    pub bytes: Option<Vec<u8>>,
}

/// One event of a stream.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// The same in all chunks.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: String,
    /// The same in all chunks.
    pub created: u64,
    /// The same in all chunks.
    pub model: String,
    /// Present in all chunks: an SDK helper reads it from the last one.
    pub system_fingerprint: String,
    /// Present when the request named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// One choice, or none in the usage chunk.
    pub choices: Vec<ChunkChoice>,
    /// Absent without `include_usage`; with it null but for the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// What a chunk adds to one choice.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChunkChoice {
    /// Which of the `n`.
    pub index: u32,
    /// Added text, reasoning and tool calls.
    pub delta: Delta,
    /// Log probabilities of the tokens added.
    pub logprobs: Option<ChatLogprobs>,
    /// Set in the choice's last chunk.
    pub finish_reason: Option<String>,
}

/// Additions to a message. Keys are omitted rather than null: SDK helpers concatenate the values.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first chunk of a choice only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Reasoning to append.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Text to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Null, in the first chunk of a choice only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub refusal: Option<Option<String>>,
    /// Additions to tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<crate::tools::ToolCallDelta>,
}

// === impl Content ===

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match TextOr::deserialize(deserializer)? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::Parts(parts) => Self::Parts(parts),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_means_absent() {
        let r: ChatCompletionRequest = serde_json::from_str(
            r#"{"model":"m","messages":[{"role":"user","content":"x","name":null}],
                "temperature":null,"stop":null,"max_tokens":null,"logit_bias":null,"tools":null,"user":null}"#,
        )
        .unwrap();
        assert!(r.temperature.is_none() && r.stop.is_none() && r.logit_bias.is_none());
        assert!(r.tools.is_none());
    }

    #[test]
    fn chunk_usage_is_absent_null_or_set() {
        let mut chunk = ChatCompletionChunk {
            id: "i".into(),
            object: "o".into(),
            created: 0,
            model: "m".into(),
            system_fingerprint: "f".into(),
            service_tier: None,
            choices: vec![],
            usage: None,
        };
        let json = |c: &ChatCompletionChunk| serde_json::to_value(c).unwrap();
        assert!(json(&chunk).get("usage").is_none());
        chunk.usage = Some(None);
        assert_eq!(json(&chunk)["usage"], Value::Null);
        chunk.usage = Some(Some(Usage::default().plus(1, 0, 2)));
        assert_eq!(json(&chunk)["usage"]["total_tokens"], 3);
    }

    #[test]
    fn first_delta_has_a_null_refusal_and_later_ones_none() {
        let first = Delta { refusal: Some(None), ..Delta::default() };
        assert_eq!(serde_json::to_string(&first).unwrap(), r#"{"refusal":null}"#);
        assert_eq!(serde_json::to_string(&Delta::default()).unwrap(), "{}");
    }
}
