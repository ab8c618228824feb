//! `/v1/chat/completions`.

use axum::http::HeaderMap;
use forebay_chat::{RenderOptions, Thinking, Turn, normalise};
use forebay_engine::{ParseSpecial, ThinkLimit, Token, Vocab};
use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::fields;
use forebay_protocol::structured::Shape;
use serde_json::Map;

use super::grammar::Wanted;
use super::prepare::Context;
use super::sampling::{MAX_TOP_LOGPROBS, Recipe, integer};
use super::tools::Toolset;
use super::{check_extra, log_unknown, metadata, tokens};
use crate::config::ServerSettings;
use crate::dialects::chat::encode::Style;
use crate::error::{ApiError, shown};
use crate::origin;
use crate::registry::Served;

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// A validated request but for its prompt's tokens.
#[derive(Debug)]
pub struct Parsed {
    /// What the template gets.
    pub turns: Vec<Turn>,
    /// How to generate.
    pub recipe: Recipe,
    /// What the answer has to be: to be compiled into the recipe.
    pub grammar: Option<Wanted>,
    /// What may be called.
    pub tools: Toolset,
    /// How to spell the answer.
    pub style: Style,
}

/// Validates everything that needs no tokeniser.
///
/// # Errors
/// 400 for the first field that cannot be honoured.
pub fn parse(
    request: &ChatCompletionRequest,
    headers: &HeaderMap,
    served: &Served,
    settings: &ServerSettings,
) -> Result<Parsed, ApiError> {
    let ServerSettings { max_choices, strict, .. } = *settings;
    let mut unknown = check_extra(fields::CHAT, &request.extra, strict)?;
    let turns = normalise(&request.messages, strict, &mut unknown)?;
    log_unknown(&unknown);
    metadata::check(request.metadata.as_ref())?;
    if request.continue_final_message == Some(true) && request.add_generation_prompt == Some(true) {
        let message = "'continue_final_message' leaves the last message open; 'add_generation_prompt' opens a new one. Set only one of them.";
        return Err(ApiError::invalid("continue_final_message", "invalid_value", message));
    }
    let mut common = request.common();
    let name = if request.max_completion_tokens.is_some() {
        "max_completion_tokens"
    } else {
        "max_tokens"
    };
    common.max_tokens =
        integer(name, request.max_completion_tokens.or(common.max_tokens), 1, i64::from(i32::MAX))?;
    let origin = origin::read(headers, &common)?;
    let mut recipe = Recipe::new(&common, origin, served.vocab(), max_choices)?;
    let logprobs = request.logprobs.unwrap_or(false);
    let top = integer("top_logprobs", request.top_logprobs, 0, MAX_TOP_LOGPROBS)?.unwrap_or(0);
    if top > 0 && !logprobs {
        let message = "'top_logprobs' is only allowed when 'logprobs' is true.";
        return Err(ApiError::invalid("top_logprobs", "invalid_value", message));
    }
    recipe.logprobs = logprobs.then_some(u32::try_from(top).unwrap_or(0));
    let style = Style {
        stream: common.stream,
        include_usage: common.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        logprobs,
        tier: common.service_tier.map(|_| origin::tier(origin.class)),
    };
    let shape = Shape { response_format: request.response_format.as_ref(), ..request.shape() };
    let mut grammar = Wanted::of(&shape)?;
    let tools = Toolset::of(request)?;
    let thinking = served.template()?.thinking();
    let mut spelled: Vec<String> =
        thinking.into_iter().flat_map(|thinking| thinking.pieces()).collect();
    if tools.is_active() {
        let (dialect, vocab) = (served.dialect()?, served.vocab());
        grammar = tools.grammar(dialect, vocab, grammar.as_ref())?;
        spelled.extend(dialect.pieces().into_iter().map(str::to_owned));
    }
    let named = |name: &str| spelled.iter().any(|piece| piece.contains(name));
    let controls = served.vocab().controls().filter(|(_, name)| named(name));
    recipe.spelled = controls.map(|(token, _)| token).collect();
    Ok(Parsed { turns, recipe, grammar, tools, style })
}

