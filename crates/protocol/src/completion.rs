//! `POST /v1/completions`: request, whole answer and stream events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::generation::generation_request;
use crate::unions::TextOrTokens;
use crate::usage::Usage;

generation_request! {
    /// A prompt to its continuation.
    pub struct CompletionRequest {
        /// Text or token ids, one prompt or several. Text may spell control tokens.
        pub prompt: Option<TextOrTokens>,
        /// Whether the answer starts with the prompt; default false.
        pub echo: Option<bool>,
        /// How many alternatives for each token; 0 gives the chosen ones alone.
        #[schema(minimum = 0, maximum = 20)]
        pub logprobs: Option<i64>,
        /// Only the value of `n` is possible: no server-side choosing.
        #[schema(minimum = 1)]
        pub best_of: Option<i64>,
    }
}

/// A whole answer. A stream's events have the same shape and the same object name.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// `cmpl-` and a unique part.
    pub id: String,
    /// Always `text_completion`.
    pub object: String,
    /// Seconds since the Unix epoch.
    pub created: u64,
    /// The name of the model that answered.
    pub model: String,
    /// Changes when the build or the model does.
    pub system_fingerprint: String,
    /// For k prompts and n answers: k * n choices, all of a prompt's side by side.
    pub choices: Vec<CompletionChoice>,
    /// Token counts; in a stream absent, null or set as in chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// One of the answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// Prompt-major position.
    pub index: u32,
    /// The text.
    pub text: String,
    /// Log probabilities, when asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null before a stream's end.
    pub finish_reason: Option<String>,
}

/// Log probabilities in the older, columnar shape.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The tokens' texts.
    pub tokens: Vec<String>,
    /// Their log probabilities; null for an echoed prompt's first token.
    pub token_logprobs: Vec<Option<f32>>,
    /// The likeliest tokens at each position.
    pub top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
    /// Where each token's text starts, in characters from the start of `text`.
    pub text_offset: Vec<u32>,
}
