//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::completion::{Completion, CompletionRequest};

use super::Errors;
use super::not_enforced::with_not_enforced;
use super::submission::find_or_compile;
use crate::admission::Caller;
use crate::convert::Stamp;
use crate::dialects::completions::encode::{CompletionEncoder, collect, completion};
use crate::dialects::completions::request::{self, PreparedCompletion};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::generations::{Generations, Updates};
use crate::pool::Effort;
use crate::record::Record;
use crate::request_resources::RequestResources;
use crate::sse;
use crate::state::AppState;

/// Continue a text
///
/// No chat template is applied; names of control tokens in the prompt are control tokens. With
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
        Errors,
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    let engine = served.engine()?;
    engine.has_room().inspect_err(|_| state.metrics.rejected("engine"))?;
    let max_prompts = engine.max_requests();
    let name = state.registry.answer_name(&request.model, &served);
    let context = state.context(Arc::clone(&served), Caller::of(&headers)?);
    let prepare = move || request::prepare(request, &context.rules(), context.model(), max_prompts);
    let prepared = resources.run_for(&served, Effort::Tiny, prepare).await?;
    let PreparedCompletion { mut requests, grammar, prompts, options } = prepared;
    record.update(|facts| facts.stream = options.stream);
    let (grammar, not_enforced) = find_or_compile(grammar, &served, &resources).await?;
    for request in &mut requests {
        request.grammar.clone_from(&grammar);
        request.admission.timeout = resources.time_left();
    }
    let stamp = Stamp::new("cmpl", name, &served.info().fingerprint);
    let mut generations = Generations::submit(requests, &served, record, &state.lifecycle)
        .inspect_err(|_| state.metrics.rejected("engine"))?;
    if options.stream {
        let encoder = CompletionEncoder::new(stamp, options, served, prompts);
        let keepalive = Duration::from_secs(state.settings.keepalive_s);
        return Ok(with_not_enforced(sse::respond(generations, encoder, keepalive), not_enforced));
    }
    let generated = collect(&mut generations, &prompts, options).await?;
    let usage = generations.usage();
    let answer = completion(&stamp, &prompts, generated, usage, options, served.vocab());
    Ok(with_not_enforced(Json(answer).into_response(), not_enforced))
}
