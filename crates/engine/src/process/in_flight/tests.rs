//! Who is asked again, who is tried, and who is given up.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::message::SubmitTime;
use crate::request::{GenerateRequest, SamplingParams};
use crate::vocab::ParseSpecial;

fn generate(id: u64) -> Command {
    let request = GenerateRequest::plain([1, 2], 100, SamplingParams::plain(0.0, 1));
    Command::Generate(Box::new(GenerateCommand {
        id,
        request,
        submitted: SubmitTime::now(),
        started: false,
        partial: Vec::new(),
    }))
}

fn grew(id: u64, tokens: u32) -> Report {
    let (text, logprobs, held) = (String::new(), Vec::new(), Vec::new());
    let grown =
        NewToken { choice: 0, token: tokens, tokens, rng_position: 0, text, logprobs, held };
    let (after, kind) = (Duration::ZERO, UpdateKind::Token(grown));
    Report::Updates(vec![Update { id, after, kind, last: false }])
}

/// One whose child is there.
fn in_flight() -> InFlight {
    let mut in_flight = InFlight::default();
    assert_eq!(in_flight.handle_loaded(), Actions::default());
    in_flight
}

/// The numbers of the requests that the child is asked for.
fn asked(messages: &[ToChild]) -> Vec<u64> {
    let id = |message: &ToChild| match message {
        ToChild::Command(Command::Generate(generate)) => Some(generate.id),
        ToChild::Question { id, .. } => Some(*id),
        _ => None,
    };
    messages.iter().filter_map(id).collect()
}

/// The tokens that a command brings.
fn partial(message: &ToChild) -> usize {
    let ToChild::Command(Command::Generate(generate)) = message else { panic!("{message:?}") };
    generate.partial[0].as_ref().unwrap().tokens.len()
}

#[test]
fn all_go_on_where_they_were() {
    let mut in_flight = in_flight();
    for id in 1..4 {
        assert_eq!(asked(&in_flight.handle_command(generate(id)).to_child), [id]);
    }
    in_flight.handle_report(grew(2, 1)).unwrap();
    in_flight.handle_report(grew(2, 2)).unwrap();
    let cancel = in_flight.handle_command(Command::Cancel(3));
    assert_eq!(cancel.to_child, [ToChild::Command(Command::Cancel(3))]);
    let died = in_flight.handle_exit(&[1, 2]);
    assert_eq!(
        died.reports,
        [last_update(3, UpdateKind::Dropped)],
        "the child can no longer say so"
    );
    let again = in_flight.handle_loaded().to_child;
    assert_eq!(asked(&again), [1, 2]);
    assert_eq!(again.iter().map(partial).collect::<Vec<_>>(), [0, 2]);
    assert!(in_flight.handle_loaded().to_child.is_empty());
}

#[test]
fn what_a_reader_knows_is_not_told_again() {
    let mut in_flight = in_flight();
    in_flight.handle_command(generate(1));
    let started = || {
        let (kind, after) =
            (UpdateKind::Started { queued: Duration::ZERO, cached: 0 }, Duration::ZERO);
        Report::Updates(vec![Update { id: 1, after, kind, last: false }])
    };
    assert_eq!(in_flight.handle_report(started()).unwrap().reports, [started()]);
    in_flight.handle_exit(&[1]);
    in_flight.handle_loaded();
    assert_eq!(in_flight.handle_report(started()).unwrap().reports, []);
}

#[test]
fn the_one_that_kills_is_found_and_the_others_go_on() {
    let mut in_flight = in_flight();
    (1..=4).for_each(|id| drop(in_flight.handle_command(generate(id))));
    let mut deaths = 0;
    let mut killed = |in_flight: &mut InFlight, computing: &[u64]| {
        deaths += 1;
        in_flight.handle_exit(computing)
    };
    killed(&mut in_flight, &[1, 2, 3]);
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [1, 2, 3, 4]);
    killed(&mut in_flight, &[1, 2, 3]);
    // Each is tried alone; whoever comes meanwhile waits.
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [1]);
    assert!(in_flight.handle_command(generate(5)).to_child.is_empty());
    for tokens in 1..CLEARING_TOKENS {
        assert!(in_flight.handle_report(grew(1, tokens)).unwrap().to_child.is_empty());
    }
    let withdrawn = in_flight.handle_report(grew(1, CLEARING_TOKENS)).unwrap();
    assert_eq!(withdrawn.to_child, [ToChild::Command(Command::Cancel(1))]);
    // What it said before it heard of that still counts.
    assert_eq!(in_flight.handle_report(grew(1, CLEARING_TOKENS + 1)).unwrap().to_child, []);
    let dropped = in_flight.handle_report(last_update(1, UpdateKind::Dropped)).unwrap();
    assert_eq!((asked(&dropped.to_child), dropped.reports), (vec![2], vec![]));
    let died = killed(&mut in_flight, &[2]);
    assert_eq!(died.rejected, [2]);
    assert_eq!(died.reports, [last_update(2, UpdateKind::Failed(Failure::Crashed))]);
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [3]);
    let finished =
        UpdateKind::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 1 };
    assert_eq!(
        asked(&in_flight.handle_report(last_update(3, finished)).unwrap().to_child),
        [1, 4, 5]
    );
    assert_eq!(deaths, 3);
}

