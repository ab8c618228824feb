//! Sizes of copies in host memory.
//!
//! If slots can be trimmed, the size of a copy follows from its tokens. If not, a copy has any size (a
//! window, a recurrent state, with or without all tokens), so each is measured, and the next one is
//! estimated from the shortest and the longest measured.

use std::collections::BTreeMap;

use crate::ids::HostCopyId;

/// Sizes of copies, if they do not follow from their tokens.
#[derive(Debug, Default)]
pub(super) struct CopySizes {
    pub(super) of: BTreeMap<HostCopyId, CopySize>,
    pub(super) total: u64,
    /// The shortest and the longest copy measured.
    pub(super) seen: Option<[MeasuredCopy; 2]>,
}

/// A copy that was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeasuredCopy {
    pub(super) tokens: u32,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CopySize {
    pub(super) bytes: u64,
    /// Tokens that would be computed again without the copy.
    pub(super) gain: u32,
}

impl CopySizes {
    /// Estimates the size of a copy of `len` tokens, in bytes: a line through the shortest and the longest
    /// copy measured; 0 without measurements.
    ///
    /// Outside of that range a state grows with its tokens, but not faster than they do: the estimate is
    /// between the size of the nearer copy and that size in proportion to the tokens. If it exceeds
    /// `limit`, the lower bound is returned, so that the copy is tried and measured; otherwise nothing
    /// would be copied again.
    pub(super) fn estimate(&self, len: u32, limit: u64) -> u64 {
        let Some([least, most]) = self.seen else { return 0 };
        let share = |of: MeasuredCopy| {
            i128::from(of.bytes) * i128::from(len) / i128::from(of.tokens.max(1))
        };
        let from_least = i128::from(len) - i128::from(least.tokens);
        let line = match i128::from(most.tokens - least.tokens) {
            0 => share(least),
            apart => {
                let growth = i128::from(most.bytes) - i128::from(least.bytes);
                i128::from(least.bytes) + growth * from_least / apart
            }
        };
        let (low, high) = if len < least.tokens {
            (share(least), least.bytes.into())
        } else if len > most.tokens {
            (most.bytes.into(), share(most))
        } else {
            (line, line)
        };
        let guess = line.clamp(low, high);
        u64::try_from(if guess > limit.into() { low } else { guess }).unwrap_or(u64::MAX)
    }

    /// Records the measured size of a copy.
    pub(super) fn see(&mut self, tokens: u32, bytes: u64) {
        let new = MeasuredCopy { tokens, bytes };
        let [least, most] = self.seen.get_or_insert([new; 2]);
        if tokens <= least.tokens {
            *least = new;
        }
        if tokens >= most.tokens {
            *most = new;
        }
    }

    pub(super) fn set(&mut self, copy: HostCopyId, size: CopySize) {
        self.remove(copy);
        self.total = self.total.saturating_add(size.bytes);
        self.of.insert(copy, size);
    }

    pub(super) fn remove(&mut self, copy: HostCopyId) {
        if let Some(size) = self.of.remove(&copy) {
            self.total -= size.bytes;
        }
    }
}
