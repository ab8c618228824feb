//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's dialect.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use forebay_protocol::messages::{Message, MessagesRequest, TokenCount};

use super::MessagesErrors;
use super::not_enforced::with_not_enforced;
use super::submission::{RequestParts, Submitted, context, prepare_and_submit};
use crate::convert::Stamp;
use crate::convert::prepare::{count, prepare};
use crate::dialects::messages::encode::{MessagesEncoder, message};
use crate::dialects::messages::request;
use crate::error::ApiError;
use crate::error::messages::MessagesError;
use crate::extract::{ApiJson, Json};
use crate::pool::Effort;
use crate::record::Record;
use crate::request_resources::RequestResources;
use crate::sse;
use crate::state::AppState;

/// Answer a conversation, in Anthropic's dialect
///
/// With `stream: true` the answer comes as named server-sent events, ended by `message_stop`.
#[utoipa::path(
    post,
    path = "/messages",
    operation_id = "createMessage",
    tag = "chat",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer, whole or as events", content(
            (Message = "application/json"),
            (String = "text/event-stream"),
        ), headers(
            ("x-forebay-not-enforced" = String, description = "Keywords of a schema that the answer may violate, separated by commas; absent where all are enforced"),
        )),
        MessagesErrors,
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    body: Result<ApiJson<MessagesRequest>, ApiError>,
) -> Result<Response, MessagesError> {
    let ApiJson(request) = body?;
    if request.max_tokens.is_none() {
        return Err(ApiError::missing("max_tokens").into());
    }
    let model = request.model.clone();
    let context = context(&state, &model, &headers)?;
    let called = RequestParts { state: &state, record, resources, repeats: false };
    let submitted = prepare_and_submit(called, context, |context| {
        let conversation = request::read(request, &context.rules())?;
        Ok((prepare(conversation, context.chat()?)?, ()))
    });
    let (submitted, ()) = submitted.await?;
    let Submitted { mut replies, stream, served, not_enforced } = submitted;
    let name = state.registry.answer_name(&model, &served);
    let mut stamp = Stamp::new("msg", name, &served.info().fingerprint);
    stamp.id = stamp.id.replace("msg-", "msg_");
    if stream {
        let encoder = MessagesEncoder::new(stamp);
        let keepalive = Duration::from_secs(state.settings.keepalive_s);
        return Ok(with_not_enforced(sse::respond(replies, encoder, keepalive), not_enforced));
    }
    let message = message(stamp, &mut replies).await?;
    Ok(with_not_enforced(Json(message).into_response(), not_enforced))
}

/// Count a conversation's tokens, in Anthropic's dialect
#[utoipa::path(
    post,
    path = "/messages/count_tokens",
    operation_id = "countMessageTokens",
    tag = "tokens",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The number", body = TokenCount),
        MessagesErrors,
    ),
)]
pub async fn count_tokens(
    State(state): State<AppState>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    body: Result<ApiJson<MessagesRequest>, ApiError>,
) -> Result<Response, MessagesError> {
    let ApiJson(request) = body?;
    let context = context(&state, &request.model, &headers)?;
    let served = Arc::clone(&context.served);
    let count = move || count(&request::read(request, &context.rules())?, context.chat()?);
    let counted = resources.run_for(&served, Effort::Tiny, count);
    let input_tokens = counted.await?;
    Ok(Json(TokenCount { input_tokens }).into_response())
}
