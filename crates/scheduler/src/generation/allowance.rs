//! Time saved up for the sequences of principals that have more of them than others.

use std::time::Duration;

/// Time saved up in each step, as parts of what the rows of those with fewer sequences take.
pub(super) const ROWS: f64 = 0.3;
pub(super) const PROMPTS: f64 = 0.15;

/// Time saved up for those who have more sequences than others.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    pub(super) rows: Duration,
    pub(super) prompts: Duration,
}
