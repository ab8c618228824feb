//! Why a request failed after it was accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a request failed after it was accepted. All kinds but `Crashed` may be tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// It waited as long as a request may.
    #[error("the request waited for {} s in the queue", .0.as_secs_f32())]
    QueueTimeout(Duration),
    /// It was not done within its own timeout.
    #[error("the request was not done within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Its grammar needs more than the limits allow to say what may come next.
    #[error("the grammar is too complex at this point of the answer")]
    Grammar,
    /// Nobody read the answer, and what waits to be read took too much memory.
    #[error("the answer was not read in time")]
    Unread,
    /// The step that held it failed; the engine goes on.
    #[error("the model could not compute a step")]
    Step,
    /// The engine's process died three times while it computed this request, the third time with this
    /// one alone.
    #[error("the request makes the model's engine crash")]
    Crashed,
    /// The engine is gone.
    #[error("the model's engine has stopped")]
    EngineGone,
}
