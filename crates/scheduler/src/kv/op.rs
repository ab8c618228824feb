//! Changes of the KV cache that a step makes.

use crate::ids::{HostCopyId, SlotId};

/// A change of the KV cache before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvOp {
    /// Trim a slot to its first `keep` tokens.
    Trim {
        /// The slot.
        slot: SlotId,
        /// Number of tokens that stay.
        keep: u32,
    },
    /// Copy a prefix of a slot to an empty one.
    Copy {
        /// The source.
        from: SlotId,
        /// The slot.
        to: SlotId,
        /// Length of the prefix.
        keep: u32,
    },
    /// Copy a slot to host memory.
    Save {
        /// The slot.
        slot: SlotId,
        /// The new copy; its id was not used before.
        copy: HostCopyId,
    },
    /// Restore a prefix of a copy in host memory into an empty slot.
    Restore {
        /// The copy.
        copy: HostCopyId,
        /// The slot.
        slot: SlotId,
        /// Length of the prefix.
        keep: u32,
    },
    /// Drop a copy in host memory.
    Forget {
        /// The copy.
        copy: HostCopyId,
    },
}
