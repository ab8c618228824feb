//! The HTTP surface: envelopes, limits, ids.

use std::time::{Duration, Instant};

use forebay_engine::scripted::Script;
use tokio::io::AsyncReadExt;

use crate::client::{chat, post};
use crate::server::Server;

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_has_the_envelope() {
    let server = Server::start(Script::default(), "[server]\nmax_body_bytes = 4096").await;
    let client = server.client();
    client.get("/v1/nope").await.check_error(404, None, Some("unknown_url"));
    client.get("/v1/chat/completions").await.check_error(405, None, Some("method_not_allowed"));
    client.get("//v1/models").await.check_error(404, None, Some("unknown_url"));
    client.get("/v1/models/..%2f..%2fetc").await.check_error(
        404,
        Some("model"),
        Some("model_not_found"),
    );
    client.post("/v1/chat/completions", "{").await.check_error(400, None, None);
    client.post("/v1/chat/completions", "").await.check_error(400, None, None);
    let other = chat("").replace("\"m\"", "\"../../etc/passwd\"");
    client.post("/v1/chat/completions", &other).await.check_error(
        404,
        Some("model"),
        Some("model_not_found"),
    );
    let long = chat(&format!(r#","user":"{}""#, "x".repeat(5000)));
    let answer = client.post("/v1/chat/completions", &long).await;
    answer.check_error(413, None, None);
    assert!(answer.head.contains("connection: close"), "{answer:?}");
    let plain = post("/v1/completions", "{}").replace("application/json", "text/plain");
    client.raw(&plain).await.check_error(415, None, None);
    let gzip =
        post("/v1/completions", "{}").replace("host: t", "host: t\r\ncontent-encoding: gzip");
    client.raw(&gzip).await.check_error(415, None, None);
    let embeddings = r#"{"model":"m","input":"x"}"#;
    client.post("/v1/embeddings", embeddings).await.check_error(
        400,
        Some("model"),
        Some("invalid_value"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_cut_at_the_limit() {
    let server = Server::start(Script::default(), "[server]\nmax_body_bytes = 2000").await;
    let head = "POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = format!("800\r\n{}\r\n", " ".repeat(0x800));
    server.client().raw(&format!("{head}{body}")).await.check_error(413, None, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_range_fields_are_named() {
    let server = Server::start(Script::default(), "").await;
    let client = server.client();
    let many_stops = format!(r#","stop":[{}]"#, ["\"x\""; 5].join(","));
    let long_stop = format!(r#","stop":["{}"]"#, "x".repeat(257));
    let cases: &[(&str, &str, &str)] = &[
        (r#","max_tokens":0"#, "max_tokens", "integer_below_min_value"),
        (r#","max_tokens":-1"#, "max_tokens", "integer_below_min_value"),
        (
            r#","max_completion_tokens":2147483648"#,
            "max_completion_tokens",
            "integer_above_max_value",
        ),
        (r#","max_tokens":1e308"#, "max_tokens", "invalid_type"),
        (r#","max_tokens":"5""#, "max_tokens", "invalid_type"),
        (r#","n":0"#, "n", "integer_below_min_value"),
        (r#","n":1000000"#, "n", "integer_above_max_value"),
        (r#","temperature":-1"#, "temperature", "decimal_below_min_value"),
        (r#","temperature":1e30"#, "temperature", "decimal_above_max_value"),
        (r#","temperature":"NaN""#, "temperature", "invalid_type"),
        (r#","top_p":2"#, "top_p", "decimal_above_max_value"),
        (r#","frequency_penalty":-2.5"#, "frequency_penalty", "decimal_below_min_value"),
        (r#","top_logprobs":3"#, "top_logprobs", "invalid_value"),
        (r#","logprobs":true,"top_logprobs":21"#, "top_logprobs", "integer_above_max_value"),
        (r#","logit_bias":{"-1":1}"#, "logit_bias", "invalid_value"),
        (r#","logit_bias":{"foo":1}"#, "logit_bias", "invalid_value"),
        (r#","logit_bias":{"259":1}"#, "logit_bias", "invalid_value"),
        (r#","logit_bias":{"1":101}"#, "logit_bias", "invalid_value"),
        (r#","stop":"""#, "stop[0]", "string_below_min_length"),
        (&many_stops, "stop", "array_above_max_length"),
        (&long_stop, "stop[0]", "string_above_max_length"),
        (r#","stop_token_ids":[259]"#, "stop_token_ids[0]", "invalid_value"),
        (r#","stream_options":{"include_usage":true}"#, "stream_options", "invalid_value"),
        (r#","tools":[{"type":"function"}]"#, "tools[0].function", "missing_required_parameter"),
        (r#","response_format":{"type":"json_objects"}"#, "response_format.type", "invalid_value"),
        (r#","chat_template":"x""#, "chat_template", "unsupported_parameter"),
        (
            r#","chat_template_kwargs":{"messages":"x"}"#,
            "chat_template_kwargs.messages",
            "invalid_value",
        ),
        (r#","metadata":{"a":1}"#, "metadata", "invalid_value"),
        (r#","service_tier":"gold""#, "service_tier", "invalid_value"),
    ];
    for (fields, param, code) in cases {
        client.chat(fields).await.check_error(400, Some(param), Some(code));
    }
    let long = "x".repeat(4096);
    let answer = client.post("/v1/chat/completions", &chat("").replace("hi", &long)).await;
    answer.check_error(400, Some("messages"), Some("context_length_exceeded"));
    assert!(
        answer.body.contains("4096") && answer.body.contains("4103"),
        "both numbers: {answer:?}"
    );
    let nulls =
        r#","temperature":null,"stop":null,"tools":null,"n":null,"nonsense":1,"max_tokens":2"#;
    assert_eq!(client.chat(nulls).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_server_refuses_what_it_does_not_know() {
    let server = Server::start(Script::default(), "[server]\nstrict = true").await;
    server.client().chat(r#","n_discard":-5"#).await.check_error(
        400,
        Some("n_discard"),
        Some("unknown_parameter"),
    );
    assert_eq!(server.client().chat(r#","max_tokens":1,"user":"u""#).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_framed_as_clients_expect() {
    let server = Server::start(Script::default(), "").await;
    let fields = r#","max_tokens":3,"stream":true,"n":2,"stream_options":{"include_usage":true}"#;
    let answer = server.client().chat(fields).await;
    assert!(answer.head.contains("content-type: text/event-stream"), "{answer:?}");
    assert!(answer.head.contains("cache-control: no-cache"), "{answer:?}");
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{answer:?}");
    let events: Vec<&str> = answer.body.split_terminator("\n\n").collect();
    assert!(events.iter().all(|event| event.starts_with("data: ")), "{answer:?}");
    let chunks: Vec<serde_json::Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(&event["data: ".len()..]).unwrap())
        .collect();
    let roles: Vec<_> = chunks[..2]
        .iter()
        .map(|c| (&c["choices"][0]["index"], &c["choices"][0]["delta"]["role"]))
        .collect();
    assert_eq!(roles, [(&0.into(), &"assistant".into()), (&1.into(), &"assistant".into())]);
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], 6);
    assert!(last["choices"].as_array().unwrap().is_empty());
    for chunk in others {
        assert!(chunk["usage"].is_null() && chunk.get("usage").is_some(), "{chunk}");
        assert_eq!((&chunk["id"], &chunk["created"]), (&last["id"], &last["created"]));
    }
    for index in 0..2 {
        let mine = || others.iter().map(|c| &c["choices"][0]).filter(move |c| c["index"] == index);
        let text: String = mine().filter_map(|c| c["delta"]["content"].as_str()).collect();
        let ends: Vec<_> = mine().filter_map(|c| c["finish_reason"].as_str()).collect();
        assert_eq!((text.as_str(), ends.as_slice()), ("abc", &["length"][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_are_echoed_when_they_are_ids() {
    let server = Server::start(Script::default(), "").await;
    let with = |id: &str| {
        format!(
            "GET /health HTTP/1.1\r\nhost: t\r\nconnection: close\r\nx-request-id: {id}\r\n\r\n"
        )
    };
    let answer = server.client().raw(&with("a.B-9_z")).await;
    assert!(answer.head.contains("x-request-id: a.b-9_z"), "{answer:?}");
    for bad in ["a b", "é", &"x".repeat(129)] {
        let answer = server.client().raw(&with(bad)).await;
        assert!(answer.head.contains("x-request-id: req_"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off() {
    let toml = "[server]\nheader_timeout_s = 1\nbody_timeout_s = 1";
    let server = Server::start(Script::default(), toml).await;
    let partial = "POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 9\r\n";
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for start in ["", "P", "PRI", preface, "GET /health HTTP/1.1\r\nho", partial] {
        let begin = Instant::now();
        let mut stream = server.client().open(start).await;
        let mut rest = Vec::new();
        let read =
            tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "{start:?} holds its connection for {:?}", begin.elapsed());
    }
    let body = format!("{partial}\r\n{{");
    server.client().raw(&body).await.check_error(408, None, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happened() {
    let server = Server::start(Script::default(), "").await;
    let client = server.client();
    assert_eq!(client.chat(r#","max_tokens":5"#).await.status, 200);
    assert_eq!(client.get("/surely/nothing").await.status, 404);
    let lines = [
        "forebay_generation_tokens_total{model=\"m\"} 5",
        "forebay_requests_finished_total{model=\"m\",finish_reason=\"length\"} 1",
        "forebay_time_to_first_token_seconds_count{model=\"m\"} 1",
        "forebay_inter_token_latency_seconds_count{model=\"m\"} 4",
        "forebay_queue_seconds_count{model=\"m\"} 1",
        "forebay_request_duration_seconds_count{model=\"m\"} 1",
        "forebay_http_requests_total{route=\"other\",method=\"GET\",status=\"404\"} 1",
        "forebay_requests_running{model=\"m\"} 0",
        "forebay_model_loaded{model=\"m\"} 1",
    ];
    // A response's last byte is with the client before the server has counted it.
    let mut metrics = String::new();
    for _ in 0..100 {
        metrics = client.get("/metrics").await.body;
        if lines.iter().all(|line| metrics.contains(line)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for line in lines {
        assert!(metrics.contains(line), "no {line:?} in\n{metrics}");
    }
    let forward = "forebay_engine_step_microseconds_total{model=\"m\",part=\"forward\"} ";
    assert!(metrics.contains(forward), "no {forward:?} in\n{metrics}");
    assert!(!metrics.contains("surely"), "paths must not become labels");
}
