//! `POST /v1/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_engine::GenerateRequest;
use forebay_protocol::completion::{Completion, CompletionRequest};
use forebay_protocol::error::ErrorEnvelope;

use super::off_reactor;
use crate::answer::Runs;
use crate::convert::Stamp;
use crate::convert::completion::{self, CompletionEncoder, Parsed, Prepared, Source};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::observe::Record;
use crate::sse;
use crate::state::AppState;

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
        )),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    served.engine()?;
    let settings = &state.settings;
    let Parsed { prompts, mut recipe, grammar, style } =
        completion::parse(&request, &headers, &served, settings)?;
    record.note(|facts| facts.stream = style.stream);
    if let Some(grammar) = grammar {
        recipe.grammar = Some(grammar.compile(&served).await?);
    }

    let model = Arc::clone(&served);
    let prepared = off_reactor(bytes(&prompts), move || {
        let prepare = |source| completion::prepare(source, model.vocab());
        Ok(prompts.into_iter().map(prepare).collect::<Vec<Prepared>>())
    });
    let prompts = prepared.await?;
    let to_request = |(index, prompt): (usize, &Prepared)| {
        let many = prompts.len() > 1;
        let param = if many { format!("prompt[{index}]") } else { "prompt".to_owned() };
        recipe.request(&param, prompt.tokens.clone(), served.info())
    };
    let requests: Vec<GenerateRequest> =
        prompts.iter().enumerate().map(to_request).collect::<Result<_, _>>()?;

    let name = state.registry.answer_name(&request.model, &served);
    let stamp = Stamp::new("cmpl", name, &served.info().fingerprint);
    let runs = Runs::submit(&state, record, &served, requests)?;
    if style.stream {
        let encoder = CompletionEncoder::new(stamp, style, served, prompts);
        return Ok(sse::respond(runs, encoder, Duration::from_secs(settings.keepalive_s)));
    }
    let (collected, usage) = runs.collect().await?;
    let answer = completion::completion(&stamp, &prompts, collected, usage, style, served.vocab());
    Ok(Json(answer).into_response())
}

fn bytes(prompts: &[Source]) -> usize {
    let each = prompts.iter().map(|prompt| match prompt {
        Source::Text(text) => text.len(),
        Source::Tokens(tokens) => tokens.len(),
    });
    each.sum()
}
