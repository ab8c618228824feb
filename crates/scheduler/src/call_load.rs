//! What the time of a decode call depends on, and measurements of it.

use serde::{Deserialize, Serialize};

/// Shortest and longest plausible time of a call, in seconds.
const SHORTEST: f64 = 1e-6;
const LONGEST: f64 = 3600.0;

/// What the time of one decode call depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallLoad {
    /// Number of tokens.
    pub tokens: u32,
    /// Sum over the tokens of the number of tokens before each in its sequence: what attention reads.
    pub depth: u64,
}

/// The load and the measured time of one call.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CallSample {
    /// Number of tokens.
    pub tokens: u32,
    /// Sum over the tokens of the number of tokens before each in its sequence.
    pub depth: u64,
    /// Measured time, in seconds.
    pub seconds: f64,
}

// === impl CallLoad ===

impl CallLoad {
    /// The load of `tokens` tokens of a sequence after `before` others.
    pub fn of(tokens: u32, before: u32) -> Self {
        let (tokens64, before) = (u64::from(tokens), u64::from(before));
        Self { tokens, depth: tokens64 * before + tokens64 * tokens64 / 2 }
    }

    /// The sum of both loads.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            depth: self.depth.saturating_add(other.depth),
        }
    }
}

// === impl CallSample ===

impl CallSample {
    /// The load.
    pub(crate) fn load(self) -> CallLoad {
        CallLoad { tokens: self.tokens, depth: self.depth }
    }

    /// Whether a call can have been measured so. A token has fewer than 2^32 before it.
    pub(crate) fn is_plausible(&self) -> bool {
        self.tokens > 0
            && self.depth / u64::from(self.tokens) <= u64::from(u32::MAX)
            && (SHORTEST..=LONGEST).contains(&self.seconds)
    }
}

/// Any sample, often a plausible one.
#[cfg(test)]
pub(crate) fn any_sample() -> impl proptest::strategy::Strategy<Value = CallSample> {
    use proptest::prelude::*;
    let seconds = prop_oneof![any::<f64>(), SHORTEST..LONGEST, Just(SHORTEST), Just(LONGEST)];
    let tokens = prop_oneof![any::<u32>(), 0_u32..1000];
    let depth = prop_oneof![any::<u64>(), 0_u64..1_000_000];
    (tokens, depth, seconds).prop_map(|(tokens, depth, seconds)| CallSample {
        tokens,
        depth,
        seconds,
    })
}
