//! The worker on a scripted model: cancelling, failing, dying, overload.

use std::time::Duration;

use crate::failure::Failure;
use crate::model_config::{ModelConfig, Source};
use crate::model_info::Kind;
use crate::request::{AdmissionParams, Event, FinishReason, GenerateRequest, SamplingParams};
use crate::scripted::Script;
use crate::{
    Engine, Generation, ItlTarget, ModelHandle, Stats, Status, StepPart, SubmitError, load,
};

fn config(script: Script) -> ModelConfig {
    ModelConfig {
        parallel: 2,
        batch_size: Some(64),
        itl_target: ItlTarget::Held(Duration::from_millis(100)),
        queue: 2,
        ..ModelConfig::new("test", Source::Scripted(script))
    }
}

async fn engine(script: Script) -> Engine {
    engine_with(config(script)).await
}

async fn engine_with(config: ModelConfig) -> Engine {
    match load(config).unwrap().finish().await.unwrap() {
        ModelHandle::Chat(engine) => engine,
        ModelHandle::Embedding(_) => panic!("not a chat model"),
    }
}

fn request(max_tokens: u32, choices: u32) -> GenerateRequest {
    let plain = GenerateRequest::plain([256, 65, 66], max_tokens, SamplingParams::plain(0.0, 1));
    GenerateRequest { choices, ..plain }
}

/// Reads to the end: the text of each answer, and the last event of each or of the request.
async fn drain(mut generation: Generation) -> (Vec<String>, Vec<Event>) {
    let (mut texts, mut ends) = (vec![String::new(); 4], Vec::new());
    while let Some(event) = generation.next().await {
        match event {
            Event::Delta { choice, text, .. } => texts[choice as usize].push_str(&text),
            Event::Finished { .. } | Event::Failed(_) => ends.push(event),
            Event::Started { .. } | Event::Paused | Event::Prompt(_) => {}
        }
    }
    (texts, ends)
}

