//! `POST /v1/responses`.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::responses::ResponsesRequest;
use serde_json::json;

use super::chat::{Begun, begin, count};
use crate::answer::Sourced;
use crate::convert::Stamp;
use crate::convert::responses::{Asked, output, to_chat};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::observe::Record;
use crate::sse;
use crate::state::AppState;

/// Answer as a response
///
/// Nothing is stored: the conversation so far comes with each request. With `stream: true` the
/// answer comes as named server-sent events, ended by `response.completed`, `response.incomplete` or
/// `response.failed`.
#[utoipa::path(
    post,
    path = "/responses",
    operation_id = "createResponse",
    tag = "chat",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response, whole or as events", content(
            (serde_json::Value = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ResponsesRequest>,
) -> Result<Response, ApiError> {
    let Asked { chat, echo, namespaces } = asked(&state, &request)?;
    let begun = begin(&state, record, &headers, &chat).await;
    let Begun { mut runs, mut speeches, style, served } = begun.map_err(renamed)?;
    let name = state.registry.answer_name(&chat.model, &served);
    let mut stamp = Stamp::new("resp", name, &served.info().fingerprint);
    stamp.id = stamp.id.replace("resp-", "resp_");
    let speech = speeches.pop().ok_or_else(|| ApiError::internal("an answer without a reader"))?;
    let mut response = output::Response::new(stamp, echo, namespaces, speech);
    if style.stream {
        let keepalive = Duration::from_secs(state.settings.keepalive_s);
        return Ok(sse::respond(runs, response, keepalive));
    }
    while let Some(Sourced { event, .. }) = runs.next().await? {
        response.event(event, &mut Vec::new());
    }
    Ok(Json(response.finished(runs.usage())).into_response())
}

/// Count a response's input tokens
#[utoipa::path(
    post,
    path = "/responses/input_tokens",
    operation_id = "countResponseTokens",
    tag = "tokens",
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The number", body = serde_json::Value),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn input_tokens(
    State(state): State<AppState>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ResponsesRequest>,
) -> Result<Response, ApiError> {
    let request = ResponsesRequest { stream: None, ..request };
    let Asked { chat, .. } = asked(&state, &request)?;
    let tokens = count(&state, &headers, &chat).await.map_err(renamed)?;
    let answer = json!({"object": "response.input_tokens", "input_tokens": tokens});
    Ok(Json(answer).into_response())
}

fn asked(state: &AppState, request: &ResponsesRequest) -> Result<Asked, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    let template = served.template()?;
    let knows = template.asks_for("reasoning_effort") || template.asks_for("enable_thinking");
    to_chat(request, state.settings.strict, knows)
}

/// The error at the field that this API has for it.
fn renamed(error: ApiError) -> ApiError {
    let ours = match error.param() {
        Some("max_completion_tokens") => "max_output_tokens",
        Some(param) if param == "messages" || param.starts_with("messages[") => "input",
        Some(param) if param.starts_with("response_format") => "text.format",
        Some("reasoning_effort") => "reasoning.effort",
        _ => return error,
    };
    error.at(ours)
}
