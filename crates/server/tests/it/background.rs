//! Responses that nobody waits for, on a model that takes its time.

use std::time::Duration;

use forebay_engine::scripted::Script;
use forebay_server::Shutdown;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::client::{Client, post};
use crate::server::Server;

async fn server(step_ms: u64) -> Server {
    let step_time = Duration::from_millis(step_ms);
    Server::start(Script { step_time, ..Script::default() }, "[server]\ndrain_delay_s = 0").await
}

fn body(fields: &str) -> String {
    format!(r#"{{"model":"m","input":"hi","background":true{fields}}}"#)
}

async fn create(client: Client, fields: &str) -> String {
    let answer = client.post("/v1/responses", &body(fields)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["status"], "queued");
    answer.json()["id"].as_str().unwrap().to_owned()
}

async fn get(client: Client, id: &str) -> Value {
    client.get(&format!("/v1/responses/{id}")).await.json()
}

/// Waits until the response says this.
async fn wait_for(client: Client, id: &str, status: &str) -> Value {
    for _ in 0..400 {
        let response = get(client, id).await;
        if response["status"] == status {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{id} is never {status}: {}", get(client, id).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_it_where_it_is() {
    let server = server(5).await;
    let client = server.client();
    let id = create(client, r#","max_output_tokens":4000"#).await;
    wait_for(client, &id, "in_progress").await;
    let path = format!("/v1/responses/{id}");
    let early = r#"{"model":"m","input":"x","previous_response_id":"#;
    let early = client.post("/v1/responses", &format!("{early}\"{id}\"}}")).await;
    early.check_error(400, Some("previous_response_id"), Some("response_not_complete"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let cancelled = client.post(&format!("{path}/cancel"), "").await.json();
    assert_eq!(cancelled["status"], "cancelled");
    let text = cancelled["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("abc ") && text.len() < 4000, "{text}");
    assert_eq!(get(client, &id).await, cancelled);
    let events = client.get(&format!("{path}?stream=true")).await.body;
    let last = events.lines().rfind(|line| line.starts_with("event: ")).unwrap();
    assert_eq!(last, "event: response.failed");
    // The slot is free again.
    let answer = client.chat(r#","max_tokens":2"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = create(client, r#","max_output_tokens":4000"#).await;
    let deleted =
        format!("DELETE /v1/responses/{id} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
    assert_eq!(client.raw(&deleted).await.json()["deleted"], true);
    assert_eq!(client.get(&format!("/v1/responses/{id}")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_leave_and_come_back() {
    let server = server(5).await;
    let client = server.client();
    let request = post("/v1/responses", &body(r#","stream":true,"max_output_tokens":60"#));
    let mut stream = client.open(&request).await;
    let mut seen = String::new();
    while !seen.contains("response.output_text.delta") {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    drop(stream);
    let id = seen.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap();
    // One reads while it goes on, one after it is over; both get all of it.
    let path = format!("/v1/responses/{id}?stream=true");
    let running = client.get(&path).await.body;
    let over = client.get(&path).await.body;
    assert_eq!(running, over);
    let numbers: Vec<u64> = over
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| {
            serde_json::from_str::<Value>(data).unwrap()["sequence_number"].as_u64().unwrap()
        })
        .collect();
    assert!(numbers.len() > 60 && numbers.iter().copied().eq(0..numbers.len() as u64));
    let rest = client.get(&format!("{path}&starting_after=10")).await.body;
    assert!(over.ends_with(&rest) && rest.contains("\"sequence_number\":11}"), "{rest}");
    let odd = client.get(&format!("{path}&starting_after=x")).await;
    odd.check_error(400, Some("query"), Some("invalid_value"));
    let whole = client.post("/v1/responses", r#"{"model":"m","input":"hi","max_output_tokens":2}"#);
    let whole = whole.await.json();
    let path = format!("/v1/responses/{}?stream=true", whole["id"].as_str().unwrap());
    client.get(&path).await.check_error(400, Some("stream"), Some("unsupported_value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_it() {
    let file = std::env::temp_dir().join(format!("forebay-drain-{}.sqlite", std::process::id()));
    let toml = format!("[server]\ndrain_delay_s = 0\n[store]\npath = {file:?}");
    let script = Script { step_time: Duration::from_millis(5), ..Script::default() };
    let first = Server::start(script.clone(), &toml).await;
    let done = create(first.client(), r#","max_output_tokens":60"#).await;
    first.signal(Shutdown::Drain).await;
    first.ended().await.unwrap();
    let second = Server::start(script.clone(), &toml).await;
    let response = get(second.client(), &done).await;
    assert_eq!(response["output"][0]["content"][0]["text"].as_str().unwrap().len(), 60);
    // Cut, it has failed.
    let cut = create(second.client(), r#","max_output_tokens":4000"#).await;
    wait_for(second.client(), &cut, "in_progress").await;
    second.signal(Shutdown::Now).await;
    second.ended().await.unwrap();
    let third = Server::start(script, &toml).await;
    let response = get(third.client(), &cut).await;
    assert_eq!(
        (&response["status"], &response["error"]["code"]),
        (&"failed".into(), &"shutting_down".into())
    );
    for suffix in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", file.display())));
    }
}
