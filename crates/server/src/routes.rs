//! The HTTP surface: one file for each family of endpoints.

pub mod chat;
pub mod completions;
pub mod conversations;
pub mod docs;
pub mod embeddings;
pub mod health;
pub mod messages;
pub mod models;
pub mod rerank;
pub mod responses;
pub mod stored;
pub mod tokenize;

use crate::error::ApiError;

/// Text up to this long is tokenised and rendered where it arrives, in well under a millisecond;
/// longer text goes to a blocking thread.
const SHORT: usize = 4096;

/// Runs `f` here when it is quick, else on a thread that may block.
async fn off_reactor<T: Send + 'static>(
    bytes: usize,
    f: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if bytes <= SHORT {
        return f();
    }
    let joined = tokio::task::spawn_blocking(f).await;
    joined.unwrap_or_else(|error| Err(ApiError::internal(error.to_string())))
}
