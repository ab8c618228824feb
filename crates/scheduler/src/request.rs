//! A generation request, as the scheduler sees it.

use std::sync::Arc;

use crate::ids::{Principal, RequestId, Salt, Token};

/// How urgent a request is.
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
    /// In between.
    #[default]
    Normal,
    /// Only while nobody else has anything to compute.
    Background,
}

/// A request as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number; never used before.
    pub id: RequestId,
    /// The prompt, at least one token.
    pub prompt: Arc<[Token]>,
    /// Where messages begin or end in it, ascending: other prompts are likely to part from it there.
    /// Of use where slots cannot be cut back.
    pub borders: Arc<[u32]>,
    /// Whose KV it may reuse: that of requests with the same salt.
    pub salt: Salt,
    /// On whose behalf it comes.
    pub principal: Principal,
    /// How urgent it is.
    pub priority: Priority,
    /// The most tokens an answer can have.
    pub max_new_tokens: u32,
    /// Number of answers, at least 1.
    pub choices: u32,
    /// Whether the logits of every prompt token are wanted, not only the last one's.
    pub all_logits: bool,
    /// Where it goes on somewhere else's work: what each answer has so far, `None` of those that are
    /// complete. Empty for one that begins.
    pub generated: Vec<Option<Vec<Token>>>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The queue holds as many requests as it may.
    QueueFull {
        /// That number.
        limit: usize,
    },
    /// It can never fit into a slot.
    TooLong {
        /// What it needs, in tokens.
        needed: u32,
        /// What a slot holds, in tokens.
        limit: u32,
    },
}
