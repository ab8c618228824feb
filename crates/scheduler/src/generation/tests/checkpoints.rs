//! Models that cannot be cut back, with checkpoints.

use super::*;

/// Where slots cannot be cut back, with host memory for some ten checkpoints.
fn windowed(of: SchedulerLimits) -> SchedulerLimits {
    let kv = KvLimits {
        rewinds: false,
        saved_tokens: 0,
        saved_bytes: 50_000,
        checkpoint_every: 256,
        ..of.kv
    };
    SchedulerLimits { kv, queue: 100, ..of }
}

/// What is computed of this prompt when it comes after others.
fn computed_of(engine: &mut Engine, id: u64, prompt: &[Token]) -> u32 {
    let before = engine.computed;
    engine.submit(&[Request { prompt: prompt.into(), ..request(id, 1, 1, 1) }]);
    engine.run(1000);
    engine.computed - before
}

#[test]
fn without_trimming_prompts_continue_from_checkpoints() {
    let prompt = |from: u32, len: u32| (from..from + len).collect::<Vec<u32>>();
    for limits in [LIMITS, shared(4000)] {
        let mut engine = Engine::new(windowed(limits));
        let first = prompt(0, 800);
        assert_eq!(computed_of(&mut engine, 1, &first), 800);
        assert_eq!(computed_of(&mut engine, 2, &first), 4, "the same again");
        let other_tail = [prompt(0, 770), prompt(5000, 30)].concat();
        assert_eq!(
            computed_of(&mut engine, 3, &other_tail),
            100,
            "from a checkpoint before its end"
        );
        let head = |from: u32| [prompt(0, 340), prompt(from, 100)].concat();
        assert_eq!(computed_of(&mut engine, 4, &head(6000)), 440 - 256);
        assert_eq!(
            computed_of(&mut engine, 5, &head(7000)),
            100,
            "where two parted is a checkpoint"
        );
        let reuse = engine.scheduler.counts().reuse;
        assert_eq!(reuse, BTreeMap::from([(Reuse::Host, 4), (Reuse::Unseen, 1)]));
        let other = Request { salt: Salt(1), prompt: first.into(), ..request(6, 1, 1, 1) };
        let before = engine.computed;
        engine.submit(&[other]);
        engine.run(1000);
        assert_eq!(engine.computed - before, 800, "no prefix is found under another salt");
    }
}

#[test]
fn borders_between_messages_are_checkpoints() {
    let mut engine = Engine::new(windowed(shared(4000)));
    let turn = |id: u64, question: u32| {
        let prompt = (0..530).chain(question..question + 190).collect();
        Request { prompt, borders: Arc::new([0, 200, 530, 715]), ..request(id, 1, 1, 1) }
    };
    engine.submit(&[turn(1, 5000)]);
    engine.run(100);
    let before = engine.computed;
    engine.submit(&[turn(2, 6000)]);
    engine.run(100);
    assert_eq!(engine.computed - before, 190);
    assert_eq!(computed_of(&mut engine, 3, &(0..200).chain(7000..7100).collect::<Vec<_>>()), 100);
}

#[test]
fn a_preempted_and_evicted_sequence_resumes_from_a_checkpoint() {
    let mut engine = Engine::new(windowed(SchedulerLimits { parallel: 1, ..LIMITS }));
    engine.submit(&[Request { priority: Priority::Background, ..request(1, 900, 20, 1) }]);
    for _ in 0..14 {
        let step = engine.scheduler.plan();
        engine.step(&step);
    }
    for id in 2..6 {
        engine.submit(&[request(id, 300, 5, 1)]);
        while engine.scheduler.sequences.contains_key(&seq(id)) {
            let step = engine.scheduler.plan();
            assert_eq!(step.spans[0].seq, seq(id));
            engine.step(&step);
        }
    }
    assert!(engine.scheduler.counts().evicted > 0);
    engine.run(1000);
    assert!(engine.computed <= 900 + 256 + 20 + 4 * 305, "{}", engine.computed);
}

#[test]
fn a_sequence_that_outgrows_its_slot_resumes_in_the_long_slot() {
    let mut engine = Engine::new(windowed(with_long()));
    engine.submit(&[request(1, 150, 850, 1)]);
    engine.run(1000);
    assert_eq!((engine.computed, engine.scheduler.counts().outgrown), (999, 1));
    // A prompt too long for a part has checkpoints as well.
    let prompt: Vec<u32> = (90_000..90_700).collect();
    assert_eq!(computed_of(&mut engine, 2, &prompt), 700);
    assert_eq!(computed_of(&mut engine, 3, &prompt), 4);
}
