//! What every request handler can reach.

use std::sync::Arc;

use crate::config::ServerSettings;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::registry::Registry;

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
}
