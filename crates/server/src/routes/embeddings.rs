//! `POST /v1/embeddings`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::embedding::{EmbeddingRequest, EmbeddingResponse};

use super::Errors;
use crate::admission;
use crate::convert::embedding;
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::pool::Effort;
use crate::record::Record;
use crate::request_resources::RequestResources;
use crate::state::AppState;

/// Inputs from which on an answer is put together off the reactor.
const MANY: usize = 32;

/// Turn texts into vectors
///
/// Vectors have length 1. Many small concurrent requests share one forward pass.
#[utoipa::path(
    post,
    path = "/embeddings",
    operation_id = "createEmbedding",
    tag = "embeddings",
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "The vectors, in the order of the inputs", body = EmbeddingResponse),
        Errors,
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    admission::timeout(&headers)?;
    let options =
        embedding::read_options(&request, served.embedding_view()?, state.settings.strict)?;
    let name = state.registry.answer_name(&request.model, &served);

    let (model, input) = (Arc::clone(&served), request.input);
    let tokenize = move || embedding::tokenize(input, options, model.embedding_view()?);
    let inputs = resources.run_for(&served, Effort::Tiny, tokenize).await?;
    // The texts are gone; tokens are bounded by the model's queue.
    resources.release();
    let count: usize = inputs.iter().map(Vec::len).sum();
    let prompt_tokens = u32::try_from(count).unwrap_or(u32::MAX);
    record.update(|facts| {
        facts.model = Some(Arc::clone(&served));
        facts.prompt_tokens = prompt_tokens;
    });
    let effort = if inputs.len() > MANY { Effort::Short } else { Effort::Tiny };
    let vectors = served
        .embedder()?
        .embed(inputs, resources.time_left())
        .await
        .inspect_err(|_| state.metrics.rejected("engine"))??;
    served.metrics.prompt_tokens.increment(u64::from(prompt_tokens));
    served.metrics.request_prompt.record(f64::from(prompt_tokens));
    let encode = move || {
        Ok(Json(embedding::response(vectors, options, name, prompt_tokens)).into_response())
    };
    resources.run_at_least(effort, encode).await
}
