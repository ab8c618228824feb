//! `POST /v1/rerank`, as Jina and Cohere spell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::usage::EmbeddingUsage;

/// A query and the documents to put in order.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct RerankRequest {
    /// Model name or alias.
    pub model: String,
    /// What is looked for.
    pub query: String,
    /// Where: texts, or objects with a `text`.
    pub documents: Vec<Document>,
    /// How many to tell; default all.
    #[schema(minimum = 1)]
    pub top_n: Option<i64>,
    /// Whether to repeat the documents; default false.
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
    /// What the scores are: `reranker`, how likely the document answers the query, or `embedding`,
    /// the cosine of query and document as the model's vectors.
    pub method: String,
    /// The most relevant first.
    pub results: Vec<Ranked>,
    /// What it cost.
    pub usage: EmbeddingUsage,
}

/// One document's place.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Ranked {
    /// Which document of the request.
    pub index: usize,
    /// From -1 to 1; a reranker's from 0.
    pub relevance_score: f32,
    /// The document, where that was asked for.
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
