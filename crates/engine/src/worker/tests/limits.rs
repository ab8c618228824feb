//! What requests hold, and when they let it go.

use super::*;
use crate::Embedder;

async fn embedder(config: ModelConfig) -> Embedder {
    let script = Script { kind: Kind::Embedding, step_time: Duration::from_millis(5), ..slow() };
    let config = ModelConfig { source: Source::Scripted(script), ..config };
    let crate::ModelHandle::Embedding(embedder) = load(config).unwrap().finish().await.unwrap()
    else {
        panic!("not an embedding model");
    };
    embedder
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_no_place_in_the_queue() {
    let config = ModelConfig { queue_tokens: Some(20), ..config(Script::default()) };
    let engine = engine_with(config).await;
    let mut unread = Vec::new();
    for _ in 0..40 {
        unread.push(accepted(&engine, &request(3, 2)).await);
    }
    idle(&engine).await;
    // All of the queue is free, in requests and in tokens.
    let all: Vec<_> = (0..4).map(|_| engine.generate(request(3, 1)).unwrap()).collect();
    for generation in all.into_iter().chain(unread) {
        let (texts, ends) = drain(generation).await;
        assert_eq!(texts[0], "abc");
        assert!(ends.iter().all(|end| matches!(end, Event::Finished { .. })), "{ends:?}");
    }
}

#[tokio::test]
async fn who_has_read_the_last_token_can_ask_again_at_once() {
    let config = ModelConfig { parallel: 1, queue: 0, ..config(Script::default()) };
    let engine = engine_with(config).await;
    for _ in 0..200 {
        let mut generation = engine.generate(request(1, 1)).unwrap();
        while !matches!(generation.next().await, Some(Event::Finished { .. })) {}
    }
}

#[tokio::test]
async fn what_fails_or_runs_out_of_time_gives_its_place_back_too() {
    let ms = Duration::from_millis;
    let script = Script { failing_steps: vec![2], ..slow() };
    let config = ModelConfig { parallel: 1, queue: 1, ..config(script) };
    let engine = engine_with(ModelConfig { queue_timeout: Some(ms(30)), ..config }).await;
    let admission = AdmissionParams { timeout: Some(ms(100)), ..AdmissionParams::default() };
    let failed = engine.generate(request(10, 1)).unwrap();
    let overdue = accepted(&engine, &GenerateRequest { admission, ..request(4000, 1) }).await;
    let late = accepted(&engine, &request(4000, 1)).await;
    // Nobody reads any of them, and yet there is room.
    let next = accepted(&engine, &request(1, 1)).await;
    assert_eq!(drain(failed).await.1, [Event::Failed(Failure::Step)]);
    assert_eq!(drain(overdue).await.1, [Event::Failed(Failure::Timeout(ms(100)))]);
    drop((late, next));
}

#[tokio::test]
async fn unread_answers_are_bounded_in_bytes_and_the_oldest_is_cut() {
    let config = ModelConfig { unread_bytes: 300_000, ..config(Script::default()) };
    let engine = engine_with(config).await;
    let mut unread = Vec::new();
    for _ in 0..30 {
        unread.push(accepted(&engine, &request(500, 1)).await);
        idle(&engine).await;
        assert!(engine.stats().unread_bytes <= 300_000, "{:?}", engine.stats());
    }
    let cut = usize::try_from(engine.stats().cut).unwrap();
    assert!((10..30).contains(&cut), "{cut}");
    for (index, generation) in unread.into_iter().enumerate() {
        let (texts, ends) = drain(generation).await;
        if index < cut {
            assert_eq!((texts[0].len(), ends), (0, vec![Event::Failed(Failure::Unread)]));
        } else {
            assert_eq!(texts[0].len(), 500);
        }
    }
    assert_eq!(engine.stats().unread_bytes, 0);
}

#[tokio::test]
async fn a_running_answer_that_nobody_reads_ends_where_it_takes_too_much() {
    let config = ModelConfig { unread_bytes: 100_000, ..config(Script::default()) };
    let engine = engine_with(config).await;
    let stalled = GenerateRequest { logprobs: Some(20), ..request(4000, 1) };
    let stalled = engine.generate(stalled).unwrap();
    let (texts, _) = drain(engine.generate(request(1000, 1)).unwrap()).await;
    assert_eq!(texts[0].len(), 1000, "who reads is not cut");
    idle(&engine).await;
    let stats = engine.stats();
    assert!((stats.cut, stats.cancelled) == (1, 1) && stats.unread_bytes == 0, "{stats:?}");
    assert_eq!(drain(stalled).await.1, [Event::Failed(Failure::Unread)]);
}

/// Time that planning takes for each step, with so many queued.
async fn plan_time(queued: usize) -> Duration {
    let script = Script { step_time: Duration::from_micros(200), ..Script::default() };
    let config = ModelConfig { queue: queued + 10, queue_tokens: Some(1 << 30), ..config(script) };
    let timeout = Some(Duration::from_secs(600));
    let engine = engine_with(ModelConfig { queue_timeout: timeout, ..config }).await;
    let held: Vec<_> = (0..queued).map(|_| engine.generate(request(4000, 1)).unwrap()).collect();
    let mut least = Duration::MAX;
    for _ in 0..20 {
        let before = engine.stats();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let after = engine.stats();
        let steps = u32::try_from(after.steps - before.steps).unwrap();
        let planned = |stats: &Stats| stats.times.of(StepPart::Plan);
        least = least.min((planned(&after) - planned(&before)) / steps.max(1));
    }
    drop(held);
    least
}

#[tokio::test]
async fn a_step_takes_no_longer_with_many_in_the_queue() {
    let (few, many) = (plan_time(10).await, plan_time(20_000).await);
    assert!(many < few * 3 + Duration::from_micros(100), "{many:?} for {few:?}");
}

#[tokio::test]
async fn embeddings_come_back_in_order() {
    let script = Script { kind: Kind::Embedding, ..Script::default() };
    let crate::ModelHandle::Embedding(embedder) =
        load(config(script)).unwrap().finish().await.unwrap()
    else {
        panic!("not an embedding model");
    };
    let inputs: Vec<Vec<u32>> = (1..80).map(|len| vec![65; len]).collect();
    let vectors = embedder.embed(inputs, None).await.unwrap().unwrap();
    for (len, vector) in (1_u16..).zip(&vectors) {
        assert!((vector[0] / vector[1] - f32::from(len)).abs() < 1e-3, "{vector:?}");
    }
    assert_eq!(embedder.embed(vec![vec![]], None).await, Err(SubmitError::Empty));
    assert_eq!(embedder.embed(vec![], None).await, Ok(Ok(vec![])));
}

#[tokio::test]
async fn the_embedding_queue_is_bounded_in_tokens() {
    let config = config(Script::default());
    let embedder = embedder(ModelConfig { queue_tokens: Some(100), queue: 50, ..config }).await;
    let first = embedder.embed(vec![vec![65; 10]; 8], None);
    let second = embedder.embed(vec![vec![65; 10]; 3], None);
    let (first, second) = tokio::join!(first, second);
    assert!(first.unwrap().is_ok());
    assert!(matches!(second, Err(SubmitError::QueueTokens { tokens: 30, limit: 100, .. })));
    let large = embedder.embed(vec![vec![65; 10]; 11], None).await;
    assert_eq!(large, Err(SubmitError::TooManyTokens { tokens: 110, limit: 100 }));
    assert!(embedder.embed(vec![vec![65; 10]; 10], None).await.unwrap().is_ok());
}

#[tokio::test]
async fn embeddings_end_with_their_time_and_the_queues() {
    let ms = Duration::from_millis;
    // Two inputs a pass, by the slots: 40 passes of 5 ms.
    let all = || vec![vec![65; 10]; 80];
    let timed = embedder(ModelConfig { queue: 50, ..config(Script::default()) }).await;
    let begin = std::time::Instant::now();
    let late = timed.embed(all(), Some(ms(40))).await;
    assert_eq!(late, Ok(Err(Failure::Timeout(ms(40)))));
    assert!(begin.elapsed() < ms(150), "{:?}", begin.elapsed());
    assert_eq!(timed.stats().timed_out, 1);
    assert!(timed.embed(vec![vec![65; 10]], Some(ms(2000))).await.unwrap().is_ok());

    // Each request is in a pass soon: by turns, whatever the others have.
    let queue_timeout = Some(ms(60));
    let fair = ModelConfig { queue: 50, queue_timeout, ..config(Script::default()) };
    let embedder = embedder(fair).await;
    let (large, small) = tokio::join!(embedder.embed(all(), None), embedder.embed(all(), None));
    assert!(large.unwrap().is_ok() && small.unwrap().is_ok(), "who has begun is not timed out");
    let many: Vec<_> = (0..40)
        .map(|_| {
            let embedder = embedder.clone();
            tokio::spawn(async move { embedder.embed(vec![vec![65; 500]], None).await })
        })
        .collect();
    let mut overdue = 0;
    for each in many {
        match each.await.unwrap().unwrap() {
            Ok(_) => {}
            Err(failure) => {
                assert_eq!(failure, Failure::QueueTimeout(ms(60)));
                overdue += 1;
            }
        }
    }
    assert!((10..39).contains(&overdue), "{overdue} of 40 passes of 5 ms begin within 60 ms");
}

#[tokio::test]
async fn inputs_of_a_client_that_left_are_not_computed() {
    let embedder = embedder(ModelConfig { queue: 50, ..config(Script::default()) }).await;
    let large = {
        let embedder = embedder.clone();
        tokio::spawn(async move { embedder.embed(vec![vec![65; 10]; 2000], None).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    large.abort();
    assert!(embedder.embed(vec![vec![65; 10]], None).await.unwrap().is_ok());
    let stats = embedder.stats();
    assert!(stats.cancelled == 1 && stats.steps < 100, "{stats:?}");
    // Its tokens are free again.
    let tokens = embedder.max_request_tokens();
    let inputs = vec![vec![65; 4000]; tokens / 4000];
    let full = embedder.embed(inputs, Some(Duration::from_millis(1))).await;
    assert!(matches!(full, Ok(Err(Failure::Timeout(_)))), "{full:?}");
}
