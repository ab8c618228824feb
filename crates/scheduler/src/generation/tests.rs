//! The policy on a simulated engine.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ids::{Salt, SlotId};
use crate::kv::KvOp;
use crate::request::Priority;
use crate::step::{BudgetReason, CallKind, DecodeCall, Output, TokenSpan};
use simulation::{Engine, took};

mod checkpoints;
mod chunks;
mod kept_costs;
mod load;
mod simulation;

const TARGET: Duration = Duration::from_millis(150);
const BLOCK: u32 = 64;

const LIMITS: SchedulerLimits = SchedulerLimits {
    parallel: 4,
    kv: KvLimits {
        slots: 4,
        cells: 4000,
        slot_tokens: 1000,
        long_tokens: 0,
        shares: false,
        rewinds: true,
        parked_tokens: 4000,
        saved_tokens: 0,
        saved_bytes: 0,
        checkpoint_every: 0,
    },
    batch_tokens: 64,
    block: BLOCK,
    itl_target: ItlTarget::Held(TARGET),
    reproducible: false,
    all_logits_tokens: 8,
    queue: 8,
};

/// The same with shared cells, more slots than places, and this many cells.
fn shared(cells: u32) -> SchedulerLimits {
    let kv = KvLimits { slots: 16, cells, shares: true, parked_tokens: cells, ..LIMITS.kv };
    SchedulerLimits { kv, queue: 100, ..LIMITS }
}

/// Slots of 250 tokens and a long one of 1000.
fn with_long() -> SchedulerLimits {
    let kv = KvLimits { cells: 1000, slot_tokens: 250, long_tokens: 1000, ..LIMITS.kv };
    SchedulerLimits { kv, queue: 100, ..LIMITS }
}

/// A prompt of its own.
fn request(id: u64, prompt: u32, new: u32, choices: u32) -> Request {
    let own = u32::try_from(id % 100_000).unwrap() * 10_000;
    Request {
        id: RequestId(id),
        prompt: (own..own + prompt).collect(),
        borders: Arc::new([]),
        salt: Salt(0),
        principal: Principal(0),
        priority: Priority::Normal,
        max_new_tokens: new,
        choices,
        all_logits: false,
        generated: Vec::new(),
    }
}

/// A prompt that begins with `head` tokens which others begin with too.
fn with_head(id: u64, head: u32, own: u32, new: u32) -> Request {
    let tail = request(id, own, new, 1);
    let prompt = (900_000..900_000 + head).chain(tail.prompt.iter().copied()).collect();
    Request { prompt, ..tail }
}

fn seq(request: u64) -> SeqId {
    SeqId { request: RequestId(request), choice: 0 }
}

#[test]
fn a_request_prefills_in_chunks_and_decodes_one_token_a_step() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(&request(1, 100, 3, 1)).unwrap();
    let first = s.plan();
    assert_eq!((first.spans[0].tokens, first.spans[0].output), (64, Output::None));
    s.complete_step(&first, &took(&first));
    let second = s.plan();
    assert_eq!((second.spans[0].start, second.spans[0].tokens), (64, 36));
    assert_eq!(second.spans[0].output, Output::Last);
    s.complete_step(&second, &took(&second));
    s.append_token(second.spans[0].seq, 7);
    let third = s.plan();
    assert_eq!((third.spans[0].start, third.spans[0].tokens), (100, 1));
}

#[test]
fn preempted_answers_are_prefilled_before_new_prompts() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(&request(1, 200, 5, 1)).unwrap();
    s.submit(&Request { generated: vec![Some(vec![7; 50])], ..request(2, 200, 100, 1) }).unwrap();
    let (mut others, mut computed) = (0, 0);
    while computed < 250 {
        let step = s.plan();
        for span in &step.spans {
            let own = span.seq.request == RequestId(2);
            computed += if own { span.tokens } else { 0 };
            others += if own { 0 } else { span.tokens };
        }
        s.complete_step(&step, &took(&step));
    }
    assert_eq!((computed, others), (250, 0));
    s.append_token(seq(2), 7);
    let mut steps = std::iter::repeat_with(|| {
        let step = s.plan();
        s.complete_step(&step, &took(&step));
        s.append_token(seq(2), 7);
        step
    });
    let has_turn = steps.by_ref().take(3).any(|step| step.spans.iter().any(|w| w.seq == seq(1)));
    assert!(has_turn, "then the new one has its turn");
}

