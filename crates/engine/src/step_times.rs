//! Time of steps by part.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepPart {
    /// Planning, and building rows. Receiving requests comes before a step and is no part of one.
    Plan,
    /// Changes of the KV cache.
    Kv,
    /// The forward passes, with the copies of their logits to host memory, and the masks of grammars that take longer.
    Forward,
    /// Sampling tokens; their text, stop strings, drafts.
    Sample,
    /// Reporting results to the scheduler and to readers.
    Send,
}

impl StepPart {
    /// All of them, in a step's order.
    pub const ALL: [Self; 5] = [Self::Plan, Self::Kv, Self::Forward, Self::Sample, Self::Send];

    /// Its name in metrics and tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Kv => "kv",
            Self::Forward => "forward",
            Self::Sample => "sample",
            Self::Send => "send",
        }
    }
}

/// How long each part took, over all steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTimes([Duration; StepPart::ALL.len()]);

impl StepTimes {
    /// One part's time.
    pub fn of(&self, part: StepPart) -> Duration {
        self.0[part as usize]
    }

    /// All parts together.
    pub fn total(&self) -> Duration {
        self.0.iter().fold(Duration::ZERO, |sum, &time| sum.saturating_add(time))
    }

    pub(crate) fn add(&mut self, part: StepPart, time: Duration) {
        let sum = &mut self.0[part as usize];
        *sum = sum.saturating_add(time);
    }

    /// Adds what an engine before this one took.
    pub(crate) fn add_all(&mut self, earlier: &Self) {
        StepPart::ALL.into_iter().for_each(|part| self.add(part, earlier.of(part)));
    }
}

/// Measures the parts of steps one after the other.
#[derive(Debug)]
pub(crate) struct StepClock {
    times: StepTimes,
    /// The end of the last part.
    last: Instant,
}

impl StepClock {
    pub(crate) fn new() -> Self {
        Self { times: StepTimes::default(), last: Instant::now() }
    }

    /// A step begins now: what was before is no part of one.
    pub(crate) fn begin(&mut self) {
        self.last = Instant::now();
    }

    /// A part ends now.
    pub(crate) fn end(&mut self, part: StepPart) {
        let now = Instant::now();
        self.times.add(part, now - self.last);
        self.last = now;
    }

    pub(crate) fn times(&self) -> StepTimes {
        self.times
    }
}
