//! A small simulated engine: it runs what `plan` says and checks each step against the rules.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::cost::Load;

const TARGET: Duration = Duration::from_millis(150);

const LIMITS: Limits = Limits {
    slots: 4,
    slot_tokens: 1000,
    batch_tokens: 64,
    itl_target: TARGET,
    all_logits_tokens: 8,
    queue: 8,
};

fn request(id: u64, prompt: u32, new: u32, choices: u32) -> Request {
    Request {
        id: RequestId(id),
        prompt_tokens: prompt,
        head: [].into(),
        max_new_tokens: new,
        choices,
        all_logits: false,
    }
}

/// What a step takes on a slow machine.
fn took(step: &Step) -> StepTime {
    let time = |load: Load| match load.tokens {
        0 => Duration::ZERO,
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        n => Duration::from_secs_f64(8e-3 + 4e-3 * f64::from(n) + 4e-7 * load.depth as f64),
    };
    let Loads { single, short, long } = step.loads();
    StepTime { single: time(single), several: time(short.plus(long)) }
}

/// The token at a position: of the head, or one that no other request has.
fn token(request: &Request, position: u32) -> u32 {
    let own = 1000 + u32::try_from(request.id.0).unwrap();
    request.head.get(position as usize).copied().unwrap_or(own)
}

/// Runs steps until nothing is left; every answer has its request's `max_new_tokens` tokens.
/// Returns the tokens generated for each sequence, and how many prompt tokens were reused.
fn run(
    scheduler: &mut Scheduler,
    requests: &[Request],
    max_steps: usize,
) -> (BTreeMap<SeqId, u32>, u32) {
    let of = |id: RequestId| requests.iter().find(|r| r.id == id).unwrap();
    let (mut generated, mut reused) = (BTreeMap::new(), 0);
    // What each slot holds, and who runs in it.
    let mut kv: BTreeMap<SlotId, Vec<u32>> = BTreeMap::new();
    let mut owners: BTreeMap<SlotId, SeqId> = BTreeMap::new();
    for _ in 0..max_steps {
        let step = scheduler.plan();
        if step.work.is_empty() {
            return (generated, reused);
        }
        check_step(&step);
        scheduler.complete(&step, took(&step));
        for work in &step.work {
            let request = of(work.seq.request);
            let cells = kv.entry(work.slot).or_default();
            match owners.get(&work.slot) {
                Some(owner) => assert_eq!(*owner, work.seq, "a slot has one owner"),
                None => {
                    owners.insert(work.slot, work.seq);
                    cells.truncate(work.start as usize);
                    reused += work.start;
                }
            }
            let before: Vec<u32> = (0..work.start).map(|pos| token(request, pos)).collect();
            assert_eq!(*cells, before, "the slot holds what came before");
            cells.extend((work.start..work.start + work.tokens).map(|pos| token(request, pos)));
            let cells = cells.clone();
            for fork in &work.forks {
                assert_eq!(owners.insert(fork.slot, fork.seq), None, "slot in use");
                kv.insert(fork.slot, cells.clone());
            }
            if !work.output.samples() {
                continue;
            }
            let forks = work.forks.iter().map(|f| f.seq);
            for seq in std::iter::once(work.seq).chain(forks) {
                let count = generated.entry(seq).or_insert(0);
                *count += 1;
                if *count == of(seq.request).max_new_tokens {
                    scheduler.finish(seq);
                    owners.retain(|_, owner| *owner != seq);
                } else {
                    scheduler.append(seq);
                }
            }
        }
    }
    panic!("not finished after {max_steps} steps");
}

fn check_step(step: &Step) {
    let total: u32 = step.work.iter().map(|w| w.tokens).sum();
    assert!(total <= LIMITS.batch_tokens, "{step:?}");
    let seqs: BTreeSet<_> = step.work.iter().map(|w| w.seq).collect();
    let slots: BTreeSet<_> = step.work.iter().map(|w| w.slot).collect();
    assert_eq!(seqs.len(), step.work.len(), "a sequence is in a step once");
    assert_eq!(slots.len(), step.work.len(), "a slot is in a step once");
}

#[test]
fn a_request_prefills_in_chunks_and_decodes_one_token_a_step() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(request(1, 100, 3, 1)).unwrap();
    let first = s.plan();
    assert_eq!((first.work[0].tokens, first.work[0].output), (64, Output::None));
    s.complete(&first, took(&first));
    let second = s.plan();
    assert_eq!((second.work[0].start, second.work[0].tokens), (64, 36));
    assert_eq!(second.work[0].output, Output::Last);
    s.complete(&second, took(&second));
    s.append(second.work[0].seq);
    let third = s.plan();
    assert_eq!((third.work[0].start, third.work[0].tokens), (100, 1));
}