#[test]
fn decode_rows_are_in_every_step_and_chunks_are_efficient() {
    for target in [ItlTarget::Held(TARGET), ItlTarget::Adaptive(TARGET)] {
        let mut s =
            Scheduler::new(SchedulerLimits { itl_target: target, batch_tokens: 512, ..LIMITS });
        s.submit(&request(1, 10, 50, 1)).unwrap();
        let step = s.plan();
        s.complete_step(&step, &took(&step));
        s.append_token(step.spans[0].seq, 7);
        s.submit(&request(2, 500, 5, 1)).unwrap();
        let (mut times, mut chunks) = (Vec::<Duration>::new(), Vec::new());
        for _ in 0..22 {
            let step = s.plan();
            assert_eq!(step.spans[0].seq.request, RequestId(1));
            chunks.extend(step.spans.get(1).map(|span| (span.tokens, step.budget_reason)));
            times.push(took(&step).iter().sum());
            s.complete_step(&step, &took(&step));
            s.append_token(step.spans[0].seq, 7);
        }
        // A block takes 264 ms, and half of one is hardly cheaper for a token.
        assert_eq!(chunks.pop(), Some((500 % BLOCK, BudgetReason::Efficient)), "{chunks:?}");
        assert!(
            chunks.iter().all(|chunk| *chunk == (BLOCK, BudgetReason::Efficient)),
            "{chunks:?}"
        );
        let mean = times.iter().sum::<Duration>() / 22;
        if target == ItlTarget::Held(TARGET) {
            // The last of the 22 steps save up for the next chunk.
            assert!(mean < TARGET.mul_f64(1.1) && mean > TARGET.mul_f64(0.7), "{mean:?}");
        } else {
            assert_eq!(times.iter().filter(|&&time| time > TARGET).count(), chunks.len() + 1);
            assert_eq!(chunks.len(), 7);
        }
    }
}

/// Four answers run while prompts of 1,500 tokens come one after the other, on a machine whose
/// times scatter by a third and which is three times slower for a while: steps are as long as the
/// target on average, and none is longer than its rows and one efficient chunk.
#[test]
fn steps_hold_the_target_over_thousands_of_steps() {
    let kv = KvLimits { slots: 6, cells: 240_000, slot_tokens: 40_000, ..LIMITS.kv };
    let mut s = Scheduler::new(SchedulerLimits { parallel: 6, kv, batch_tokens: 512, ..LIMITS });
    for id in 0..4 {
        s.submit(&request(id, 40, 30_000, 1)).unwrap();
    }
    let (mut noise, mut next) = (12345_u64, 100);
    let (mut times, mut prefilled, mut spent) = (Vec::<Duration>::new(), 0, Duration::ZERO);
    for turn in 0..6000 {
        if s.waiting() == 0 && turn > 10 {
            s.submit(&request(next, 1500, 1, 1)).unwrap();
            next += 1;
        }
        let step = s.plan();
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let scatter = 0.85 + 0.3 * ((noise >> 40) as f64 / 16_777_216.0);
        let slow = if (2000..2600).contains(&turn) { 3.0 } else { 1.0 };
        let real: Vec<_> = took(&step).iter().map(|t| t.mul_f64(scatter * slow)).collect();
        s.complete_step(&step, &real);
        let is_rows = |call: &DecodeCall| call.kind == CallKind::Rows;
        let rows = step.calls.iter().filter(|call| is_rows(call)).map(|call| call.load.tokens);
        if rows.sum::<u32>() >= 4 && slow < 2.0 {
            times.push(real.iter().sum());
            for (call, took) in step.calls.iter().zip(&real).filter(|(call, _)| !is_rows(call)) {
                prefilled += call.load.tokens;
                spent += *took;
            }
        }
        for span in step.spans.iter().filter(|w| w.output.samples()) {
            if span.seq.request.0 < 4 { s.append_token(span.seq, 7) } else { s.finish(span.seq) }
        }
    }
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
    assert!(mean > TARGET.mul_f64(0.85) && mean < TARGET.mul_f64(1.1), "{mean:?}");
    times.sort();
    let most = times[times.len() - 1 - times.len() / 10_000];
    assert!(most < TARGET * 5, "rows and an efficient chunk: {most:?}");
    let each = spent.as_secs_f64() / f64::from(prefilled);
    assert!(each < 4.6e-3, "a prompt token costs {each}");
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(&request(1, 900, 1, 1)).unwrap();
    s.submit(&request(2, 20, 1, 1)).unwrap();
    let step = s.plan();
    let short = step.spans.iter().find(|w| w.seq.request == RequestId(2)).unwrap();
    assert_eq!(short.output, Output::Last);
}

