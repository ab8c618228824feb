//! Where an engine's threads report what they compute and what came of it.

use crate::message::Report;

/// Takes what an engine says. It never waits.
pub(crate) trait ReportSink: Send + Sync {
    fn report(&self, report: Report);

    /// Requests and questions that the engine is about to compute, in place of those before.
    fn computing(&self, _by: Activity, _ids: &mut dyn Iterator<Item = u64>) {}

    /// The engine is about to end, and its model to be freed: the board has the last of its learned costs.
    /// Reports may still follow.
    fn ending(&self) {}

    /// The engine has ended: nothing more will come.
    fn ended(&self);
}

/// What an engine does on one of its threads, beside what it does on the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Activity {
    /// A step, or a pass of the lane with this number.
    Step(usize),
    /// Compiling again a grammar that was forgotten.
    Compile,
    /// Answering a question, on the thread with this number.
    Answer(usize),
}
