//! From a conversation to the engine's request: everything that takes time, as plain functions for the
//! pool's threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::HeaderMap;
use forebay_chat::{CallReader, ChannelReader, Thinking, ThoughtReader};
use forebay_engine::{GenerateRequest, Token};

use super::Against;
use super::grammar::Wanted;
use super::prompt::{self, Prompt};
use super::tools::Toolset;
use crate::config::{LimitSettings, ServerSettings};
use crate::conversation::Conversation;
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
    /// Whether the reply is streamed.
    pub stream: bool,
}

impl Context {
    /// What requests are read against.
    ///
    /// # Errors
    /// When the model cannot chat.
    pub fn against(&self) -> Result<Against<'_>, ApiError> {
        let ServerSettings { max_choices, strict, .. } = *self.settings;
        Ok(Against {
            vocab: self.served.vocab(),
            knows_effort: self.served.knows_effort()?,
            strict,
            max_choices,
            headers: &self.headers,
        })
    }
}

/// Renders a conversation's prompt, tokenises it and makes the engine's request.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn prepare(conversation: Conversation, context: &Context) -> Result<Prepared, ApiError> {
    let served = &*context.served;
    served.engine()?;
    let grammar = grammar(&conversation, served)?;
    let prompt = prompt(&conversation, context)?;
    let Conversation { tools, reasoning, mut recipe, stream, names, .. } = conversation;
    recipe.spelled = control_tokens(&tools, served)?;
    let thinking = served.template()?.thinking().zip(prompt.thoughts);
    let vocab = served.vocab();
    recipe.think = prompt::reasoning_limit(reasoning.budget, names, thinking.as_ref(), vocab)?;
    let wanted = grammar.map(|grammar| grammar.behind_thoughts(thinking.as_ref(), vocab));
    let request = recipe.request(names.conversation, prompt.tokens, served.info())?;
    let readers = readers(&tools, thinking, recipe.choices, served)?;
    Ok(Prepared { request, wanted, readers, stream })
}

/// How many tokens a conversation's prompt has.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn count(conversation: &Conversation, context: &Context) -> Result<u32, ApiError> {
    // What cannot be enforced is refused here as where it would be generated.
    grammar(conversation, &context.served)?;
    let Prompt { tokens, .. } = prompt(conversation, context)?;
    Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
}

fn prompt(conversation: &Conversation, context: &Context) -> Result<Prompt, ApiError> {
    let Conversation { turns, prompt_end, tools, reasoning, names, .. } = conversation;
    let variables = prompt::variables(reasoning, names, &context.served)?;
    prompt::render(turns, &tools.shown(), context, *prompt_end, &variables, names.conversation)
}

/// What the reply has to be, calls included.
fn grammar(conversation: &Conversation, served: &Served) -> Result<Option<Wanted>, ApiError> {
    let Conversation { tools, format, .. } = conversation;
    if !tools.is_active() {
        return Ok(format.clone());
    }
    tools.grammar(served.dialect()?, served.vocab(), format.as_ref())
}

/// Control tokens that show in the reply's text, because they delimit reasoning or calls.
fn control_tokens(tools: &Toolset, served: &Served) -> Result<Arc<[Token]>, ApiError> {
    let thinking = served.template()?.thinking();
    let mut delimiters: Vec<String> =
        thinking.into_iter().flat_map(|thinking| thinking.pieces()).collect();
    if tools.is_active() {
        delimiters.extend(served.dialect()?.pieces().into_iter().map(str::to_owned));
    }
    let delimits = |name: &str| delimiters.iter().any(|piece| piece.contains(name));
    let controls = served.vocab().controls().filter(|(_, name)| delimits(name));
    Ok(controls.map(|(token, _)| token).collect())
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
