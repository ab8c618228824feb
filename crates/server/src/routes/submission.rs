//! What the routes of all dialects share: a request is prepared on the pool, its grammar is compiled, and its
//! generations are submitted to the engine.

use std::sync::Arc;

use axum::http::HeaderMap;
use forebay_engine::Grammar;

use crate::admission::Caller;
use crate::convert::grammar::{EnforcedGrammar, OutputGrammar};
use crate::convert::prepare::PreparedConversation;
use crate::convert::schema::NotEnforced;
use crate::error::ApiError;
use crate::generations::Generations;
use crate::pool::Effort;
use crate::record::Record;
use crate::registry::Served;
use crate::reply::{Replies, ReplyReader};
use crate::request_context::RequestContext;
use crate::request_resources::RequestResources;
use crate::state::AppState;

/// What a request came with, besides its body.
pub(super) struct RequestParts<'a> {
    pub(super) state: &'a AppState,
    pub(super) record: Record,
    pub(super) resources: RequestResources,
    /// Whether the answer repeats parts of the request, or stores them.
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
    RequestParts { state, record, resources, repeats }: RequestParts<'_>,
    context: RequestContext,
    prepare: impl FnOnce(&RequestContext) -> Result<(PreparedConversation, E), ApiError>
    + Send
    + 'static,
) -> Result<(Submitted, E), ApiError> {
    let served = Arc::clone(&context.served);
    served.engine()?.has_room().inspect_err(|_| state.metrics.rejected("engine"))?;
    let prepare = move || prepare(&context);
    let (prepared, besides) = resources.run_for(&served, Effort::Tiny, prepare).await?;
    let PreparedConversation { mut request, grammar, readers, stream } = prepared;
    record.update(|facts| facts.stream = stream);
    let (grammar, not_enforced) = find_or_compile(grammar, &served, &resources).await?;
    request.grammar = grammar;
    request.admission.timeout = resources.time_left();
    // Of the parsed request only the tools are still in memory, and what a response repeats: no more
    // than half of the estimate.
    if repeats || readers.iter().any(ReplyReader::has_tools) {
        resources.keep_half();
    } else {
        resources.release();
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
    resources: &RequestResources,
) -> Result<(Option<Grammar>, NotEnforced), ApiError> {
    let Some(grammar) = grammar else { return Ok((None, NotEnforced::default())) };
    let compiled = match grammar.find_compiled(served.engine()?) {
        Some(compiled) => compiled,
        None => {
            let model = Arc::clone(served);
            resources
                .run_for(served, Effort::Unclear, move || grammar.compile(model.engine()?))
                .await?
        }
    };
    let EnforcedGrammar { grammar, not_enforced } = compiled;
    if let Some(keywords) = not_enforced.names() {
        tracing::info!(keywords, "a schema is not enforced as a whole");
    }
    Ok((Some(grammar), not_enforced))
}
