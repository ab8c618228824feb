//! The step budget: the time for chunks beside decode rows.
//!
//! A chunk is never smaller than an efficient one: a small one costs more for each token, which delays all
//! tokens. If a step with an efficient chunk exceeds the target, a target that the operator set is kept on
//! average, by steps without prompts in between; the default target gives way.

use std::time::Duration;

use crate::call_costs::{CallCosts, LARGEST_CHUNK};
use crate::call_load::CallLoad;
use crate::step::BudgetReason;

/// Maximum cost of a token in an efficient chunk, relative to the largest chunk: beside decode rows, and
/// without.
const TOLERANCE: f64 = 1.15;
const IDLE_TOLERANCE: f64 = 1.03;
/// Multiple of the adaptive target up to which it gives way for larger chunks.
const GIVES_WAY: u32 = 3;
/// Minimum time of prompts, as a part of that of decode rows: answers slow down before prompts starve. With
/// a held target it is lower, and a mean over steps.
const LEAST_SHARE: f64 = 0.5;
const LEAST_SHARE_HELD: f64 = 0.1;

/// Target time of a step with decode rows and chunks: the gap between two tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ItlTarget {
    /// Kept on average, unless decode rows alone exceed it.
    Held(Duration),
    /// Gives way to efficient chunks.
    Adaptive(Duration),
}

/// The target, and time saved by earlier steps.
#[derive(Debug)]
pub(crate) struct StepBudget {
    target: ItlTarget,
    /// Time that steps left of a held target since the last chunk.
    saved: Duration,
}

/// The time for chunks in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrefillBudget {
    /// The time left, and the time used.
    left: Duration,
    used: Duration,
    /// The load of the step's decode rows.
    rows: CallLoad,
    /// Maximum cost of a token, relative to the largest chunk.
    tolerance: f64,
    pub(crate) reason: BudgetReason,
}

impl ItlTarget {
    /// The target unless the operator sets one.
    pub const DEFAULT: Self = Self::Adaptive(Duration::from_millis(150));

    fn duration(self) -> Duration {
        match self {
            Self::Held(target) | Self::Adaptive(target) => target,
        }
    }
}

impl StepBudget {
    pub(crate) fn new(target: ItlTarget) -> Self {
        Self { target, saved: Duration::ZERO }
    }

    /// The budget of a step with these decode rows, which take `decoding`. The first prompt has computed
    /// `before` tokens.
    pub(crate) fn prefill_budget(
        &mut self,
        costs: &CallCosts,
        rows: CallLoad,
        decoding: Duration,
        before: u32,
    ) -> PrefillBudget {
        if rows.tokens == 0 {
            let tokens = costs.efficient_chunk(before, IDLE_TOLERANCE, LARGEST_CHUNK);
            let left = costs.chunk_time(tokens, before).max(self.target.duration());
            let (tolerance, reason) = (IDLE_TOLERANCE, BudgetReason::NoDecodeRows);
            return PrefillBudget { left, used: Duration::ZERO, rows, tolerance, reason };
        }
        // Not bounded by what the first prompt needs: others use the rest.
        let time = |tolerance| {
            let tokens = costs.efficient_chunk(before, tolerance, LARGEST_CHUNK);
            costs.added_time(rows, tokens, before)
        };
        let (efficient, target) = (time(TOLERANCE), self.target.duration());
        let (spare, least) = (target.saturating_sub(decoding), decoding.mul_f64(LEAST_SHARE));
        let of = |left, reason| {
            let (used, tolerance) = (Duration::ZERO, TOLERANCE);
            PrefillBudget { left, used, rows, tolerance, reason }
        };
        if spare >= efficient.max(least) {
            self.saved = Duration::ZERO;
            return of(spare, BudgetReason::Target);
        }
        if self.target == ItlTarget::Adaptive(target) || decoding >= target {
            let allowed = (target * GIVES_WAY).saturating_sub(decoding);
            let time = time(IDLE_TOLERANCE).min(allowed).max(efficient).max(least);
            return of(time, BudgetReason::Efficient);
        }
        if spare >= efficient {
            return of(spare, BudgetReason::Target);
        }
        // Bounded by the next chunk: more would be spent at once.
        self.saved += spare.max(decoding.mul_f64(LEAST_SHARE_HELD));
        self.saved = self.saved.min(efficient * 2);
        if let Some(left) = self.saved.checked_sub(efficient) {
            self.saved = left;
            return of(efficient, BudgetReason::Efficient);
        }
        of(spare, BudgetReason::Pace)
    }

