//! Connections that idle, stall, or are too many, on both HTTP versions; the admin listener.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use forebay_engine::scripted::Script;
use forebay_server::{Exit, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::chat;
use crate::http2::{Http2, read};
use crate::server::Server;

fn slow() -> Script {
    Script { step_time: Duration::from_millis(10), ..Script::default() }
}

/// Whether the server closes the connection within this time.
async fn closes(stream: &mut TcpStream, within: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(within, stream.read_to_end(&mut rest)).await.is_ok()
}

const LONG: &str = r#","max_tokens":3000,"stream":true"#;
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room() {
    // Nothing but the limit closes them.
    let toml = "[server]\nmax_connections = 20\nheader_timeout_s = 60";
    let server = Server::start(Script::default(), toml).await;
    let client = server.client();
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let begin = Instant::now();
    assert_eq!(client.get("/health").await.status, 200);
    assert!(begin.elapsed() < 2 * SECOND, "{:?}", begin.elapsed());
    let mut old = Vec::new();
    for _ in 0..30 {
        let request = "GET /health HTTP/1.1\r\nhost: t\r\n\r\n";
        let mut stream = client.open(request).await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        old.push(stream);
    }
    assert_eq!(client.get("/health").await.status, 200);
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(Http2::open(server.address, 1 << 16).await);
    }
    let begin = Instant::now();
    assert_eq!(client.get("/health").await.status, 200);
    let mut last = Http2::open(server.address, 1 << 16).await;
    let (status, body) = last.post("/v1/chat/completions", chat(r#","max_tokens":2"#)).await;
    assert_eq!(status, 200);
    assert!(read(body).await.unwrap().contains("\"content\":\"ab\""));
    assert!(begin.elapsed() < 3 * SECOND, "{:?}", begin.elapsed());
    // Those that came first went first, whole answers and all.
    assert!(closes(&mut silent[0], SECOND).await && closes(&mut old[0], SECOND).await);
    assert!(idle[0].closes_within(SECOND).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_connections_stay_when_idle_ones_go() {
    let toml = "[server]\nmax_connections = 6\n[[model]]\npath = \"m.gguf\"\nparallel = 4";
    let server = Server::start(slow(), toml).await;
    let mut busy = Http2::open(server.address, 1 << 20).await;
    let (_, body) = busy.post("/v1/chat/completions", chat(r#","max_tokens":300"#)).await;
    let reading = tokio::spawn(read(body));
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.client().get("/health").await.status, 200);
    assert!(reading.await.unwrap().unwrap().contains("\"finish_reason\":\"length\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_are_closed_in_their_time() {
    let server = Server::start(slow(), "[server]\nheader_timeout_s = 1").await;
    // A handshake and nothing else; one request and nothing more; one that goes on for longer.
    let mut idle = Http2::open(server.address, 1 << 16).await;
    let mut used = Http2::open(server.address, 1 << 16).await;
    let mut busy = Http2::open(server.address, 1 << 20).await;
    let (_, body) = used.post("/v1/chat/completions", chat(r#","max_tokens":2"#)).await;
    read(body).await.unwrap();
    let (_, body) = busy.post("/v1/chat/completions", chat(r#","max_tokens":400"#)).await;
    let mut first = server.client().open("GET /health HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert!(idle.closes_within(4 * SECOND).await, "idle from the beginning");
    assert!(used.closes_within(4 * SECOND).await, "idle after a request");
    assert!(closes(&mut first, 4 * SECOND).await, "HTTP/1 after a request");
    assert!(read(body).await.unwrap().contains("\"finish_reason\":\"length\""));
    assert!(busy.closes_within(4 * SECOND).await, "idle after a long request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_head_that_does_not_end_is_cut_off() {
    let server = Server::start(Script::default(), "[server]\nheader_timeout_s = 1").await;
    // The preface, empty settings, and a HEADERS frame without END_HEADERS.
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    frames.extend_from_slice(b"\0\0\x01\x01\0\0\0\0\x01\x83");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&frames).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        // CONTINUATION frames of one byte each.
        while writer.write_all(b"\0\0\x01\x09\0\0\0\0\x01\x86").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let mut rest = Vec::new();
    let read = tokio::time::timeout(5 * SECOND, reader.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "it is kept open");
    trickle.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_not_read_are_reset_and_free_their_places() {
    let toml =
        "[server]\nwrite_timeout_s = 3\n[[model]]\npath = \"m.gguf\"\nqueue = 138\nparallel = 2";
    let server = Server::start(slow(), toml).await;
    let client = server.client();
    let mut stalled = Http2::open(server.address, 0).await;
    let mut bodies = Vec::new();
    for _ in 0..140 {
        let (status, body) = stalled.post("/v1/chat/completions", chat(LONG)).await;
        assert_eq!(status, 200);
        bodies.push(body);
    }
    client.chat("").await.check_error(429, None, Some("queue_full"));
    let begin = Instant::now();
    while client.chat(r#","max_tokens":2"#).await.status != 200 {
        assert!(begin.elapsed() < 15 * SECOND, "they keep their places");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for body in bodies {
        let error = tokio::time::timeout(15 * SECOND, read(body)).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
    }
    let gone = "forebay_cancelled_total{model=\"m\",cause=\"client_gone\"} 140";
    while !client.get("/metrics").await.body.contains(gone) {
        assert!(begin.elapsed() < 30 * SECOND, "their generations go on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_read_outlives_its_stalled_neighbour() {
    let server = Server::start(slow(), "[server]\nwrite_timeout_s = 1\nkeepalive_s = 5").await;
    // Each stream may have 600 bytes; one is read, the other is not.
    let mut connection = Http2::open(server.address, 600).await;
    let (_, stalled) = connection.post("/v1/chat/completions", chat(LONG)).await;
    let (_, body) =
        connection.post("/v1/chat/completions", chat(r#","max_tokens":300,"stream":true"#)).await;
    let text = tokio::time::timeout(20 * SECOND, read(body)).await.unwrap().unwrap();
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(read(stalled).await.is_err(), "it took three seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_for_the_model_is_not_a_stall() {
    let script = Script { step_time: Duration::from_millis(2500), ..Script::default() };
    let server = Server::start(script, "[server]\nwrite_timeout_s = 1\nheader_timeout_s = 1").await;
    let mut connection = Http2::open(server.address, 1 << 16).await;
    for fields in [r#","max_tokens":1,"stream":true"#, r#","max_tokens":1"#] {
        let (status, body) = connection.post("/v1/chat/completions", chat(fields)).await;
        let text = read(body).await.unwrap();
        assert!(status == 200 && text.contains("\"finish_reason\":\"length\""), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_as_many_connections_as_it_may() {
    let toml = "[server]\nmax_connections_per_address = 3";
    let server = Server::start(Script::default(), toml).await;
    let client = server.client();
    // The connection of the health check may not have left yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut more = TcpStream::connect(server.address).await.unwrap();
    assert!(closes(&mut more, SECOND).await);
    held.pop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.get("/health").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_in_a_row_harm_nobody() {
    let server = Server::start(Script::default(), "").await;
    let mut connection = Http2::open(server.address, 1 << 16).await;
    for _ in 0..5000 {
        if connection.post_and_reset("/v1/chat/completions").await.is_err() {
            break;
        }
    }
    assert_eq!(server.client().chat(r#","max_tokens":2"#).await.status, 200);
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(2 * SECOND)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_answers_while_the_main_runtime_is_busy() {
    let port = free_port();
    let toml = format!("[server]\ndrain_delay_s = 0\n[admin]\nport = {port}");
    let server = Server::start(slow(), &toml).await;
    // The runtime's threads, and more in its queues.
    for _ in 0..8 {
        tokio::spawn(async { std::thread::sleep(2 * SECOND) });
    }
    std::thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    for path in ["/health", "/health/ready", "/health/live"] {
        let answer = get(port, path);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-request-id"), "{answer}");
    }
    assert!(get(port, "/metrics").contains("forebay_model_loaded{model=\"m\"} 1"));
    assert!(get(port, "/v1/models").starts_with("HTTP/1.1 404"));
    assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
    let arguments = ["forebay", "healthcheck", "--port", "1", "--admin-port", &port.to_string()];
    let run = || forebay_server::run(arguments.iter().map(Into::into), std::iter::empty());
    assert_eq!(run(), Exit::Good);
    // While it drains, and not after.
    let mut held = Http2::open(server.address, 1 << 16).await;
    let fields = r#","max_tokens":200,"stream":true"#;
    let (_, body) = held.post("/v1/chat/completions", chat(fields)).await;
    server.signal(Shutdown::Drain).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(get(port, "/health").starts_with("HTTP/1.1 503"));
    assert_eq!(run(), Exit::Failed);
    drop(read(body).await);
    server.ended().await.unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_not_waited_for() {
    let script = Script { step_time: Duration::from_secs(40), ..Script::default() };
    let toml = "[server]\ndrain_delay_s = 0\ndrain_timeout_s = 1";
    let server = Server::start(script, toml).await;
    let client = server.client();
    let running = tokio::spawn(async move { client.chat(LONG).await });
    let background = r#"{"model":"m","input":"hi","background":true}"#;
    assert_eq!(client.post("/v1/responses", background).await.status, 200);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    server.signal(Shutdown::Drain).await;
    assert!(running.await.unwrap().body.contains("shutting_down"));
    server.ended().await.unwrap();
    assert!(begin.elapsed() < 6 * SECOND, "{:?}", begin.elapsed());
}
