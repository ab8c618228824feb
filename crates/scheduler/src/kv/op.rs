//! Changes of the KV cache that a step makes.

use crate::ids::{HostCopyId, SlotId};

/// What is to be done to the KV cache before a step, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvOp {
    /// Drop what a slot holds from position `keep` on.
    Trim {
        /// The slot.
        slot: SlotId,
        /// How many tokens stay.
        keep: u32,
    },
    /// Make a slot, which is empty, begin like another.
    Copy {
        /// The other.
        from: SlotId,
        /// The slot.
        to: SlotId,
        /// The tokens it gets.
        keep: u32,
    },
    /// Keep a copy of what a slot holds in host memory.
    Save {
        /// The slot.
        slot: SlotId,
        /// The copy's number; never used before.
        copy: HostCopyId,
    },
    /// Make a slot, which is empty, begin like a copy in host memory.
    Restore {
        /// The copy.
        copy: HostCopyId,
        /// The slot.
        slot: SlotId,
        /// The tokens it gets.
        keep: u32,
    },
    /// Forget a copy in host memory.
    Forget {
        /// The copy.
        copy: HostCopyId,
    },
}
