//! Who is asked again, who is tried, and who is given up.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::message::Moment;
use crate::request::{GenerateRequest, SamplingParams};
use crate::vocab::ParseSpecial;

fn generate(id: u64) -> Command {
    let request = GenerateRequest::plain([1, 2], 100, SamplingParams::plain(0.0, 1));
    Command::Generate(Box::new(Generate {
        id,
        request,
        submitted: Moment::now(),
        started: false,
        said: Vec::new(),
    }))
}

fn grew(id: u64, tokens: u32) -> Report {
    let (text, logprobs, held) = (String::new(), Vec::new(), Vec::new());
    let grown = Grown { choice: 0, token: tokens, tokens, draws: 0, text, logprobs, held };
    let (after, what) = (Duration::ZERO, What::Grew(grown));
    Report::News(vec![News { id, after, what, last: false }])
}

/// One whose child is there.
fn ledger() -> Ledger {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.loaded(), Outcome::default());
    ledger
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
fn said(message: &ToChild) -> usize {
    let ToChild::Command(Command::Generate(generate)) = message else { panic!("{message:?}") };
    generate.said[0].as_ref().unwrap().tokens.len()
}

#[test]
fn all_go_on_where_they_were() {
    let mut ledger = ledger();
    for id in 1..4 {
        assert_eq!(asked(&ledger.ask(generate(id)).ask), [id]);
    }
    ledger.hear(grew(2, 1)).unwrap();
    ledger.hear(grew(2, 2)).unwrap();
    let cancel = ledger.ask(Command::Cancel(3));
    assert_eq!(cancel.ask, [ToChild::Command(Command::Cancel(3))]);
    let died = ledger.died(&[1, 2]);
    assert_eq!(died.tell, [over(3, What::Dropped)], "the child can no longer say so");
    let again = ledger.loaded().ask;
    assert_eq!(asked(&again), [1, 2]);
    assert_eq!(again.iter().map(said).collect::<Vec<_>>(), [0, 2]);
    assert!(ledger.loaded().ask.is_empty());
}

#[test]
fn what_a_reader_knows_is_not_told_again() {
    let mut ledger = ledger();
    ledger.ask(generate(1));
    let started = || {
        let (what, after) = (What::Started { queued: Duration::ZERO, cached: 0 }, Duration::ZERO);
        Report::News(vec![News { id: 1, after, what, last: false }])
    };
    assert_eq!(ledger.hear(started()).unwrap().tell, [started()]);
    ledger.died(&[1]);
    ledger.loaded();
    assert_eq!(ledger.hear(started()).unwrap().tell, []);
}

#[test]
fn the_one_that_kills_is_found_and_the_others_go_on() {
    let mut ledger = ledger();
    (1..=4).for_each(|id| drop(ledger.ask(generate(id))));
    let mut deaths = 0;
    let mut killed = |ledger: &mut Ledger, computing: &[u64]| {
        deaths += 1;
        ledger.died(computing)
    };
    killed(&mut ledger, &[1, 2, 3]);
    assert_eq!(asked(&ledger.loaded().ask), [1, 2, 3, 4]);
    killed(&mut ledger, &[1, 2, 3]);
    // Each is tried alone; whoever comes meanwhile waits.
    assert_eq!(asked(&ledger.loaded().ask), [1]);
    assert!(ledger.ask(generate(5)).ask.is_empty());
    for tokens in 1..INNOCENT {
        assert!(ledger.hear(grew(1, tokens)).unwrap().ask.is_empty());
    }
    let withdrawn = ledger.hear(grew(1, INNOCENT)).unwrap();
    assert_eq!(withdrawn.ask, [ToChild::Command(Command::Cancel(1))]);
    // What it said before it heard of that still counts.
    assert_eq!(ledger.hear(grew(1, INNOCENT + 1)).unwrap().ask, []);
    let dropped = ledger.hear(over(1, What::Dropped)).unwrap();
    assert_eq!((asked(&dropped.ask), dropped.tell), (vec![2], vec![]));
    let died = killed(&mut ledger, &[2]);
    assert_eq!(died.guilty, [2]);
    assert_eq!(died.tell, [over(2, What::Failed(Failure::Crashed))]);
    assert_eq!(asked(&ledger.loaded().ask), [3]);
    let finished = What::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 1 };
    assert_eq!(asked(&ledger.hear(over(3, finished)).unwrap().ask), [1, 4, 5]);
    assert_eq!(deaths, 3);
}

#[test]
fn questions_are_asked_again_and_tried_like_requests() {
    let mut ledger = ledger();
    let question = |text: &str| Question::Tokenise(vec![text.to_owned()], ParseSpecial::No);
    ledger.ask(generate(1));
    let (deadly, other) = (FIRST, FIRST + 1);
    assert_eq!(asked(&ledger.question(deadly, question("deadly"), false).ask), [deadly]);
    ledger.question(other, question("other"), true);
    for _ in 0..2 {
        assert_eq!(ledger.died(&[deadly, 1]).guilty, [0; 0]);
        if ledger.trying {
            break;
        }
        assert_eq!(asked(&ledger.loaded().ask), [1, deadly, other]);
    }
    assert_eq!(asked(&ledger.loaded().ask), [1]);
    let finished = What::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 1 };
    assert_eq!(asked(&ledger.hear(over(1, finished)).unwrap().ask), [deadly]);
    let died = ledger.died(&[deadly]);
    assert_eq!((died.guilty, died.tell), (vec![deadly], vec![]));
    assert_eq!(asked(&ledger.loaded().ask), [other]);
    let answer = Answer::Tokens(vec![vec![1]]);
    assert!(ledger.answered(other, &Answer::Compiled(Ok(()))).is_err());
    assert!(ledger.answered(99, &answer).is_err());
    assert_eq!(ledger.answered(other, &answer).unwrap(), Outcome::default());
    assert_eq!(ledger.len(), 0);
}

