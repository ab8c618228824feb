//! What every request handler can reach.

use std::sync::Arc;

use crate::background::Jobs;
use crate::config::ServerSettings;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::store::Store;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppState {
    /// `[server]` of the configuration.
    pub settings: Arc<ServerSettings>,
    /// The models.
    pub registry: Arc<Registry>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// Where responses and conversations are kept, if they are.
    pub store: Option<Store>,
    /// Responses that are generated in the background.
    pub(crate) jobs: Jobs,
}
