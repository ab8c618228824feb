//! How long a step may take until it counts as hung.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times that a step may take longer than predicted.
const TIMES: u32 = 20;
/// Times that the first step of its kind may take longer than the others: a driver may compile what it
/// runs, memory may be taken for the first time.
const FIRST: u32 = 5;

/// How long steps may take: what they are predicted to, many times, and `least` in any case.
#[derive(Debug)]
pub(crate) struct StepTimeouts {
    least: Duration,
    seen: BTreeSet<StepKind>,
}

/// What steps have in common that a device computes with the same code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StepKind {
    /// The number of rows, as a power of two.
    size: u32,
    /// Whether some sequence has several of them.
    prompts: bool,
}

impl StepKind {
    pub(crate) fn new(rows: usize, prompts: bool) -> Self {
        Self { size: rows.checked_ilog2().unwrap_or(0), prompts }
    }
}

impl StepTimeouts {
    /// Limits of at least so much; the kinds in `seen` were computed before.
    pub(crate) fn new(least: Duration, seen: Vec<StepKind>) -> Self {
        Self { least, seen: seen.into_iter().collect() }
    }

    /// The limit of what is no step.
    pub(crate) fn least(&self) -> Duration {
        self.least
    }

    /// The kinds that were computed, or are being computed.
    pub(crate) fn seen(&self) -> Vec<StepKind> {
        self.seen.iter().copied().collect()
    }

    /// How long the next step may take.
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
