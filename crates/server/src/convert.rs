//! Requests to what the engine reads, and results to what clients read. No IO and no HTTP.

mod ebnf;
pub mod embedding;
pub mod grammar;
mod logprobs;
pub mod metadata;
mod model_view;
pub mod prepare;
pub mod prompt;
pub mod reasoning;
mod request_rules;
pub mod rerank;
pub mod sampling;
pub mod schema;
mod stamp;
pub mod tokens;
pub mod tools;

use serde::Serialize;

pub(crate) use self::logprobs::{chat_logprobs, finite, token_text};
pub use self::model_view::{ChatFormat, ChatView, EmbeddingView, ModelView};
pub use self::request_rules::{RequestRules, check_extra, log_unknown};
pub use self::stamp::{Stamp, now};

/// A serialisable value as JSON text; on error, which no type of ours causes, `null`.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    // It fails only for maps whose keys are not texts, and for types that refuse to be written.
    serde_json::to_string(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a value cannot be written as JSON");
        "null".to_owned()
    })
}
