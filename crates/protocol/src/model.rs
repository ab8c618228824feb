//! `GET /v1/models`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The list of available models.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// One entry for each name: a model's own and its aliases.
    pub data: Vec<Model>,
}

/// One model under one of its names.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The name to put into a request's `model`.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When it was loaded, in seconds since the Unix epoch.
    pub created: u64,
    /// Always `forebay`.
    pub owned_by: String,
    /// The longest prompt plus answer of one request, in tokens.
    pub max_model_len: u32,
    /// `chat` or `embedding`.
    pub kind: String,
    /// The model's own name when `id` is an alias of it, else the same as `id`.
    pub root: String,
}
