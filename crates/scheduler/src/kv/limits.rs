//! Size and abilities of the KV cache.

use crate::ids::SlotId;

/// Size and abilities of the KV cache. Counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct KvLimits {
    /// Number of slots, the long one aside.
    pub slots: u32,
    /// Cells over all slots.
    pub cells: u32,
    /// Capacity of one slot.
    pub slot_tokens: u32,
    /// Capacity of the long slot, the last one, which has cells of its own; 0 without one.
    pub long_tokens: u32,
    /// Whether slots with a common prefix share its cells; else they hold copies.
    pub shares: bool,
    /// Whether a slot can be trimmed to any length; else only to nothing.
    pub rewinds: bool,
    /// Bound on cells that only parked slots hold.
    pub parked_tokens: u32,
    /// Bound on copies in host memory, if slots can be trimmed.
    pub saved_tokens: u32,
    /// Bound on copies in host memory in bytes, if slots cannot be trimmed: their states are of any size,
    /// so each is measured.
    pub saved_bytes: u64,
    /// Minimum distance of the regular checkpoints of a prompt, if slots cannot be trimmed; 0 for no
    /// checkpoints.
    pub checkpoint_every: u32,
}

impl KvLimits {
    /// The longest sequence that fits, prompt and answer.
    pub fn request_tokens(&self) -> u32 {
        self.slot_tokens.min(self.cells).max(self.long_tokens)
    }

    /// The long slot.
    pub fn long_slot(&self) -> Option<SlotId> {
        (self.long_tokens > 0).then_some(SlotId(self.slots))
    }

    /// Whether checkpoints of prompts are copied to host memory.
    pub fn checkpoints(&self) -> bool {
        !self.rewinds && self.saved_bytes > 0 && self.checkpoint_every > 0
    }

    /// Capacity of a slot.
    pub(crate) fn capacity(&self, slot: SlotId) -> u32 {
        if Some(slot) == self.long_slot() { self.long_tokens } else { self.slot_tokens }
    }
}
