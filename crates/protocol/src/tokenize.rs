//! `POST /v1/tokenize` and `POST /v1/detokenize`, spelled as vLLM spells them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::chat::ChatMessage;

/// Text, or messages that the chat template renders, to turn into token ids.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// Model name or alias.
    pub model: String,
    /// Text to tokenise. Exactly one of `prompt` and `messages` must be given.
    pub prompt: Option<String>,
    /// Messages to render and tokenise as `/v1/chat/completions` would.
    pub messages: Option<Vec<ChatMessage>>,
    /// Whether the tokens a model wants at the start or end (BOS, EOS) are added; default true.
    pub add_special_tokens: Option<bool>,
    /// Whether control tokens spelled out in `prompt` become those tokens; default false.
    pub parse_special: Option<bool>,
    /// Whether the template opens the assistant's turn; default true. For `messages` only.
    pub add_generation_prompt: Option<bool>,
    /// Whether `token_strs` is wanted; default false.
    pub return_token_strs: Option<bool>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// The answer to a [`TokenizeRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many tokens.
    pub count: u32,
    /// The longest prompt plus answer of one request, in tokens.
    pub max_model_len: u32,
    /// The token ids.
    pub tokens: Vec<u32>,
    /// The text of each token; bytes that are not UTF-8 alone appear as U+FFFD.
    pub token_strs: Option<Vec<String>>,
}

/// Token ids to text.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// Model name or alias.
    pub model: String,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// The answer to a [`DetokenizeRequest`].
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text; bytes that are not UTF-8 appear as U+FFFD.
    pub prompt: String,
}
