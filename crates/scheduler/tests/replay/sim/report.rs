//! All comparisons as one table, and what is asserted of them.

use std::fmt::Write;
use std::time::Duration;

use super::Comparison;

/// What is asserted of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Tokens per second, ours by prefill-first's.
    Throughput,
    /// Mean time to the first token, prefill-first's by ours.
    Ttft,
    /// The longest time to a first token, prefill-first's by ours.
    Starvation,
    /// The longest gap between two tokens, by what it may be: a decode step and an efficient chunk.
    Itl,
}

impl Condition {
    pub(crate) const ALL: [Self; 4] = [Self::Throughput, Self::Ttft, Self::Starvation, Self::Itl];

    /// Its name in the list of exceptions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Ttft => "ttft",
            Self::Starvation => "starvation",
            Self::Itl => "itl",
        }
    }

    pub(crate) fn value(self, of: &Comparison) -> f64 {
        let (ours, theirs) = (&of.ours, &of.prefill_first);
        match self {
            Self::Throughput => ours.tokens_per_s / theirs.tokens_per_s,
            Self::Ttft => ratio(theirs.ttft_mean, ours.ttft_mean),
            Self::Starvation => ratio(theirs.ttft_max, ours.ttft_max),
            Self::Itl => ratio(ours.itl_max, ours.rows_alone + of.efficient.time),
        }
    }

    /// Whether a value is as it should be.
    pub(crate) fn holds(self, value: f64) -> bool {
        self.is_no_worse(value, match self {
            Self::Throughput => 0.98,
            Self::Ttft | Self::Itl => 1.0,
            Self::Starvation => 0.5,
        })
    }

    pub(crate) fn is_no_worse(self, value: f64, than: f64) -> bool {
        match self {
            Self::Throughput | Self::Ttft | Self::Starvation => value >= than,
            Self::Itl => value <= than,
        }
    }
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A Markdown table: a line for each scenario and table of costs.
pub(crate) fn markdown(all: &[Comparison]) -> String {
    let mut text = String::from(
        "| scenario | costs | tokens/s | TTFT mean | TTFT p50 | TTFT max | ITL max | ITL max of bound \
         | part of ideal | tokens/s | TTFT mean ms | ITL p50, p99, max ms | decode step ms \
         | efficient chunk |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for c in all {
        let (ours, theirs) = (&c.ours, &c.prefill_first);
        let line = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.0} \
             | {:.0}, {:.0}, {:.0} | {:.0} | {} tokens, {:.0} ms |",
            c.scenario,
            c.table,
            Condition::Throughput.value(c),
            Condition::Ttft.value(c),
            ratio(theirs.ttft_p50, ours.ttft_p50),
            Condition::Starvation.value(c),
            ratio(theirs.itl_max, ours.itl_max),
            Condition::Itl.value(c),
            ratio(c.ideal, ours.makespan),
            ours.tokens_per_s,
            ms(ours.ttft_mean),
            ms(ours.itl_p50),
            ms(ours.itl_p99),
            ms(ours.itl_max),
            ms(ours.rows_alone),
            c.efficient.tokens,
            ms(c.efficient.time),
        );
        line.expect("a string takes all");
    }
    text
}
