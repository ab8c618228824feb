//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_protocol::chat::{ChatCompletion, ChatCompletionRequest};
use forebay_protocol::responses::InputTokens;

use super::Errors;
use super::not_enforced::with_not_enforced;
use super::submission::{RequestParts, Submitted, context, prepare_and_submit};
use crate::convert::Stamp;
use crate::convert::prepare::{count, prepare};
use crate::dialects::chat::encode::{self, ChatEncoder};
use crate::dialects::chat::request::{self, AnswerForm};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::generations::Updates;
use crate::pool::Effort;
use crate::record::Record;
use crate::request_resources::RequestResources;
use crate::sse;
use crate::state::AppState;

/// Answer a conversation
///
/// With `stream: true` the answer comes as server-sent events of `chat.completion.chunk` objects,
/// ended by `data: [DONE]`.
#[utoipa::path(
    post,
    path = "/chat/completions",
    operation_id = "createChatCompletion",
    tag = "chat",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The answer, whole or as events", content(
            (ChatCompletion = "application/json"),
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
    ApiJson(request): ApiJson<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let model = request.model.clone();
    let context = context(&state, &model, &headers)?;
    let called = RequestParts { state: &state, record, resources, repeats: false };
    let submitted = prepare_and_submit(called, context, |context| {
        let (conversation, spelling) = request::read(request, &context.rules())?;
        Ok((prepare(conversation, context.chat()?)?, spelling))
    });
    let (submitted, AnswerForm { style, metadata }) = submitted.await?;
    let Submitted { mut replies, served, not_enforced, .. } = submitted;
    let name = state.registry.answer_name(&model, &served);
    let stamp = Stamp::new("chatcmpl", name, &served.info().fingerprint);
    if style.stream {
        let encoder = ChatEncoder::new(stamp, style, served, replies.choices());
        let keepalive = Duration::from_secs(state.settings.keepalive_s);
        return Ok(with_not_enforced(sse::respond(replies, encoder, keepalive), not_enforced));
    }
    let choices = encode::collect(&mut replies).await?;
    let answer = encode::completion(stamp, choices, replies.usage(), style, &served, metadata);
    Ok(with_not_enforced(Json(answer).into_response(), not_enforced))
}

/// Count a conversation's tokens
#[utoipa::path(
    post,
    path = "/chat/completions/input_tokens",
    operation_id = "countChatTokens",
    tag = "tokens",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The number", body = InputTokens),
        Errors,
    ),
)]
pub async fn input_tokens(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let context = context(&state, &request.model, &headers)?;
    let served = Arc::clone(&context.served);
    let count = move || count(&request::read(request, &context.rules())?.0, context.chat()?);
    let tokens = resources.run_for(&served, Effort::Tiny, count).await?;
    let object = "chat.completion.input_tokens";
    Ok(Json(InputTokens { object, input_tokens: tokens }).into_response())
}
