//! The phases of the process: loading, ready, draining, cut; and the requests to end it.

use std::sync::Arc;

use tokio::sync::watch;

/// A phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Models are being loaded.
    Loading,
    /// Requests are served.
    Ready,
    /// No new requests are wanted; running ones go on.
    Draining,
    /// Running requests must end now.
    Cut,
}

/// A request to end the process, as signals make them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Drain, accepting new connections for a while: a load balancer must first notice.
    Drain,
    /// Drain without that: a person waits.
    Quick,
    /// End at once.
    Now,
}

/// The phase, shared by all tasks. It only moves forward.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Loading)) }
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Enters `phase`, unless a later one has been reached.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }

    /// Waits until `phase` has been reached.
    pub async fn reached(&self, phase: Phase) {
        let mut phases = self.phase.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        if phases.wait_for(|now| *now >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