#[test]
fn several_answers_share_one_prefill() {
    let requests = [request(1, 65, 4, 3)];
    for limits in [LIMITS, shared(1000)] {
        let mut engine = Engine::new(limits);
        engine.submit(&requests);
        let generated = engine.run(100);
        assert_eq!(generated.values().copied().collect::<Vec<_>>(), [4, 4, 4]);
        assert_eq!(engine.computed, 65 + 2 + 3 * 3, "the last token of the prompt for each");
    }
}

#[test]
fn all_logits_are_asked_for_in_small_chunks_until_the_prompt_ends() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(&Request { all_logits: true, ..request(1, 17, 2, 1) }).unwrap();
    let mut outputs = Vec::new();
    for _ in 0..3 {
        let step = s.plan();
        outputs.push((step.spans[0].tokens, step.spans[0].output));
        s.complete_step(&step, &took(&step));
    }
    let part = Output::All { complete: false };
    assert_eq!(outputs, [(8, part), (8, part), (1, Output::All { complete: true })]);
    s.append_token(seq(1), 7);
    assert_eq!(s.plan().spans[0].output, Output::Last);
}

#[test]
fn refusals_carry_the_numbers() {
    let mut s = Scheduler::new(LIMITS);
    let too_long = s.submit(&request(1, 990, 11, 1));
    assert_eq!(too_long, Err(Rejected::TooLong { needed: 1001, limit: 1000 }));
    for id in 0..8 {
        s.submit(&request(id, 5, 5, 1)).unwrap();
    }
    assert_eq!(s.submit(&request(9, 5, 5, 1)), Err(Rejected::QueueFull { limit: 8 }));
    let mut s = Scheduler::new(shared(500));
    let too_long = s.submit(&request(1, 490, 11, 1));
    assert_eq!(too_long, Err(Rejected::TooLong { needed: 501, limit: 500 }));
}

#[test]
fn cancelling_frees_every_slot_of_a_request() {
    let mut s = Scheduler::new(LIMITS);
    s.submit(&request(1, 5, 5, 4)).unwrap();
    s.submit(&request(2, 5, 5, 1)).unwrap();
    s.plan();
    assert_eq!((s.running(), s.waiting()), (4, 1));
    s.cancel(RequestId(1));
    assert_eq!(s.running(), 0);
    assert_eq!(s.plan().spans[0].seq.request, RequestId(2));
    s.cancel(RequestId(2));
    s.cancel(RequestId(2));
    assert_eq!((s.running(), s.waiting(), s.kv_tokens()), (0, 0, 0), "twice is harmless");
}

#[test]
fn a_shared_prefix_is_computed_once_and_waited_for() {
    for rewinds in [true, false] {
        let requests: Vec<Request> = (0..12).map(|id| with_head(id, 300, 20, 4)).collect();
        let mut limits = shared(4000);
        limits.kv.rewinds = rewinds;
        let mut engine = Engine::new(limits);
        engine.submit(&requests);
        let first = engine.scheduler.plan();
        assert_eq!(first.spans.len(), 1, "the others wait");
        engine.step(&first);
        engine.run(1000);
        // Where it can go back, it computes a whole block.
        let each = if rewinds { BLOCK } else { 20 } + 3;
        // Without trimming, a sequence that comes after the first have continued finds no prefix.
        let most = if rewinds { 300 + 12 * each } else { 3 * 300 + 12 * each };
        assert!(engine.computed <= most, "{} of {most}", engine.computed);
        assert!(engine.scheduler.counts().waited >= 3);
    }
}