    /// Deducts the time that chunks used of a compensating step.
    pub(crate) fn spend(&mut self, time: &PrefillBudget) {
        if time.reason == BudgetReason::Pace {
            self.saved = self.saved.saturating_sub(time.used);
        }
    }

    /// Time of the smallest chunk of a prompt that needs `need` tokens after `before` computed ones.
    pub(crate) fn smallest_chunk_time(costs: &CallCosts, (need, before): (u32, u32)) -> Duration {
        costs.chunk_time(costs.efficient_chunk(before, TOLERANCE, need), before)
    }
}

impl PrefillBudget {
    /// Allots a chunk to the next prompt, which needs `need` tokens after `before` computed ones; at most
    /// `room`. It is the whole need, or at least an efficient chunk, or nothing. The `first` prompt gets an
    /// efficient chunk in any case; without decode rows it gets an even part of its need, up to one and a
    /// half times what fits, and a block.
    pub(crate) fn allot(
        &mut self,
        costs: &CallCosts,
        (need, before): (u32, u32),
        first: bool,
        room: u32,
    ) -> u32 {
        let most = need.min(room);
        if most == 0 {
            return 0;
        }
        let time = |tokens: u32| costs.added_time(self.rows, tokens, before);
        let efficient = costs.efficient_chunk(before, self.tolerance, most);
        let tokens = if time(most) <= self.left {
            most
        } else if self.reason == BudgetReason::Pace {
            0
        } else {
            let fits = largest_within(most, |tokens| time(tokens) <= self.left);
            let fits = costs.whole_blocks(fits);
            if first && self.reason == BudgetReason::NoDecodeRows {
                costs.whole_blocks_up(even_part(most, fits.max(efficient))).min(most)
            } else if fits >= efficient {
                fits
            } else if first {
                efficient
            } else {
                0
            }
        };
        if tokens > 0 {
            self.left = self.left.saturating_sub(time(tokens));
            self.used += time(tokens);
        }
        tokens
    }
}

/// The first of the equal parts of `all` nearest to `size`, at most one and a half times it: a small rest
/// would cost more for each token.
fn even_part(all: u32, size: u32) -> u32 {
    let (twice, size) = (all.saturating_mul(2), size.max(1));
    let parts = twice.saturating_sub(size).div_ceil(size.saturating_mul(2)).max(1);
    all.div_ceil(parts)
}

/// The largest number up to `most` for which `fits` is true, by bisection.
fn largest_within(most: u32, fits: impl Fn(u32) -> bool) -> u32 {
    let (mut yes, mut no) = (0, most.saturating_add(1));
    while no - yes > 1 {
        let middle = yes + (no - yes) / 2;
        if fits(middle) { yes = middle } else { no = middle }
    }
    yes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_that_fits_is_found() {
        assert_eq!(largest_within(100, |n| n <= 37), 37);
        assert_eq!(largest_within(100, |_| true), 100);
        assert_eq!(largest_within(100, |_| false), 0);
    }

    #[test]
    fn parts_are_even() {
        for (all, size, part) in [
            (100, 128, 100),
            (160, 128, 160),
            (192, 128, 192),
            (193, 128, 97),
            (300, 128, 150),
            (1000, 0, 1),
        ] {
            assert_eq!(even_part(all, size), part, "{all} by {size}");
        }
    }

    proptest! {
        /// With unknown costs a chunk is within need and room, and the first prompt gets one.
        #[test]
        fn chunks_are_within_need_and_room(
            need in 1_u32..5000,
            before in 0_u32..5000,
            room in 1_u32..3000,
            rows in 0_u32..64,
            decoding in 0_u64..500,
            held in proptest::bool::ANY,
        ) {
            let kv = crate::kv::KvLimits {
                slots: 64, cells: 64_000, slot_tokens: 1000, long_tokens: 0, shares: false,
                rewinds: true, parked_tokens: 0, saved_tokens: 0, saved_bytes: 0,
                checkpoint_every: 0,
            };
            let costs = CallCosts::new(crate::step::CallSplitter::new(64, &kv));
            let target = Duration::from_millis(150);
            let target = if held { ItlTarget::Held(target) } else { ItlTarget::Adaptive(target) };
            let mut budget = StepBudget::new(target);
            let load = CallLoad { tokens: rows, depth: 100 };
            let mut time =
                budget.prefill_budget(&costs, load, Duration::from_millis(decoding), before);
            let tokens = time.allot(&costs, (need, before), true, room);
            prop_assert!(tokens <= need.min(room));
            prop_assert!(tokens > 0 || time.reason == BudgetReason::Pace);
        }
    }
}
