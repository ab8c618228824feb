//! What embedding and rerank requests may cost, and how long they may wait.

use std::time::{Duration, Instant};

use forebay_engine::Kind;
use forebay_engine::scripted::Script;

use crate::client::post;
use crate::server::Server;

/// An embedding model that takes so long for two inputs.
fn embeds(step_time: Duration) -> Script {
    Script { kind: Kind::Embedding, step_time, ..Script::default() }
}

/// As many inputs of eleven tokens.
fn inputs(count: usize) -> String {
    let all = vec![r#""0123456789""#; count];
    format!(r#"{{"model":"m","input":[{}]}}"#, all.join(","))
}

fn with_timeout(seconds: &str, body: &str) -> String {
    let header = format!("host: t\r\nx-request-timeout: {seconds}");
    post("/v1/embeddings", body).replacen("host: t", &header, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_with_its_own_timeout() {
    let server = Server::start(embeds(Duration::from_millis(20)), "").await;
    let client = server.client();
    let begin = Instant::now();
    let late = client.raw(&with_timeout("0.1", &inputs(400))).await;
    late.check_error(504, None, Some("timeout"));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?} of 4 s", begin.elapsed());
    let bad = client.raw(&with_timeout("soon", &inputs(1))).await;
    bad.check_error(400, Some("x-request-timeout"), Some("invalid_value"));
    assert_eq!(client.raw(&with_timeout("5", &inputs(2))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_wait_are_bounded_and_the_answer_says_when_to_come_back() {
    let model = "[[model]]\npath = \"m.gguf\"\nparallel = 2\nqueue = 20\nqueue_tokens = 50";
    let server = Server::start(embeds(Duration::from_millis(400)), model).await;
    let client = server.client();
    let held = client.open(&post("/v1/embeddings", &inputs(4))).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let full = client.post("/v1/embeddings", &inputs(1)).await;
    full.check_error(429, None, Some("queue_full"));
    assert!(full.head.contains("retry-after: "), "{full:?}");
    let large = client.post("/v1/embeddings", &inputs(5)).await;
    large.check_error(400, Some("input"), Some("max_tokens_per_request"));
    let documents = r#"{"model":"m","query":"q","documents":["0123456789012345678901234567890123456789","0123456789"]}"#;
    let large = client.post("/v1/rerank", documents).await;
    large.check_error(400, Some("documents"), Some("max_tokens_per_request"));
    // A client that leaves gives its tokens back.
    drop(held);
    let begin = Instant::now();
    while client.post("/v1/embeddings", &inputs(4)).await.status != 200 {
        assert!(begin.elapsed() < Duration::from_secs(5), "its tokens are still taken");
    }
}
