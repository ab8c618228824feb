//! How prompts are cut into chunks.

use super::*;

#[test]
fn a_prompt_between_rows_lends_them_a_token() {
    let itl_target = ItlTarget::Adaptive(TARGET);
    let mut s = Scheduler::new(Limits { batch_tokens: 512, itl_target, ..LIMITS });
    for id in 0..3 {
        s.submit(&request(id, 10, 50, 1)).unwrap();
    }
    let step = s.plan();
    assert_eq!(step.work.iter().map(|w| w.slot.0).collect::<Vec<_>>(), [0, 1, 2]);
    s.complete(&step, &took(&step));
    for work in &step.work {
        s.append(work.seq, 7);
    }
    // The one in the middle leaves, and its slot gets a prompt.
    s.finish(seq(1));
    s.submit(&request(9, 300, 5, 1)).unwrap();
    let step = s.plan();
    let parts: Vec<_> = step.work.iter().map(|w| (w.slot.0, w.start, w.tokens)).collect();
    assert_eq!(parts[..3], [(0, 10, 1), (1, 0, 1), (2, 10, 1)], "{step:?}");
    assert_eq!(step.calls[0].kind, CallKind::Rows);
    assert_eq!((parts[3].0, parts[3].1), (1, 1), "its chunk goes on after that");
    assert!(parts[3].2 >= BLOCK, "and is still a block: {parts:?}");
    assert!(step.work[1].output == Output::None);
    s.complete(&step, &took(&step));
    let next = s.plan();
    assert!(next.work.iter().any(|w| w.slot.0 == 1 && w.start == 1 + parts[3].2), "{next:?}");
}

#[test]
fn a_reproducible_prompt_ends_with_a_whole_block() {
    for prompt in [64, 70, 300, 550, 1000] {
        let kv = KvLimits { slot_tokens: 2000, cells: 8000, ..LIMITS.kv };
        let limits = Limits { reproducible: true, batch_tokens: 2048, kv, ..LIMITS };
        let mut s = Scheduler::new(limits);
        s.submit(&request(1, prompt, 5, 1)).unwrap();
        let mut computed = 0;
        while computed < prompt {
            let step = s.plan();
            assert!(step.work[0].tokens >= BLOCK, "{prompt}: {step:?}");
            computed += step.work[0].tokens;
            s.complete(&step, &took(&step));
        }
    }
}
