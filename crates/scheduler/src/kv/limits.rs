//! What the KV cache can hold.

use crate::ids::SlotId;

/// What the KV cache is. All counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct KvLimits {
    /// Number of slots, in use and parked, the long one aside.
    pub slots: u32,
    /// Cells over all slots.
    pub cells: u32,
    /// What one slot can hold.
    pub slot_tokens: u32,
    /// What the long slot can hold, the last one, which has cells of its own; 0 where there is
    /// none.
    pub long_tokens: u32,
    /// Whether slots that begin alike can hold the same cells; else they hold copies.
    pub shares: bool,
    /// Whether a slot can be cut back to any length; else only to nothing.
    pub rewinds: bool,
    /// Cells that nobody running holds and that may be kept.
    pub parked_tokens: u32,
    /// What host memory may keep beside that.
    pub saved_tokens: u32,
    /// What it may keep instead where slots cannot be cut back, in bytes: what such a slot holds is of
    /// any size, so it is measured.
    pub saved_bytes: u64,
    /// How far apart the checkpoints of a prompt are at least where slots cannot be cut back.
    pub checkpoint_every: u32,
}

impl KvLimits {
    /// What one request can hold, prompt and answer.
    pub fn request_tokens(&self) -> u32 {
        self.slot_tokens.min(self.cells).max(self.long_tokens)
    }

    /// The long slot.
    pub fn long_slot(&self) -> Option<SlotId> {
        (self.long_tokens > 0).then_some(SlotId(self.slots))
    }

    /// Whether what a slot holds on the way through a prompt is kept: it cannot be cut back to that.
    pub fn checkpoints(&self) -> bool {
        !self.rewinds && self.saved_bytes > 0 && self.checkpoint_every > 0
    }

    /// What a slot can hold.
    pub(crate) fn capacity(&self, slot: SlotId) -> u32 {
        if Some(slot) == self.long_slot() { self.long_tokens } else { self.slot_tokens }
    }
}