/// Submits a request until it is accepted: what clients held that left is free within a step.
async fn accepted(engine: &Engine, request: &GenerateRequest) -> Generation {
    for _ in 0..400 {
        match engine.generate(request.clone()) {
            Ok(generation) => return generation,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("not accepted within two seconds");
}

/// Waits until nobody counts against the queue's limits.
async fn idle(engine: &Engine) {
    for _ in 0..2000 {
        if engine.requests_in_use() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("{:?}", engine.stats());
}

fn slow() -> Script {
    Script { step_time: Duration::from_millis(2), ..Script::default() }
}

#[tokio::test]
async fn requests_run_together_and_each_gets_its_own_text() {
    let engine = engine(slow()).await;
    let generations: Vec<_> = (1..4).map(|n| engine.generate(request(n * 3, 1)).unwrap()).collect();
    for (n, generation) in (1..).zip(generations) {
        let (texts, ends) = drain(generation).await;
        assert_eq!(texts[0], &"abc abc abc"[..n * 3]);
        let tokens = u32::try_from(n * 3).unwrap();
        assert_eq!(ends, [Event::Finished { choice: 0, reason: FinishReason::Length, tokens }]);
    }
}

#[tokio::test]
async fn two_answers_of_one_request() {
    let engine = engine(Script::default()).await;
    let (texts, ends) = drain(engine.generate(request(5, 2)).unwrap()).await;
    assert_eq!(&texts[..2], ["abc a", "abc a"]);
    assert_eq!(ends.len(), 2);
}

#[tokio::test]
async fn impossible_requests_are_refused_at_once() {
    let engine = engine(Script::default()).await;
    let refused = |r: GenerateRequest| engine.generate(r).unwrap_err();
    assert_eq!(refused(request(4096, 1)), SubmitError::TooLong { tokens: 4099, limit: 4096 });
    let empty = GenerateRequest { prompt: Vec::new().into(), ..request(1, 1) };
    assert_eq!(refused(empty), SubmitError::Empty);
    let unknown = GenerateRequest { prompt: vec![9999].into(), ..request(1, 1) };
    assert_eq!(refused(unknown), SubmitError::NoSuchToken { token: 9999 });
}

#[tokio::test]
async fn a_full_queue_answers_at_once_and_empties_when_clients_leave() {
    let engine = engine(slow()).await;
    let mut held: Vec<_> = (0..4).map(|_| engine.generate(request(2000, 1)).unwrap()).collect();
    let full = engine.generate(request(1, 1)).unwrap_err();
    assert!(matches!(full, SubmitError::QueueFull { limit: 4, .. }), "{full:?}");
    held.pop();
    let last = accepted(&engine, &request(1, 1)).await;
    drop(held);
    let (texts, _) = drain(last).await;
    assert_eq!(texts[0], "a");
    assert_eq!(engine.stats().cancelled, 4);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_within_a_step() {
    let engine = engine(slow()).await;
    let mut generation = engine.generate(request(4000, 2)).unwrap();
    assert!(matches!(generation.next().await, Some(Event::Started { .. })));
    let steps = engine.stats().steps;
    drop(generation);
    let (texts, _) = drain(engine.generate(request(1, 2)).unwrap()).await;
    assert_eq!(texts[0], "a");
    // One step may have been running and one planned when the client left; one is the new one.
    assert!(engine.stats().steps <= steps + 4, "{} after {steps}", engine.stats().steps);
}

#[tokio::test]
async fn more_answers_than_places_take_turns() {
    let engine = engine(Script::default()).await;
    let (texts, ends) = drain(engine.generate(request(5, 4)).unwrap()).await;
    assert_eq!((texts, ends.len()), (vec!["abc a".to_owned(); 4], 4));
}

/// Eight answers of 90 tokens in 200 cells: each is taken out and goes on where it was.
#[tokio::test]
async fn nobody_fails_because_cells_run_out() {
    let script = Script { cells: Some(200), slot_tokens: 200, ..Script::default() };
    let config = ModelConfig { parallel: 8, queue: 8, ..config(script) };
    let engine = engine_with(config).await;
    let generations: Vec<_> = (0..8_u32)
        .map(|i| {
            let prompt = vec![256, 70 + i, 70 + i].into();
            engine.generate(GenerateRequest { prompt, ..request(87, 1) }).unwrap()
        })
        .collect();
    for generation in generations {
        let (texts, ends) = drain(generation).await;
        assert_eq!(texts[0], "abc ".repeat(22)[..87]);
        let reason = FinishReason::Length;
        assert_eq!(ends, [Event::Finished { choice: 0, reason, tokens: 87 }]);
    }
    let stats = engine.stats();
    assert!(stats.scheduler.preempted_for_cells > 0 && stats.step_errors == 0, "{stats:?}");
}

#[tokio::test]
async fn what_repeats_takes_fewer_steps() {
    let engine = engine(slow()).await;
    let (texts, _) = drain(engine.generate(request(200, 1)).unwrap()).await;
    assert_eq!(texts[0], "abc ".repeat(50));
    let stats = engine.stats();
    assert!(stats.steps < 120 && stats.accepted > 80, "{stats:?}");
}

/// With chance in it (one token in twelve is not what the script says) an answer is the same with
/// drafts and without, for every seed: so its distribution is.
#[tokio::test]
async fn drafts_change_no_distribution() {
    let mut texts = Vec::new();
    for speculate in [true, false] {
        // Steps that all take the same time, so that drafts are worth it.
        let step_time = Duration::from_micros(500);
        let script = Script { peak: 8.0, step_time, ..Script::default() };
        let engine = engine_with(ModelConfig { speculate, ..config(script) }).await;
        // Prompts that nobody has had: what several tokens cost is not known from one step alone.
        for first in 70..82 {
            let prompt = vec![256, first, first, first].into();
            drain(engine.generate(GenerateRequest { prompt, ..request(2, 1) }).unwrap()).await;
        }
        let mut said = Vec::new();
        for seed in 0..40 {
            let mut request = request(60, 1);
            (request.sampling.temperature, request.sampling.seed) = (1.0, seed);
            said.push(drain(engine.generate(request).unwrap()).await.0.swap_remove(0));
        }
        let stats = engine.stats();
        assert_eq!(stats.drafted > 100 && stats.accepted > 100, speculate, "{stats:?}");
        assert!(stats.accepted < stats.drafted || !speculate, "some were wrong: {stats:?}");
        texts.push(said);
    }
    assert_eq!(texts[0], texts[1]);
    let plain = "abc ".repeat(15);
    let odd = texts[0].iter().filter(|text| **text != plain).count();
    assert!(odd > 30, "{odd} of 40 are not just the script");
}

#[tokio::test]
async fn time_runs_out_in_the_queue_and_while_running() {
    let ms = Duration::from_millis;
    let config = ModelConfig { parallel: 1, queue_timeout: Some(ms(50)), ..config(slow()) };
    let engine = engine_with(config).await;
    let admission = AdmissionParams { timeout: Some(ms(150)), ..AdmissionParams::default() };
    let running = engine.generate(GenerateRequest { admission, ..request(4000, 1) }).unwrap();
    let queued = engine.generate(request(10, 1)).unwrap();
    assert_eq!(drain(queued).await.1, [Event::Failed(Failure::QueueTimeout(ms(50)))]);
    let (texts, ends) = drain(running).await;
    assert_eq!(ends, [Event::Failed(Failure::Timeout(ms(150)))]);
    assert!(!texts[0].is_empty(), "what it had said by then was sent");
    assert_eq!(engine.stats().timed_out, 2);
}

#[tokio::test]
async fn the_queue_is_bounded_in_tokens_too() {
    let config = ModelConfig { queue: 100, queue_tokens: Some(10), ..config(slow()) };
    let engine = engine_with(config).await;
    let held: Vec<_> = (0..3).map(|_| engine.generate(request(500, 1)).unwrap()).collect();
    let full = engine.generate(request(1, 1)).unwrap_err();
    assert!(matches!(full, SubmitError::QueueTokens { tokens: 3, limit: 10, .. }), "{full:?}");
    drop(held);
    let long = GenerateRequest { prompt: vec![66; 64].into(), ..request(1, 1) };
    drain(accepted(&engine, &long).await).await;
}

#[tokio::test]
async fn a_reader_that_never_reads_holds_nobody_up() {
    let engine = engine(Script::default()).await;
    let stalled = engine.generate(request(4000, 1)).unwrap();
    let (texts, _) = drain(engine.generate(request(3000, 1)).unwrap()).await;
    assert_eq!(texts[0].len(), 3000);
    let (texts, _) = drain(stalled).await;
    assert_eq!(texts[0].len(), 4000, "and it can still read everything");
}

#[tokio::test]
async fn a_failed_step_fails_its_requests_and_nobody_else() {
    let engine = engine(Script { failing_steps: vec![3], ..slow() }).await;
    let (_, ends) = drain(engine.generate(request(50, 1)).unwrap()).await;
    assert_eq!(ends, [Event::Failed(Failure::Step)]);
    let (texts, _) = drain(engine.generate(request(5, 1)).unwrap()).await;
    assert_eq!(texts[0], "abc a");
    assert_eq!((engine.status(), engine.stats().step_errors), (Status::Ready, 1));
}

#[tokio::test]
async fn the_time_of_steps_goes_to_the_part_that_took_it() {
    let engine = engine(Script { step_time: Duration::from_millis(5), ..slow() }).await;
    drain(engine.generate(request(20, 1)).unwrap()).await;
    idle(&engine).await;
    let Stats { times, steps, .. } = engine.stats();
    let forward = times.of(StepPart::Forward);
    // The last step's time may not have been told yet.
    let told = u32::try_from(steps - 1).unwrap();
    assert!(told > 3 && forward >= Duration::from_millis(5) * told, "{steps} steps: {times:?}");
    for part in [StepPart::Plan, StepPart::Sample, StepPart::Send] {
        assert!(times.of(part) > Duration::ZERO, "{part:?} of {times:?}");
    }
}

#[tokio::test]
async fn an_engine_that_keeps_failing_gives_up_and_says_so() {
    let engine = engine(Script { failing_steps: (1..9).collect(), ..slow() }).await;
    for _ in 0..3 {
        drain(engine.generate(request(5, 1)).unwrap()).await;
    }
    let gone = loop {
        match engine.generate(request(5, 1)) {
            Err(error) => break error,
            Ok(generation) => drop(drain(generation).await),
        }
    };
    assert_eq!((gone, engine.status()), (SubmitError::EngineGone, Status::Failed));
}

#[tokio::test]
async fn a_dying_engine_ends_every_stream() {
    let engine = engine(Script { dies_at: Some(4), ..slow() }).await;
    let running = engine.generate(request(100, 2)).unwrap();
    let queued = engine.generate(request(100, 1)).unwrap();
    for generation in [running, queued] {
        let (_, ends) = drain(generation).await;
        assert!(ends.is_empty(), "no answer may look finished: {ends:?}");
    }
    assert!(matches!(engine.generate(request(1, 1)), Err(SubmitError::EngineGone)));
}

#[path = "tests/limits.rs"]
mod limits;