/// The bound on thoughts that a request sets, where its answer may have some.
///
/// # Errors
/// 400 where it is out of range.
pub fn think_limit(
    request: &ChatCompletionRequest,
    thinking: Option<&(Thinking, bool)>,
    vocab: &Vocab,
) -> Result<Option<ThinkLimit>, ApiError> {
    let name = "thinking_token_budget";
    let tokens = integer(name, request.thinking_token_budget, -1, i64::from(i32::MAX))?;
    let tokens = tokens.and_then(|tokens| u32::try_from(tokens).ok());
    let Some((tokens, (thinking, opened))) = tokens.zip(thinking) else { return Ok(None) };
    let Thinking { open, close, then, .. } = thinking;
    let closing = match thinking.in_channels() {
        true => format!("{close}{then}"),
        false => format!("\n{close}\n\n"),
    };
    let closing = vocab.tokenize(&closing, ParseSpecial::Yes)?;
    Ok(Some(ThinkLimit {
        tokens,
        opened: *opened,
        open: open.as_str().into(),
        close: close.as_str().into(),
        closing: closing.into(),
    }))
}

/// A prompt.
#[derive(Debug)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Whether the answer can begin with thoughts: not, or it does because the prompt has begun
    /// them, or it may.
    pub thoughts: Option<bool>,
}

/// What becomes of the end of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// The assistant's turn is opened.
    pub add_generation_prompt: bool,
    /// The last turn is left open.
    pub continue_final_message: bool,
}

/// The prompt's tokens. It can take long: not for the reactor's threads.
///
/// # Errors
/// What the template refuses, and more text than the model's context holds.
pub fn prompt(
    turns: &[Turn],
    tools: &[serde_json::Value],
    context: &Context,
    opening: Opening,
    variables: &Map<String, serde_json::Value>,
) -> Result<Prompt, ApiError> {
    let served = &*context.served;
    let bytes = turns.iter().map(|turn| turn.content.len()).sum();
    tokens::check_text("messages", bytes, served, &context.limits)?;
    // Each turn is at least a token.
    let limit = served.info().slot_tokens;
    if turns.len() > limit as usize {
        return Err(ApiError::context_length_at_least("messages", turns.len(), limit));
    }
    let mut options = RenderOptions {
        add_generation_prompt: opening.add_generation_prompt,
        continue_final_message: opening.continue_final_message,
        variables,
        tools,
        arguments_as_text: false,
        now: std::time::SystemTime::now(),
    };
    let has_calls = turns.iter().any(|turn| turn.role == "tool" || !turn.calls.is_empty());
    let pieces = if tools.is_empty() && !has_calls {
        served.template()?.render(turns, &options)?
    } else {
        let dialect = served.dialect()?;
        options.arguments_as_text = dialect.takes_text();
        if !dialect.native {
            options.tools = &[];
        }
        served.template()?.render(&dialect.adapt(turns, tools), &options)?
    };
    let tokens = tokens::of_pieces("messages", &pieces, served, &context.limits)?;
    let thinking = served.template()?.thinking().filter(|_| !opening.continue_final_message);
    let thoughts = thinking.and_then(|Thinking { open, close, .. }| {
        let end = pieces.last().map_or("", |piece| piece.trim_end());
        // Where the prompt holds empty thoughts, they are not wanted.
        (!end.ends_with(&close)).then(|| end.ends_with(&open))
    });
    Ok(Prompt { tokens: served.vocab().with_prefix(tokens), thoughts })
}

/// The template's variables: those of the request, and what it says of reasoning.
///
/// # Errors
/// 400 where the template has no such control.
pub fn variables(
    request: &ChatCompletionRequest,
    served: &Served,
) -> Result<Map<String, serde_json::Value>, ApiError> {
    let mut variables = request.chat_template_kwargs.clone().unwrap_or_default();
    let Some(effort) = request.reasoning_effort.as_deref() else { return Ok(variables) };
    let (param, template) = ("reasoning_effort", served.template()?);
    if !EFFORTS.contains(&effort) {
        let message =
            format!("'{param}' must be one of {}, but is '{}'.", EFFORTS.join(", "), shown(effort));
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    let (by_effort, by_switch) = (template.asks_for(param), template.asks_for("enable_thinking"));
    if by_effort {
        variables.entry(param).or_insert_with(|| effort.into());
    }
    if by_switch {
        variables.entry("enable_thinking").or_insert_with(|| (effort != "none").into());
    }
    if !by_effort && !by_switch && (effort != "none" || template.thinking().is_some()) {
        let message =
            format!("'{param}' is not supported: the model's chat template knows no such control.");
        return Err(ApiError::invalid(param, "unsupported_parameter", message));
    }
    Ok(variables)
}
