//! `POST /v1/chat/completions`.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use forebay_engine::Grammar;
use forebay_protocol::chat::{ChatCompletion, ChatCompletionRequest};
use forebay_protocol::error::ErrorEnvelope;
use forebay_protocol::responses::InputTokens;

use super::not_enforced::with_not_enforced;
use crate::admission::Caller;
use crate::convert::Stamp;
use crate::convert::grammar::{EnforcedGrammar, OutputGrammar};
use crate::convert::prepare::{PreparedConversation, count, prepare};
use crate::convert::schema::NotEnforced;
use crate::dialects::chat::encode::{self, ChatEncoder};
use crate::dialects::chat::request::{self, Spelling};
use crate::error::ApiError;
use crate::extract::{ApiJson, Json};
use crate::generations::{Generations, Updates};
use crate::pool::Effort;
use crate::record::Record;
use crate::registry::Served;
use crate::reply::{Replies, ReplyReader};
use crate::request_context::RequestContext;
use crate::sse;
use crate::state::AppState;
use crate::work::Work;

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
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault; 503 can be retried", body = ErrorEnvelope),
    ),
)]
pub async fn create(
    State(state): State<AppState>,
    Extension(record): Extension<Record>,
    Extension(work): Extension<Work>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let model = request.model.clone();
    let context = context(&state, &model, &headers)?;
    let called = RequestParts { state: &state, record, work, repeats: false };
    let submitted = prepare_and_submit(called, context, |context| {
        let (conversation, spelling) = request::read(request, &context.rules())?;
        Ok((prepare(conversation, context.chat()?)?, spelling))
    });
    let (submitted, Spelling { style, metadata }) = submitted.await?;
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
        (status = 200, description = "The number", body = serde_json::Value),
        (status = "4XX", description = "The request cannot be honoured", body = ErrorEnvelope),
        (status = "5XX", description = "The server's fault", body = ErrorEnvelope),
    ),
)]
pub async fn input_tokens(
    State(state): State<AppState>,
    Extension(work): Extension<Work>,
    headers: HeaderMap,
    ApiJson(request): ApiJson<ChatCompletionRequest>,
) -> Result<Response, ApiError> {
    let context = context(&state, &request.model, &headers)?;
    let served = Arc::clone(&context.served);
    let count = move || count(&request::read(request, &context.rules())?.0, context.chat()?);
    let tokens = work.run_for(&served, Effort::Tiny, count).await?;
    let object = "chat.completion.input_tokens";
    Ok(Json(InputTokens { object, input_tokens: tokens }).into_response())
}

/// What a request came with, besides its body.
pub(super) struct RequestParts<'a> {
    pub(super) state: &'a AppState,
    pub(super) record: Record,
    pub(super) work: Work,
    /// Whether the answer repeats parts of the request, or keeps them.
    pub(super) repeats: bool,
}

/// A conversation whose answers are being generated.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) replies: Replies,
    /// Whether they are streamed.
    pub(super) stream: bool,
    pub(super) served: Arc<Served>,
    /// What the answers may violate.
    pub(super) not_enforced: NotEnforced,
}

/// What a request to `model` is converted with.
///
/// # Errors
/// If there is no such model, it cannot chat, or a header is invalid.
pub(super) fn context(
    state: &AppState,
    model: &str,
    headers: &HeaderMap,
) -> Result<RequestContext, ApiError> {
    let served = state.registry.resolve(model)?;
    served.chat_format()?;
    Ok(state.context(served, Caller::of(headers)?))
}

/// Prepares a request on the pool's threads, compiles its grammar and submits it. `prepare` returns
/// what its caller wants besides.
///
/// # Errors
/// What cannot be honoured, and what the engine refuses.
pub(super) async fn prepare_and_submit<E: Send + 'static>(
    RequestParts { state, record, work, repeats }: RequestParts<'_>,
    context: RequestContext,
    prepare: impl FnOnce(&RequestContext) -> Result<(PreparedConversation, E), ApiError>
    + Send
    + 'static,
) -> Result<(Submitted, E), ApiError> {
    let served = Arc::clone(&context.served);
    served.engine()?.has_room().inspect_err(|_| state.metrics.rejected("engine"))?;
    let prepare = move || prepare(&context);
    let (prepared, besides) = work.run_for(&served, Effort::Tiny, prepare).await?;
    let PreparedConversation { mut request, grammar, readers, stream } = prepared;
    record.update(|facts| facts.stream = stream);
    let (grammar, not_enforced) = find_or_compile(grammar, &served, &work).await?;
    request.grammar = grammar;
    request.admission.timeout = work.time_left();
    // Of the parsed request only the tools are still in memory, and what a response repeats: no more
    // than half of the estimate.
    if repeats || readers.iter().any(ReplyReader::has_tools) {
        work.keep_half();
    } else {
        work.release();
    }
    let generations = Generations::submit(vec![request], &served, record, &state.lifecycle)
        .inspect_err(|_| state.metrics.rejected("engine"))?;
    let replies = Replies::new(generations, readers);
    Ok((Submitted { replies, stream, served, not_enforced }, besides))
}

/// A grammar that the engine has compiled, before or now, and what answers by it may violate.
///
/// # Errors
/// 400 where it cannot be enforced.
pub(super) async fn find_or_compile(
    grammar: Option<OutputGrammar>,
    served: &Arc<Served>,
    work: &Work,
) -> Result<(Option<Grammar>, NotEnforced), ApiError> {
    let Some(grammar) = grammar else { return Ok((None, NotEnforced::default())) };
    let compiled = match grammar.find_compiled(served.engine()?) {
        Some(compiled) => compiled,
        None => {
            let model = Arc::clone(served);
            work.run_for(served, Effort::Unclear, move || grammar.compile(model.engine()?)).await?
        }
    };
    let EnforcedGrammar { grammar, not_enforced } = compiled;
    if let Some(keywords) = not_enforced.names() {
        tracing::info!(keywords, "a schema is not enforced as a whole");
    }
    Ok((Some(grammar), not_enforced))
}
