//! Measures the time of planning a step by the number of queued requests:
//! `cargo run --release -p forebay-scheduler --example queued`
//!
//! For each number of queued requests, of one principal or each of its own, it prints the time of
//! `plan` and `complete` together (the least of 200 steps), and of cancelling one of the queued.

#![expect(clippy::print_stdout, reason = "a tool that prints")]

use std::time::{Duration, Instant};

use forebay_scheduler::{
    KvLimits, Principal, Priority, Request, RequestId, Salt, Scheduler, SchedulerLimits, Step,
};

const PARALLEL: u32 = 16;

fn limits() -> SchedulerLimits {
    let kv = KvLimits {
        slots: 64,
        cells: 65_536,
        slot_tokens: 4096,
        long_tokens: 0,
        shares: true,
        rewinds: true,
        parked_tokens: 65_536,
        saved_tokens: 0,
        saved_bytes: 0,
        checkpoint_every: 0,
    };
    SchedulerLimits {
        parallel: PARALLEL,
        kv,
        batch_tokens: 512,
        block: 64,
        itl_target: forebay_scheduler::ItlTarget::Adaptive(Duration::from_millis(150)),
        reproducible: false,
        all_logits_tokens: 64,
        queue: usize::MAX,
    }
}

fn request(id: u64, principal: u64) -> Request {
    let first = u32::try_from(id % 100_000).unwrap_or(0);
    Request {
        id: RequestId(id),
        prompt: (first..first + 20).collect(),
        borders: std::sync::Arc::new([]),
        salt: Salt(0),
        principal: Principal(principal),
        priority: Priority::Normal,
        max_new_tokens: 4000,
        choices: 1,
        all_logits: false,
        generated: Vec::new(),
    }
}

fn step(scheduler: &mut Scheduler) -> Step {
    let step = scheduler.plan();
    let ms = Duration::from_millis(1);
    scheduler.complete_step(&step, &vec![ms; step.calls.len()]);
    for span in step.spans.iter().filter(|w| w.output.samples()) {
        scheduler.append_token(span.seq, 7);
    }
    step
}

fn main() {
    println!("{:>8} {:>12} {:>14} {:>14}", "queued", "principals", "plan+complete", "cancel");
    for queued in [10, 1000, 50_000] {
        for each_its_own in [false, true] {
            let mut scheduler = Scheduler::new(limits());
            for id in 0..u64::from(PARALLEL) + queued {
                let request = request(id, if each_its_own { id } else { 0 });
                if scheduler.submit(&request).is_err() {
                    return println!("refused");
                }
            }
            let mut least = Duration::MAX;
            for _ in 0..200 {
                let begin = Instant::now();
                step(&mut scheduler);
                least = least.min(begin.elapsed());
            }
            let begin = Instant::now();
            let gone = (u64::from(PARALLEL)..).step_by(2).take(5);
            gone.for_each(|id| scheduler.cancel(RequestId(id)));
            let cancel = begin.elapsed() / 5;
            let principals = if each_its_own { "one each" } else { "one" };
            println!("{queued:>8} {principals:>12} {least:>14.1?} {cancel:>14.1?}");
        }
    }
}
