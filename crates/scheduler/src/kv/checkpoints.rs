//! Checkpoints: a slot that cannot be trimmed is copied to host memory within a prompt, where another
//! prompt is likely to continue.
//!
//! A chunk ends at each checkpoint. They are:
//!
//! - just before the prompt's end, for the same prompt, and for the next turn of a conversation whose
//!   answer is rendered in another way than it was generated;
//! - where the last message begins and where the first one ends, for other questions in the same
//!   conversation and other conversations with the same instructions;
//! - where the prompt parts from a known one, as two have begun alike;
//! - shortly before the end, and at intervals that grow with depth, for prompts that part anywhere else.

use crate::ids::{Salt, SlotId, Token};
use crate::kv::KvCache;
use crate::kv::prefix_tree::Match;

/// Minimum number of tokens that a checkpoint saves, unless another prompt is known to continue there.
const MIN_GAIN: u32 = 64;
/// Minimum distance of a known parting point from other checkpoints; also the maximum distance from the
/// prompt's end of a border that becomes the last checkpoint.
const NEAR: u32 = 16;
/// Distance of the last checkpoint from the prompt's end if no border is near it.
const TAIL: u32 = 4;
/// Intervals are at least this part of the depth, as a divisor: it bounds what is computed again, and the
/// number of checkpoints of a long prompt.
const DEPTH_PART: u32 = 8;

/// What slots and copies hold of a prompt before it is assigned a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KnownPrefix {
    /// Length of the longest checkpoint.
    pub(crate) kept: u32,
    /// Length of the longest common prefix, usable or not.
    pub(crate) parts: u32,
}

impl KnownPrefix {
    /// Checkpoints of a prompt of `len` tokens with `cached` reused, in ascending order. `borders` is where
    /// its messages begin or end, in ascending order.
    pub(crate) fn checkpoints(
        self,
        len: u32,
        borders: &[u32],
        cached: u32,
        every: u32,
    ) -> Vec<u32> {
        let mut checkpoints = Vec::new();
        if len < 2 * MIN_GAIN {
            return checkpoints;
        }
        let before = |at: u32| borders.get(..borders.partition_point(|&b| b < at)).unwrap_or(&[]);
        let last_before = |at: u32| before(at).last().copied().unwrap_or(0);
        let mut end = before(len).get(before(len - NEAR).len()).copied().unwrap_or(len - TAIL);
        // If the last message is short, or other prompts part near the end, one checkpoint serves both.
        for at in [last_before(end), self.parts] {
            end = if at.abs_diff(end) < NEAR { end.min(at) } else { end };
        }
        let first = borders.get(before(MIN_GAIN).len()).copied().unwrap_or(0);
        let mut add = |at: u32, gain: u32, apart: u32| {
            let news = at > cached && at >= self.kept + gain && at >= MIN_GAIN && at < len;
            if news && checkpoints.iter().all(|&checkpoint: &u32| checkpoint.abs_diff(at) >= apart)
            {
                checkpoints.push(at);
            }
        };
        add(end, MIN_GAIN, NEAR);
        // Another prompt is known to part here.
        add(self.parts, NEAR, NEAR);
        add(last_before(end), MIN_GAIN, NEAR);
        add(first, MIN_GAIN, NEAR);
        for back in [every / 8, every / 8 * 3] {
            add(end.saturating_sub(back), MIN_GAIN, MIN_GAIN.max(every / 8));
        }
        let mut at = 0_u32;
        while every > 0 && at < end {
            at = at.saturating_add((at / DEPTH_PART / every).max(1).saturating_mul(every));
            add(at, MIN_GAIN, MIN_GAIN.max(every / 4));
        }
        checkpoints.sort_unstable();
        checkpoints
    }
}

