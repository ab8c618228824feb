//! What is written into the store: JSON texts, and what its tables need to know of them.

use serde_json::Value;

/// An item of a holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredItem {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// All of it as JSON.
    pub json: String,
}

/// A response, or what there is of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// Its id.
    pub id: String,
    /// Whether all is generated: its items may join a conversation.
    pub complete: bool,
    /// The whole object as JSON, `output` being null.
    pub body: String,
    /// The items of its output.
    pub output: Vec<StoredItem>,
}

impl StoredItem {
    /// The item as text.
    pub fn of(item: &Value) -> Self {
        Self { id: item["id"].as_str().map(str::to_owned), json: item.to_string() }
    }
}