#[test]
fn a_sequence_waiting_for_a_prefix_resumes_when_its_leader_leaves() {
    let mut engine = Engine::new(shared(4000));
    engine.submit(&[with_head(1, 300, 20, 4), with_head(2, 300, 20, 4)]);
    let first = engine.scheduler.plan();
    engine.step(&first);
    engine.scheduler.cancel(RequestId(1));
    let next = engine.scheduler.plan();
    assert_eq!((next.spans[0].seq, next.spans[0].start), (seq(2), 64), "with what is there");
    engine.step(&next);
    engine.run(100);
}

#[test]
fn a_failed_step_leaves_nothing_to_reuse() {
    let mut s = Scheduler::new(shared(4000));
    s.submit(&with_head(1, 40, 10, 4)).unwrap();
    let step = s.plan();
    s.discard(step.spans[0].seq.request);
    assert_eq!((s.running(), s.kv_tokens(), s.parked_tokens()), (0, 0, 0));
    s.submit(&with_head(2, 40, 10, 4)).unwrap();
    assert_eq!(s.plan().spans[0].start, 0);
}

#[test]
fn three_times_the_cells_finish_in_the_end() {
    let requests: Vec<Request> = (0..16).map(|id| request(id, 60, 120, 1)).collect();
    for saved in [0, 4000] {
        let mut limits = shared(16 * 180 / 3);
        (limits.parallel, limits.kv.saved_tokens) = (16, saved);
        let mut engine = Engine::new(limits);
        engine.submit(&requests);
        let generated = engine.run(20_000);
        assert!(generated.values().all(|&n| n == 120) && generated.len() == 16);
        let counts = engine.scheduler.counts();
        assert!(counts.preempted_for_cells > 0, "{counts:?}");
        // What was taken out comes back without computing it all again.
        let ideal = 16 * 179;
        let most = if saved > 0 { ideal * 5 / 4 } else { ideal * 2 };
        assert!(engine.computed < most, "{} for {ideal}", engine.computed);
    }
}

#[test]
fn one_request_may_take_all_cells() {
    let mut limits = shared(800);
    limits.kv.slot_tokens = 800;
    let mut engine = Engine::new(limits);
    engine.submit(&[request(1, 50, 50, 1), request(2, 600, 200, 1), request(3, 50, 50, 1)]);
    assert_eq!(engine.run(5000).len(), 3);
}

#[test]
fn background_waits_for_all_others_and_yields_within_a_step() {
    let mut engine = Engine::new(SchedulerLimits { batch_tokens: 128, ..LIMITS });
    let priority = Priority::Background;
    engine.submit(
        &(0..4).map(|id| Request { priority, ..request(id, 20, 50, 1) }).collect::<Vec<_>>(),
    );
    for _ in 0..5 {
        let step = engine.scheduler.plan();
        assert_eq!(step.spans.len(), 4);
        engine.step(&step);
    }
    engine.submit(&[request(10, 20, 5, 1)]);
    for _ in 0..5 {
        let step = engine.scheduler.plan();
        let who: Vec<u64> = step.spans.iter().map(|w| w.seq.request.0).collect();
        assert_eq!(who, [10], "and none of the background");
        engine.step(&step);
    }
    assert_eq!(engine.run(1000).values().sum::<u32>(), 4 * 50 + 5);
}

/// How long two requests take, on average, and how many steps.
fn two_beside(many: u64) -> (Duration, usize) {
    let mut engine = Engine::new(shared(4000));
    let big: Vec<Request> =
        (0..many).map(|id| Request { principal: Principal(1), ..request(id, 20, 30, 1) }).collect();
    engine.submit(&big);
    for _ in 0..8 {
        let step = engine.scheduler.plan();
        engine.step(&step);
    }
    engine.submit(&[request(100, 20, 30, 1), request(101, 20, 30, 1)]);
    let (mut time, mut steps) = (Duration::ZERO, 0);
    while engine.scheduler.sequences.keys().any(|s| s.request.0 >= 100) {
        let step = engine.scheduler.plan();
        time += took(&step).iter().sum::<Duration>();
        steps += 1;
        engine.step(&step);
    }
    assert_eq!(engine.run(5000).len() as u64, many + 2);
    (time, steps)
}

