//! `POST /v1/embeddings`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::unions::TextOrTokens;
use crate::usage::EmbeddingUsage;

/// Inputs to turn into vectors.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// Model name or alias.
    pub model: String,
    /// What to embed: text, texts, token ids or lists of token ids.
    pub input: TextOrTokens,
    /// `float` (the default) or `base64`: little-endian 32-bit floats.
    #[schema(example = "float")]
    pub encoding_format: Option<String>,
    /// Keep this many leading dimensions and normalise again; refused for models that were not
    /// trained for it.
    #[schema(minimum = 1)]
    pub dimensions: Option<i64>,
    /// Cut inputs that are too long instead of refusing them; default false.
    pub truncate: Option<bool>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// Vectors in the order of the inputs.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingResponse {
    /// Always `list`.
    pub object: String,
    /// One entry for each input.
    pub data: Vec<Embedding>,
    /// The name of the model that answered.
    pub model: String,
    /// Token counts.
    pub usage: EmbeddingUsage,
}

/// One vector.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: String,
    /// Position of the input it belongs to.
    pub index: u32,
    /// The vector, of Euclidean length 1.
    pub embedding: EmbeddingVector,
}

/// A vector in the encoding that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingVector {
    /// JSON numbers.
    Float(Vec<f32>),
    /// Base64 of little-endian 32-bit floats.
    Base64(String),
}
