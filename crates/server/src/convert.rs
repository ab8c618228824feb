//! Wire to engine and back: what a request means, and how an answer is spelled. No IO.

pub mod completion;
mod ebnf;
pub mod embedding;
pub mod grammar;
pub mod metadata;
pub mod prepare;
pub mod prompt;
pub mod rerank;
pub mod sampling;
pub mod schema;
mod tokens;
pub mod tools;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use forebay_engine::{TokenLogprob, Vocab};
use forebay_protocol::fields::{Row, Rule, lookup};
use serde::Serialize;
use serde_json::Value;

use crate::error::{ApiError, shown};

/// What a request is read against: all that reading needs of the model, the settings and the headers.
#[derive(Debug, Clone, Copy)]
pub struct Against<'a> {
    /// The model's vocabulary.
    pub vocab: &'a Vocab,
    /// Whether the model's template has a control of how much to reason.
    pub knows_effort: bool,
    /// Whether unknown fields are refused.
    pub strict: bool,
    /// The most replies to one prompt.
    pub max_choices: u32,
    /// The request's headers.
    pub headers: &'a HeaderMap,
}

#[cfg(any(test, feature = "fuzzing"))]
impl<'a> Against<'a> {
    /// Without headers, for tests and fuzz targets.
    #[doc(hidden)]
    pub fn bare(vocab: &'a Vocab, strict: bool, knows_effort: bool) -> Self {
        static NO_HEADERS: std::sync::LazyLock<HeaderMap> =
            std::sync::LazyLock::new(HeaderMap::new);
        Self { vocab, knows_effort, strict, max_choices: 16, headers: &NO_HEADERS }
    }
}

/// What every answer to one request carries.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields of the same names in the answers")]
pub struct Stamp {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
}

impl Stamp {
    /// A new id behind `prefix`.
    pub fn new(prefix: &str, model: String, fingerprint: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: now(),
            model,
            system_fingerprint: format!("fp_{fingerprint}"),
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A value of our own as JSON text.
pub(crate) fn to_json<T: Serialize>(value: &T) -> String {
    // It fails only for maps whose keys are not texts, and for types that refuse to be written.
    serde_json::to_string(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a value cannot be written as JSON");
        "null".to_owned()
    })
}

/// Accepts or refuses the fields that no struct carries. Returns those that nobody knows.
///
/// # Errors
/// 400 for the first that is refused.
pub fn check_extra(
    table: &[Row],
    extra: &BTreeMap<String, Value>,
    strict: bool,
) -> Result<Vec<String>, ApiError> {
    let mut unknown = Vec::new();
    for (name, value) in extra.iter().filter(|(_, value)| !value.is_null()) {
        match lookup(table, name) {
            Some(Rule::Hint) => {}
            Some(Rule::Refused { unless, .. }) if unless(value) => {}
            Some(Rule::Refused { why, .. }) => {
                let message = format!("'{name}' is not supported: {why}.");
                return Err(ApiError::invalid(name, "unsupported_parameter", message));
            }
            None if strict => {
                let name = shown(name);
                let message = format!("Unknown parameter: '{name}'.");
                return Err(ApiError::invalid(name, "unknown_parameter", message));
            }
            None => unknown.push(shown(name)),
        }
    }
    Ok(unknown)
}

/// Names what was ignored, in the debug log.
pub fn log_unknown(unknown: &[String]) {
    if !unknown.is_empty() {
        tracing::debug!(fields = ?unknown, "unknown request fields are ignored");
    }
}

/// -infinity is not JSON.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

/// A token's text as far as it is UTF-8 alone.
fn token_text(vocab: &Vocab, token: u32) -> String {
    String::from_utf8_lossy(vocab.piece(token)).into_owned()
}

/// The tokens' log probabilities in chat's shape.
pub(crate) fn chat_logprobs(
    vocab: &Vocab,
    tokens: &[TokenLogprob],
) -> Vec<forebay_protocol::chat::TokenLogprob> {
    use forebay_protocol::chat;
    let each = tokens.iter().map(|entry| chat::TokenLogprob {
        token: token_text(vocab, entry.token),
        logprob: finite(entry.logprob),
        bytes: Some(vocab.piece(entry.token).to_vec()),
        top_logprobs: entry
            .top
            .iter()
            .map(|top| chat::TopLogprob {
                token: token_text(vocab, top.token),
                logprob: finite(top.logprob),
                bytes: Some(vocab.piece(top.token).to_vec()),
            })
            .collect(),
    });
    each.collect()
}
