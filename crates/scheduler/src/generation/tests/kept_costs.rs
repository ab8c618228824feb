//! Schedulers that begin with what another one has learned.

use super::*;
use crate::call_load::any_sample;
use crate::learned_costs::LearnedCosts;

/// What a scheduler has learned from serving a few requests.
fn learned() -> LearnedCosts {
    let mut engine = Engine::new(LIMITS);
    engine.submit(&(0..4).map(|id| request(id, 200, 30, 1)).collect::<Vec<_>>());
    engine.run(1000);
    engine.scheduler.learned_costs()
}

#[test]
fn the_first_step_is_predicted() {
    let first = |mut s: Scheduler| {
        s.submit(&request(9, 150, 5, 1)).unwrap();
        s.plan()
    };
    assert_eq!(first(Scheduler::new(LIMITS)).predicted(), Duration::ZERO);
    let kept = learned();
    assert!(!kept.is_empty());
    let mut s = Scheduler::with_costs(LIMITS, &kept);
    assert_eq!((s.learned_costs(), s.sample_count()), (kept.clone(), kept.len() as u64));
    s.submit(&request(9, 150, 5, 1)).unwrap();
    assert!(s.backlog() > Duration::ZERO);
    let step = s.plan();
    let (seen, real) = (step.predicted().as_secs_f64(), took(&step)[0].as_secs_f64());
    assert!((0.8..1.25).contains(&(seen / real)), "{seen} instead of {real}");
}

proptest! {
    /// Whatever was kept, each request gets all its tokens.
    #[test]
    fn any_restored_samples_give_finite_estimates(
        samples in proptest::collection::vec(any_sample(), 0..60),
        shapes in proptest::collection::vec((1_u32..400, 1_u32..30), 1..6),
        shares: bool,
        held: bool,
        drafts in prop_oneof![Just(None), (1_u32..5).prop_map(Some)],
    ) {
        let parts = samples.chunks(samples.len() / 4 + 1).map(<[_]>::to_vec);
        let mut parts = parts.chain(std::iter::repeat(Vec::new()));
        let mut next = || parts.next().unwrap_or_default();
        let kept = LearnedCosts { rows: next(), short: next(), chunk: next(), mixed: next() };
        let limits = if shares { shared(3000) } else { LIMITS };
        let itl_target = if held { limits.itl_target } else { ItlTarget::DEFAULT };
        let limits = SchedulerLimits { itl_target, ..limits };
        let mut engine = Engine::new(limits);
        engine.scheduler = Scheduler::with_costs(limits, &kept);
        engine.drafts = drafts;
        let requests: Vec<Request> =
            shapes.iter().zip(0..).map(|(&(prompt, new), id)| request(id, prompt, new, 1)).collect();
        engine.submit(&requests);
        // An estimate of any size, but no panic.
        let _ = engine.scheduler.backlog();
        prop_assert!((0.0..=1.0).contains(&engine.scheduler.draft_break_even()));
        let generated = engine.run(5000);
        for (id, &(_, new)) in (0..).zip(&shapes) {
            prop_assert_eq!(generated[&seq(id)], new);
        }
    }
}
