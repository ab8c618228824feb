//! A time that no policy can beat.

use std::collections::HashSet;
use std::time::Duration;

use super::costs::CostTable;
use super::replay::token;
use super::scenarios::{Job, Scenario, Start};

/// What has to be computed.
#[derive(Debug, Clone, Copy, Default)]
struct Total {
    prompt_tokens: f64,
    rows: f64,
}

/// The least time for a scenario: each different token of its prompts is computed once and each
/// token of its answers is a row, in calls of the best sizes, without anything before them; and
/// nothing is computed before it has arrived.
pub(crate) fn time(scenario: &Scenario, table: &CostTable) -> Duration {
    let jobs = &scenario.jobs;
    let arrivals: Vec<Duration> = (0..jobs.len()).map(|job| arrival(jobs, job)).collect();
    let totals = totals(scenario);
    let width = width(jobs).min(table.parallel);
    let from = |&begin: &Duration| {
        let late = arrivals.iter().zip(&totals).filter(|(arrival, _)| **arrival >= begin);
        let sum = late.fold(Total::default(), |sum, (_, total)| Total {
            prompt_tokens: sum.prompt_tokens + total.prompt_tokens,
            rows: sum.rows + total.rows,
        });
        begin + least(sum, width, table)
    };
    arrivals.iter().map(from).max().unwrap_or_default()
}

/// The earliest that a job can arrive.
fn arrival(jobs: &[Job], job: usize) -> Duration {
    match jobs[job].start {
        Start::At(time) => time,
        Start::After(before) => arrival(jobs, before),
    }
}

/// Answers that can be decoded together: no job runs beside the one that it starts after.
fn width(jobs: &[Job]) -> u32 {
    let chains = jobs.iter().filter(|job| matches!(job.start, Start::At(_))).count();
    u32::try_from(chains).unwrap_or(u32::MAX)
}

/// What each job adds to what those before it have computed.
fn totals(scenario: &Scenario) -> Vec<Total> {
    let mut seen = HashSet::new();
    insert(&scenario.before, 0, &mut seen);
    insert(&scenario.jobs, scenario.before.len() as u64, &mut seen)
}

fn insert(jobs: &[Job], first: u64, seen: &mut HashSet<u64>) -> Vec<Total> {
    let answer = |job: usize| {
        (0..jobs[job].answer as usize).map(|at| token(first + job as u64, at)).collect::<Vec<_>>()
    };
    let each = |job: usize| {
        let (prompt, answer) = (Scenario::prompt(jobs, job, &answer), answer(job));
        let mut hash = 0xCBF2_9CE4_8422_2325_u64;
        let mut is_new = |token: &u32| {
            hash = (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
            seen.insert(hash)
        };
        let new = prompt.iter().filter(|t| is_new(t)).count();
        // The last token is never computed, and the prompt brings the first.
        let rows = answer[..answer.len() - 1].iter().filter(|t| is_new(t)).count();
        Total { prompt_tokens: new as f64, rows: rows as f64 }
    };
    (0..jobs.len()).map(each).collect()
}

/// The least time for so much work in calls of at most `width` rows: a linear program over the calls
/// of the table, solved through its dual, prices of a row and of a prompt's token at which no call
/// is worth more than it costs.
fn least(total: Total, width: u32, table: &CostTable) -> Duration {
    let calls = table.calls(width).into_iter();
    let calls = calls.map(|(rows, chunk, ms)| (f64::from(rows), f64::from(chunk), ms));
    let calls: Vec<(f64, f64, f64)> = calls.collect();
    let only_rows = calls.iter().filter(|call| call.1 == 0.0);
    let dearest = only_rows.map(|(rows, _, ms)| ms / rows).fold(f64::INFINITY, f64::min);
    let value = |row: f64| {
        let with_chunk = calls.iter().filter(|call| call.1 > 0.0);
        let prices = with_chunk.map(|(rows, chunk, ms)| (ms - row * rows) / chunk);
        row * total.rows + prices.fold(f64::INFINITY, f64::min).max(0.0) * total.prompt_tokens
    };
    // Concave in the price.
    let (mut low, mut high) = (0.0, dearest);
    for _ in 0..100 {
        let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
        if value(a) < value(b) { low = a } else { high = b }
    }
    Duration::from_secs_f64(value(low.midpoint(high)).max(value(dearest)) / 1e3)
}