#[test]
fn a_principal_with_many_requests_does_not_starve_one_with_few() {
    let (alone, steps) = two_beside(0);
    let (beside, more_steps) = two_beside(40);
    assert!(beside < alone.mul_f64(1.7), "{beside:?} in {more_steps} for {alone:?} in {steps}");
}

#[test]
fn right_drafts_save_steps_and_wrong_ones_leave_no_trace() {
    let mut engine = Engine::new(LIMITS);
    engine.drafts = Some(3);
    engine.submit(&[request(1, 40, 60, 1)]);
    assert_eq!(engine.run(1000).values().copied().collect::<Vec<_>>(), [60]);
    assert!(engine.steps < 40, "{} steps", engine.steps);
}

#[test]
fn forced_tokens_are_computed_together() {
    let mut engine = Engine::new(LIMITS);
    engine.forces = true;
    engine.submit(&[request(1, 40, 200, 1)]);
    assert_eq!(engine.run(1000).values().copied().collect::<Vec<_>>(), [200]);
    assert!(engine.steps < 140, "{} steps", engine.steps);
}

#[test]
fn the_backlog_is_estimated_once_costs_are_known() {
    let mut engine = Engine::new(SchedulerLimits { queue: 100, ..LIMITS });
    let requests: Vec<Request> = (0..40).map(|id| request(id, 100, 30, 1)).collect();
    engine.submit(&requests);
    assert_eq!(engine.scheduler.backlog(), Duration::ZERO);
    let mut elapsed = Duration::ZERO;
    for _ in 0..40 {
        let step = engine.scheduler.plan();
        engine.step(&step);
    }
    let expected = engine.scheduler.backlog();
    loop {
        let step = engine.scheduler.plan();
        if step.spans.is_empty() {
            break;
        }
        elapsed += took(&step).iter().sum::<Duration>();
        engine.step(&step);
    }
    let ratio = expected.as_secs_f64() / elapsed.as_secs_f64();
    assert!((0.5..2.5).contains(&ratio), "{expected:?} for {elapsed:?}");
}

#[test]
fn a_request_may_use_the_whole_context() {
    let mut engine = Engine::new(with_long());
    engine.submit(&[request(0, 30, 60, 1), request(1, 150, 850, 1), request(2, 500, 20, 1)]);
    let mut places: Vec<(u32, u32)> = Vec::new();
    while engine.scheduler.sequences.contains_key(&seq(1)) {
        let step = engine.scheduler.plan();
        if engine.scheduler.sequences.contains_key(&seq(0)) {
            assert!(
                step.spans.iter().any(|w| w.seq == seq(0)),
                "others do not wait for a long one"
            );
        }
        let place = step.spans.iter().find(|w| w.seq == seq(1)).map(|w| (w.slot.0, w.start));
        places.extend(place.filter(|p| places.last().is_none_or(|last| last.0 != p.0)));
        engine.step(&step);
    }
    // It begins in a usual slot, fills it, and goes on in the long one, computing nothing twice.
    assert_eq!(places, [(places[0].0, 0), (4, 250)]);
    assert_eq!(engine.run(100).values().copied().collect::<Vec<_>>(), [60, 850, 20]);
    assert_eq!(engine.scheduler.counts().outgrown, 1);
    let too_long = engine.scheduler.submit(&request(3, 900, 101, 1));
    assert_eq!(too_long, Err(Rejected::TooLong { needed: 1001, limit: 1000 }));
}

#[test]
fn a_long_conversation_continues_in_the_long_slot() {
    for saved_tokens in [0, 5000] {
        let mut limits = with_long();
        limits.kv.saved_tokens = saved_tokens;
        let mut engine = Engine::new(limits);
        engine.submit(&[request(1, 600, 1, 1)]);
        engine.run(100);
        let turn = with_prompt(3, &request(1, 700, 1, 1));
        engine.submit(&[turn]);
        let before = engine.computed;
        engine.run(100);
        assert_eq!(engine.computed - before, 100, "the long slot still holds the first turn");
        // Another long prompt comes between: then only host memory has it.
        engine.submit(&[request(4, 500, 1, 1)]);
        engine.run(100);
        engine.submit(&[with_prompt(5, &request(1, 800, 1, 1))]);
        let before = engine.computed;
        engine.run(100);
        assert_eq!(engine.computed - before, if saved_tokens > 0 { 100 } else { 800 });
    }
}

