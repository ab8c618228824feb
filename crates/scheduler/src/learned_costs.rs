//! What calls were learned to cost, as plain data: for the next engine, which then does not begin with
//! guesses.

use serde::{Deserialize, Serialize};

use crate::call_load::CallSample;
use crate::cost_curve::{CLASSES, SAMPLES};

/// The most samples of one kind of call.
const MOST: usize = SAMPLES * CLASSES;

/// Times of recent calls, by kind of call: what estimates rest on. Untrusted until
/// [`LearnedCosts::plausible`], which leaves at most 128 samples of each kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LearnedCosts {
    /// Of calls with decode rows alone.
    pub rows: Vec<CallSample>,
    /// Of calls with less than a block of a sequence.
    pub short: Vec<CallSample>,
    /// Of calls with at least a block of a prompt.
    pub chunk: Vec<CallSample>,
    /// Of calls with decode rows and prompts.
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

    /// Without what no engine can have measured: calls without tokens, or that are said to have taken
    /// no time or more than an hour, and samples beyond the bounds.
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
    fn the_newest_of_too_many_are_left() {
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
