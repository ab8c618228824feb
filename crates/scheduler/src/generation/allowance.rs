//! Time saved for the sequences of principals with more of them than others.

use std::time::Duration;

/// Time saved in each step, as parts of the time of rows of principals with fewer sequences.
pub(super) const ROW_SHARE: f64 = 0.3;
pub(super) const PROMPT_SHARE: f64 = 0.15;

/// Time saved for rows and prompts of principals with more sequences than others.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    pub(super) rows: Duration,
    pub(super) prompts: Duration,
}
