//! `POST /v1/tokenize` and `POST /v1/detokenize`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use forebay_chat::normalise;
use forebay_engine::{ParseSpecial, Token};
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::fields;
use forebay_protocol::tokenize::{
    DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse,
};
use serde_json::Map;

use super::off_reactor;
use crate::convert::{check_extra, log_unknown};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::observe::Record;
use crate::registry::Served;
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
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn tokenize(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    ApiJson(request): ApiJson<TokenizeRequest>,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    let strict = state.settings.strict;
    record.note(|facts| facts.model = Some(Arc::clone(&served)));
    log_unknown(&check_extra(fields::TOKENIZE, &request.extra, strict)?);
    let strings = request.return_token_strs.unwrap_or(false);
    let model = Arc::clone(&served);
    let tokens = off_reactor(usize::MAX, move || tokens(&request, &model, strict)).await?;
    let vocab = served.vocab();
    let text = |&token: &Token| String::from_utf8_lossy(vocab.piece(token)).into_owned();
    Ok(Json(TokenizeResponse {
        count: u32::try_from(tokens.len()).unwrap_or(u32::MAX),
        max_model_len: served.info().slot_tokens,
        token_strs: strings.then(|| tokens.iter().map(text).collect()),
        tokens,
    }))
}

fn tokens(
    request: &TokenizeRequest,
    served: &Served,
    strict: bool,
) -> Result<Vec<Token>, ApiError> {
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
            let vocab = served.vocab();
            let tokens = vocab.tokenize(prompt, special);
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
            let turns = normalise(messages, strict, &mut unknown)?;
            log_unknown(&unknown);
            let opens = request.add_generation_prompt.unwrap_or(true);
            crate::convert::chat::prompt(&turns, &[], served, opens, false, &Map::new())
                .map(|prompt| prompt.tokens)
        }
        _ => {
            let message = "Exactly one of 'prompt' and 'messages' must be given.";
            Err(ApiError::invalid("prompt", "invalid_value", message))
        }
    }
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
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn detokenize(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    ApiJson(request): ApiJson<DetokenizeRequest>,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    record.note(|facts| facts.model = Some(Arc::clone(&served)));
    log_unknown(&check_extra(fields::TOKENIZE, &request.extra, state.settings.strict)?);
    let vocab = served.vocab();
    if let Some(at) = request.tokens.iter().position(|&token| token as usize >= vocab.len()) {
        let message = format!("The model has no token {}.", request.tokens[at]);
        return Err(ApiError::invalid(format!("tokens[{at}]"), "invalid_value", message));
    }
    let model = Arc::clone(&served);
    let prompt = off_reactor(request.tokens.len(), move || {
        let bytes: Vec<u8> =
            request.tokens.iter().flat_map(|&t| model.vocab().piece(t)).copied().collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    Ok(Json(DetokenizeResponse { prompt: prompt.await? }))
}
