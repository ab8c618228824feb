//! The admin listener: health and metrics on a thread of their own.
//!
//! Probes must be answered while the main runtime's threads are busy, so only state that the handlers
//! read without waiting is shared with it.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::{AdminSettings, ServerSettings};
use crate::listen::{ConnectionLimits, ConnectionServer};

/// Connections at a time. Probes and scrapers are few.
const CONNECTIONS: usize = 64;
/// How long stopping waits for its thread to end.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// A running admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    stop: CancellationToken,
    stopped: oneshot::Receiver<()>,
}

impl Admin {
    /// Starts to listen; `None` without a port. Timeouts are those of the main listener.
    ///
    /// # Errors
    /// When the address cannot be bound, or no thread started.
    pub(crate) fn start(
        settings: &AdminSettings,
        timeouts: &ServerSettings,
        router: Router,
    ) -> std::io::Result<Option<Self>> {
        if settings.port == 0 {
            return Ok(None);
        }
        let listener = std::net::TcpListener::bind((settings.host.as_str(), settings.port))?;
        listener.set_nonblocking(true)?;
        let address: Option<SocketAddr> = listener.local_addr().ok();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let timeouts = ConnectionLimits::new(timeouts);
        let limits = ConnectionLimits { connections: CONNECTIONS, per_address: 0, ..timeouts };
        let stop = CancellationToken::new();
        let (sender, stopped) = oneshot::channel();
        let stopping = stop.clone();
        thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                let server = ConnectionServer::new(limits);
                tokio::select! {
                    never = server.accept(&listener, &router) => match never {},
                    () = stopping.cancelled() => Ok::<(), std::io::Error>(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener has stopped");
            }
            // This drops its connections, and with them their handles of the engines.
            drop(runtime);
            // The receiver is gone if `stop` is not called.
            let _ = sender.send(());
        })?;
        tracing::info!(?address, "listening for health and metrics");
        Ok(Some(Self { stop, stopped }))
    }

    /// Stops it and waits for its thread, so that that holds no engines.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        drop(tokio::time::timeout(STOP_TIMEOUT, self.stopped).await);
    }
}
