//! What is asserted of the policy, and where that does not hold yet.

use std::path::{Path, PathBuf};

use crate::sim::Comparison;

/// Exceptions are written with two digits.
const ROUNDING: f64 = 0.005;

/// What is asserted of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// At least 0.98 of prefill-first's tokens per second.
    Throughput,
    /// A mean time to the first token at least as good as prefill-first's.
    Ttft,
    /// A gap between two tokens is at most a decode step and an efficient chunk, or three targets.
    Itl,
    /// Beside a long prompt no request waits more than twice as long as under prefill-first, nor does
    /// the long prompt.
    Starvation,
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exception {
    scenario: String,
    table: String,
    condition: Condition,
    value: f64,
    why: String,
}

impl Condition {
    const ALL: [Self; 4] = [Self::Throughput, Self::Ttft, Self::Itl, Self::Starvation];

    /// Its name in the list of exceptions.
    fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Ttft => "ttft",
            Self::Itl => "itl",
            Self::Starvation => "starvation",
        }
    }

    fn applies_to(self, of: &Comparison) -> bool {
        self != Self::Starvation || of.scenario == "long-and-short"
    }

    fn value(self, of: &Comparison) -> f64 {
        match self {
            Self::Throughput => of.throughput(),
            Self::Ttft => of.ttft_mean(),
            Self::Itl => of.itl_of_bound(),
            Self::Starvation => of.ttft_max(),
        }
    }

    fn holds(self, value: f64) -> bool {
        let wanted = match self {
            Self::Throughput => 0.98,
            Self::Ttft | Self::Itl => 1.0,
            Self::Starvation => 0.5,
        };
        self.is_no_worse(value, wanted)
    }

    fn is_no_worse(self, value: f64, than: f64) -> bool {
        if self == Self::Itl { value <= than } else { value >= than }
    }
}

impl Exception {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.splitn(5, ' ').collect();
        let [scenario, table, name, value, why] = fields[..] else { panic!("{line}") };
        let condition = Condition::ALL.into_iter().find(|c| c.name() == name);
        Self {
            scenario: scenario.into(),
            table: table.into(),
            condition: condition.unwrap_or_else(|| panic!("{line}")),
            value: value.parse().unwrap_or_else(|e| panic!("{line}: {e}")),
            why: why.into(),
        }
    }

    fn line(&self) -> String {
        let Self { scenario, table, condition, value, why } = self;
        format!("{scenario} {table} {} {value:.2} {why}", condition.name())
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.scenario, &self.table, self.condition)
            == (&other.scenario, &other.table, other.condition)
    }

    /// Whether it excuses what is measured now.
    fn covers(&self, now: &Self) -> bool {
        let slack = if self.condition == Condition::Itl { ROUNDING } else { -ROUNDING };
        self.is_of(now) && self.condition.is_no_worse(now.value, self.value + slack)
    }
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/exceptions.txt")
}

/// The list of exceptions.
fn listed() -> Vec<Exception> {
    let text = std::fs::read_to_string(file()).expect("the list");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(Exception::parse).collect()
}

/// All conditions that do not hold.
fn failing(all: &[Comparison]) -> Vec<Exception> {
    let failing = |of: &Comparison| {
        let those = Condition::ALL.into_iter().filter(|condition| condition.applies_to(of));
        let values = those.map(|condition| (condition, condition.value(of)));
        let failing = values.filter(|&(condition, value)| !condition.holds(value));
        let exception = |(condition, value)| Exception {
            scenario: of.scenario.to_owned(),
            table: of.table.to_owned(),
            condition,
            value,
            why: "?".to_owned(),
        };
        failing.map(exception).collect::<Vec<_>>()
    };
    all.iter().flat_map(failing).collect()
}

/// Writes the list anew. What was listed keeps its reason.
pub(crate) fn update(all: &[Comparison]) {
    let (text, listed) = (std::fs::read_to_string(file()).expect("the list"), listed());
    let head = text.lines().filter(|line| line.starts_with('#')).map(str::to_owned);
    let with_reason = |now: Exception| match listed.iter().find(|e| e.is_of(&now)) {
        Some(before) => Exception { why: before.why.clone(), ..now },
        None => now,
    };
    let lines = failing(all).into_iter().map(|now| with_reason(now).line());
    let lines: Vec<String> = head.chain(lines).collect();
    std::fs::write(file(), lines.join("\n") + "\n").expect("a place for the list");
}

/// Asserts that all conditions hold but for the listed exceptions, which are no worse than listed and
/// still needed.
#[track_caller]
pub(crate) fn check(all: &[Comparison]) {
    let (listed, failing) = (listed(), failing(all));
    let excused = |now: &&Exception| !listed.iter().any(|e| e.covers(now));
    let regressions: Vec<String> = failing.iter().filter(excused).map(Exception::line).collect();
    assert!(regressions.is_empty(), "worse than it should be, or than listed: {regressions:#?}");
    let needed = |e: &Exception| failing.iter().any(|now| now.is_of(e));
    let over: Vec<&Exception> = listed.iter().filter(|e| !needed(e)).collect();
    assert!(over.is_empty(), "these hold now, UPDATE_REPLAY=1 takes them out: {over:#?}");
    let unexplained: Vec<&Exception> = listed.iter().filter(|e| e.why == "?").collect();
    assert!(unexplained.is_empty(), "exceptions without a reason: {unexplained:#?}");
}
