//! From a chat request to the engine's: everything that takes time, as plain functions for the
//! pool's threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use forebay_chat::{CallReader, ChannelReader, Thinking, ThoughtReader};
use forebay_engine::GenerateRequest;
use forebay_protocol::chat::ChatCompletionRequest;
use serde_json::Value;

use super::chat::{self, Parsed, Prompt};
use super::grammar::Wanted;
use super::tools::Toolset;
use crate::config::{LimitSettings, ServerSettings};
use crate::dialects::chat::encode::Style;
use crate::error::ApiError;
use crate::registry::Served;
use crate::reply::{ReplyParser, ReplyReader};

/// What a request is checked against. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The model.
    pub served: Arc<Served>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// `[server]`
    pub settings: Arc<ServerSettings>,
    /// `[limits]`
    pub limits: Arc<LimitSettings>,
}

/// A checked request whose prompt is tokenised.
#[derive(Debug)]
pub struct Prepared {
    /// The engine's request, without a grammar.
    pub request: GenerateRequest,
    /// The grammar to compile into it.
    pub wanted: Option<Wanted>,
    /// What reads each reply.
    pub readers: Vec<ReplyReader>,
    /// How to spell the answer.
    pub style: Style,
    /// What the answer repeats.
    pub metadata: Option<BTreeMap<String, Value>>,
}

/// Checks a request, renders its prompt and tokenises it.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn prepare(request: ChatCompletionRequest, context: &Context) -> Result<Prepared, ApiError> {
    let served = &*context.served;
    served.engine()?;
    let parsed = chat::parse(&request, &context.headers, served, &context.settings)?;
    let Prompt { tokens, thoughts } = prompt(&request, &parsed, context)?;
    let Parsed { mut recipe, grammar, tools, style, .. } = parsed;
    let thinking = served.template()?.thinking().zip(thoughts);
    recipe.think = chat::think_limit(&request, thinking.as_ref(), served.vocab())?;
    let wanted = grammar.map(|grammar| grammar.behind_thoughts(thinking.as_ref(), served.vocab()));
    let request_to_engine = recipe.request("messages", tokens, served.info())?;
    let readers = readers(&tools, thinking, recipe.choices, served)?;
    let metadata = request.metadata;
    Ok(Prepared { request: request_to_engine, wanted, readers, style, metadata })
}

/// How many tokens a conversation's prompt has.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn count(request: &ChatCompletionRequest, context: &Context) -> Result<u32, ApiError> {
    let parsed = chat::parse(request, &context.headers, &context.served, &context.settings)?;
    let Prompt { tokens, .. } = prompt(request, &parsed, context)?;
    Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
}

fn prompt(
    request: &ChatCompletionRequest,
    parsed: &Parsed,
    context: &Context,
) -> Result<Prompt, ApiError> {
    let variables = chat::variables(request, &context.served)?;
    let opens = chat::Opening {
        add_generation_prompt: request.add_generation_prompt.unwrap_or(true),
        continue_final_message: request.continue_final_message.unwrap_or(false),
    };
    chat::prompt(&parsed.turns, &parsed.tools.shown(), context, opens, &variables)
}

/// What reads each reply.
fn readers(
    tools: &Toolset,
    thinking: Option<(Thinking, bool)>,
    choices: u32,
    served: &Served,
) -> Result<Vec<ReplyReader>, ApiError> {
    let schemas = tools.schemas();
    let parser = match thinking {
        Some((thinking, _)) if thinking.in_channels() => {
            let names = if tools.is_active() { schemas } else { BTreeMap::new() };
            ReplyParser::Channels(ChannelReader::new(names.into_keys(), tools.only_one()))
        }
        thinking => {
            let thoughts = thinking.map(|(thinking, opened)| ThoughtReader::new(thinking, opened));
            let dialect = if tools.is_active() { Some(served.dialect()?) } else { None };
            let schemas = Arc::new(schemas);
            let reader =
                dialect.map(|d| Box::new(CallReader::new(d.clone(), schemas, tools.only_one())));
            ReplyParser::Markers(thoughts, reader)
        }
    };
    let reader = ReplyReader::new(parser, tools.clone());
    Ok(vec![reader; choices as usize])
}