#[test]
fn decode_rows_are_in_every_step_and_bound_the_prefill() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(request(1, 10, 50, 1)).unwrap();
    let step = s.plan();
    s.complete(&step, took(&step));
    s.append(step.work[0].seq);
    s.submit(request(2, 500, 5, 1)).unwrap();
    for turn in 0..5 {
        let step = s.plan();
        assert_eq!(step.work[0].seq.request, RequestId(1));
        assert_eq!(step.why, Why::Target);
        let total = took(&step).single + took(&step).several;
        // The first one finds out what a block costs: the room that is left in the step.
        assert!(total < TARGET.mul_f64(if turn == 0 { 2.0 } else { 1.3 }), "{total:?}");
        assert!(turn < 2 || total > TARGET.mul_f64(0.9), "{total:?} in turn {turn}");
        s.complete(&step, took(&step));
        s.append(step.work[0].seq);
    }
}

/// Four answers run while prompts of 1,500 tokens come one after the other, on a machine whose
/// times scatter by a third and which is three times slower for a while.
#[test]
fn steps_hold_the_target_over_thousands_of_steps() {
    let limits = Limits {
        slots: 6,
        slot_tokens: 40_000,
        batch_tokens: 512,
        itl_target: TARGET,
        all_logits_tokens: 8,
        queue: 8,
    };
    let mut s = Scheduler::new(limits);
    for id in 0..4 {
        s.submit(request(id, 40, 30_000, 1)).unwrap();
    }
    let (mut noise, mut next) = (12345_u64, 100);
    let (mut times, mut prefilled, mut spent) = (Vec::new(), 0, Duration::ZERO);
    for turn in 0..6000 {
        if s.waiting() == 0 && turn > 10 {
            s.submit(request(next, 1500, 1, 1)).unwrap();
            next += 1;
        }
        let step = s.plan();
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let scatter = 0.85 + 0.3 * ((noise >> 40) as f64 / 16_777_216.0);
        let slow = if (2000..2600).contains(&turn) { 3.0 } else { 1.0 };
        let StepTime { single, several } = took(&step);
        let time = |t: Duration| t.mul_f64(scatter * slow);
        let real = StepTime { single: time(single), several: time(several) };
        s.complete(&step, real);
        let Loads { single, short, long } = step.loads();
        if single.tokens >= 4 && slow < 2.0 {
            times.push(real.single + real.several);
            prefilled += short.tokens + long.tokens;
            spent += real.several;
        }
        for work in step.work.iter().filter(|w| w.output.samples()) {
            if work.seq.request.0 < 4 { s.append(work.seq) } else { s.finish(work.seq) }
        }
    }
    times.sort();
    let at = |part: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (times.len() as f64 * part) as usize;
        times[index]
    };
    assert!(at(0.5) > TARGET.mul_f64(0.85), "half of the steps use the target: {:?}", at(0.5));
    assert!(at(0.99) < TARGET.mul_f64(1.35), "p99 {:?}", at(0.99));
    assert!(at(0.9999) < TARGET * 3, "max {:?}", times.last());
    // 16 tokens at once cost 4.5 ms each, all at once 4 ms.
    let each = spent.as_secs_f64() / f64::from(prefilled);
    assert!(each < 5.5e-3, "a prompt token costs {each}");
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(request(1, 900, 1, 1)).unwrap();
    s.submit(request(2, 20, 1, 1)).unwrap();
    let step = s.plan();
    let short = step.work.iter().find(|w| w.seq.request == RequestId(2)).unwrap();
    assert_eq!(short.output, Output::Last);
}

#[test]
fn several_answers_share_one_prefill() {
    let requests = [request(1, 65, 4, 3)];
    let mut s = Scheduler::new(LIMITS);
    s.submit(requests[0].clone()).unwrap();
    let first = s.plan();
    assert_eq!(first.work.len(), 1);
    s.complete(&first, took(&first));
    let second = s.plan();
    assert_eq!((second.work[0].tokens, second.work[0].forks.len()), (1, 2));
    let mut s = Scheduler::new(LIMITS);
    s.submit(requests[0].clone()).unwrap();
    let (generated, _) = run(&mut s, &requests, 100);
    assert_eq!(generated.values().copied().collect::<Vec<_>>(), [4, 4, 4]);
}

