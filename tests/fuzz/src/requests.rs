//! The whole server, over real connections: every route, with bodies, paths, queries and bytes that
//! are no HTTP at all. Nothing is a 500, every body is what its head says, no connection hangs.

mod client;

use std::net::SocketAddr;
use std::sync::LazyLock;

use forebay_engine::scripted::Script;
use forebay_engine::{Kind, Source};
use forebay_server::config::{Layers, ModelSettings, Settings};

use client::{Answer, Client};

const SETTINGS: &str = r#"
[server]
header_timeout_s = 5
body_timeout_s = 5
[store]
max_mib = 2
[log]
level = "off"
[[model]]
path = "m.gguf"
aliases = ["*"]
parallel = 2
[[model]]
path = "call.gguf"
[[model]]
path = "hermes.gguf"
[[model]]
path = "e.gguf"
"#;

/// Method, path and how a body begins that this route takes; `{}` stands for the id of what the run
/// made last.
const ROUTES: [(&str, &str, &str); 27] = [
    ("POST", "/v1/chat/completions", CHAT),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"model":"call","messages":[{"role":"user","content":"hi"}],"tools":[{"type":"function","function":{"name":"f"}}]"#,
    ),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"model":"hermes","stream":true,"messages":[{"role":"user","content":"hi"}]"#,
    ),
    ("POST", "/v1/responses", r#"{"model":"m","input":"hi""#),
    (
        "POST",
        "/v1/responses",
        r#"{"model":"call","background":true,"input":[{"role":"user","content":"hi"}]"#,
    ),
    ("POST", "/v1/responses", r#"{"model":"m","previous_response_id":"{}","input":"hi""#),
    ("POST", "/v1/responses", r#"{"model":"hermes","stream":true,"input":"hi""#),
    (
        "POST",
        "/v1/messages",
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]"#,
    ),
    (
        "POST",
        "/v1/messages",
        r#"{"model":"call","stream":true,"max_tokens":99,"messages":[{"role":"user","content":"hi"}]"#,
    ),
    ("POST", "/v1/completions", r#"{"model":"m","prompt":"hi""#),
    ("POST", "/v1/embeddings", r#"{"model":"e","input":"hi""#),
    ("POST", "/v1/rerank", r#"{"model":"e","query":"hi","documents":["a","b"]"#),
    ("POST", "/v1/tokenize", r#"{"model":"m","prompt":"hi""#),
    ("POST", "/v1/detokenize", r#"{"model":"m","tokens":[1,2]"#),
    ("POST", "/v1/conversations", r#"{"items":[{"role":"user","content":"hi"}]"#),
    ("POST", "/v1/conversations/{}/items", r#"{"items":[{"role":"user","content":"hi"}]"#),
    ("GET", "/v1/conversations/{}/items", ""),
    ("GET", "/v1/responses/{}", ""),
    ("GET", "/v1/responses/{}/input_items", ""),
    ("POST", "/v1/responses/{}/cancel", ""),
    ("DELETE", "/v1/responses/{}", ""),
    ("POST", "/v1/responses/input_tokens", r#"{"model":"m","input":"hi""#),
    ("POST", "/v1/chat/completions/input_tokens", CHAT),
    (
        "POST",
        "/v1/messages/count_tokens",
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}]"#,
    ),
    ("GET", "/v1/models", ""),
    ("GET", "/v1/models/", ""),
    ("GET", "/health", ""),
];
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]"#;

static SERVER: LazyLock<SocketAddr> = LazyLock::new(start);

/// The server, for as long as the process lives.
fn start() -> SocketAddr {
    let mut layers = Layers::default();
    layers.toml(SETTINGS, "fuzz");
    let settings = Settings::resolve(layers).expect("settings");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let bind = tokio::net::TcpListener::bind("127.0.0.1:0");
    let listener = runtime.block_on(bind).expect("a port");
    let address = listener.local_addr().expect("an address");
    runtime.spawn(async move {
        let ended = forebay_server::serve(settings, listener, source, std::future::pending).await;
        panic!("serving ended: {ended:?}");
    });
    std::mem::forget(runtime);
    for _ in 0..500 {
        if Client::new(address).exchange("GET", "/health", None).is_some_and(|a| a.status == 200) {
            return address;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the server is not healthy after five seconds");
}

fn source(model: &ModelSettings) -> Source {
    let hermes = include_str!("../templates/hermes.jinja").to_owned();
    let script = Script { slot_tokens: 512, ..Script::default() };
    Source::Scripted(match model.name.as_str() {
        "call" => Script {
            says: "Well.<tool_call>\n{\"name\": \"f\", \"arguments\": {\"é\": [1, \"}\"]}}\n</tool_call>\0".to_owned(),
            ..script
        },
        "hermes" => Script {
            says: "hm\n</think>\n\nok<tool_call>{\"name\": \"f\"}\0".to_owned(),
            chat_template: Some(hermes),
            ..script
        },
        "e" => Script { kind: Kind::Embedding, ..script },
        _ => script,
    })
}

pub fn run(data: &[u8]) {
    let address = *SERVER;
    if let Some(raw) = data.strip_prefix(b"\xff") {
        client::raw(address, raw);
        let alive = Client::new(address).exchange("GET", "/health", None).expect("an answer");
        return assert_eq!(alive.status, 200);
    }
    let mut client = Client::new(address);
    let mut id = String::from("resp_none");
    // A request a line: which route, how, and the rest of its body or path.
    for line in data.split(|&byte| byte == b'\n').take(4) {
        let Some((&[route, how], rest)) = line.split_first_chunk::<2>() else { continue };
        let (method, path, begins) = ROUTES[usize::from(route) % ROUTES.len()];
        let rest = String::from_utf8_lossy(rest);
        let (path, begins) = (path.replace("{}", &id), begins.replace("{}", &id));
        let (path, body) = match (method, how % 4) {
            ("POST", 0) => (path, Some(rest.into_owned())),
            ("POST", 1) => (path, Some(format!("{begins}}}"))),
            ("POST", _) => (path, Some(format!("{begins},{rest}}}"))),
            (_, 0 | 1) => (path, None),
            (_, 2) => (format!("{path}?{}", client::target(&rest)), None),
            _ => (format!("{path}{}", client::target(&rest)), None),
        };
        let Some(answer) = client.exchange(method, &path, body.as_deref()) else { continue };
        check(&answer, &path);
        if let Some(made) = answer.id() {
            id = made;
        }
    }
}

fn check(answer: &Answer, path: &str) {
    // What is no target of HTTP never gets to a route.
    if answer.status == 400 && answer.body.is_empty() && answer.head.contains("connection: close") {
        return;
    }
    assert!(answer.status < 500 || answer.status == 503, "{path}: {answer:?}");
    assert!(answer.body.len() < 4 << 20, "{path}: {} bytes", answer.body.len());
    assert!(answer.head.contains("x-request-id: "), "{path}: {answer:?}");
    if answer.head.contains("content-type: application/json") {
        let json = serde_json::from_str::<serde_json::Value>(&answer.body);
        let json = json.unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"));
        assert_eq!(
            answer.status >= 400,
            json["error"]["message"].is_string(),
            "{path}: {answer:?}"
        );
    }
    if answer.head.contains("content-type: text/event-stream") {
        for line in answer.body.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let known = line == "[DONE]" || serde_json::from_str::<serde_json::Value>(line).is_ok();
            assert!(known, "{path}: {line}");
        }
    }
}
