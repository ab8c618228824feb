//! Why a request failed after it was accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why an accepted request failed. All but `Crashed` may be retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// It waited in the queue for the queue timeout.
    #[error("the request waited for {} s in the queue", .0.as_secs_f32())]
    QueueTimeout(Duration),
    /// It exceeded its own timeout.
    #[error("the request was not done within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Its grammar exceeds the parser's limits.
    #[error("the grammar exceeds the parser's limits at this point of the answer")]
    Grammar,
    /// The answer was not read, and unread events took too much memory.
    #[error("the answer was not read in time")]
    Unread,
    /// The step that held it failed; the engine continues.
    #[error("the model could not compute a step")]
    Step,
    /// The engine's process died three times while it computed this request, the third time while it computed no other.
    #[error("the request makes the model's engine crash")]
    Crashed,
    /// The engine has ended.
    #[error("the model's engine has stopped")]
    EngineGone,
}
