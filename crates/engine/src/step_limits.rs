//! How long a step may take until it counts as hung.

use std::collections::HashSet;
use std::time::Duration;

/// Times that a step may take longer than predicted.
const TIMES: u32 = 20;
/// Times that the first step of its kind may take longer than the others: a driver may compile what it
/// runs, memory may be taken for the first time.
const FIRST: u32 = 5;

/// How long steps may take: what they are predicted to, many times, and so long in any case.
#[derive(Debug)]
pub(crate) struct StepLimits {
    least: Duration,
    seen: HashSet<Kind>,
}

/// What steps have in common that a device computes with the same code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// The number of rows, as a power of two.
    size: u32,
    /// Whether some sequence has several of them.
    prompts: bool,
}

impl Kind {
    pub(crate) fn new(rows: usize, prompts: bool) -> Self {
        Self { size: rows.checked_ilog2().unwrap_or(0), prompts }
    }
}

impl StepLimits {
    /// Limits of at least so much.
    pub(crate) fn new(least: Duration) -> Self {
        Self { least, seen: HashSet::new() }
    }

    /// How long the next step may take.
    pub(crate) fn next(&mut self, kind: Kind, predicted: Duration) -> Duration {
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
        let mut limits = StepLimits::new(second);
        let mut next = |rows, prompts, predicted| limits.next(Kind::new(rows, prompts), predicted);
        assert_eq!(next(5, false, Duration::ZERO), second * FIRST);
        assert_eq!(next(7, false, Duration::ZERO), second);
        assert_eq!(next(8, false, second / 10), second * 2 * FIRST);
        assert_eq!(next(8, false, second / 10), second * 2);
        assert_eq!(next(8, true, second), second * TIMES * FIRST);
        assert_eq!(next(0, true, Duration::MAX), Duration::MAX);
    }
}
