//! Learned costs of calls as plain data, to be kept for the next engine.

use serde::{Deserialize, Serialize};

use crate::call_load::CallSample;
use crate::cost_curve::{CLASSES, SAMPLES};

/// Maximum number of samples of one kind of call.
const MOST: usize = SAMPLES * CLASSES;

/// Times of recent calls, by kind. Untrusted before [`LearnedCosts::plausible`], which leaves at most 128
/// samples of each kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LearnedCosts {
    /// Calls with decode rows only.
    pub rows: Vec<CallSample>,
    /// Calls with spans shorter than a block.
    pub short: Vec<CallSample>,
    /// Calls with a chunk of at least a block.
    pub chunk: Vec<CallSample>,
    /// Calls with decode rows and chunks.
    pub mixed: Vec<CallSample>,
}

impl LearnedCosts {
    /// The number of samples.
    pub fn len(&self) -> usize {
        self.kinds().into_iter().map(Vec::len).sum()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes implausible samples (without tokens, or with a time of zero or more than an hour) and those
    /// beyond the maximum number.
    #[must_use]
    pub fn plausible(self) -> Self {
        let plausible = |mut samples: Vec<CallSample>| {
            samples.retain(CallSample::is_plausible);
            // The last ones are the newest.
            samples.drain(..samples.len().saturating_sub(MOST));
            samples.shrink_to_fit();
            samples
        };
        let Self { rows, short, chunk, mixed } = self;
        Self {
            rows: plausible(rows),
            short: plausible(short),
            chunk: plausible(chunk),
            mixed: plausible(mixed),
        }
    }

    fn kinds(&self) -> [&Vec<CallSample>; 4] {
        [&self.rows, &self.short, &self.chunk, &self.mixed]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_samples_are_left() {
        let sample = |tokens| CallSample { tokens, depth: 0, seconds: 0.1 };
        let rows = (0..1000).map(sample).collect();
        let costs = LearnedCosts { rows, ..LearnedCosts::default() }.plausible();
        assert_eq!(costs.len(), MOST);
        assert_eq!(costs.rows.first().copied(), Some(sample(1000 - 128)));
        assert!(
            LearnedCosts { chunk: vec![sample(0)], ..LearnedCosts::default() }
                .plausible()
                .is_empty()
        );
    }
}