const FIRST: u64 = 1 << 63;

#[test]
fn who_dies_of_what_nobody_knows_of_does_not_do_so_for_ever() {
    let mut ledger = ledger();
    ledger.ask(generate(1));
    let mut deaths = 0;
    while ledger.len() > 0 {
        ledger.died(&[99]);
        ledger.loaded();
        deaths += 1;
        assert!(deaths <= 6);
    }
}

#[test]
fn who_has_left_leaves_no_suspicion_behind() {
    let mut ledger = ledger();
    (1..=3).for_each(|id| drop(ledger.ask(generate(id))));
    (0..2).for_each(|_| {
        ledger.died(&[1, 2, 3]);
        ledger.loaded();
    });
    // The first one is tried, and its client leaves; the child still has it.
    let left = ledger.ask(Command::Cancel(1));
    assert_eq!(left.ask, [ToChild::Command(Command::Cancel(1))], "nobody else is tried yet");
    assert_eq!(ledger.died(&[1]).guilty, [0; 0]);
    assert_eq!(asked(&ledger.loaded().ask), [2]);
    ledger.ask(Command::Cancel(2));
    assert_eq!(asked(&ledger.hear(over(2, What::Dropped)).unwrap().ask), [3]);
}

#[test]
fn what_no_child_says_that_is_well_is_an_error() {
    let embed = |id| {
        let (inputs, submitted, timeout) = (vec![vec![1]; 2], Moment::now(), None);
        Command::Embed(Box::new(Embed { id, inputs, submitted, started: false, timeout }))
    };
    let finished =
        |choice| What::Finished { choice, reason: crate::FinishReason::Length, tokens: 1 };
    let news = |id, what, last| Report::News(vec![News { id, after: Duration::ZERO, what, last }]);
    let vectors = |id, count| Report::Vectors { id, vectors: Ok(vec![vec![1.0]; count]) };
    let bad = [
        vectors(1, 2),
        vectors(2, 1),
        Report::Dropped(1),
        Report::Dropped(2),
        news(1, finished(7), true),
        news(1, finished(0), false),
        news(1, What::Dropped, true),
        news(1, What::Failed(Failure::Step), false),
        news(2, finished(0), true),
    ];
    for report in bad {
        let mut ledger = ledger();
        ledger.ask(generate(1));
        ledger.ask(embed(2));
        assert!(ledger.hear(report.clone()).is_err(), "{report:?}");
        assert!(ledger.hear(vectors(2, 2)).is_ok());
        assert!(ledger.hear(news(1, finished(0), true)).is_ok());
        // Of what is over nothing counts.
        assert!(ledger.hear(report.clone()).is_ok());
    }
}

#[test]
fn without_a_child_requests_wait_leave_and_run_out_of_time() {
    let mut ledger = Ledger::new(Some(Duration::from_secs(5)));
    let timed = |id, timeout| {
        let Command::Generate(mut generate) = generate(id) else { unreachable!() };
        generate.request.origin.timeout = timeout;
        Command::Generate(generate)
    };
    for id in 1..4 {
        assert_eq!(ledger.ask(timed(id, None)), Outcome::default());
    }
    ledger.ask(timed(4, Some(Duration::from_secs(1))));
    let left = ledger.ask(Command::Cancel(2));
    assert_eq!((left.ask, left.tell), (vec![], vec![over(2, What::Dropped)]));
    let after = |seconds| Instant::now() + Duration::from_secs(seconds);
    assert_eq!(ledger.reap(after(0)), Outcome::default());
    let own = What::Failed(Failure::Timeout(Duration::from_secs(1)));
    assert_eq!(ledger.reap(after(2)).tell, [over(4, own)]);
    assert_eq!(asked(&ledger.loaded().ask), [1, 3]);
    let started = What::Started { queued: Duration::ZERO, cached: 0 };
    ledger
        .hear(Report::News(vec![News { id: 1, after: Duration::ZERO, what: started, last: false }]))
        .unwrap();
    let reaped = ledger.reap(after(6));
    let queue = What::Failed(Failure::QueueTimeout(Duration::from_secs(5)));
    assert_eq!(reaped.tell, [over(3, queue)], "the other one has left the queue");
    assert_eq!(reaped.ask, [ToChild::Command(Command::Cancel(3))]);
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
        let mut ledger = ledger();
        let (mut running, mut tokens) = (BTreeSet::new(), vec![0_u32; 12]);
        let (mut deaths, mut finished, mut guilty) = (vec![0; 12], BTreeSet::new(), BTreeSet::new());
        for id in 0..12 {
            running.extend(asked(&ledger.ask(generate(id)).ask));
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
                guilty.extend(ledger.died(&computing).guilty);
                running.extend(asked(&ledger.loaded().ask));
                continue;
            }
            for id in computing {
                let count = &mut tokens[id as usize];
                *count += 1;
                let report = if *count >= 40 {
                    finished.insert(id);
                    running.remove(&id);
                    let what = What::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 40 };
                    over(id, what)
                } else {
                    grew(id, *count)
                };
                let mut ask = ledger.hear(report).unwrap().ask;
                while let Some(ToChild::Command(Command::Cancel(id))) = ask.first() {
                    let id = *id;
                    // It may have ended meanwhile: then the child does not know it.
                    ask.remove(0);
                    if running.remove(&id) {
                        ask.extend(ledger.hear(over(id, What::Dropped)).unwrap().ask);
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
