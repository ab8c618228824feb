//! What every request handler can reach.

use std::sync::Arc;

use forebay_engine::process::Launcher;
use tokio::sync::Semaphore;

use crate::admission::Caller;
use crate::background::Jobs;
use crate::config::{LimitSettings, ServerSettings};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::registry::{Registry, Served};
use crate::request_context::RequestContext;
use crate::request_resources::SharedResources;
use crate::response_store::ResponseStore;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// `[server]` of the configuration.
    pub settings: Arc<ServerSettings>,
    /// `[limits]` of the configuration.
    pub limits: Arc<LimitSettings>,
    /// Threads and memory for requests.
    pub(crate) shared: SharedResources,
    /// Places for requests in progress.
    pub(crate) requests: Arc<Semaphore>,
    /// How engines are started in processes of their own, if they are.
    pub(crate) launcher: Option<Launcher>,
    /// The models.
    pub registry: Arc<Registry>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// The store of responses and conversations, if there is one.
    pub store: Option<ResponseStore>,
    /// Responses that are generated in the background.
    pub(crate) jobs: Jobs,
}

impl AppState {
    /// What a request of this caller to this model is converted with.
    pub(crate) fn context(&self, served: Arc<Served>, caller: Caller) -> RequestContext {
        let (settings, limits) = (Arc::clone(&self.settings), Arc::clone(&self.limits));
        RequestContext { served, caller, settings, limits }
    }
}
