//! Forebay's HTTP server: OpenAI routes, limits, metrics, configuration, the command line.
//!
//! A request's way: [`routes`] takes it, [`dialects`] read it into a [`conversation`], `convert` makes the engine's
//! request of that, `generations` submits it, [`reply`] reads what the model generates, `dialects` spell it.
//!
//! **Invariant:** no sampling, no parsing of what a model says, no `unsafe`.

pub mod config;
pub mod routes;

pub mod conversation;
pub mod convert;
pub mod dialects;
pub mod reply;

mod admin;
mod admission;
mod app;
mod background;
mod bench;
mod cli;
mod cost;
mod error;
mod extract;
mod generations;
mod hardware;
mod healthcheck;
mod kept_costs;
mod lifecycle;
mod listen;
mod loading;
mod metrics;
mod observe;
mod persistence;
mod pool;
mod record;
mod reference;
mod registry;
mod request_context;
mod response_store;
mod shutdown;
mod sse;
mod state;
mod work;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{Source, Status};
use tokio::net::TcpListener;

pub use app::{openapi, reference};
pub use cli::{Exit, run};
pub use registry::CannotServe;

use crate::config::{ModelSettings, Settings};
use crate::lifecycle::{Lifecycle, Phase};
use crate::state::AppState;

/// Why serving ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A model cannot be loaded.
    #[error(transparent)]
    Model(#[from] CannotServe),
    /// The responses' database cannot be used.
    #[error("the store of responses cannot be opened: {0}")]
    Store(#[from] response_store::OpenError),
    /// The operating system has no threads left.
    #[error("the threads for requests cannot be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The admin listener's address cannot be had.
    #[error("cannot listen for health and metrics: {0}")]
    Admin(std::io::Error),
    /// An engine has ended and cannot be started again; a supervisor should restart the process.
    #[error("the engine of model {0:?} has stopped")]
    EngineStopped(String),
}

/// A request to end, as signals make them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Drain, taking new connections for a while: a load balancer must first notice.
    Drain,
    /// Drain without that: a person waits.
    Quick,
    /// End at once.
    Now,
}

const UPKEEP: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_millis(500);

/// Loads the models and serves until asked to end. The listener is open from the beginning: until
/// the models are loaded, `/health` says so.
///
/// `source` says where a model comes from (its file, but for tests); `shutdown` yields the next
/// request to end each time it is called.
///
/// # Errors
/// [`ServeError`] when it cannot serve or cannot go on.
pub async fn serve<F>(
    settings: Settings,
    listener: TcpListener,
    source: impl Fn(&ModelSettings) -> Source,
    mut shutdown: impl FnMut() -> F + Send + 'static,
) -> Result<(), ServeError>
where
    F: Future<Output = Shutdown> + Send + 'static,
{
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kept_costs = kept_costs::KeptCosts::start(settings.cache.as_deref());
    let state = AppState {
        launcher: loading::launcher(&settings),
        shared: work::Shared {
            pool: Arc::new(pool::Pool::new(cores, pool::QUEUE)?),
            budget: Arc::new(cost::MemoryBudget::new(&settings.limits)),
        },
        requests: Arc::new(tokio::sync::Semaphore::new(settings.limits.max_requests)),
        limits: Arc::new(settings.limits),
        settings: Arc::new(settings.server),
        registry: Arc::new(registry::Registry::new(&settings.models)),
        metrics: Arc::new(metrics::Metrics::new()),
        lifecycle: Lifecycle::default(),
        store: settings
            .store
            .enabled
            .then(|| response_store::ResponseStore::open(&settings.store))
            .transpose()?,
        jobs: background::Jobs::default(),
    };
    #[cfg(feature = "llama")]
    if state.launcher.is_some() {
        forebay_engine::never_initialise();
    }
    let admin = admin::Admin::start(&settings.admin, &state).map_err(ServeError::Admin)?;
    let quick = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let signals = {
        let (lifecycle, quick) = (state.lifecycle.clone(), Arc::clone(&quick));
        async move {
            loop {
                let request = shutdown().await;
                let again = lifecycle.phase() >= Phase::Draining;
                tracing::info!(?request, again, "shutting down");
                quick.store(request == Shutdown::Quick, std::sync::atomic::Ordering::Relaxed);
                let cut = again || request == Shutdown::Now;
                lifecycle.enter(if cut { Phase::Cut } else { Phase::Draining });
            }
        }
    };
    let delay = Duration::from_secs(state.settings.drain_delay_s);
    let drain_delay = move || match quick.load(std::sync::atomic::Ordering::Relaxed) {
        true => Duration::ZERO,
        false => delay,
    };
    let router = app::app(state.clone());
    let accept = async {
        let (settings, lifecycle) = (&state.settings, state.lifecycle.clone());
        listen::serve(listener, router, settings, lifecycle, state.jobs.idle(), drain_delay).await;
    };
    let models = async {
        loading::load_all(&state, source, kept_costs.as_ref()).await?;
        state.lifecycle.enter(Phase::Ready);
        watch_engines(&state).await
    };
    let ended = tokio::select! {
        () = accept => Ok(()),
        failed = models => failed,
        never = upkeep(&state) => match never {},
        never = signals => never,
    };
    // First, since an engine that was closed has the status of one that failed, and health would say so.
    if let Some(admin) = admin {
        admin.stop().await;
    }
    // They send what they have learned of costs at their end.
    state.registry.close().await;
    if let Some(kept_costs) = kept_costs {
        kept_costs.finish().await;
    }
    ended
}

/// Ends with an error some time after an engine has died: its requests get their errors first.
async fn watch_engines(state: &AppState) -> Result<(), ServeError> {
    loop {
        tokio::time::sleep(WATCH).await;
        let dead = state.registry.loaded().find(|served| served.status() == Status::Failed);
        if let Some(served) = dead {
            tracing::error!(model = &*served.name, "the engine has stopped; ending");
            tokio::time::sleep(WATCH * 4).await;
            return Err(ServeError::EngineStopped(served.name.to_string()));
        }
    }
}

async fn upkeep(state: &AppState) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(UPKEEP).await;
        state.metrics.upkeep();
    }
}
