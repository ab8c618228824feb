//! How much of a prompt may be reused, and what an assignment reused.

use crate::ids::SlotId;

/// Minimum number of tokens that a copy in host memory must save.
pub(super) const MIN_HOST_TOKENS: u32 = 64;

/// The result of a prefix lookup: a hit, or why there was none.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Reuse {
    /// Hit in a slot.
    Device,
    /// Hit in host memory.
    Host,
    /// No prompt with this prefix is known.
    Unseen,
    /// The prefix was evicted.
    Evicted,
    /// A slot has the prefix, but its state cannot be cut back to it.
    NoRewind,
    /// The common prefix is too short for a copy, or for reuse in whole blocks.
    Short,
    /// All logits of the prompt are needed, so all of it is computed.
    Unwanted,
}

/// Bound on the reused prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReuseLimit {
    /// Maximum number of tokens.
    pub(crate) tokens: u32,
    /// The reused length is a multiple of this; at least 1.
    pub(crate) multiple: u32,
}

impl ReuseLimit {
    /// The reusable part of a common prefix of `tokens` tokens.
    pub(super) fn of(self, tokens: u32) -> u32 {
        let most = tokens.min(self.tokens);
        most - most % self.multiple.max(1)
    }
}

/// A slot that was assigned to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotAssignment {
    pub(crate) slot: SlotId,
    /// Length of the reused prefix.
    pub(crate) cached: u32,
    pub(crate) reuse: Reuse,
}
