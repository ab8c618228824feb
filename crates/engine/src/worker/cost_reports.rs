//! When what was learned of costs is published.

use std::time::{Duration, Instant};

use forebay_scheduler::Scheduler;

use crate::status::StatusBoard;

/// Minimum interval between publications while requests are active.
const INTERVAL: Duration = Duration::from_secs(1);

/// When learned costs were last published, and of how many samples.
#[derive(Debug, Default)]
pub(super) struct CostReports(Option<(Instant, u64)>);

impl CostReports {
    /// Publishes what was learned since the last time, if that was a while ago or `now`.
    pub(super) fn publish(&mut self, scheduler: &Scheduler, board: &StatusBoard, now: bool) {
        let samples = scheduler.sample_count();
        let (is_due, published) = match self.0 {
            Some((at, published)) => (at.elapsed() > INTERVAL, published),
            None => (true, 0),
        };
        if (is_due || now) && published != samples {
            board.set_costs(scheduler.learned_costs());
            self.0 = Some((Instant::now(), samples));
        }
    }
}
