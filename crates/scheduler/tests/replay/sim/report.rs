//! All comparisons as one table.

use std::fmt::Write;
use std::time::Duration;

use super::Comparison;

/// What the default target gives way to.
const TARGET_GIVES_WAY: Duration = Duration::from_millis(3 * 150);

impl Comparison {
    /// Tokens per second, ours by prefill-first's.
    pub(crate) fn throughput(&self) -> f64 {
        self.ours.tokens_per_s / self.prefill_first.tokens_per_s
    }

    /// Mean time to the first token, prefill-first's by ours.
    pub(crate) fn ttft_mean(&self) -> f64 {
        ratio(self.prefill_first.ttft_mean, self.ours.ttft_mean)
    }

    /// The longest time to a first token, prefill-first's by ours.
    pub(crate) fn ttft_max(&self) -> f64 {
        ratio(self.prefill_first.ttft_max, self.ours.ttft_max)
    }

    /// The longest gap between two tokens, by what it may be: a decode step and an efficient chunk, or
    /// three times the default target. Up to there the target gives way to throughput: with gaps of a
    /// decode step and an efficient chunk alone, no policy reaches 0.98 of prefill-first's tokens/s over
    /// the CPU tables, because few rows together cost more for each than many do.
    pub(crate) fn itl_of_bound(&self) -> f64 {
        let bound = self.ours.rows_alone + self.efficient.time;
        ratio(self.ours.itl_max, bound.max(TARGET_GIVES_WAY))
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
         | part of ideal | tokens/s | TTFT mean, p50, p99 ms | ITL p50, p99, max ms \
         | decode step ms | efficient chunk |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for c in all {
        let (ours, theirs) = (&c.ours, &c.prefill_first);
        let line = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} \
             | {:.0}, {:.0}, {:.0} | {:.0}, {:.0}, {:.0} | {:.0} | {} tokens, {:.0} ms |",
            c.scenario,
            c.table,
            c.throughput(),
            c.ttft_mean(),
            ratio(theirs.ttft_p50, ours.ttft_p50),
            c.ttft_max(),
            ratio(theirs.itl_max, ours.itl_max),
            c.itl_of_bound(),
            ratio(c.ideal, ours.makespan),
            ours.tokens_per_s,
            ms(ours.ttft_mean),
            ms(ours.ttft_p50),
            ms(ours.ttft_p99),
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
