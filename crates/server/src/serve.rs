//! Serving, from loading the models to closing their engines.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_engine::{Source, Status};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::admin::Admin;
use crate::app;
use crate::background::Jobs;
use crate::config::{ModelSettings, Settings};
use crate::cost::MemoryBudget;
use crate::kept_costs::KeptCosts;
use crate::lifecycle::{Lifecycle, Phase, Shutdown};
use crate::listen;
use crate::loading::{self, ModelLoader};
use crate::metrics::Metrics;
use crate::pool::{self, Pool};
use crate::registry::{CannotServe, Registry};
use crate::request_resources::SharedResources;
use crate::response_store::{self, ResponseStore};
use crate::state::AppState;

/// Why serving failed.
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
    /// The admin listener cannot be started.
    #[error("cannot listen for health and metrics: {0}")]
    Admin(std::io::Error),
    /// An engine has ended and cannot be started again; a supervisor should restart the process.
    #[error("the engine of model {0:?} has stopped")]
    EngineStopped(String),
}

/// How often recorded metrics are sorted into buckets.
const METRICS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the engines' status is checked.
const ENGINE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Loads the models and serves until asked to end. The listener accepts from the start: until
/// the models are loaded, `/health` reports that.
///
/// `source` returns where a model comes from (its file, but for tests); `shutdown` yields the next
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
    let kept_costs = KeptCosts::start(settings.cache.as_deref());
    let admin_settings = settings.admin.clone();
    let state = start_state(settings)?;
    #[cfg(feature = "llama")]
    if state.launcher.is_some() {
        forebay_engine::never_initialise();
    }
    let admin = Admin::start(&admin_settings, &state.settings, app::admin(state.clone()));
    let admin = admin.map_err(ServeError::Admin)?;
    let is_quick = Arc::new(AtomicBool::new(false));
    let signals = {
        let (lifecycle, is_quick) = (state.lifecycle.clone(), Arc::clone(&is_quick));
        async move {
            loop {
                let request = shutdown().await;
                let again = lifecycle.phase() >= Phase::Draining;
                tracing::info!(?request, again, "shutting down");
                is_quick.store(request == Shutdown::Quick, Ordering::Relaxed);
                let cut = again || request == Shutdown::Now;
                lifecycle.enter(if cut { Phase::Cut } else { Phase::Draining });
            }
        }
    };
    let delay = Duration::from_secs(state.settings.drain_delay_s);
    let drain_delay = move || match is_quick.load(Ordering::Relaxed) {
        true => Duration::ZERO,
        false => delay,
    };
    let router = app::app(state.clone());
    let accept = async {
        let (settings, lifecycle) = (&state.settings, state.lifecycle.clone());
        listen::serve(listener, router, settings, lifecycle, state.jobs.idle(), drain_delay).await;
    };
    let models = async {
        let loader = ModelLoader {
            registry: &state.registry,
            metrics: &state.metrics,
            launcher: state.launcher.as_ref(),
            kept_costs: kept_costs.as_ref(),
            max_requests: state.limits.max_requests,
        };
        loader.load_all(source).await?;
        state.lifecycle.enter(Phase::Ready);
        watch_engines(&state.registry).await
    };
    let ended = tokio::select! {
        () = accept => Ok(()),
        failed = models => failed,
        never = maintain_metrics(&state.metrics) => match never {},
        never = signals => never,
    };
    // First, since a closed engine has the status of one that failed, and health would report so.
    if let Some(admin) = admin {
        admin.stop().await;
    }
    // Engines send the costs that they learned when they close.
    state.registry.close().await;
    if let Some(kept_costs) = kept_costs {
        kept_costs.finish().await;
    }
    ended
}

/// The state of a server whose models are not loaded yet.
fn start_state(settings: Settings) -> Result<AppState, ServeError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let store = settings.store.enabled.then(|| ResponseStore::open(&settings.store)).transpose()?;
    Ok(AppState {
        launcher: loading::launcher(&settings),
        shared: SharedResources {
            pool: Arc::new(Pool::new(cores, pool::QUEUE)?),
            budget: Arc::new(MemoryBudget::new(&settings.limits)),
        },
        requests: Arc::new(Semaphore::new(settings.limits.max_requests)),
        limits: Arc::new(settings.limits),
        settings: Arc::new(settings.server),
        registry: Arc::new(Registry::new(&settings.models)),
        metrics: Arc::new(Metrics::new()),
        lifecycle: Lifecycle::default(),
        store,
        jobs: Jobs::default(),
    })
}

/// Fails some time after an engine has failed: its requests get their errors first.
async fn watch_engines(registry: &Registry) -> Result<(), ServeError> {
    loop {
        tokio::time::sleep(ENGINE_CHECK_INTERVAL).await;
        let failed = registry.loaded().find(|served| served.status() == Status::Failed);
        if let Some(served) = failed {
            tracing::error!(model = &*served.name, "the engine has stopped; ending");
            tokio::time::sleep(ENGINE_CHECK_INTERVAL * 4).await;
            return Err(ServeError::EngineStopped(served.name.to_string()));
        }
    }
}

async fn maintain_metrics(metrics: &Metrics) -> Infallible {
    loop {
        tokio::time::sleep(METRICS_INTERVAL).await;
        metrics.upkeep();
    }
}
