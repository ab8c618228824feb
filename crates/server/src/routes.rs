//! The HTTP surface: one file for each family of endpoints.

pub mod chat;
pub mod completions;
pub mod conversations;
pub mod docs;
pub mod embeddings;
pub mod health;
pub mod messages;
pub mod models;
pub(crate) mod not_enforced;
pub mod rerank;
pub mod responses;
pub mod stored_responses;
mod submission;
pub mod tokenize;

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{Ref, RefOr};

/// The error responses of every endpoint, in the OpenAPI document.
struct Errors;

/// The same in Anthropic's envelope.
struct MessagesErrors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        error_responses("ErrorEnvelope")
    }
}

impl IntoResponses for MessagesErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        error_responses("MessageError")
    }
}

fn error_responses(schema: &str) -> BTreeMap<String, RefOr<Response>> {
    let response = |description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(schema))).build();
        let response = ResponseBuilder::new().description(description);
        RefOr::T(response.content("application/json", content).build())
    };
    let client = response("The request cannot be honoured");
    let server = response("The server's fault; 503 can be retried");
    BTreeMap::from([("4XX".to_owned(), client), ("5XX".to_owned(), server)])
}