impl KvCache {
    /// What slots and copies hold of a prompt.
    pub(crate) fn known_prefix(&self, salt: Salt, tokens: &[Token]) -> KnownPrefix {
        let longest = |matches: &mut dyn Iterator<Item = u32>| matches.max().unwrap_or(0);
        let device = self.tree.matches(salt, tokens);
        let host = self.copies.matches(salt, tokens);
        let mut device = device.iter().map(|m| m.len);
        let parts = longest(&mut device).max(longest(&mut host.iter().map(|m| m.len)));
        let mut kept = host.iter().filter(|m| m.whole).map(|m: &Match<_>| m.len);
        KnownPrefix { kept: longest(&mut kept), parts }
    }

    /// Copies an active slot to host memory, unless there is a copy of its tokens.
    pub(crate) fn checkpoint(&mut self, slot: SlotId) {
        let (salt, tokens) = match self.long_at(slot) {
            Some(long) => long.held(),
            None => (self.tree.salt(slot), self.tree.tokens(slot)),
        };
        let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let there = self.copies.longest_whole(salt, &tokens, len).is_some_and(|m| m.len == len);
        if len >= MIN_GAIN && !there {
            self.add_copy(slot, salt, &tokens, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: KnownPrefix = KnownPrefix { kept: 0, parts: 0 };

    #[test]
    fn checkpoints_are_where_other_prompts_continue() {
        // Instructions of 300 tokens, a question of 700, and the head of the answer.
        let borders = [0, 300, 302, 1000, 1002];
        assert_eq!(NEW.checkpoints(1005, &borders, 0, 512), [302, 512, 808, 936, 1000]);
        // The same conversation goes on.
        let seen = KnownPrefix { kept: 1000, parts: 1040 };
        let borders = [0, 300, 302, 1000, 1002, 1040, 1042, 1200, 1202];
        assert_eq!(seen.checkpoints(1205, &borders, 1040, 512), [1136, 1200]);
        assert_eq!(
            seen.checkpoints(1050, &borders, 1040, 512),
            [],
            "too little for a checkpoint more"
        );
        // A known prompt has the first 700 tokens in common.
        let seen = KnownPrefix { kept: 512, parts: 700 };
        assert_eq!(seen.checkpoints(1500, &[], 512, 512), [700, 1024, 1304, 1432, 1496]);
        // A short question after long instructions.
        assert_eq!(NEW.checkpoints(600, &[0, 570, 572, 595], 0, 512), [403, 572, 595]);
        assert_eq!(NEW.checkpoints(127, &[], 0, 512), []);
    }

    #[test]
    fn a_long_prompt_has_few_checkpoints() {
        let checkpoints = NEW.checkpoints(100_000, &[], 0, 512);
        assert!(checkpoints.len() < 45, "{}", checkpoints.len());
        let mut before = 0;
        for checkpoint in checkpoints {
            assert!(checkpoint - before <= 1024 + checkpoint / DEPTH_PART, "{before} {checkpoint}");
            before = checkpoint;
        }
    }

    proptest! {
        #[test]
        fn checkpoints_are_ascending_apart_and_worthwhile(
            len in 0_u32..5000, cached in 0_u32..5000, kept in 0_u32..5000, parts in 0_u32..6000,
            mut borders in proptest::collection::vec(0_u32..6000, 0..40),
            every in prop_oneof![Just(0_u32), Just(1), 64_u32..2048, Just(u32::MAX)],
        ) {
            borders.sort_unstable();
            let (cached, kept) = (cached.min(len), kept.min(len));
            let checkpoints = KnownPrefix { kept, parts }.checkpoints(len, &borders, cached, every);
            for &checkpoint in &checkpoints {
                prop_assert!(checkpoint > cached && checkpoint >= kept + NEAR && checkpoint < len, "{:?}", checkpoints);
            }
            prop_assert!(checkpoints.windows(2).all(|w| w[1] - w[0] >= NEAR), "{:?}", checkpoints);
            if len >= 2 * MIN_GAIN && cached == 0 && kept == 0 {
                prop_assert!(checkpoints.last().is_some_and(|&checkpoint| checkpoint + 3 * NEAR >= len), "{:?}", checkpoints);
            }
        }
    }
}
