//! How much of a step prompts may take beside decode rows.
//!
//! A prompt's chunk is never thinner than what is efficient: a thin one costs more for each token, so
//! batches stay half full and everyone's tokens come later. If a step with an efficient chunk is
//! longer than the target, a target that the operator set is kept on average, by steps without
//! prompts in between; the default target gives way.

use std::time::Duration;

use crate::call_costs::{CallCosts, LARGEST_CHUNK};
use crate::call_load::CallLoad;
use crate::step::BudgetReason;

/// What a token may cost in a chunk, in terms of the best: beside decode rows, and with nobody to wait
/// for it but requests that come later.
const TOLERANCE: f64 = 1.15;
const IDLE_TOLERANCE: f64 = 1.03;
/// A target that gives way does so up to this many times itself for chunks that cost hardly more than the
/// best.
const GIVES_WAY: u32 = 3;
/// However long decode rows take, prompts get at least this part of their time: answers slow down
/// before prompts starve. Of a target that is held they get less, on average over steps.
const LEAST_SHARE: f64 = 0.5;
const LEAST_SHARE_HELD: f64 = 0.1;

/// The longest that a step with decode rows should take if it also computes prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ItlTarget {
    /// Kept on average, unless decode rows alone take longer.
    Held(Duration),
    /// Gives way to efficient chunks.
    Adaptive(Duration),
}

/// The target, and what steps before have left of it.
#[derive(Debug)]
pub(crate) struct StepBudget {
    target: ItlTarget,
    /// Time that steps have left of a held target since a prompt was last computed.
    saved: Duration,
}

/// The time that prompts may take in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PrefillBudget {
    /// What is left of it, and what was granted.
    left: Duration,
    used: Duration,
    /// The decode rows of the step.
    rows: CallLoad,
    /// What a token may cost in terms of the best.
    tolerance: f64,
    pub(crate) reason: BudgetReason,
}

impl ItlTarget {
    /// The one that holds if the operator says nothing.
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

    /// The time for prompts in a step with these decode rows, which take `decoding`. The first prompt
    /// has `before` tokens.
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
        // Not what the first prompt needs: what it leaves is for others.
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
        // No more than for the next chunk: what is saved for long would be spent in one go.
        self.saved += spare.max(decoding.mul_f64(LEAST_SHARE_HELD));
        self.saved = self.saved.min(efficient * 2);
        if let Some(left) = self.saved.checked_sub(efficient) {
            self.saved = left;
            return of(efficient, BudgetReason::Efficient);
        }
        of(spare, BudgetReason::Pace)
    }

    /// Takes what prompts used of a step that makes up for a longer one.
    pub(crate) fn spend(&mut self, time: &PrefillBudget) {
        if time.reason == BudgetReason::Pace {
            self.saved = self.saved.saturating_sub(time.used);
        }
    }

    /// What the smallest chunk takes that a prompt gets which lacks `need` tokens at `before`.
    pub(crate) fn smallest_chunk_time(costs: &CallCosts, (need, before): (u32, u32)) -> Duration {
        costs.chunk_time(costs.efficient_chunk(before, TOLERANCE, need), before)
    }
}

impl PrefillBudget {
    /// The next prompt's tokens, of the `need` that it lacks at `before`; at most `room`. All of it, or
    /// at least an efficient chunk, or none. The `first` one gets an efficient chunk in any case, and with
    /// nobody decoding an even part of what it lacks and there is room for, up to one and a half times what
    /// fits and a block.
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

/// The first of the equal parts of `all` that come nearest to `size`, none larger than one and a half times
/// that: a small rest would cost more for each token.
fn even_part(all: u32, size: u32) -> u32 {
    let (twice, size) = (all.saturating_mul(2), size.max(1));
    let parts = twice.saturating_sub(size).div_ceil(size.saturating_mul(2)).max(1);
    all.div_ceil(parts)
}

/// The largest number up to `most` for which `fits` is true, if it is true up to some number.
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
        /// Whatever is asked of unknown costs, a prompt gets at most what it needs and there is room for,
        /// and the first one gets something.
        #[test]
        fn grants_are_within_need_and_room(
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
