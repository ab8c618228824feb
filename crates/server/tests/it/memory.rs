//! Memory that requests take is bounded, and returned when it is no longer needed.

use std::time::{Duration, Instant};

use forebay_engine::scripted::Script;

use crate::http2::Http2;
use crate::server::Server;

/// A part of eight is 1 MiB, for each kind of memory.
const TIGHT: &str = "[limits]\nmemory_mib = 8\nrequest_memory_mib = 4\nhistory_kib = 64\n\
                     [[model]]\npath = \"m.gguf\"\nparallel = 2\nqueue = 64";

async fn start() -> Server {
    Server::start(Script::default(), TIGHT).await
}

/// A chat whose unknown field has so many bytes.
fn chat(model: &str, bytes: usize) -> String {
    let padding = "x".repeat(bytes);
    format!(
        r#"{{"model":"{model}","max_tokens":2,"messages":[{{"role":"user","content":"hi"}}],"x":"{padding}"}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_hold_no_more_than_themselves() {
    let server = start().await;
    let mut stalled = Http2::open(server.address, 0).await;
    let mut unread = Vec::new();
    for _ in 0..40 {
        // 240 kB each by the estimate, of 1 MiB for all.
        let (status, body) = stalled.post("/v1/chat/completions", chat("nope", 40_000)).await;
        assert_eq!(status, 404);
        unread.push(body);
    }
    let begin = Instant::now();
    let answer = server.client().post("/v1/chat/completions", &chat("m", 40_000)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_size_pass_side_by_side() {
    let server = start().await;
    let all =
        (0..24).map(|n| {
            let client = server.client();
            async move {
                client.post("/v1/chat/completions", &chat("m", 600_000 / (n + 1))).await.status
            }
        });
    let statuses = futures_util::future::join_all(all).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_too_much_is_refused() {
    let server = start().await;
    let client = server.client();
    let empty = vec!["[]"; 40_000].join(",");
    let wide = format!(r#"{{"model":"m","messages":[],"x":[{empty}]}}"#);
    let answer = client.post("/v1/chat/completions", &wide).await;
    answer.check_error(413, None, Some("request_too_complex"));
    // What the store keeps has a limit of its own.
    let long = format!(r#"{{"model":"m","input":"hi","instructions":"{}"}}"#, "x".repeat(70_000));
    client.post("/v1/responses", &long).await.check_error(413, None, None);
    let long = format!(r#"{{"items":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(70_000));
    client.post("/v1/conversations", &long).await.check_error(413, None, None);
    assert_eq!(client.post("/v1/chat/completions", &chat("m", 10)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_short_whatever_they_quote() {
    let server = Server::start(Script::default(), "").await;
    let name = "k".repeat(1_000_000);
    for (path, body) in [
        (
            "/v1/chat/completions",
            format!(r#"{{"model":"m","messages":[],"logit_bias":{{"{name}":"x"}}}}"#),
        ),
        (
            "/v1/messages",
            format!(
                r#"{{"model":"m","max_tokens":1,"messages":[],"tools":[{{"type":"{name}","name":"f"}}]}}"#
            ),
        ),
        ("/v1/chat/completions", format!(r#"{{"model":"{name}","messages":[]}}"#)),
    ] {
        let answer = server.client().post(path, &body).await;
        assert!(answer.status >= 400 && answer.body.len() < 8_000, "{} bytes", answer.body.len());
    }
}
