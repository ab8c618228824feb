//! How many requests and tokens may wait or run at a time, as permits, and why a request is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Token;
use crate::report_router::EngineEnded;

/// Why a request was not accepted. Nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests wait or run as may.
    #[error("{limit} requests are waiting or running already")]
    QueueFull {
        /// The most requests that may wait or run.
        limit: usize,
        /// Estimated time until they have been served.
        backlog: Duration,
    },
    /// The prompts that wait or run have as many tokens as they may.
    #[error("{tokens} more prompt tokens do not fit into {limit}")]
    QueueTokens {
        /// The prompt's tokens.
        tokens: usize,
        /// The most prompt tokens that may wait or run.
        limit: usize,
        /// Estimated time until they have been served.
        backlog: Duration,
    },
    /// The inputs have more tokens together than may wait over all requests.
    #[error("inputs of {tokens} tokens do not fit into {limit}")]
    TooManyTokens {
        /// The inputs' tokens.
        tokens: usize,
        /// The most tokens of one request's inputs.
        limit: usize,
    },
    /// Prompt and answer do not fit into what one request can hold.
    #[error("{tokens} tokens do not fit into {limit}")]
    TooLong {
        /// What it needs, in tokens.
        tokens: usize,
        /// What a request can hold, in tokens.
        limit: u32,
    },
    /// A prompt or input without a token.
    #[error("there is no token to compute")]
    Empty,
    /// A token id that the vocabulary does not have.
    #[error("there is no token {token}")]
    NoSuchToken {
        /// The id.
        token: Token,
    },
    /// The engine's thread has ended.
    #[error("the model's engine has stopped")]
    EngineGone,
}

impl From<EngineEnded> for SubmitError {
    fn from(EngineEnded: EngineEnded) -> Self {
        Self::EngineGone
    }
}

/// One permit for a request, and those of its tokens: it counts against the limits until they are dropped.
pub(crate) type QueuePermits = [OwnedSemaphorePermit; 2];

/// The limits of an engine's queue.
#[derive(Debug)]
pub(crate) struct QueueLimits {
    requests: Arc<Semaphore>,
    max_requests: usize,
    tokens: Arc<Semaphore>,
    max_tokens: usize,
}

impl QueueLimits {
    pub(crate) fn new(max_requests: usize, max_tokens: usize) -> Self {
        let max_tokens = max_tokens.min(Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(max_requests)),
            max_requests,
            tokens: Arc::new(Semaphore::new(max_tokens)),
            max_tokens,
        }
    }

    /// Requests that may wait or run at a time.
    pub(crate) fn max_requests(&self) -> usize {
        self.max_requests
    }

    /// Tokens that may wait or run at a time.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Whether one more request may wait.
    pub(crate) fn has_room(&self) -> bool {
        self.requests.available_permits() > 0
    }

    /// Requests that count against the limits.
    #[cfg(test)]
    pub(crate) fn requests_in_use(&self) -> usize {
        self.max_requests - self.requests.available_permits()
    }

    /// Permits for a request with so many tokens. One with more tokens than the limit needs all token permits.
    ///
    /// # Errors
    /// [`SubmitError::QueueFull`] or [`SubmitError::QueueTokens`], with the `backlog`.
    pub(crate) fn acquire(
        &self,
        tokens: usize,
        backlog: Duration,
    ) -> Result<QueuePermits, SubmitError> {
        let request = Arc::clone(&self.requests).try_acquire_owned();
        let request = request.map_err(|_| self.full(backlog))?;
        let wanted = u32::try_from(tokens.min(self.max_tokens)).unwrap_or(u32::MAX);
        let too_many = SubmitError::QueueTokens { tokens, limit: self.max_tokens, backlog };
        let tokens = Arc::clone(&self.tokens).try_acquire_many_owned(wanted);
        Ok([request, tokens.map_err(|_| too_many)?])
    }

    pub(crate) fn full(&self, backlog: Duration) -> SubmitError {
        SubmitError::QueueFull { limit: self.max_requests, backlog }
    }
}
