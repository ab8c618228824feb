//! How much of a prompt is reused, and why no more.

use crate::ids::SlotId;

/// Fewer tokens than this are neither saved to host memory nor restored for.
pub(super) const LEAST_SAVED: u32 = 64;

/// Whether a prompt's beginning was there already, and why not.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Reuse {
    /// In a slot.
    Device,
    /// In host memory.
    Host,
    /// Nobody had a prompt that begins so.
    Unseen,
    /// Somebody had, but it had to make room.
    Evicted,
    /// Somebody has, but the model cannot go back to where the two part.
    NoRewind,
    /// Somebody has, but less than a copy is worth, or than is reused where texts shall be reproducible.
    Short,
    /// The prompt's own logits are wanted, so all of it is computed.
    Unwanted,
}

/// How much of what is there may be reused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReuseLimit {
    /// At most so many tokens,
    pub(crate) tokens: u32,
    /// and a multiple of so many; at least 1.
    pub(crate) multiple: u32,
}

impl ReuseLimit {
    /// What may be reused of so many tokens.
    pub(super) fn of(self, tokens: u32) -> u32 {
        let most = tokens.min(self.tokens);
        most - most % self.multiple.max(1)
    }
}

/// A sequence that has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotAssignment {
    pub(crate) slot: SlotId,
    /// Tokens that it holds already.
    pub(crate) cached: u32,
    pub(crate) reuse: Reuse,
}
