//! Who is asked again, who is tried, and who is given up.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::message::Moment;
use crate::request::{GenerateRequest, SamplingParams};

fn generate(id: u64) -> Command {
    let request = GenerateRequest::plain([1, 2], 100, SamplingParams::plain(0.0, 1));
    Command::Generate(Box::new(Generate {
        id,
        request,
        submitted: Moment::now(),
        said: Vec::new(),
    }))
}

fn grew(id: u64, tokens: u32) -> Report {
    let (text, logprobs, held) = (String::new(), Vec::new(), Vec::new());
    let grown = Grown { choice: 0, token: tokens, tokens, draws: 0, text, logprobs, held };
    let (after, what) = (Duration::ZERO, What::Grew(grown));
    Report::News(vec![News { id, after, what, last: false }])
}

/// The numbers of the requests that the child is asked for.
fn asked(commands: &[Command]) -> Vec<u64> {
    let id = |command: &Command| match command {
        Command::Generate(generate) => Some(generate.id),
        _ => None,
    };
    commands.iter().filter_map(id).collect()
}

/// The tokens that a command brings.
fn said(command: &Command) -> usize {
    let Command::Generate(generate) = command else { panic!("{command:?}") };
    generate.said[0].as_ref().unwrap().tokens.len()
}

#[test]
fn all_go_on_where_they_were() {
    let mut ledger = Ledger::default();
    for id in 1..4 {
        assert_eq!(asked(&ledger.ask(generate(id)).ask), [id]);
    }
    ledger.hear(grew(2, 1));
    ledger.hear(grew(2, 2));
    let cancel = ledger.ask(Command::Cancel(3));
    assert_eq!(cancel.ask, [Command::Cancel(3)]);
    let died = ledger.died(Some(&[1, 2]));
    assert_eq!(died.tell, [over(3, What::Dropped)], "the child can no longer say so");
    let again = ledger.due();
    assert_eq!(asked(&again), [1, 2]);
    assert_eq!(again.iter().map(said).collect::<Vec<_>>(), [0, 2]);
    assert!(ledger.due().is_empty());
}

#[test]
fn what_a_reader_knows_is_not_told_again() {
    let mut ledger = Ledger::default();
    ledger.ask(generate(1));
    let started = || {
        let (what, after) = (What::Started { queued: Duration::ZERO, cached: 0 }, Duration::ZERO);
        Report::News(vec![News { id: 1, after, what, last: false }])
    };
    assert_eq!(ledger.hear(started()).tell, [started()]);
    ledger.died(Some(&[1]));
    ledger.due();
    assert_eq!(ledger.hear(started()).tell, [Report::News(Vec::new())]);
}

#[test]
fn the_one_that_kills_is_found_and_the_others_go_on() {
    let mut ledger = Ledger::default();
    (1..=4).for_each(|id| drop(ledger.ask(generate(id))));
    let mut deaths = 0;
    let mut killed = |ledger: &mut Ledger, computing: &[u64]| {
        deaths += 1;
        ledger.died(Some(computing))
    };
    killed(&mut ledger, &[1, 2, 3]);
    assert_eq!(asked(&ledger.due()), [1, 2, 3, 4]);
    killed(&mut ledger, &[1, 2, 3]);
    // Each is tried alone; whoever comes meanwhile waits.
    assert_eq!(asked(&ledger.due()), [1]);
    assert!(ledger.ask(generate(5)).ask.is_empty());
    for tokens in 1..INNOCENT {
        assert!(ledger.hear(grew(1, tokens)).ask.is_empty());
    }
    let withdrawn = ledger.hear(grew(1, INNOCENT));
    assert_eq!(withdrawn.ask, [Command::Cancel(1)]);
    // What it said before it heard of that still counts.
    assert_eq!(ledger.hear(grew(1, INNOCENT + 1)).ask, []);
    let dropped = ledger.hear(over(1, What::Dropped));
    assert_eq!((asked(&dropped.ask), dropped.tell), (vec![2], vec![Report::News(Vec::new())]));
    let died = killed(&mut ledger, &[2]);
    assert_eq!(died.guilty, [2]);
    assert_eq!(died.tell, [over(2, What::Failed(Failure::Crashed))]);
    assert_eq!(asked(&ledger.due()), [3]);
    let finished = What::Finished { choice: 0, reason: crate::FinishReason::Length, tokens: 1 };
    assert_eq!(asked(&ledger.hear(over(3, finished)).ask), [1, 4, 5]);
    assert_eq!(deaths, 3);
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
        let mut ledger = Ledger::default();
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
                guilty.extend(ledger.died(Some(&computing)).guilty);
                running.extend(asked(&ledger.due()));
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
                let mut ask = ledger.hear(report).ask;
                while let Some(Command::Cancel(id)) = ask.first() {
                    let id = *id;
                    // It may have ended meanwhile: then the child does not know it.
                    ask.remove(0);
                    if running.remove(&id) {
                        ask.extend(ledger.hear(over(id, What::Dropped)).ask);
                    }
                }
                for id in asked(&ask) {
                    prop_assert!(running.insert(id), "{id} is asked for twice");
                }
            }
        }
        prop_assert_eq!(&guilty, &killers);
        prop_assert_eq!(finished.len() + guilty.len(), 12);
        prop_assert!(deaths.iter().all(|&deaths| deaths <= i32::from(GUILTY)), "{:?}", deaths);
    }
}
