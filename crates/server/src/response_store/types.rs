//! What the response store takes and returns: JSON texts, and what its tables need to know of them.

use std::sync::Arc;

/// Whose responses and conversations a request may see: a hash of the API key it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(pub(super) String);

/// An item of a response or a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredItem {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// The item as JSON.
    pub json: String,
}

/// Where a response is stored, and what is stored beside the object itself.
#[derive(Debug, Clone)]
pub struct ResponseEntry {
    /// Its owner.
    pub owner: Owner,
    /// The id of the response that it follows.
    pub previous: Option<String>,
    /// The id of the conversation that it belongs to.
    pub conversation: Option<String>,
    /// Its own input: items with ids.
    pub input: Arc<[StoredItem]>,
    /// Whether it can be retrieved; if not, only its conversation grows.
    pub retrievable: bool,
    /// Its events as JSON, if they can be read again.
    pub events: Vec<Arc<str>>,
}

/// A response as it is at some point of its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseSnapshot {
    /// Its id.
    pub id: String,
    /// Whether it is generated to its end: its items join its conversation.
    pub complete: bool,
    /// The object as JSON, with `output` null.
    pub body: String,
    /// The items of its output.
    pub output: Vec<StoredItem>,
}

/// Which items are asked for.
#[derive(Debug, Clone)]
pub struct PageRequest {
    /// At most this many.
    pub limit: usize,
    /// Those after the item with this id.
    pub after: Option<String>,
    /// Newest first.
    pub descending: bool,
}

/// Some of the items of a response or a conversation, in the order asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemPage {
    /// Each item's id (empty if it has none) and JSON.
    pub items: Vec<(String, String)>,
    /// Whether more items follow.
    pub more: bool,
}

/// The items before a request's own, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The items as JSON.
    pub items: Vec<String>,
    /// Whether these are all; if not, the oldest are missing.
    pub whole: bool,
}

/// A response or a conversation as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// `response` or `conversation`.
    pub object: String,
    /// Whether it was generated in the background.
    pub background: bool,
    /// The object as JSON.
    pub json: String,
}

/// Why items cannot be returned: the index of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemError {
    /// No item with its id is stored.
    NotFound(usize),
    /// All up to it have more bytes than may be read.
    TooLong(usize),
}

/// A response, a conversation or an item is not stored, or not any more: its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound(pub String);

impl Owner {
    /// The owner with this API key; requests without a key share one owner.
    pub fn of_key(key: Option<&[u8]>) -> Self {
        let key = key.unwrap_or_default();
        Self(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, key).simple().to_string())
    }
}