#[test]
fn questions_are_asked_again_and_tried_like_requests() {
    let mut in_flight = in_flight();
    let question = |text: &str| Question::Tokenise(vec![text.to_owned()], ParseSpecial::No);
    in_flight.handle_command(generate(1));
    let (deadly, other) = (FIRST, FIRST + 1);
    assert_eq!(
        asked(&in_flight.add_question(deadly, question("deadly"), false).to_child),
        [deadly]
    );
    in_flight.add_question(other, question("other"), true);
    for _ in 0..2 {
        assert_eq!(in_flight.handle_exit(&[deadly, 1]).rejected, [0; 0]);
        if in_flight.isolating {
            break;
        }
        assert_eq!(asked(&in_flight.handle_loaded().to_child), [1, deadly, other]);
    }
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [1]);
    let finished =
        UpdateKind::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 1 };
    assert_eq!(
        asked(&in_flight.handle_report(last_update(1, finished)).unwrap().to_child),
        [deadly]
    );
    let died = in_flight.handle_exit(&[deadly]);
    assert_eq!((died.rejected, died.reports), (vec![deadly], vec![]));
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [other]);
    let answer = Answer::Tokens(vec![vec![1]]);
    assert!(in_flight.handle_answer(other, &Answer::Compiled(Ok(()))).is_err());
    assert!(in_flight.handle_answer(99, &answer).is_err());
    assert_eq!(in_flight.handle_answer(other, &answer).unwrap(), Actions::default());
    assert_eq!(in_flight.len(), 0);
}

const FIRST: u64 = 1 << 63;

#[test]
fn who_dies_of_what_nobody_knows_of_does_not_do_so_for_ever() {
    let mut in_flight = in_flight();
    in_flight.handle_command(generate(1));
    let mut deaths = 0;
    while in_flight.len() > 0 {
        in_flight.handle_exit(&[99]);
        in_flight.handle_loaded();
        deaths += 1;
        assert!(deaths <= 6);
    }
}

#[test]
fn who_has_left_leaves_no_suspicion_behind() {
    let mut in_flight = in_flight();
    (1..=3).for_each(|id| drop(in_flight.handle_command(generate(id))));
    (0..2).for_each(|_| {
        in_flight.handle_exit(&[1, 2, 3]);
        in_flight.handle_loaded();
    });
    // The first one is tried, and its client leaves; the child still has it.
    let left = in_flight.handle_command(Command::Cancel(1));
    assert_eq!(left.to_child, [ToChild::Command(Command::Cancel(1))], "nobody else is tried yet");
    assert_eq!(in_flight.handle_exit(&[1]).rejected, [0; 0]);
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [2]);
    in_flight.handle_command(Command::Cancel(2));
    assert_eq!(
        asked(&in_flight.handle_report(last_update(2, UpdateKind::Dropped)).unwrap().to_child),
        [3]
    );
}

#[test]
fn what_no_child_says_that_is_well_is_an_error() {
    let embed = |id| {
        let (inputs, submitted, timeout) = (vec![vec![1]; 2], SubmitTime::now(), None);
        Command::Embed(Box::new(EmbedCommand { id, inputs, submitted, started: false, timeout }))
    };
    let finished =
        |choice| UpdateKind::Finished { choice, reason: crate::FinishReason::Length, tokens: 1 };
    let news =
        |id, kind, last| Report::Updates(vec![Update { id, after: Duration::ZERO, kind, last }]);
    let vectors = |id, count| Report::Vectors { id, vectors: Ok(vec![vec![1.0]; count]) };
    let bad = [
        vectors(1, 2),
        vectors(2, 1),
        Report::Dropped(1),
        Report::Dropped(2),
        news(1, finished(7), true),
        news(1, finished(0), false),
        news(1, UpdateKind::Dropped, true),
        news(1, UpdateKind::Failed(Failure::Step), false),
        news(2, finished(0), true),
    ];
    for report in bad {
        let mut in_flight = in_flight();
        in_flight.handle_command(generate(1));
        in_flight.handle_command(embed(2));
        assert!(in_flight.handle_report(report.clone()).is_err(), "{report:?}");
        assert!(in_flight.handle_report(vectors(2, 2)).is_ok());
        assert!(in_flight.handle_report(news(1, finished(0), true)).is_ok());
        // Of what is over nothing counts.
        assert!(in_flight.handle_report(report.clone()).is_ok());
    }
}

