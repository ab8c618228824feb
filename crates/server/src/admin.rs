//! The admin listener: health and metrics on a thread of their own.
//!
//! Probes must be answered while the main runtime's threads are busy, so nothing is shared with it
//! but state that the handlers read without waiting.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::AdminSettings;
use crate::listen::{Limits, Server};
use crate::state::AppState;

/// Connections at a time. Probes and scrapers are few.
const CONNECTIONS: usize = 64;
/// How long stopping waits for its thread to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// A running admin listener.
#[derive(Debug)]
pub(crate) struct Admin {
    stop: CancellationToken,
    stopped: oneshot::Receiver<()>,
}

impl Admin {
    /// Listens, if the settings say so.
    ///
    /// # Errors
    /// When the address cannot be had, or no thread.
    pub(crate) fn start(
        settings: &AdminSettings,
        state: &AppState,
    ) -> std::io::Result<Option<Self>> {
        if settings.port == 0 {
            return Ok(None);
        }
        let listener = std::net::TcpListener::bind((settings.host.as_str(), settings.port))?;
        listener.set_nonblocking(true)?;
        let address: Option<SocketAddr> = listener.local_addr().ok();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let limits =
            Limits { connections: CONNECTIONS, per_address: 0, ..Limits::new(&state.settings) };
        let state = state.clone();
        let stop = CancellationToken::new();
        let (sender, stopped) = oneshot::channel();
        let stopping = stop.clone();
        thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                let router = crate::app::admin(state);
                let server = Server::new(limits);
                tokio::select! {
                    never = server.accept(&listener, &router) => match never {},
                    () = stopping.cancelled() => Ok::<(), std::io::Error>(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener has stopped");
            }
            // With it go its connections, and their hold on the engines.
            drop(runtime);
            // Nobody waits when `stop` is not called.
            let _ = sender.send(());
        })?;
        tracing::info!(?address, "listening for health and metrics");
        Ok(Some(Self { stop, stopped }))
    }

    /// Ends it, so that its thread holds nothing any more.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        drop(tokio::time::timeout(PATIENCE, self.stopped).await);
    }
}
