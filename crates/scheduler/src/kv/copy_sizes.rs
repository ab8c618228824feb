//! CopySizes of copies in host memory.
//!
//! Where slots can be cut back a copy takes as much as it has tokens. Where they cannot, a copy is
//! of any size (a window, a recurrent state, with or without all tokens beside it), so each is
//! measured when it is there, and what the next one will take is estimated from the shortest and the
//! longest that were.

use std::collections::BTreeMap;

use crate::ids::HostCopyId;

/// How large copies are, where that does not follow from their tokens.
#[derive(Debug, Default)]
pub(super) struct CopySizes {
    pub(super) of: BTreeMap<HostCopyId, CopySize>,
    pub(super) total: u64,
    /// The shortest and the longest that were measured.
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
    /// Tokens that would have to be computed again without it.
    pub(super) gain: u32,
}

impl CopySizes {
    /// What a copy of so many tokens takes: a part that is the same in all and one that grows with
    /// the tokens, by the shortest and the longest measured; 0 where none was.
    ///
    /// Beyond those two it is a guess: a state grows with its tokens and never faster than they do, so
    /// it takes somewhat between as much as the nearer of them and a share of that. Where the guess is
    /// more than the `limit` it is the least of this: it is tried, and once it is measured that is
    /// known. Else nothing would ever be saved, or measured, again.
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

    /// Takes in what a copy of so many tokens has taken.
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
