//! What decisions cost where many wait.

use std::time::Instant;

use super::*;

/// The least time of a step's decisions beside so many queued requests.
fn step_time(queued: u64, principals: u64) -> Duration {
    let mut s = Scheduler::new(SchedulerLimits { queue: usize::MAX, ..shared(4000) });
    for id in 0..queued + 4 {
        let priority = [Priority::Normal, Priority::Background][usize::from(id % 2 == 1)];
        s.submit(&Request {
            principal: Principal(id % principals),
            priority,
            ..request(id, 5, 900, 1)
        })
        .unwrap();
    }
    let mut least = Duration::MAX;
    for _ in 0..300 {
        let begin = Instant::now();
        let step = s.plan();
        s.complete_step(&step, &took(&step));
        least = least.min(begin.elapsed());
        for span in step.spans.iter().filter(|w| w.output.samples()) {
            s.append_token(span.seq, 7);
        }
    }
    assert!(s.waiting() as u64 >= queued);
    least
}

#[test]
fn the_time_of_a_step_does_not_depend_on_the_queue() {
    for principals in [1, u64::MAX] {
        let (few, many) = (step_time(10, principals), step_time(20_000, principals));
        // Going through them takes milliseconds.
        assert!(many < few * 3 + Duration::from_micros(50), "{many:?} for {few:?}");
    }
}

#[test]
fn cancelling_does_not_depend_on_the_queue() {
    let mut s = Scheduler::new(SchedulerLimits { queue: usize::MAX, ..LIMITS });
    for id in 0..100_000 {
        s.submit(&request(id, 1, 5, 1)).unwrap();
    }
    let begin = Instant::now();
    // From the middle of the line outwards, where a search or a shift costs most.
    for i in 0..50_000 {
        s.cancel(RequestId(50_000 + i));
        s.cancel(RequestId(49_999 - i));
    }
    assert_eq!((s.waiting(), s.sequences.len()), (0, 0));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}
