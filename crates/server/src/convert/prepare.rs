//! A conversation to the engine's request: plain functions for the pool's threads, as they take time.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_chat::{ChannelParser, ReasoningParser};
use forebay_engine::GenerateRequest;

use super::grammar::OutputGrammar;
use super::model_view::ChatView;
use super::prompt::{self, Prompt};
use super::reasoning::ExpectedReasoning;
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
    pub grammar: Option<OutputGrammar>,
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
    let Conversation { tools, reasoning, mut params, stream, names, .. } = conversation;
    params.visible_controls = chat.format.delimiter_tokens(tools.allows_calls());
    params.reasoning_budget =
        ExpectedReasoning::limit(expected.as_ref(), reasoning.budget, names, model.vocab)?;
    let grammar = grammar.map(|grammar| grammar.after_reasoning(expected.as_ref(), model.vocab));
    let request = params.to_request(names.conversation, tokens, model.info)?;
    let reader = ReplyReader::new(parser(&tools, expected, chat), tools);
    let readers = vec![reader; params.choices as usize];
    Ok(PreparedConversation { request, grammar, readers, stream })
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
    prompt::render(turns, &tools.for_template(), chat, *prompt_end, &variables, names.conversation)
}

/// The grammar of the reply, calls included.
fn grammar(
    conversation: &Conversation,
    chat: ChatView<'_>,
) -> Result<Option<OutputGrammar>, ApiError> {
    let Conversation { tools, format, .. } = conversation;
    if !tools.allows_calls() {
        return Ok(format.clone());
    }
    tools.grammar(chat.calls(), chat.model.vocab, format.as_ref())
}

/// The parser of each reply's text.
fn parser(tools: &Toolset, expected: Option<ExpectedReasoning>, chat: ChatView<'_>) -> ReplyParser {
    let schemas = tools.schemas();
    match expected {
        Some(ExpectedReasoning { format, .. }) if format.in_channels() => {
            let names = if tools.allows_calls() { schemas } else { BTreeMap::new() };
            ReplyParser::Channels(ChannelParser::new(names.into_keys(), tools.allows_one_call()))
        }
        expected => {
            let reasoning = expected
                .map(|ExpectedReasoning { format, mode }| ReasoningParser::new(format, mode));
            let calls = tools.allows_calls().then(|| {
                let schemas = Arc::new(schemas);
                let template = chat.format.template();
                Box::new(template.tool_call_parser(schemas, tools.allows_one_call()))
            });
            ReplyParser::Markers(reasoning, calls)
        }
    }
}
