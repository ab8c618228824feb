//! A conversation to the engine's request: plain functions for the pool's threads, as they take time.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_chat::{CallReader, ChannelReader, ThoughtReader};
use forebay_engine::{GenerateRequest, Token};

use super::grammar::Wanted;
use super::model_view::ChatView;
use super::prompt::{self, ExpectedReasoning, Prompt};
use super::tools::Toolset;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::reply::{ReplyParser, ReplyReader};

/// A checked request whose prompt is tokenised.
#[derive(Debug)]
pub struct PreparedConversation {
    /// The engine's request, without a grammar.
    pub request: GenerateRequest,
    /// The grammar to compile into it.
    pub wanted: Option<Wanted>,
    /// What reads each reply.
    pub readers: Vec<ReplyReader>,
    /// Whether the reply is streamed.
    pub stream: bool,
}

/// Renders a conversation's prompt, tokenises it and makes the engine's request.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn prepare(
    conversation: Conversation,
    chat: ChatView<'_>,
) -> Result<PreparedConversation, ApiError> {
    let ChatView { model, .. } = chat;
    let grammar = grammar(&conversation, chat)?;
    let Prompt { tokens, reasoning: expected } = prompt(&conversation, chat)?;
    let Conversation { tools, reasoning, mut recipe, stream, names, .. } = conversation;
    recipe.visible_controls = delimiter_tokens(&tools, chat);
    recipe.reasoning_budget =
        ExpectedReasoning::limit(expected.as_ref(), reasoning.budget, names, model.vocab)?;
    let wanted = grammar.map(|grammar| grammar.behind_thoughts(expected.as_ref(), model.vocab));
    let request = recipe.request(names.conversation, tokens, model.info)?;
    let reader = ReplyReader::new(parser(&tools, expected, chat), tools);
    let readers = vec![reader; recipe.choices as usize];
    Ok(PreparedConversation { request, wanted, readers, stream })
}

/// Counts the tokens of a conversation's prompt.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn count(conversation: &Conversation, chat: ChatView<'_>) -> Result<u32, ApiError> {
    // A grammar that cannot be enforced is refused here as it is for a generation.
    grammar(conversation, chat)?;
    let Prompt { tokens, .. } = prompt(conversation, chat)?;
    Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
}

fn prompt(conversation: &Conversation, chat: ChatView<'_>) -> Result<Prompt, ApiError> {
    let Conversation { turns, prompt_end, tools, reasoning, names, .. } = conversation;
    let variables = prompt::variables(reasoning, names, chat)?;
    prompt::render(turns, &tools.shown(), chat, *prompt_end, &variables, names.conversation)
}

/// The grammar of the reply, calls included.
fn grammar(conversation: &Conversation, chat: ChatView<'_>) -> Result<Option<Wanted>, ApiError> {
    let Conversation { tools, format, .. } = conversation;
    if !tools.is_active() {
        return Ok(format.clone());
    }
    tools.grammar(chat.calls(), chat.model.vocab, format.as_ref())
}

/// Control tokens that delimit reasoning or calls, and so have to show in the reply's text.
fn delimiter_tokens(tools: &Toolset, chat: ChatView<'_>) -> Arc<[Token]> {
    let markers = chat.format.template().thinking();
    let mut delimiters: Vec<String> =
        markers.into_iter().flat_map(|markers| markers.pieces()).collect();
    if tools.is_active() {
        delimiters.extend(chat.calls().pieces().into_iter().map(str::to_owned));
    }
    let delimits = |name: &str| delimiters.iter().any(|piece| piece.contains(name));
    let controls = chat.model.vocab.controls().filter(|(_, name)| delimits(name));
    controls.map(|(token, _)| token).collect()
}

/// The parser of each reply's text.
fn parser(tools: &Toolset, expected: Option<ExpectedReasoning>, chat: ChatView<'_>) -> ReplyParser {
    let schemas = tools.schemas();
    match expected {
        Some(ExpectedReasoning { markers, .. }) if markers.in_channels() => {
            let names = if tools.is_active() { schemas } else { BTreeMap::new() };
            ReplyParser::Channels(ChannelReader::new(names.into_keys(), tools.only_one()))
        }
        expected => {
            let reasoning = expected.map(|ExpectedReasoning { markers, is_opened }| {
                ThoughtReader::new(markers, is_opened)
            });
            let calls = tools.is_active().then(|| {
                let format = chat.calls().clone();
                Box::new(CallReader::new(format, Arc::new(schemas), tools.only_one()))
            });
            ReplyParser::Markers(reasoning, calls)
        }
    }
}