#[test]
fn without_a_child_requests_wait_leave_and_run_out_of_time() {
    let mut in_flight = InFlight::new(Some(Duration::from_secs(5)));
    let timed = |id, timeout| {
        let Command::Generate(mut generate) = generate(id) else { unreachable!() };
        generate.request.admission.timeout = timeout;
        Command::Generate(generate)
    };
    for id in 1..4 {
        assert_eq!(in_flight.handle_command(timed(id, None)), Actions::default());
    }
    in_flight.handle_command(timed(4, Some(Duration::from_secs(1))));
    let left = in_flight.handle_command(Command::Cancel(2));
    assert_eq!((left.to_child, left.reports), (vec![], vec![last_update(2, UpdateKind::Dropped)]));
    let after = |seconds| Instant::now() + Duration::from_secs(seconds);
    assert_eq!(in_flight.fail_overdue(after(0)), Actions::default());
    let own = UpdateKind::Failed(Failure::Timeout(Duration::from_secs(1)));
    assert_eq!(in_flight.fail_overdue(after(2)).reports, [last_update(4, own)]);
    assert_eq!(asked(&in_flight.handle_loaded().to_child), [1, 3]);
    let started = UpdateKind::Started { queued: Duration::ZERO, cached: 0 };
    in_flight
        .handle_report(Report::Updates(vec![Update {
            id: 1,
            after: Duration::ZERO,
            kind: started,
            last: false,
        }]))
        .unwrap();
    let reaped = in_flight.fail_overdue(after(6));
    let queue = UpdateKind::Failed(Failure::QueueTimeout(Duration::from_secs(5)));
    assert_eq!(reaped.reports, [last_update(3, queue)], "the other one has left the queue");
    assert_eq!(reaped.to_child, [ToChild::Command(Command::Cancel(3))]);
}

proptest! {
    /// Whichever requests kill, each does so three times at most, all others finish, and the child is
    /// never asked for one twice.
    #[test]
    fn killers_are_given_up_and_nobody_else(
        killers in proptest::collection::btree_set(0_u64..12, 0..4),
        at in proptest::collection::vec(0_u32..40, 12),
        parallel in 1_usize..6,
    ) {
        let mut in_flight = in_flight();
        let (mut running, mut tokens) = (BTreeSet::new(), vec![0_u32; 12]);
        let (mut deaths, mut finished, mut guilty) = (vec![0; 12], BTreeSet::new(), BTreeSet::new());
        for id in 0..12 {
            running.extend(asked(&in_flight.handle_command(generate(id)).to_child));
        }
        for _ in 0..5000 {
            let computing: Vec<u64> = running.iter().copied().take(parallel).collect();
            if computing.is_empty() {
                break;
            }
            let kills = |id: &&u64| killers.contains(id) && tokens[**id as usize] >= at[**id as usize];
            if let Some(&killer) = computing.iter().find(kills) {
                deaths[killer as usize] += 1;
                running.clear();
                guilty.extend(in_flight.handle_exit(&computing).rejected);
                running.extend(asked(&in_flight.handle_loaded().to_child));
                continue;
            }
            for id in computing {
                let count = &mut tokens[id as usize];
                *count += 1;
                let report = if *count >= 40 {
                    finished.insert(id);
                    running.remove(&id);
                    let kind = UpdateKind::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 40 };
                    last_update(id, kind)
                } else {
                    grew(id, *count)
                };
                let mut ask = in_flight.handle_report(report).unwrap().to_child;
                while let Some(ToChild::Command(Command::Cancel(id))) = ask.first() {
                    let id = *id;
                    // It may have ended meanwhile: then the child does not know it.
                    ask.remove(0);
                    if running.remove(&id) {
                        ask.extend(in_flight.handle_report(last_update(id, UpdateKind::Dropped)).unwrap().to_child);
                    }
                }
                for id in asked(&ask) {
                    prop_assert!(running.insert(id), "{id} is asked for twice");
                }
            }
        }
        prop_assert_eq!(&guilty, &killers);
        prop_assert_eq!(finished.len() + guilty.len(), 12);
        prop_assert!(deaths.iter().all(|&deaths| deaths <= 3), "{:?}", deaths);
    }
}
