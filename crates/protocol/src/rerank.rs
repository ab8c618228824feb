//! `POST /v1/rerank`, as Jina and Cohere spell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::usage::EmbeddingUsage;

/// A query and the documents to rank.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct RerankRequest {
    /// Model name or alias.
    pub model: String,
    /// The query.
    pub query: String,
    /// The documents: texts, or objects with a `text`.
    pub documents: Vec<Document>,
    /// Number of results; default all.
    #[schema(minimum = 1)]
    pub top_n: Option<i64>,
    /// Whether results repeat their documents; default false.
    pub return_documents: Option<bool>,
    /// Everything else the client sent.
    #[serde(flatten)]
    #[schema(ignore)]
    pub extra: BTreeMap<String, Value>,
}

/// A document.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Document {
    /// Its text.
    Text(String),
    /// An object that holds it.
    Object {
        /// The text.
        text: String,
    },
}

/// The documents, the most relevant first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RerankResponse {
    /// `rerank-` and a unique part.
    pub id: String,
    /// The name of the model.
    pub model: String,
    /// How scores were computed: `reranker`, the likelihood that the document answers the query, or
    /// `embedding`, the cosine of the vectors of query and document.
    pub method: String,
    /// The most relevant first.
    pub results: Vec<Ranked>,
    /// Token counts.
    pub usage: EmbeddingUsage,
}

/// A document's rank and score.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ranked {
    /// Index of the document in the request.
    pub index: usize,
    /// From -1 to 1; a reranker's from 0.
    pub relevance_score: f32,
    /// The document, with `return_documents`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Document>,
}

impl Document {
    /// Its text.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { text } => text,
        }
    }
}