#[test]
fn all_logits_are_asked_for_in_small_chunks_until_the_prompt_ends() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(Request { all_logits: true, ..request(1, 17, 2, 1) }).unwrap();
    let mut outputs = Vec::new();
    for _ in 0..3 {
        let step = s.plan();
        outputs.push((step.work[0].tokens, step.work[0].output));
        s.complete(&step, took(&step));
    }
    let part = Output::All { complete: false };
    assert_eq!(outputs, [(8, part), (8, part), (1, Output::All { complete: true })]);
    s.append(SeqId { request: RequestId(1), choice: 0 });
    assert_eq!(s.plan().work[0].output, Output::Last);
}

#[test]
fn refusals_carry_the_numbers() {
    let mut s = Scheduler::new(LIMITS);
    let too_long = s.submit(request(1, 990, 11, 1));
    assert_eq!(too_long, Err(Rejected::TooLong { needed: 1001, limit: 1000 }));
    assert_eq!(s.submit(request(1, 5, 5, 5)), Err(Rejected::TooManyChoices { limit: 4 }));
    for id in 0..8 {
        s.submit(request(id, 5, 5, 1)).unwrap();
    }
    assert_eq!(s.submit(request(9, 5, 5, 1)), Err(Rejected::QueueFull { limit: 8 }));
}

#[test]
fn cancelling_frees_every_slot_of_a_request() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(request(1, 5, 5, 4)).unwrap();
    s.submit(request(2, 5, 5, 1)).unwrap();
    s.plan();
    assert_eq!((s.running(), s.waiting()), (4, 1));
    s.cancel(RequestId(1));
    assert_eq!(s.running(), 0);
    assert_eq!(s.plan().work[0].seq.request, RequestId(2));
    s.cancel(RequestId(2));
    s.cancel(RequestId(2));
    assert_eq!((s.running(), s.idle.len()), (0, 4), "twice is harmless");
}

#[test]
fn a_head_is_computed_alone_and_once() {
    let with_head = |id| Request { head: [7; 20].into(), ..request(id, 50, 2, 1) };
    let mut s = Scheduler::new(LIMITS);
    s.submit(with_head(1)).unwrap();
    let chunks: Vec<(u32, u32)> = (0..2)
        .map(|_| {
            let step = s.plan();
            s.complete(&step, took(&step));
            (step.work[0].start, step.work[0].tokens)
        })
        .collect();
    assert_eq!(chunks, [(0, 20), (20, 30)]);
    s.finish(SeqId { request: RequestId(1), choice: 0 });
    s.submit(with_head(2)).unwrap();
    let step = s.plan();
    assert_eq!((step.work[0].start, step.work[0].tokens), (20, 30));
    s.discard(RequestId(2));
    s.submit(with_head(3)).unwrap();
    assert_eq!(s.plan().work[0].start, 0, "a failed step leaves nothing to reuse");
    s.cancel(RequestId(3));
    s.submit(with_head(4)).unwrap();
    assert_eq!(s.plan().work[0].start, 0, "an unfinished head is no head");
    let mut s = Scheduler::new(LIMITS);
    let requests: Vec<Request> = (0..8).map(with_head).collect();
    for r in &requests {
        s.submit(r.clone()).unwrap();
    }
    let (_, reused) = run(&mut s, &requests, 1000);
    assert_eq!(reused, 4 * 20, "four slots compute it, the other four requests find it");
}

proptest! {
    #[test]
    fn everybody_finishes_with_exactly_the_tokens_asked_for(
        shapes in proptest::collection::vec(
            (1_u32..600, 1_u32..40, 1_u32..5, any::<bool>(), 0_u32..3), 1..9,
        ),
    ) {
        let requests: Vec<Request> = shapes.iter().enumerate().map(|(i, &(p, new, n, all, head))| {
            let head = vec![head; if all { 0 } else { (head * 9).min(p - 1) as usize }].into();
            Request { head, all_logits: all, ..request(i as u64, p, new, n) }
        }).collect();
        let mut s = Scheduler::new(LIMITS);
        for r in &requests {
            s.submit(r.clone()).unwrap();
        }
        let (generated, _) = run(&mut s, &requests, 20_000);
        for r in &requests {
            for choice in 0..r.choices {
                prop_assert_eq!(generated[&SeqId { request: r.id, choice }], r.max_new_tokens);
            }
        }
        prop_assert_eq!((s.running(), s.waiting(), s.kv_tokens()), (0, 0, 0));
    }
}
