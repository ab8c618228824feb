//! The accept loop. `axum::serve` sets no timeouts; this sets all of them, and the limits on
//! connections.

mod connection;
mod connections;
mod socket;
mod stall;

use std::time::{Duration, Instant};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ServerSettings;
use crate::lifecycle::{Lifecycle, Phase};
use connection::Connection;
pub(crate) use connection::ConnectionLimits;
use connections::Connections;

/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// While connections cannot be accepted, that is logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long cut streams have to write their last event. Engines and other threads are waited for
/// after that; `shutdown.rs` ends the process 5 s after the drain in any case.
const LAST_EVENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The connections of a listener.
#[derive(Debug)]
pub(crate) struct ConnectionServer {
    limits: ConnectionLimits,
    connections: Connections,
    draining: CancellationToken,
    tasks: TaskTracker,
}

impl ConnectionServer {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        let connections = Connections::new(limits.connections, limits.per_address);
        let (draining, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { limits, connections, draining, tasks }
    }

    /// Serves connections until this is dropped.
    pub(crate) async fn accept(
        &self,
        listener: &TcpListener,
        router: &Router,
    ) -> std::convert::Infallible {
        let mut logged: Option<Instant> = None;
        loop {
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if logged.is_none_or(|logged| logged.elapsed() > LOG_INTERVAL) {
                        tracing::warn!(%error, "connections cannot be accepted");
                        logged = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(open) = self.connections.admit(address.ip()).await else {
                tracing::debug!(%address, "an address has too many connections");
                continue;
            };
            let connection = Connection {
                stream,
                router: router.clone(),
                limits: self.limits,
                open,
                draining: self.draining.clone(),
            };
            // Awaited by `finish`.
            self.tasks.spawn(connection.serve());
        }
    }

    /// Finishes the requests in flight.
    async fn finish(&self) {
        self.draining.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Serves connections until draining is over, `background` included. `drain_delay` is how long new
/// connections are still accepted after [`Phase::Draining`].
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    settings: &ServerSettings,
    lifecycle: Lifecycle,
    background: impl Future<Output = ()>,
    drain_delay: impl Fn() -> Duration,
) {
    let server = ConnectionServer::new(ConnectionLimits::new(settings));
    let stop = async {
        lifecycle.reached(Phase::Draining).await;
        tokio::select! {
            () = tokio::time::sleep(drain_delay()) => {}
            () = lifecycle.reached(Phase::Cut) => {}
        }
    };
    tokio::select! {
        never = server.accept(&listener, &router) => match never {},
        () = stop => {}
    }
    drop((listener, router));
    let timeout = Duration::from_secs(settings.drain_timeout_s);
    let done = futures_util::future::join(server.finish(), background);
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
    // A client that does not read the last event is not waited for.
    drop(tokio::time::timeout(LAST_EVENT_TIMEOUT, done).await);
}
