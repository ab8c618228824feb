//! One scenario on one server, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::scenarios::{Job, Scenario, Start};

/// A server whose steps take virtual time.
pub(crate) trait Server {
    /// Takes a request. Its number is never used before.
    fn submit(&mut self, id: u64, prompt: Arc<[u32]>, answer: u32);
    /// Runs one forward pass; `None` if there is nothing to compute.
    fn step(&mut self) -> Option<Pass>;
    /// A token was sampled for a request; `last` says whether it is done.
    fn sampled(&mut self, id: u64, token: u32, last: bool);
}

/// What a forward pass did.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) took: Duration,
    /// How long its decode rows would have taken alone.
    pub(crate) rows_alone: Duration,
    /// The requests that have a token now.
    pub(crate) sampled: Vec<u64>,
}

/// What clients saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) tokens_per_s: f64,
    pub(crate) makespan: Duration,
    pub(crate) ttft_mean: Duration,
    pub(crate) ttft_p50: Duration,
    pub(crate) ttft_p99: Duration,
    pub(crate) ttft_max: Duration,
    pub(crate) itl_p50: Duration,
    pub(crate) itl_p99: Duration,
    pub(crate) itl_max: Duration,
    /// The longest that decode rows would have taken alone.
    pub(crate) rows_alone: Duration,
}

/// What became of a job.
#[derive(Debug, Clone, Default)]
struct Course {
    arrival: Duration,
    stamps: Vec<Duration>,
}

/// The token that an answer has at a position.
pub(crate) fn token(id: u64, position: usize) -> u32 {
    let mixed =
        id.wrapping_mul(0x9E37_79B9).wrapping_add(position as u64).wrapping_mul(0x85EB_CA6B);
    40_000 + u32::try_from(mixed % 1_000_003).unwrap_or(0)
}

/// Replays a scenario.
pub(crate) fn replay(scenario: &Scenario, server: &mut impl Server) -> Figures {
    run(&scenario.before, 0, server);
    let (courses, rows_alone) = run(&scenario.jobs, scenario.before.len() as u64, server);
    Figures { rows_alone, ..figures(&courses) }
}

/// Runs jobs to their ends. Their requests are numbered from `first`.
fn run(jobs: &[Job], first: u64, server: &mut impl Server) -> (Vec<Course>, Duration) {
    let mut courses = vec![Course::default(); jobs.len()];
    let mut followers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut arrivals = BTreeSet::new();
    for (i, job) in jobs.iter().enumerate() {
        match job.start {
            Start::At(time) => drop(arrivals.insert((time, i))),
            Start::After(other) => followers.entry(other).or_default().push(i),
        }
    }
    let answer = |job: usize| {
        (0..jobs[job].answer as usize).map(|at| token(first + job as u64, at)).collect()
    };
    let (mut now, mut rows_alone) = (Duration::ZERO, Duration::ZERO);
    loop {
        while let Some((arrival, job)) = arrivals.pop_first() {
            if arrival > now {
                arrivals.insert((arrival, job));
                break;
            }
            courses[job].arrival = arrival;
            let prompt = Scenario::prompt(jobs, job, &answer);
            server.submit(first + job as u64, prompt.into(), jobs[job].answer);
        }
        let Some(pass) = server.step() else {
            let Some((next, _)) = arrivals.first() else { break };
            now = now.max(*next);
            continue;
        };
        now += pass.took;
        rows_alone = rows_alone.max(pass.rows_alone);
        for id in pass.sampled {
            let job = usize::try_from(id - first).expect("one of these jobs");
            let stamps = &mut courses[job].stamps;
            let next = token(id, stamps.len());
            stamps.push(now);
            let last = stamps.len() == jobs[job].answer as usize;
            server.sampled(id, next, last);
            let next = followers.get(&job).filter(|_| last);
            arrivals.extend(next.into_iter().flatten().map(|&job| (now, job)));
        }
    }
    for (course, job) in courses.iter().zip(jobs) {
        assert_eq!(course.stamps.len(), job.answer as usize, "a request was not served");
    }
    (courses, rows_alone)
}

fn figures(courses: &[Course]) -> Figures {
    let mut sorted: Vec<Duration> = courses.iter().map(|c| c.stamps[0] - c.arrival).collect();
    sorted.sort_unstable();
    let gaps = courses.iter().flat_map(|c| c.stamps.windows(2).map(|w| w[1] - w[0]));
    let mut gaps: Vec<Duration> = gaps.collect();
    gaps.sort_unstable();
    let ends = courses.iter().filter_map(|c| c.stamps.last().copied());
    let makespan = ends.max().unwrap_or_default();
    let tokens: usize = courses.iter().map(|c| c.stamps.len()).sum();
    Figures {
        tokens_per_s: tokens as f64 / makespan.as_secs_f64(),
        makespan,
        ttft_mean: sorted.iter().sum::<Duration>() / u32::try_from(sorted.len()).unwrap_or(1),
        ttft_p50: percentile(&sorted, 50),
        ttft_p99: percentile(&sorted, 99),
        ttft_max: sorted.last().copied().unwrap_or_default(),
        itl_p50: percentile(&gaps, 50),
        itl_p99: percentile(&gaps, 99),
        itl_max: gaps.last().copied().unwrap_or_default(),
        rows_alone: Duration::ZERO,
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}
