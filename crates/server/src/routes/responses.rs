//! `POST /v1/responses`.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::responses::ResponsesRequest;
use serde_json::{Value, json};

use super::chat::{Begun, begin, count};
use crate::answer::Sourced;
use crate::convert::Stamp;
use crate::convert::responses::{Asked, Input, conversation_id, items, output, shorten, to_chat};
use crate::error::{ApiError, shown};
use crate::extract::{ApiJson, Json};
use crate::observe::Record;
use crate::sse;
use crate::state::AppState;
use crate::store::{Kept, Missing, Owner, Store};

/// Answer as a response
///
/// With `stream: true` the answer comes as named server-sent events, ended by `response.completed`,
/// `response.incomplete` or `response.failed`. With `background: true` it is generated while nobody
/// waits, and retrieved later.
#[utoipa::path(
    post,
    path = "/responses",
    operation_id = "createResponse",
    tag = "responses",
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
    let owner = Owner::of(&headers);
    let mut input = input(&state, &owner, &request).await?;
    let new = input.new.clone();
    let keeper = keeper(&state, owner, &request, new)?;
    let (asked, begun) = loop {
        let asked = asked(&state, &request, &input)?;
        match begin(&state, record.clone(), &headers, &asked.chat).await {
            Ok(begun) => break (asked, begun),
            Err(error) if cuts(&request, &error) && shorten(&mut input) => {}
            Err(error) => return Err(renamed(error)),
        }
    };
    let Asked { chat, echo, namespaces } = asked;
    let Begun { mut runs, mut speeches, style, served } = begun;
    let name = state.registry.answer_name(&chat.model, &served);
    let mut stamp = Stamp::new("resp", name, &served.info().fingerprint);
    stamp.id = items::id("resp");
    let speech = speeches.pop().ok_or_else(|| ApiError::internal("an answer without a reader"))?;
    let mut response = output::Response::new(stamp, echo, namespaces, speech, served);
    let keepalive = Duration::from_secs(state.settings.keepalive_s);
    match keeper {
        Some((store, kept)) if request.background == Some(true) => {
            response.keep(store.clone(), kept.clone());
            let (object, job) = state.jobs.start(runs, response, store, kept).await?;
            return Ok(if style.stream {
                sse::relay(job.events(0), keepalive)
            } else {
                Json(object).into_response()
            });
        }
        Some((store, kept)) => response.keep(store, kept),
        None => {}
    }
    if style.stream {
        return Ok(sse::respond(runs, response, keepalive));
    }
    while let Some(Sourced { event, .. }) = runs.next().await? {
        response.event(event, &mut Vec::new());
    }
    response.settle(runs.usage()).await;
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
    let input = input(&state, &Owner::of(&headers), &request).await?;
    let Asked { chat, .. } = asked(&state, &request, &input)?;
    let tokens = count(&state, &headers, &chat).await.map_err(renamed)?;
    let answer = json!({"object": "response.input_tokens", "input_tokens": tokens});
    Ok(Json(answer).into_response())
}

fn asked(state: &AppState, request: &ResponsesRequest, input: &Input) -> Result<Asked, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    to_chat(request, input, state.settings.strict, served.knows_effort()?)
}

/// What the model is to read: what was kept of the conversation, and the request's own items.
async fn input(
    state: &AppState,
    owner: &Owner,
    request: &ResponsesRequest,
) -> Result<Input, ApiError> {
    let mut new = items::of_input(request.input.as_ref())?;
    for (index, item) in new.iter_mut().enumerate() {
        let Some(id) = items::reference(item) else { continue };
        let kept = match &state.store {
            Some(store) => store.item(owner, id).await?,
            None => None,
        };
        *item = kept.ok_or_else(|| items::no_such_item(format!("input[{index}].id"), id))?;
    }
    let conversation = conversation_id(request)?;
    let (param, id) = match (&request.previous_response_id, &conversation) {
        (Some(previous), _) => ("previous_response_id", previous),
        (_, Some(conversation)) => ("conversation", conversation),
        _ => return Ok(Input { history: Vec::new(), new }),
    };
    let store = state.store.as_ref().ok_or_else(|| no_store(param))?;
    if state.jobs.find(id).is_some() {
        let message = format!("The response '{}' is not complete yet.", shown(id));
        return Err(ApiError::invalid(param, "response_not_complete", message));
    }
    match store.history(owner, id).await? {
        Ok(history) => Ok(Input { history, new }),
        Err(Missing(id)) if param == "conversation" => {
            Err(ApiError::not_found("Conversation", &id).at(param))
        }
        Err(Missing(id)) => {
            let message = format!("Previous response with id '{}' not found.", shown(&id));
            Err(ApiError::invalid(param, "previous_response_not_found", message))
        }
    }
}

/// Where the response goes at the end, if anywhere.
fn keeper(
    state: &AppState,
    owner: Owner,
    request: &ResponsesRequest,
    input: Vec<Value>,
) -> Result<Option<(Store, Kept)>, ApiError> {
    let background = request.background == Some(true);
    let Some(store) = &state.store else {
        return if background { Err(no_store("background")) } else { Ok(None) };
    };
    let retrievable = request.store.unwrap_or(true);
    if background && !retrievable {
        let message = "'background' needs 'store': the response has to be retrieved later.";
        return Err(ApiError::invalid("background", "invalid_value", message));
    }
    let conversation = conversation_id(request)?;
    let previous = request.previous_response_id.clone();
    let wanted = retrievable || conversation.is_some();
    let kept = Kept { owner, previous, conversation, input, retrievable, events: Vec::new() };
    Ok(wanted.then(|| (store.clone(), kept)))
}

fn no_store(param: &str) -> ApiError {
    let message = format!("'{param}' is not supported: this server keeps no responses.");
    ApiError::invalid(param, "unsupported_parameter", message)
}

/// Whether the request wants input that is too long to be cut.
fn cuts(request: &ResponsesRequest, error: &ApiError) -> bool {
    request.truncation.as_deref() == Some("auto") && error.code() == Some("context_length_exceeded")
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
