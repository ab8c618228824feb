//! What each answer carries besides its content: an id, a time and the names of what made it.

use std::time::{SystemTime, UNIX_EPOCH};

/// What every answer to one request carries.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields of the same names in the answers")]
pub struct Stamp {
    pub id: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
}

impl Stamp {
    /// A new id that begins with `prefix`.
    pub fn new(prefix: &str, model: String, fingerprint: &str) -> Self {
        Self {
            id: format!("{prefix}-{}", uuid::Uuid::new_v4().simple()),
            created: now(),
            model,
            system_fingerprint: format!("fp_{fingerprint}"),
        }
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