#[test]
fn the_long_slot_is_for_the_more_urgent() {
    let mut engine = Engine::new(with_long());
    let background = Request { priority: Priority::Background, ..request(1, 500, 100, 1) };
    engine.submit(&[background]);
    for _ in 0..20 {
        let step = engine.scheduler.plan();
        engine.step(&step);
    }
    engine.submit(&[request(2, 300, 5, 1)]);
    let step = engine.scheduler.plan();
    assert_eq!(step.spans.iter().map(|w| w.seq).collect::<Vec<_>>(), [seq(2)]);
    engine.step(&step);
    assert_eq!(engine.run(1000).values().copied().collect::<Vec<_>>(), [100, 5]);
}

/// The prompt of another request.
fn with_prompt(id: u64, of: &Request) -> Request {
    Request { id: RequestId(id), ..of.clone() }
}

/// Shapes of requests: prompt, answer, choices, all logits, shared head, priority and principal.
type Shape = (u32, u32, u32, bool, u32, u8);

fn of_shape(id: u64, (prompt, new, choices, all_logits, head, kind): Shape) -> Request {
    let prompt = with_head(id, head * 40, prompt, new).prompt;
    let priority =
        [Priority::Interactive, Priority::Normal, Priority::Background][usize::from(kind % 3)];
    let (salt, principal) = (Salt(u64::from(kind % 2)), Principal(u64::from(kind / 3)));
    Request { prompt, priority, salt, principal, all_logits, ..request(id, 1, new, choices) }
}

proptest! {
    #[test]
    fn every_request_finishes_with_exactly_its_tokens(
        shapes in proptest::collection::vec(
            (1_u32..400, 1_u32..40, 1_u32..5, any::<bool>(), 0_u32..4, 0_u8..9), 1..9,
        ),
        cells in 700_u32..3000,
        saved in prop_oneof![Just(0_u32), Just(2000)],
        every in prop_oneof![Just(0_u32), 64_u32..300],
        shares: bool,
        long: bool,
        forces: bool,
        rewinds: bool,
        drafts in prop_oneof![Just(None), (1_u32..5).prop_map(Some)],
        leaves in proptest::collection::vec((0_u64..9, 1_usize..60), 0..3),
        fails in 0_usize..200,
    ) {
        let requests: Vec<Request> =
            shapes.iter().zip(0..).map(|(&shape, id)| of_shape(id, shape)).collect();
        let mut limits = match (shares, long) {
            (true, _) => shared(cells),
            (false, true) => with_long(),
            (false, false) => LIMITS,
        };
        limits.kv.rewinds = rewinds;
        (limits.kv.saved_tokens, limits.kv.checkpoint_every) = (saved, every);
        limits.kv.saved_bytes = u64::from(saved) * 10;
        let mut engine = Engine::new(SchedulerLimits { queue: 100, ..limits });
        engine.drafts = drafts.filter(|_| rewinds);
        engine.forces = forces;
        engine.submit(&requests);
        let mut gone: Vec<u64> = leaves.iter().map(|&(id, _)| id).collect();
        for at in 0..200 {
            for &(id, _) in leaves.iter().filter(|&&(_, when)| when == at) {
                engine.scheduler.cancel(RequestId(id));
            }
            let step = engine.scheduler.plan();
            if at == fails && !step.spans.is_empty() {
                engine.fail(&step);
                gone.extend(step.spans.iter().map(|w| w.seq.request.0));
            } else {
                engine.step(&step);
            }
        }
        let generated = engine.run(20_000);
        for r in requests.iter().filter(|r| !gone.contains(&r.id.0)) {
            for choice in 0..r.choices {
                prop_assert_eq!(generated[&SeqId { request: r.id, choice }], r.max_new_tokens);
            }
        }
        let s = &engine.scheduler;
        prop_assert_eq!((s.running(), s.waiting(), s.kv_tokens(), s.sequences.len()), (0, 0, 0, 0));
    }
}
