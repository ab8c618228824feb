//! Timeouts of steps: how long one may run until the engine counts as hung.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How many times longer than predicted a step may take.
const TIMES: u32 = 20;
/// How many times longer the first step of its kind may take: a driver may compile kernels, memory may be allocated.
const FIRST: u32 = 5;

/// Timeouts of steps: a multiple of the predicted time, and at least `least`.
#[derive(Debug)]
pub(crate) struct StepTimeouts {
    least: Duration,
    seen: BTreeSet<StepKind>,
}

/// A class of steps that a device computes with the same kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StepKind {
    /// Binary logarithm of the number of rows, rounded down.
    size: u32,
    /// Whether some sequence has several rows.
    prompts: bool,
}

impl StepKind {
    pub(crate) fn new(rows: usize, prompts: bool) -> Self {
        Self { size: rows.checked_ilog2().unwrap_or(0), prompts }
    }
}

impl StepTimeouts {
    /// Timeouts of at least `least`; the kinds in `seen` were computed before.
    pub(crate) fn new(least: Duration, seen: Vec<StepKind>) -> Self {
        Self { least, seen: seen.into_iter().collect() }
    }

    /// The timeout of an activity that is no step.
    pub(crate) fn least(&self) -> Duration {
        self.least
    }

    /// The kinds of steps computed so far.
    pub(crate) fn seen(&self) -> Vec<StepKind> {
        self.seen.iter().copied().collect()
    }

    /// The timeout of the next step.
    pub(crate) fn next(&mut self, kind: StepKind, predicted: Duration) -> Duration {
        let limit = predicted.saturating_mul(TIMES).max(self.least);
        if self.seen.insert(kind) { limit.saturating_mul(FIRST) } else { limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_its_kind_may_take_longer() {
        let second = Duration::from_secs(1);
        let mut limits = StepTimeouts::new(second, Vec::new());
        let mut next =
            |rows, prompts, predicted| limits.next(StepKind::new(rows, prompts), predicted);
        assert_eq!(next(5, false, Duration::ZERO), second * FIRST);
        assert_eq!(next(7, false, Duration::ZERO), second);
        assert_eq!(next(8, false, second / 10), second * 2 * FIRST);
        assert_eq!(next(8, false, second / 10), second * 2);
        assert_eq!(next(8, true, second), second * TIMES * FIRST);
        assert_eq!(next(0, true, Duration::MAX), Duration::MAX);
        let mut after = StepTimeouts::new(second, limits.seen());
        assert_eq!(after.next(StepKind::new(6, false), Duration::ZERO), second);
    }
}
