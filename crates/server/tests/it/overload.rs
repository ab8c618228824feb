//! More than fits.

use std::time::{Duration, Instant};

use forebay_engine::scripted::Script;
use tokio::io::AsyncReadExt;

use crate::client::{chat, post};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_answers_at_once() {
    let script = Script { step_time: Duration::from_millis(20), ..Script::default() };
    let server = Server::start(script, "").await;
    let client = server.client();
    // Two slots and two places in the queue.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(client.open(&post("/v1/chat/completions", &chat(r#","max_tokens":3000"#))).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begin = Instant::now();
    let answer = client.chat("").await;
    answer.check_error(429, None, Some("queue_full"));
    let retry = answer.head.split("retry-after: ").nth(1).and_then(|rest| rest.split('\r').next());
    let retry: u64 = retry.and_then(|seconds| seconds.parse().ok()).expect("a number of seconds");
    // What waits has two prompts and as many answers of a mean length before it.
    assert!((1..=10).contains(&retry), "{retry} s");
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
    assert_eq!(client.get("/health").await.status, 200, "busy is healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_is_cut_off_and_holds_nobody_up() {
    let script = Script { slot_tokens: 200_000, ..Script::default() };
    let server = Server::start(script, "[server]\nwrite_timeout_s = 1").await;
    let client = server.client();
    let fields = r#","max_tokens":100000,"stream":true"#;
    let mut stalled = client.open(&post("/v1/chat/completions", &chat(fields))).await;
    let begin = Instant::now();
    let answer = client.chat(r#","max_tokens":5000"#).await;
    assert_eq!(
        (answer.status, answer.json()["usage"]["completion_tokens"].as_u64()),
        (200, Some(5000))
    );
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let mut rest = Vec::new();
    // What the kernel had buffered comes, and then a break: not the answer's end.
    drop(stalled.read_to_end(&mut rest).await);
    assert!(!String::from_utf8_lossy(&rest).contains("[DONE]"), "{} bytes came", rest.len());
}
