//! A generation request, as the scheduler sees it.

use std::sync::Arc;

use crate::ids::{Principal, RequestId, Salt, Token};

/// Priority of a request.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Priority {
    /// Before all others.
    Interactive,
    /// The default.
    #[default]
    Normal,
    /// Only while no other sequence is active.
    Background,
}

/// A generation request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Id; not used before.
    pub id: RequestId,
    /// The prompt; at least one token.
    pub prompt: Arc<[Token]>,
    /// Positions where messages begin or end, ascending: other prompts are likely to part from it there.
    /// Used for checkpoints.
    pub borders: Arc<[u32]>,
    /// Separates prefix caches.
    pub salt: Salt,
    /// The client to charge.
    pub principal: Principal,
    /// Its priority.
    pub priority: Priority,
    /// Maximum number of tokens of an answer.
    pub max_new_tokens: u32,
    /// Number of answers; at least 1.
    pub choices: u32,
    /// Whether the logits of every prompt token are needed.
    pub all_logits: bool,
    /// Tokens of each answer so far if the request continues after an engine's death, `None` for complete
    /// answers. Empty for a new request.
    pub generated: Vec<Option<Vec<Token>>>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The queue is full.
    QueueFull {
        /// Maximum number of queued sequences.
        limit: usize,
    },
    /// The request can never fit into a slot.
    TooLong {
        /// Length of prompt and answer, in tokens.
        needed: u32,
        /// Capacity of a slot, in tokens.
        limit: u32,
    },
}
