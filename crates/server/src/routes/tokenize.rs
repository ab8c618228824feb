//! `POST /v1/tokenize` and `POST /v1/detokenize`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use forebay_chat::turns_from_messages;
use forebay_engine::{ParseSpecial, Token};
use forebay_protocol::fields;
use forebay_protocol::tokenize::{
    DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse,
};
use serde_json::Map;

use super::Errors;
use crate::admission::Caller;
use crate::config::LimitSettings;
use crate::conversation::options::PromptEnd;
use crate::convert::prompt;
use crate::convert::{check_extra, log_unknown};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::pool::Effort;
use crate::record::Record;
use crate::request_context::RequestContext;
use crate::request_resources::RequestResources;
use crate::state::AppState;

/// Turn text into tokens
///
/// Either `prompt` as it is, or `messages` through the chat template, as the chat endpoint would.
#[utoipa::path(
    post,
    path = "/tokenize",
    operation_id = "tokenize",
    tag = "tokens",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = TokenizeResponse),
        Errors,
    ),
)]
pub async fn tokenize(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<TokenizeRequest>,
) -> Result<Response, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    record.update(|facts| facts.model = Some(Arc::clone(&served)));
    log_unknown(&check_extra(fields::TOKENIZE, &request.extra, state.settings.strict)?);
    let strings = request.return_token_strs.unwrap_or(false);
    let context = state.context(Arc::clone(&served), Caller::of(&headers)?);
    let answer = resources.run_for(&served, Effort::Tiny, move || {
        let tokens = tokens(&request, &context)?;
        let vocab = context.served.vocab();
        let text = |&token: &Token| String::from_utf8_lossy(vocab.piece(token)).into_owned();
        Ok(Json(TokenizeResponse {
            count: u32::try_from(tokens.len()).unwrap_or(u32::MAX),
            max_model_len: context.served.info().slot_tokens,
            token_strs: strings.then(|| tokens.iter().map(text).collect()),
            tokens,
        })
        .into_response())
    });
    answer.await
}

fn tokens(request: &TokenizeRequest, context: &RequestContext) -> Result<Vec<Token>, ApiError> {
    let RequestContext { served, settings, limits, .. } = context;
    let only_for = |field: &str, other: &str| {
        let message = format!("'{field}' is for '{other}' only.");
        Err(ApiError::invalid(field, "invalid_value", message))
    };
    match (&request.prompt, &request.messages) {
        (Some(prompt), None) => {
            if request.add_generation_prompt.is_some() {
                return only_for("add_generation_prompt", "messages");
            }
            let special = if request.parse_special.unwrap_or(false) {
                ParseSpecial::Yes
            } else {
                ParseSpecial::No
            };
            check_length("prompt", prompt.len(), limits)?;
            let vocab = served.vocab();
            let tokens = vocab.tokenize(prompt, special)?;
            let marked = request.add_special_tokens.unwrap_or(true);
            Ok(if marked { vocab.with_markers(tokens) } else { tokens })
        }
        (None, Some(messages)) => {
            if request.parse_special.is_some() {
                return only_for("parse_special", "prompt");
            }
            if request.add_special_tokens.is_some() {
                return only_for("add_special_tokens", "prompt");
            }
            let mut unknown = Vec::new();
            let turns = turns_from_messages(messages, settings.strict, &mut unknown)?;
            log_unknown(&unknown);
            let end = PromptEnd {
                add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
                continue_final_message: false,
            };
            let prompt =
                prompt::render(&turns, &[], context.chat()?, end, &Map::new(), "messages")?;
            Ok(prompt.tokens)
        }
        _ => {
            let message = "Exactly one of 'prompt' and 'messages' must be given.";
            Err(ApiError::invalid("prompt", "invalid_value", message))
        }
    }
}

/// Refuses a text that is longer than what is tokenised here.
fn check_length(param: &str, bytes: usize, limits: &LimitSettings) -> Result<(), ApiError> {
    let most = limits.text_kib << 10;
    if bytes <= most {
        return Ok(());
    }
    let message = format!("'{param}' can have at most {most} bytes, but has {bytes}.");
    Err(ApiError::invalid(param, "string_above_max_length", message))
}

/// Turn tokens into text
#[utoipa::path(
    post,
    path = "/detokenize",
    operation_id = "detokenize",
    tag = "tokens",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = DetokenizeResponse),
        Errors,
    ),
)]
pub async fn detokenize(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(resources): Extension<RequestResources>,
    ApiJson(request): ApiJson<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    record.update(|facts| facts.model = Some(Arc::clone(&served)));
    log_unknown(&check_extra(fields::TOKENIZE, &request.extra, state.settings.strict)?);
    let vocab = served.vocab();
    if let Some(at) = request.tokens.iter().position(|&token| token as usize >= vocab.len()) {
        let message = format!("The model has no token {}.", request.tokens[at]);
        return Err(ApiError::invalid(format!("tokens[{at}]"), "invalid_value", message));
    }
    let bytes: usize = request.tokens.iter().map(|&token| vocab.piece(token).len()).sum();
    check_length("tokens", bytes, &state.limits)?;
    let model = Arc::clone(&served);
    let prompt = resources.run(move || {
        let bytes: Vec<u8> =
            request.tokens.iter().flat_map(|&t| model.vocab().piece(t)).copied().collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    Ok(Json(DetokenizeResponse { prompt: prompt.await? }))
}
