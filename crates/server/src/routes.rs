//! The HTTP surface: one file for each family of endpoints.

pub mod chat;
pub mod completions;
pub mod conversations;
pub mod docs;
pub mod embeddings;
pub mod health;
pub mod messages;
pub mod models;
pub mod rerank;
pub mod responses;
pub mod stored_responses;
pub mod tokenize;
