//! `POST /v1/chat/completions`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_chat::{CallReader, ChannelReader, Thinking, ThoughtReader, Turn};
use forebay_protocol::chat::{ChatCompletion, ChatCompletionRequest};
use forebay_protocol::error::ErrorEnvelope;

use super::off_reactor;
use crate::answer::{Collected, Runs};
use crate::convert::Stamp;
use crate::convert::chat::{self, ChatEncoder, Parsed, Prompt, Style};
use crate::convert::speech::{Listener, Speech};
use crate::convert::tools::Toolset;
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::observe::Record;
use crate::registry::Served;
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
        )),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let Begun { runs, speeches, style, served } = begin(&state, record, &headers, &request).await?;
    let name = state.registry.answer_name(&request.model, &served);
    let stamp = Stamp::new("chatcmpl", name, &served.info().fingerprint);
    if style.stream {
        let untold = vec![Vec::new(); speeches.len()];
        let choices = u32::try_from(speeches.len()).unwrap_or(u32::MAX);
        let encoder = ChatEncoder { stamp, choices, style, speeches, untold, served };
        let keepalive = Duration::from_secs(state.settings.keepalive_s);
        return Ok(sse::respond(runs, encoder, keepalive));
    }
    let (collected, usage) = runs.collect().await?;
    let answers = collected.into_iter().flat_map(|Collected { answers, .. }| answers);
    let answers = answers.zip(speeches).collect();
    Ok(Json(chat::completion(stamp, answers, usage, style, served.vocab(), request))
        .into_response())
}

/// Count a conversation's tokens
#[utoipa::path(
    post,
    path = "/chat/completions/input_tokens",
    operation_id = "countChatTokens",
    tag = "tokens",
    request_body = ChatCompletionRequest,
    responses(
        (status = 200, description = "The number", body = serde_json::Value),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn input_tokens(
    State(state): State<AppState>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let tokens = count(&state, &headers, &request).await?;
    let answer =
        serde_json::json!({"object": "chat.completion.input_tokens", "input_tokens": tokens});
    Ok(Json(answer).into_response())
}

/// A conversation whose answers are being generated.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) runs: Runs,
    /// What reads each answer.
    pub(super) speeches: Vec<Speech>,
    pub(super) style: Style,
    pub(super) served: Arc<Served>,
}

/// Checks a request, renders its prompt and submits it.
///
/// # Errors
/// What cannot be honoured, and what the engine refuses.
pub(super) async fn begin(
    state: &AppState,
    record: Record,
    headers: &HeaderMap,
    request: &ChatCompletionRequest,
) -> Result<Begun, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    served.template()?;
    let parsed = chat::parse(request, headers, &served, &state.settings)?;
    record.note(|facts| facts.stream = parsed.style.stream);
    let Prompt { tokens, thoughts } = prompt(request, &parsed, &served).await?;
    let Parsed { mut recipe, grammar, tools, style, .. } = parsed;
    let thinking = served.template()?.thinking().zip(thoughts);
    recipe.think = chat::think_limit(request, thinking.as_ref(), served.vocab())?;
    if let Some(grammar) = grammar {
        let grammar = grammar.behind_thoughts(thinking.as_ref(), served.vocab());
        recipe.grammar = Some(grammar.compile(&served).await?);
    }
    let engine_request = recipe.request("messages", tokens, served.info())?;
    let runs = Runs::submit(state, record, &served, vec![engine_request])?;
    let speeches = speeches(&tools, thinking, recipe.choices, &served)?;
    Ok(Begun { runs, speeches, style, served })
}

/// How many tokens a conversation's prompt has.
///
/// # Errors
/// What cannot be honoured.
pub(super) async fn count(
    state: &AppState,
    headers: &HeaderMap,
    request: &ChatCompletionRequest,
) -> Result<u32, ApiError> {
    let served = state.registry.resolve(&request.model)?;
    served.template()?;
    let parsed = chat::parse(request, headers, &served, &state.settings)?;
    let Prompt { tokens, .. } = prompt(request, &parsed, &served).await?;
    Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
}

async fn prompt(
    request: &ChatCompletionRequest,
    parsed: &Parsed,
    served: &Arc<Served>,
) -> Result<Prompt, ApiError> {
    let variables = chat::variables(request, served)?;
    let opens = request.add_generation_prompt.unwrap_or(true);
    let continues = request.continue_final_message.unwrap_or(false);
    let (model, shown, turns) = (Arc::clone(served), parsed.tools.shown(), parsed.turns.clone());
    let prompt = off_reactor(bytes(&turns) + shown.len() * 512, move || {
        chat::prompt(&turns, &shown, &model, opens, continues, &variables)
    });
    prompt.await
}

/// What reads each answer.
fn speeches(
    tools: &Toolset,
    thinking: Option<(Thinking, bool)>,
    choices: u32,
    served: &Served,
) -> Result<Vec<Speech>, ApiError> {
    let schemas = tools.schemas();
    let listener = match thinking {
        Some((thinking, _)) if thinking.in_channels() => {
            let names = if tools.is_active() { schemas } else { BTreeMap::new() };
            Listener::Channels(ChannelReader::new(names.into_keys(), tools.only_one()))
        }
        thinking => {
            let thoughts = thinking.map(|(thinking, opened)| ThoughtReader::new(thinking, opened));
            let dialect = if tools.is_active() { Some(served.dialect()?) } else { None };
            let reader = dialect
                .map(|d| Box::new(CallReader::new(d.clone(), Arc::new(schemas), tools.only_one())));
            Listener::Marks(thoughts, reader)
        }
    };
    Ok((0..choices).map(|_| Speech::new(listener.clone(), tools.clone())).collect())
}

/// Size of a conversation's text.
fn bytes(turns: &[Turn]) -> usize {
    // Each turn costs the template about as much as a short text.
    turns.iter().map(|turn| turn.content.len() + 64).sum()
}
