//! The OpenAI wire format: what clients send and what they get back.
//!
//! Requests are lenient in shape and silent in nothing: every field a client sent that is not
//! part of a struct lands in that request's `extra` map, and [`fields`] says what becomes of it.
//! `null` always means absent, because the SDKs send it for every option a caller left out.
//!
//! **Invariant:** no axum, no tokio, no default values and no range checks. Deciding what a
//! request means is the server's work; this crate only says how it is spelled.

pub mod fields;
mod flex;

pub mod chat;
pub mod completion;
pub mod embedding;
pub mod error;
pub mod messages;
pub mod model;
pub mod rerank;
pub mod responses;
pub mod structured;
pub mod tokenize;
pub mod tools;
pub mod usage;

pub use flex::{EmbeddingInput, LogitBias, Prompt, Stop, TextOr, TextOrObject};
