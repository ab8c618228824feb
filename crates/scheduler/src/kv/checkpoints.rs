//! Checkpoints: a slot that cannot be cut back is copied to host memory on its way through a
//! prompt, wherever another prompt is likely to go on.
//!
//! A prompt's computation stops there; what stops it, and why there:
//!
//! - just before its end: the same prompt again goes on from there, and so does the next turn of a
//!   conversation where the answer is written in another way than it was generated;
//! - where its last message begins, and where its first one ends: other questions about the same
//!   conversation, other conversations with the same instructions;
//! - where it parts from what somebody else had: two have begun so, more will;
//! - a little before the end, and at intervals that grow with the depth: so that what parts anywhere
//!   does not begin anew.

use crate::ids::{Salt, SlotId, Token};
use crate::kv::KvCache;
use crate::kv::prefix_tree::Match;

/// Minimum number of tokens that a checkpoint saves, unless another prompt is known to continue there.
const APART: u32 = 64;
/// Minimum distance of a known parting point from other stops; also how close to the end of the prompt a
/// border has to be to become the last stop.
const END: u32 = 16;
/// Distance of the last stop from the end of the prompt if no border is close to it.
const TAIL: u32 = 4;
/// Intervals are at least this part of the depth, as a divisor: what is computed again is never more of
/// a prompt, and a long prompt has few checkpoints.
const DEPTH: u32 = 8;

/// What is known of a prompt before it gets a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KnownPrefix {
    /// How much of it the longest checkpoint has.
    pub(crate) kept: u32,
    /// How much of it anybody has, usable or not.
    pub(crate) parts: u32,
}

impl KnownPrefix {
    /// Where to stop for a checkpoint in a prompt of `len` tokens of which `cached` are there, in
    /// ascending order. `borders` is where its messages begin or end, ascending.
    pub(crate) fn checkpoints(
        self,
        len: u32,
        borders: &[u32],
        cached: u32,
        every: u32,
    ) -> Vec<u32> {
        let mut stops = Vec::new();
        if len < 2 * APART {
            return stops;
        }
        let before = |at: u32| borders.get(..borders.partition_point(|&b| b < at)).unwrap_or(&[]);
        let last_before = |at: u32| before(at).last().copied().unwrap_or(0);
        let mut end = before(len).get(before(len - END).len()).copied().unwrap_or(len - TAIL);
        // One stop does for the last message and the end where that message is short, and where others
        // part there.
        for at in [last_before(end), self.parts] {
            end = if at.abs_diff(end) < END { end.min(at) } else { end };
        }
        let first = borders.get(before(APART).len()).copied().unwrap_or(0);
        let mut add = |at: u32, gain: u32, apart: u32| {
            let news = at > cached && at >= self.kept + gain && at >= APART && at < len;
            if news && stops.iter().all(|&stop: &u32| stop.abs_diff(at) >= apart) {
                stops.push(at);
            }
        };
        add(end, APART, END);
        // It is known that this one is of use.
        add(self.parts, END, END);
        add(last_before(end), APART, END);
        add(first, APART, END);
        for back in [every / 8, every / 8 * 3] {
            add(end.saturating_sub(back), APART, APART.max(every / 8));
        }
        let mut at = 0_u32;
        while every > 0 && at < end {
            at = at.saturating_add((at / DEPTH / every).max(1).saturating_mul(every));
            add(at, APART, APART.max(every / 4));
        }
        stops.sort_unstable();
        stops
    }
}

impl KvCache {
    /// What there is of a prompt, before it gets a slot.
    pub(crate) fn known_prefix(&self, salt: Salt, tokens: &[Token]) -> KnownPrefix {
        let longest = |matches: &mut dyn Iterator<Item = u32>| matches.max().unwrap_or(0);
        let device = self.tree.matches(salt, tokens);
        let host = self.copies.matches(salt, tokens);
        let mut device = device.iter().map(|m| m.len);
        let parts = longest(&mut device).max(longest(&mut host.iter().map(|m| m.len)));
        let mut kept = host.iter().filter(|m| m.whole).map(|m: &Match<_>| m.len);
        KnownPrefix { kept: longest(&mut kept), parts }
    }

    /// Keeps a copy of what a running slot holds now, if there is none.
    pub(crate) fn checkpoint(&mut self, slot: SlotId) {
        let (salt, tokens) = match self.long_at(slot) {
            Some(long) => long.held(),
            None => (self.tree.salt(slot), self.tree.tokens(slot)),
        };
        let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let there = self.copies.longest_whole(salt, &tokens, len).is_some_and(|m| m.len == len);
        if len >= APART && !there {
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
    fn a_prompt_stops_where_another_will_go_on() {
        // Instructions of 300 tokens, a question of 700 behind them, and the answer's head.
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
        // Somebody had the first 700 tokens.
        let seen = KnownPrefix { kept: 512, parts: 700 };
        assert_eq!(seen.checkpoints(1500, &[], 512, 512), [700, 1024, 1304, 1432, 1496]);
        // A short question behind long instructions.
        assert_eq!(NEW.checkpoints(600, &[0, 570, 572, 595], 0, 512), [403, 572, 595]);
        assert_eq!(NEW.checkpoints(127, &[], 0, 512), []);
    }

    #[test]
    fn a_long_prompt_has_few_checkpoints() {
        let stops = NEW.checkpoints(100_000, &[], 0, 512);
        assert!(stops.len() < 45, "{}", stops.len());
        let mut before = 0;
        for stop in stops {
            assert!(stop - before <= 1024 + stop / DEPTH, "{before} {stop}");
            before = stop;
        }
    }

    proptest! {
        #[test]
        fn stops_are_in_order_apart_and_worth_it(
            len in 0_u32..5000, cached in 0_u32..5000, kept in 0_u32..5000, parts in 0_u32..6000,
            mut borders in proptest::collection::vec(0_u32..6000, 0..40),
            every in prop_oneof![Just(0_u32), Just(1), 64_u32..2048, Just(u32::MAX)],
        ) {
            borders.sort_unstable();
            let (cached, kept) = (cached.min(len), kept.min(len));
            let stops = KnownPrefix { kept, parts }.checkpoints(len, &borders, cached, every);
            for &stop in &stops {
                prop_assert!(stop > cached && stop >= kept + END && stop < len, "{:?}", stops);
            }
            prop_assert!(stops.windows(2).all(|w| w[1] - w[0] >= END), "{:?}", stops);
            if len >= 2 * APART && cached == 0 && kept == 0 {
                prop_assert!(stops.last().is_some_and(|&stop| stop + 3 * END >= len), "{:?}", stops);
            }
        }
    }
}
