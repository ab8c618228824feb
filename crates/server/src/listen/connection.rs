//! One connection, from its first byte to its end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::connections::{Activity, OpenConnection};
use super::socket::Socket;
use super::stall::{ResponseBody, StreamExecutor};
use crate::config::ServerSettings;

/// Room for a request's head; more is answered with 431.
const HEAD_BYTES: usize = 64 << 10;
/// Streams of an HTTP/2 connection at a time. h2 itself bounds resets (20 of streams that were not
/// accepted yet, 1024 for a client's errors), CONTINUATION frames, and empty DATA frames.
const STREAMS: u32 = 256;
/// Bytes that a client may send on an HTTP/2 stream, and on a connection, before they are read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Bytes of a stream's response that h2 buffers.
const SEND_BUFFER: usize = 64 << 10;
/// How an HTTP/2 connection without TLS begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client has to close an idle connection itself, or to send a request that was on its way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of a listener's clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// Connections at a time.
    pub(crate) connections: usize,
    /// Connections from one address at a time; 0 for any number.
    pub(crate) per_address: usize,
    /// For a request's head, and for idling.
    pub(crate) head: Duration,
    /// Until a client reads what is sent.
    pub(crate) write: Duration,
}

impl ConnectionLimits {
    pub(crate) fn new(settings: &ServerSettings) -> Self {
        Self {
            connections: settings.max_connections,
            per_address: settings.max_connections_per_address,
            head: Duration::from_secs(settings.header_timeout_s),
            write: Duration::from_secs(settings.write_timeout_s),
        }
    }
}

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) router: Router,
    pub(super) limits: ConnectionLimits,
    pub(super) open: OpenConnection,
    pub(super) draining: CancellationToken,
}

impl Connection {
    pub(super) async fn serve(self) {
        let Self { stream, router, limits, open, draining } = self;
        let activity = Arc::clone(open.activity());
        // hyper's own timer starts only after it knows the protocol.
        let detected = tokio::select! {
            detected = timeout(limits.head, is_http2(&stream)) => detected,
            () = activity.evicted() => return,
            () = draining.cancelled() => return,
        };
        let Ok(Some(is_http2)) = detected else { return };
        // Tokens are small; waiting to fill packets would hold each of them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let io = TokioIo::new(Socket::new(stream, limits.write, Arc::clone(&activity)));
        let service = Service { router, activity: Arc::clone(&activity) };
        if is_http2 {
            let connection = http2_builder(&limits).serve_connection(io, service);
            drive(connection, &activity, &draining, limits.head).await;
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(HEAD_BYTES);
            let connection = builder.serve_connection(io, service);
            drive(connection, &activity, &draining, limits.head).await;
        }
        drop(open);
    }
}

fn http2_builder(limits: &ConnectionLimits) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(StreamExecutor { timeout: limits.write });
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.head)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER);
    builder
}

/// Drives a connection until it ends, and ends it when it is idle for too long, has to make room
/// for another one, or the server drains. Requests that are in flight are served to their end.
async fn drive<C>(
    connection: C,
    activity: &Activity,
    draining: &CancellationToken,
    idle_timeout: Duration,
) where
    C: GracefulConnection,
    C::Error: std::fmt::Display,
{
    let mut connection = std::pin::pin!(connection);
    let why = tokio::select! {
        ended = connection.as_mut() => return log(ended),
        () = activity.idle_for(idle_timeout, Instant::now()) => "idle",
        () = activity.evicted() => "idle, and others want to connect",
        () = draining.cancelled() => "draining",
    };
    tracing::trace!(why, "closing a connection");
    connection.as_mut().graceful_shutdown();
    // A client that answers pings but does not close is not waited for.
    tokio::select! {
        ended = connection.as_mut() => log(ended),
        () = activity.idle_for(CLOSE_TIMEOUT, Instant::now()) => {}
    }
}

/// Logs at debug level: a client that breaks off is reported by its request's own line.
fn log<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// The router, with requests counted as the connection's activity.
struct Service {
    router: Router,
    activity: Arc<Activity>,
}

type Answer = Result<Response<ResponseBody>, Infallible>;

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.start_request();
        let response = self.router.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| ResponseBody::new(body, in_flight)))
        })
    }
}

/// Whether the client begins with HTTP/2's preface; `None` when it leaves before that is clear.
async fn is_http2(stream: &TcpStream) -> Option<bool> {
    let (mut buffer, mut pause) = ([0; PREFACE.len()], Duration::from_millis(2));
    loop {
        let seen = stream.peek(&mut buffer).await.ok()?;
        if seen == 0 {
            return None;
        }
        if !PREFACE.starts_with(&buffer[..seen]) {
            return Some(false);
        }
        if seen == buffer.len() {
            return Some(true);
        }
        // Peeking again at once would return the same.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
