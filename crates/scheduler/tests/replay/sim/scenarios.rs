//! What clients send, and when.

use std::time::Duration;

/// Requests that arrive in some order.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What was served before; not measured.
    pub(crate) before: Vec<Job>,
    pub(crate) jobs: Vec<Job>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) start: Start,
    /// The prompt; it follows the previous job and its answer if it continues that one.
    pub(crate) prompt: Vec<u32>,
    /// Whether it continues the conversation of the job that it starts after.
    pub(crate) goes_on: bool,
    /// Tokens of the answer.
    pub(crate) answer: u32,
}

/// When a request arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    At(Duration),
    /// When this job has ended, an earlier one.
    After(usize),
}

/// Made-up tokens, the same ones for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    fn tokens(&mut self, count: u32) -> Vec<u32> {
        (0..count).map(|_| u32::try_from(self.next() % 30_000).unwrap_or(0)).collect()
    }

    /// A short question: 30 to 40 tokens.
    fn short(&mut self) -> Vec<u32> {
        let count = 30 + u32::try_from(self.next() % 11).unwrap_or(0);
        self.tokens(count)
    }
}

impl Scenario {
    /// The prompt of a job, with those that it continues; `answer` returns their answers.
    pub(crate) fn prompt(
        jobs: &[Job],
        job: usize,
        answer: &impl Fn(usize) -> Vec<u32>,
    ) -> Vec<u32> {
        let Job { start, prompt, goes_on, .. } = &jobs[job];
        let mut all = match start {
            Start::After(before) if *goes_on => {
                let mut all = Self::prompt(jobs, *before, answer);
                all.extend(answer(*before));
                all
            }
            Start::After(_) | Start::At(_) => Vec::new(),
        };
        all.extend(prompt);
        all
    }

    /// Tokens of its longest prompt, without the last chunk.
    pub(crate) fn deepest_prompt(&self) -> u32 {
        let answer = |job: usize| vec![0; self.jobs[job].answer as usize];
        let lengths = (0..self.jobs.len()).map(|job| Self::prompt(&self.jobs, job, &answer).len());
        u32::try_from(lengths.max().unwrap_or(0)).unwrap_or(u32::MAX).saturating_sub(64)
    }
}

/// All scenarios for a server with `slots` slots. Arrivals are `pace` times as dense as on a small
/// machine.
pub(crate) fn all(slots: u32, pace: f64) -> Vec<Scenario> {
    let n = slots as usize;
    let mut random = Random(1);
    let warmup = warmup(&mut random);
    let of = |name, jobs| Scenario { name, before: warmup.clone(), jobs };
    let many = |count: usize, mut prompt: Box<dyn FnMut() -> Vec<u32> + '_>| {
        (0..count).map(|_| prompt()).collect::<Vec<_>>()
    };
    let head = random.tokens(24);
    let system = random.tokens(950);
    let mut behind = |head: &[u32], count: u32| [head, &random.tokens(count)].concat();
    let single = closed_loop(1, many(4, Box::new(|| behind(&[], 60))), 128);
    let batch = closed_loop(n, many(2 * n, Box::new(|| behind(&[], 190))), 64);
    let mut own = 0;
    let short = many(
        5 * n,
        Box::new(|| {
            own = (own + 7) % 11;
            behind(&head, 6 + own)
        }),
    );
    let short = closed_loop(n, short, 8);
    let cold = closed_loop(8, many(24, Box::new(|| behind(&system, 25))), 24);
    let had = closed_loop(n, many(n, Box::new(|| behind(&system, 25))), 1);
    let warm = closed_loop(n, many(2 * n, Box::new(|| behind(&system, 25))), 48);
    let warm = Scenario { name: "warm", before: [warmup.clone(), had].concat(), jobs: warm };
    let flood = closed_loop(250, many(250, Box::new(|| behind(&[], 30))), 16);
    vec![
        of("single", single),
        of("batch", batch),
        of("short", short),
        warm,
        of("shared", cold),
        of("chats", chats(&mut random)),
        of("mixed", mixed(&mut random, pace)),
        of("flood", flood),
        of("long-and-short", long_and_short(&mut random, pace)),
    ]
}

/// Clients that each send their next request when the one before has ended.
fn closed_loop(clients: usize, prompts: Vec<Vec<u32>>, answer: u32) -> Vec<Job> {
    let job = |(i, prompt): (usize, Vec<u32>)| {
        let before = i.checked_sub(clients);
        let start = before.map_or(Start::At(Duration::ZERO), Start::After);
        Job { start, prompt, goes_on: false, answer }
    };
    prompts.into_iter().enumerate().map(job).collect()
}

fn at(seconds: f64, prompt: Vec<u32>, answer: u32) -> Job {
    let start = Start::At(Duration::from_secs_f64(seconds));
    Job { start, prompt, goes_on: false, answer }
}

/// What a server has seen that has run for a moment: costs of all kinds of calls are known.
fn warmup(random: &mut Random) -> Vec<Job> {
    let sizes = [(40, 24), (190, 24), (700, 8), (33, 8), (300, 8), (12, 4), (64, 4), (128, 4)];
    let mut jobs: Vec<Job> =
        sizes.iter().map(|&(prompt, answer)| at(0.0, random.tokens(prompt), answer)).collect();
    for (i, &(prompt, answer)) in sizes.iter().enumerate() {
        let (start, prompt) = (Start::After(i), random.tokens(prompt + 3));
        jobs.push(Job { start, prompt, goes_on: false, answer });
    }
    jobs
}

/// Eight conversations of five turns, side by side.
fn chats(random: &mut Random) -> Vec<Job> {
    let prompts = (0..8 * 5).map(|_| random.tokens(40)).collect();
    let mut jobs = closed_loop(8, prompts, 48);
    for job in &mut jobs {
        job.goes_on = matches!(job.start, Start::After(_));
    }
    jobs
}

/// Four streams while long prompts and short ones arrive.
fn mixed(random: &mut Random, pace: f64) -> Vec<Job> {
    let mut jobs: Vec<Job> = (0..4).map(|_| at(0.0, random.short(), 300)).collect();
    jobs.extend([2.0, 4.0, 6.0].map(|second| at(second / pace, random.tokens(1000), 16)));
    let shorts = (1..=8).map(|second| at(f64::from(second) / pace, random.short(), 8));
    jobs.extend(shorts);
    jobs
}

/// A very long prompt, and short ones all the while.
fn long_and_short(random: &mut Random, pace: f64) -> Vec<Job> {
    let mut jobs = vec![at(0.0, random.tokens(3000), 16)];
    jobs.extend((0..30).map(|i| at((0.1 + 0.3 * f64::from(i)) / pace, random.short(), 8)));
    jobs
}
