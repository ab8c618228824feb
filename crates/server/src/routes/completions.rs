//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::completion::{Completion, CompletionRequest};
use forebay_protocol::error::ErrorEnvelope;

use super::chat::find_or_compile;
use crate::convert::Stamp;
use crate::convert::completion::{self, CompletionEncoder, Prepared};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::generations::{Generations, Updates};
use crate::pool::Effort;
use crate::record::Record;
use crate::sse;
use crate::state::AppState;
use crate::work::Work;

/// Continue a text
///
/// No chat template is applied; control tokens spelled in the prompt are control tokens. With
/// `stream: true` the answer comes as server-sent events, ended by `data: [DONE]`.
#[utoipa::path(
    post,
    path = "/completions",
    operation_id = "createCompletion",
    tag = "completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answer, whole or as events", content(
            (Completion = "application/json"),
            (String = "text/event-stream"),
        ), headers(
            ("x-forebay-not-enforced" = String, description = "Keywords of a schema that the answer may violate, separated by commas; absent where all are enforced"),
        )),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(work): Extension<Work>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    served.engine()?.has_room().inspect_err(|_| state.metrics.rejected("engine"))?;
    let name = state.registry.answer_name(&request.model, &served);
    let context = state.context(Arc::clone(&served), headers);
    let prepare = move || completion::prepare_all(request, &context);
    let prepared = work.run_for(&served, Effort::Tiny, prepare).await?;
    let Prepared { mut requests, wanted, prompts, style } = prepared;
    record.update(|facts| facts.stream = style.stream);
    let (grammar, not_enforced) = find_or_compile(wanted, &served, &work).await?;
    for request in &mut requests {
        request.grammar.clone_from(&grammar);
        request.origin.timeout = work.time_left();
    }
    let stamp = Stamp::new("cmpl", name, &served.info().fingerprint);
    let mut generations = Generations::submit(requests, &served, record, &state.lifecycle)
        .inspect_err(|_| state.metrics.rejected("engine"))?;
    if style.stream {
        let encoder = CompletionEncoder::new(stamp, style, served, prompts);
        let keepalive = Duration::from_secs(state.settings.keepalive_s);
        return Ok(not_enforced.noted_in(sse::respond(generations, encoder, keepalive)));
    }
    let generated = completion::collect(&mut generations, &prompts, style).await?;
    let usage = generations.usage();
    let answer = completion::completion(&stamp, &prompts, generated, usage, style, served.vocab());
    Ok(not_enforced.noted_in(Json(answer).into_response()))
}
