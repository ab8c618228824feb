//! How prompts are cut into chunks.

use super::*;

#[test]
fn a_prompt_between_rows_lends_them_a_token() {
    let itl_target = ItlTarget::Adaptive(TARGET);
    let mut s = Scheduler::new(SchedulerLimits { batch_tokens: 512, itl_target, ..LIMITS });
    for id in 0..3 {
        s.submit(&request(id, 10, 50, 1)).unwrap();
    }
    let step = s.plan();
    assert_eq!(step.spans.iter().map(|w| w.slot.0).collect::<Vec<_>>(), [0, 1, 2]);
    s.complete_step(&step, &took(&step));
    for span in &step.spans {
        s.append_token(span.seq, 7);
    }
    // The one in the middle leaves, and its slot gets a prompt.
    s.finish(seq(1));
    s.submit(&request(9, 300, 5, 1)).unwrap();
    let step = s.plan();
    let parts: Vec<_> = step.spans.iter().map(|w| (w.slot.0, w.start, w.tokens)).collect();
    assert_eq!(parts[..3], [(0, 10, 1), (1, 0, 1), (2, 10, 1)], "{step:?}");
    assert_eq!(step.calls[0].kind, CallKind::Rows);
    assert_eq!((parts[3].0, parts[3].1), (1, 1), "its chunk goes on after that");
    assert!(parts[3].2 >= BLOCK, "and is still a block: {parts:?}");
    assert!(step.spans[1].output == Output::None);
    s.complete_step(&step, &took(&step));
    let next = s.plan();
    assert!(next.spans.iter().any(|w| w.slot.0 == 1 && w.start == 1 + parts[3].2), "{next:?}");
}

proptest! {
    /// For any costs, decode rows beside it and reused prefix.
    #[test]
    fn a_reproducible_prompt_is_computed_in_whole_blocks_from_its_start(
        prompt in BLOCK..2500,
        head in 0_u32..600,
        beside in 0_u64..3,
        base in 0.0..0.1,
        token in 1e-4..8e-3,
        held in proptest::bool::ANY,
    ) {
        let kv = KvLimits { slot_tokens: 4000, cells: 16_000, ..LIMITS.kv };
        let itl_target = if held { ItlTarget::Held(TARGET) } else { ItlTarget::Adaptive(TARGET) };
        let mut s =
            Scheduler::new(SchedulerLimits { reproducible: true, batch_tokens: 2048, kv, itl_target, ..LIMITS });
        let took = |step: &Step| -> Vec<Duration> {
            let time = |tokens: u32| Duration::from_secs_f64(base + token * f64::from(tokens));
            step.calls.iter().map(|call| time(call.load.tokens)).collect()
        };
        for id in 0..=beside {
            let own = if id == 0 { prompt } else { BLOCK };
            s.submit(&with_head(id, head, own, 300)).unwrap();
        }
        let mut turn = 0;
        let mut decoding = std::collections::BTreeSet::new();
        let (mut again, mut reused, mut is_new) = (0, 0, false);
        for _ in 0..200 {
            let step = s.plan();
            for span in step.spans.iter().filter(|w| !decoding.contains(&w.seq)) {
                prop_assert_eq!(span.start % BLOCK, 0, "{:?}", step);
                if std::mem::take(&mut is_new) {
                    again += 1;
                    reused += u32::from(span.start > 0);
                }
                let is_last = span.output == Output::Last;
                prop_assert!(is_last || span.tokens % BLOCK == 0, "{:?}", step);
                prop_assert!(span.tokens >= BLOCK, "{:?}", step);
            }
            s.complete_step(&step, &took(&step));
            for span in step.spans.iter().filter(|w| w.output == Output::Last) {
                decoding.insert(span.seq);
                s.append_token(span.seq, 7);
            }
            if decoding.len() as u64 == beside + 1 {
                // The same again, and another that begins like it, in turn: what is there is reused.
                s.finish(seq(turn));
                decoding.remove(&seq(turn));
                turn = if turn == 0 { 10 } else { 0 };
                s.submit(&with_head(turn, head, prompt, 300)).unwrap();
                is_new = true;
            }
        }
        // Where what they share is long enough to be copied.
        prop_assert!(head < 2 * BLOCK || reused == again, "{reused} of {again}");
    }
}
