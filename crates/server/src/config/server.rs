//! The tables of everything but models.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::table::settings;

settings! {
    /// The HTTP listener, its connections and the process.
    "server" ServerSettings {
        /// Address to listen on.
        /// "0.0.0.0" is every interface: there are no API keys yet, so put something in front that has them.
        host: String = "127.0.0.1".to_owned(), flag("--host <ADDRESS>");
        /// Port to listen on; 0 for any free one.
        port: u16 = 8080, flag("--port <PORT>");
        /// Refuse unknown request fields instead of naming them in a debug log.
        strict: bool = false, switch("--strict", true, "Refuse unknown request fields");
        /// Connections served at a time; more wait to be accepted.
        /// When nine of ten are in use, those that have been idle for longest are closed to make room.
        max_connections: usize = 4096, range(1..=1_000_000);
        /// Connections from one address (of IPv6, one /64 network); more are closed at once. 0 for no limit.
        /// Behind a proxy all connections come from its address.
        max_connections_per_address: usize = 0, range(0..=1_000_000);
        /// Largest request body, in bytes.
        max_body_bytes: usize = 32 << 20, range(1024..=1 << 30);
        /// How long a client may take to send a request's head, in seconds; also how long a connection may idle.
        header_timeout_s: u64 = 10, range(1..=3600);
        /// How long a client may take to send a request's body, in seconds.
        body_timeout_s: u64 = 30, range(1..=3600);
        /// How long a client may take to read what the server sends, in seconds.
        /// On HTTP/2 a stream that is not read is reset after this time, whatever the connection's other
        /// streams do.
        write_timeout_s: u64 = 30, range(1..=3600);
        /// A stream without an event for this long gets a comment line, so that proxies keep it open; in seconds.
        keepalive_s: u64 = 10, range(1..=3600);
        /// How long new connections are accepted after SIGTERM, in seconds.
        /// `/health` returns 503 at once, so that load balancers notice. After Ctrl-C there is no delay.
        drain_delay_s: u64 = 5, range(0..=3600);
        /// How long running requests may take after that, in seconds; then their streams end with an error event.
        /// A second signal ends the streams at once. The process exits at most 5 s after the drain, whatever
        /// hangs.
        drain_timeout_s: u64 = 120, range(0..=86_400);
        /// The largest `n` of a request.
        max_choices: u32 = 8, range(1..=128);
        /// Run each model in a process of its own, which is started again when it dies.
        /// Requests wait for that and go on. Otherwise a model runs on a thread, and its crash ends the server.
        engine_processes: bool = true;
        /// Cache directory, of learned costs; "" for none. "auto": $XDG_CACHE_HOME/forebay or ~/.cache/forebay.
        /// It holds what a model's steps cost, so that a start with the same model, machine and settings begins
        /// with measurements instead of guesses. A write that fails is logged once.
        cache_dir: PathBuf = "auto".into(), flag("--cache-dir <DIRECTORY>");
        /// Web origins that may call this server from a browser; ["*"] for any.
        cors_origins: Vec<String> = Vec::new(), check(|origins| are_origins(origins));
    }
}

settings! {
    /// Limits over all requests.
    "limits" LimitSettings {
        /// Requests in progress at a time, over all connections; more get 429.
        max_requests: usize = 8192, range(1..=1_000_000);
        /// Memory of all requests in progress, in MiB: for bodies, their JSON, prompts and tokens.
        /// It is estimated before a body is parsed: six bytes for each of its bytes, 128 for each JSON value.
        memory_mib: usize = 256, range(8..=1 << 20);
        /// Memory of one request, in MiB. Half of `memory_mib` is for large requests, so one has at most that.
        request_memory_mib: usize = 128, range(1..=1 << 20);
        /// The longest text that is tokenised, in KiB; a prompt also has to fit into the model's context.
        text_kib: usize = 2048, range(1..=1 << 20);
        /// What one request may read of a conversation's or earlier responses' items, in KiB of JSON.
        /// Also the most that a page of items holds.
        history_kib: usize = 4096, range(1..=1 << 20);
    }
}

settings! {
    /// A second listener for /health, /health/live, /health/ready and /metrics, with a thread of its own, so
    /// that load on the main port does not delay probes. The main port serves them too; `forebay healthcheck`
    /// asks this one if there is one.
    "admin" AdminSettings {
        /// Address of the second listener.
        host: String = "127.0.0.1".to_owned();
        /// Port of a second listener for health and metrics alone; 0 for none.
        port: u16 = 0, flag("--admin-port <PORT>");
    }
}

settings! {
    /// The log, on the standard error.
    "log" LogSettings {
        /// Level or filter of the log: error, warn, info, debug, trace, or such as "info,forebay_engine=debug".
        level: String = "info".to_owned(), check(|level| is_filter(level)), flag("--log-level <LEVEL>");
        /// How log lines look: "text" or "json".
        format: LogFormat = LogFormat::Text, choice("--log-format <FORMAT>");
    }
}

settings! {
    /// Responses and conversations that are kept (`store`, `previous_response_id`, `background`).
    "store" StoreSettings {
        /// Keep responses and conversations.
        enabled: bool = true, switch("--no-store", false, "Keep no responses and conversations");
        /// SQLite file to keep responses and conversations in; without one they end with the process.
        path: PathBuf = PathBuf::new(), file("--store <FILE>");
        /// The most that is kept, in MiB of JSON; what was not used for longest is deleted first.
        max_mib: u32 = 256, range(1..=1 << 20);
        /// How long what is not used is kept, in hours.
        max_age_hours: u32 = 720, range(1..=876_000);
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn are_origins(origins: &[String]) -> Result<(), String> {
    match origins.iter().find(|origin| origin.parse::<axum::http::HeaderValue>().is_err()) {
        Some(wrong) => Err(format!("{wrong:?} is not an origin")),
        None => Ok(()),
    }
}

fn is_filter(level: &str) -> Result<(), String> {
    match level.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!(
            "{level:?} is neither a level nor a filter such as \"info,forebay_engine=debug\""
        )),
    }
}
