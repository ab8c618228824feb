//! Where an engine's threads report what they compute and what came of it.

use crate::message::Report;

/// Receives an engine's reports.
pub(crate) trait ReportSink: Send + Sync {
    /// Takes a report.
    fn report(&self, report: Report);

    /// Records the requests and questions that an activity is about to compute, in place of the previous ones.
    fn computing(&self, _activity: Activity, _ids: &mut dyn Iterator<Item = u64>) {}

    /// The engine is about to end and to free its model: the board has the last learned costs. Reports may follow.
    fn ending(&self) {}

    /// The engine has ended: no report follows.
    fn ended(&self);
}

/// What one of an engine's threads does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Activity {
    /// A step, or an embedding pass, on the lane with this number.
    Step(usize),
    /// Recompiling a grammar that was evicted.
    Compile,
    /// Answering a question on the thread with this number.
    Answer(usize),
}
