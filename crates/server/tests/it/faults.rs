//! Engines that fail and die, clients that leave, servers that are told to end.

use std::time::{Duration, Instant};

use forebay_engine::scripted::Script;
use forebay_server::{ServeError, Shutdown};
use tokio::io::AsyncReadExt;

use crate::client::{chat, post};
use crate::server::Server;

fn slow() -> Script {
    Script { step_time: Duration::from_millis(10), ..Script::default() }
}

const LONG: &str = r#","max_tokens":2000"#;
const LONG_STREAM: &str = r#","max_tokens":2000,"stream":true"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_engine_is_a_clean_error_everywhere() {
    let server = Server::start(Script { dies_at: Some(60), ..slow() }, "").await;
    let client = server.client();
    let (stream, whole, queued) =
        tokio::join!(client.chat(LONG_STREAM), client.chat(LONG), client.chat(LONG));
    assert_eq!(stream.status, 200);
    let last = stream.body.trim_end().rsplit("\n\n").next().unwrap();
    let error: serde_json::Value = serde_json::from_str(&last["data: ".len()..]).unwrap();
    assert_eq!(error["error"]["code"], "engine_stopped", "{last}");
    assert!(!stream.body.contains("[DONE]"));
    whole.check_error(503, None, Some("engine_stopped"));
    queued.check_error(503, None, Some("engine_stopped"));
    assert!(whole.head.contains("retry-after: "), "{whole:?}");
    let health = client.get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("failed")));
    assert!(matches!(server.ended().await, Err(ServeError::EngineStopped(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failed_step_is_survived() {
    let server = Server::start(Script { failing_steps: vec![3], ..slow() }, "").await;
    server.client().chat(LONG).await.check_error(503, None, Some("step_failed"));
    assert_eq!(server.client().chat(r#","max_tokens":3"#).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_slot() {
    let server = Server::start(slow(), "").await;
    let client = server.client();
    for fields in [LONG, LONG_STREAM] {
        // Both slots, and somebody in the queue: whoever leaves makes room.
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(client.open(&post("/v1/chat/completions", &chat(fields))).await);
        }
        let mut byte = [0];
        if fields == LONG_STREAM {
            held[0].read_exact(&mut byte).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(held);
        let begin = Instant::now();
        assert_eq!(client.chat(r#","max_tokens":2"#).await.status, 200);
        assert!(begin.elapsed() < Duration::from_secs(1), "{fields}: {:?}", begin.elapsed());
    }
    let metrics = client.get("/metrics").await.body;
    assert!(
        metrics.contains("forebay_cancelled_total{model=\"m\",cause=\"client_gone\"} 6"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_finishes_what_runs_and_says_so() {
    let server = Server::start(slow(), "[server]\ndrain_delay_s = 1").await;
    let client = server.client();
    let running =
        tokio::spawn(async move { client.chat(r#","max_tokens":150,"stream":true"#).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.signal(Shutdown::Drain).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let health = client.get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (503, Some("draining")));
    assert_eq!(client.get("/health/live").await.status, 200);
    assert_eq!(client.chat(r#","max_tokens":1"#).await.status, 200, "still served in the delay");
    let answer = running.await.unwrap();
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{answer:?}");
    assert!(server.ended().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_cuts_streams_with_an_error() {
    let server = Server::start(slow(), "").await;
    let client = server.client();
    let running = tokio::spawn(async move { client.chat(LONG_STREAM).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.signal(Shutdown::Quick).await;
    server.signal(Shutdown::Quick).await;
    let answer = running.await.unwrap();
    assert!(answer.body.contains("shutting_down") && !answer.body.contains("[DONE]"), "{answer:?}");
    assert!(server.ended().await.is_ok());
}
