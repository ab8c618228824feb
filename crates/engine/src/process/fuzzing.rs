//! What a fuzz target asks of both ends of the socket.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::frames;
use super::in_flight::{Actions, InFlight};
use super::messages::{FromChild, ModelDescription, Question, ToChild};
use crate::message::{Command, EmbedCommand, GenerateCommand, SubmitTime};
use crate::report_router::EngineChannel;
use crate::report_sink::ReportSink;
use crate::request::{Event, GenerateRequest, SamplingParams};
use crate::status::{Snapshot, Stats, StatusBoard};
use crate::step_timeouts::StepTimeouts;
use crate::vocab::{ParseSpecial, Vocab};

/// A child reads these bytes: whatever makes sense is the same when it is sent again.
///
/// # Panics
/// When it is not.
pub(crate) fn to_child(mut bytes: &[u8]) {
    while let Ok(Some(message)) = frames::read::<ToChild>(&mut bytes) {
        let copy = message.clone();
        // What holds a number that is none is not equal to itself.
        if copy == message {
            assert_eq!(again(&message), message);
        }
    }
}

/// In front of a frame, a child's death: no frame is so long that its length begins with it.
pub(super) const DEATH: u8 = 0xff;

/// A parent with requests of all kinds reads these bytes, and [`DEATH`] in front of a frame.
///
/// # Panics
/// When a reader hears more than one end of its request.
pub(crate) fn from_child(mut bytes: &[u8]) {
    let link = EngineChannel::new(1 << 20);
    let (mut in_flight, board) = (
        InFlight::new(Some(Duration::from_secs(5))),
        StatusBoard::new(StepTimeouts::new(Duration::ZERO, Vec::new())),
    );
    let permits =
        || [(); 2].map(|()| Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a permit"));
    let mut readers = HashMap::new();
    for id in 0..4 {
        let mut request = GenerateRequest::plain([1, 2], 8, SamplingParams::plain(0.0, 1));
        request.choices = 1 + u32::from(id == 1);
        request.prompt_logprobs = (id == 2).then_some(1);
        let (submitted, partial) = (SubmitTime::now(), Vec::new());
        readers
            .extend(link.router.register_generation(id, permits()).ok().map(|reader| (id, reader)));
        let generate = GenerateCommand { id, request, submitted, started: false, partial };
        in_flight.handle_command(Command::Generate(Box::new(generate)));
    }
    let (inputs, submitted, timeout) = (vec![vec![1]], SubmitTime::now(), None);
    in_flight.handle_command(Command::Embed(Box::new(EmbedCommand {
        id: 4,
        inputs,
        submitted,
        started: false,
        timeout,
    })));
    let answer = link.router.register_embedding(4, permits(), link.commands.clone());
    in_flight.add_question(5, Question::Tokenise(vec!["a".to_owned()], ParseSpecial::No), false);
    in_flight.handle_loaded();
    loop {
        if let Some(rest) = bytes.strip_prefix(&[DEATH]) {
            bytes = rest;
            let actions = in_flight.handle_exit(&[1, 4]);
            actions.reports.into_iter().for_each(|report| link.router.report(report));
            link.router.pause();
            in_flight.handle_loaded();
        }
        let Ok(Some(said)) = frames::read::<FromChild>(&mut bytes) else { break };
        assert_eq!(frames::encode(&again(&said)).ok(), frames::encode(&said).ok());
        let Some(actions) = hear(&mut in_flight, &board, said) else { break };
        actions.reports.into_iter().for_each(|report| link.router.report(report));
        in_flight.fail_overdue(Instant::now());
    }
    link.router.ended();
    let mut context = Context::from_waker(Waker::noop());
    for (id, reader) in &mut readers {
        let mut ends = [0; 2];
        while let Poll::Ready(Some(stamped)) = reader.poll_recv(&mut context) {
            match stamped.event {
                Event::Finished { choice, .. } => ends[choice as usize] += 1,
                Event::Failed(_) => ends.iter_mut().for_each(|end| *end += 1),
                _ => {}
            }
        }
        assert!(reader.poll_recv(&mut context).is_ready(), "{id} is over");
        // One of two answers may have finished before all failed.
        assert!(ends[0].min(ends[1]) <= 1 && ends[0] <= 2, "{id} ends more than once: {ends:?}");
    }
    drop(answer);
}

/// Handles a message from the child; `None` if the child is to be killed for it.
fn hear(in_flight: &mut InFlight, board: &StatusBoard, said: FromChild) -> Option<Actions> {
    match said {
        FromChild::Progress(progress) => board.set_progress(progress),
        FromChild::Loaded(description) => {
            let ModelDescription { table, .. } = *description;
            if table.is_sound() {
                let vocab = Vocab::new(table, Arc::new(crate::scripted::ByteTokenizer::default()));
                for token in 0..=u32::try_from(vocab.len()).unwrap_or(0) {
                    vocab.text_piece(token);
                }
                vocab.with_markers(vec![0]);
            }
        }
        FromChild::LoadFailed(_) => {}
        FromChild::Report(report) => return in_flight.handle_report(report).ok(),
        FromChild::Answer { id, answer, .. } => return in_flight.handle_answer(id, &answer).ok(),
        FromChild::Costs(costs) => {
            let costs = costs.plausible();
            assert!(costs.len() <= 4 * 128, "{} samples", costs.len());
            board.set_costs(costs);
        }
        FromChild::Snapshot(state) => {
            let Snapshot { stats, .. } = &*state;
            let before = stats.clone().plus(&Stats::default()).plus(stats);
            board.mirror(*state, &before);
            board.stats();
        }
    }
    Some(Actions::default())
}

/// A message after it was sent.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
    let mut sent = Vec::new();
    frames::write(&mut sent, message).expect("a message");
    frames::read(&mut sent.as_slice()).ok().flatten().expect("the message")
}
