//! The accept loop. `axum::serve` sets no timeouts; this sets all of them, and a connection cap.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use crate::config::ServerSettings;
use crate::lifecycle::{Lifecycle, Phase};

/// Room for a request's head; more is answered with 431.
const HEAD_BYTES: usize = 64 << 10;
const HTTP2_STREAMS: u32 = 256;
/// How an HTTP/2 connection without TLS begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What cut streams have to write their last event.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Serves connections until draining is over, `background` included. `delay` and `timeout` are how long new connections
/// and running requests are still served after [`Phase::Draining`].
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Arc<ServerSettings>,
    lifecycle: Lifecycle,
    background: impl Future<Output = ()>,
    drain_delay: impl Fn() -> Duration,
) {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    let stop = async {
        lifecycle.reached(Phase::Draining).await;
        tokio::select! {
            () = tokio::time::sleep(drain_delay()) => {}
            () = lifecycle.reached(Phase::Cut) => {}
        }
    };
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = &mut stop => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        let connection = Connection {
            stream,
            router: router.clone(),
            settings: Arc::clone(&settings),
            watcher: graceful.watcher(),
            permit,
        };
        // Awaited at the end through its watcher.
        tokio::spawn(connection.serve());
    }
    drop(listener);
    let timeout = Duration::from_secs(settings.drain_timeout_s);
    let done = futures_util::future::join(graceful.shutdown(), background);
    drain(done, &lifecycle, timeout).await;
}

/// Lets running requests finish, then cuts them.
async fn drain<T>(done: impl Future<Output = T>, lifecycle: &Lifecycle, timeout: Duration) {
    tokio::pin!(done);
    tokio::select! {
        _ = &mut done => return,
        () = tokio::time::sleep(timeout) => {
            tracing::warn!("requests are still running after the drain timeout; cutting them");
        }
        () = lifecycle.reached(Phase::Cut) => {}
    }
    lifecycle.enter(Phase::Cut);
    // Whoever does not read the last event either is not waited for.
    drop(tokio::time::timeout(LAST_WORDS, done).await);
}

/// The next connection, once there is room for one.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

struct Connection {
    stream: TcpStream,
    router: Router,
    settings: Arc<ServerSettings>,
    watcher: Watcher,
    permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self) {
        let Self { stream, router, settings, watcher, permit } = self;
        let head_timeout = Duration::from_secs(settings.header_timeout_s);
        // hyper's own timer starts only after it knows the protocol.
        let Ok(Some(http2)) = tokio::time::timeout(head_timeout, is_http2(&stream)).await else {
            return;
        };
        // Tokens are small; waiting to fill packets would hold each of them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(Duration::from_secs(settings.write_timeout_s)));
        let io: Pin<Box<TimeoutStream<TcpStream>>> = Box::pin(stream);

        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(head_timeout)
            .max_buf_size(HEAD_BYTES)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(head_timeout)
            .keep_alive_timeout(head_timeout)
            .max_concurrent_streams(HTTP2_STREAMS);
        let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
        let service = TowerToHyperService::new(router);
        let connection = builder.serve_connection(TokioIo::new(io), service).into_owned();
        // A client that breaks off is no event worth a line; the request's own line tells it.
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error = %error, "a connection ended with an error");
        }
        drop(permit);
    }
}

/// Whether the client begins with HTTP/2's preface; `None` when it leaves before that is clear.
async fn is_http2(stream: &TcpStream) -> Option<bool> {
    let mut buffer = [0; HTTP2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut buffer).await.ok()?;
        if seen == 0 {
            return None;
        }
        if !HTTP2_PREFACE.starts_with(&buffer[..seen]) {
            return Some(false);
        }
        if seen == buffer.len() {
            return Some(true);
        }
        // Peeking again at once would return the same.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
