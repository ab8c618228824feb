//! A conversation's prompt: rendered by the model's template, then tokenised.

use forebay_chat::{RenderError, RenderOptions, Thinking, Turn};
use forebay_engine::{ParseSpecial, ThinkLimit, Token, Vocab};
use serde_json::Map;

use super::prepare::Context;
use super::sampling::integer;
use super::tokens;
use crate::conversation::{FieldNames, PromptEnd, Reasoning};
use crate::error::{ApiError, shown};
use crate::registry::Served;

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// The bound on reasoning that a request sets, if its reply may have some.
///
/// # Errors
/// 400 where it is out of range.
pub fn reasoning_limit(
    budget: Option<i64>,
    names: &FieldNames,
    thinking: Option<&(Thinking, bool)>,
    vocab: &Vocab,
) -> Result<Option<ThinkLimit>, ApiError> {
    let tokens = integer(names.reasoning_budget, budget, -1, i64::from(i32::MAX))?;
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

/// The prompt's tokens. It can take long: not for the reactor's threads.
///
/// # Errors
/// What the template refuses, and more text than the model's context holds.
pub fn render(
    turns: &[Turn],
    tools: &[serde_json::Value],
    context: &Context,
    end: PromptEnd,
    variables: &Map<String, serde_json::Value>,
    param: &str,
) -> Result<Prompt, ApiError> {
    let served = &*context.served;
    let bytes = turns.iter().map(|turn| turn.content.len()).sum();
    tokens::check_text(param, bytes, served, &context.limits)?;
    // Each turn is at least a token.
    let limit = served.info().slot_tokens;
    if turns.len() > limit as usize {
        return Err(ApiError::context_length_at_least(param, turns.len(), limit));
    }
    let mut options = RenderOptions {
        add_generation_prompt: end.add_generation_prompt,
        continue_final_message: end.continue_final_message,
        variables,
        tools,
        arguments_as_text: false,
        now: std::time::SystemTime::now(),
    };
    let has_calls = turns.iter().any(|turn| turn.role == "tool" || !turn.calls.is_empty());
    let pieces = if tools.is_empty() && !has_calls {
        served.template()?.render(turns, &options)
    } else {
        let dialect = served.dialect()?;
        options.arguments_as_text = dialect.takes_text();
        if !dialect.native {
            options.tools = &[];
        }
        served.template()?.render(&dialect.adapt(turns, tools), &options)
    };
    let pieces = pieces.map_err(|error| at_conversation(error, param))?;
    let tokens = tokens::of_pieces(param, &pieces, served, &context.limits)?;
    let thinking = served.template()?.thinking().filter(|_| !end.continue_final_message);
    let thoughts = thinking.and_then(|Thinking { open, close, .. }| {
        let end = pieces.last().map_or("", |piece| piece.trim_end());
        // Where the prompt holds empty thoughts, they are not wanted.
        (!end.ends_with(&close)).then(|| end.ends_with(&open))
    });
    Ok(Prompt { tokens: served.vocab().with_prefix(tokens), thoughts })
}

/// A template's error, at the field that the conversation is in.
fn at_conversation(error: RenderError, param: &str) -> ApiError {
    let error = ApiError::from(error);
    if error.param() == Some("messages") { error.at(param) } else { error }
}

/// The template's variables: those of the request, and what it says of reasoning.
///
/// # Errors
/// 400 where the template has no such control.
pub fn variables(
    reasoning: &Reasoning,
    names: &FieldNames,
    served: &Served,
) -> Result<Map<String, serde_json::Value>, ApiError> {
    let mut variables = reasoning.variables.clone();
    let Some(effort) = reasoning.effort.as_deref() else { return Ok(variables) };
    let (param, template) = (names.effort, served.template()?);
    if !EFFORTS.contains(&effort) {
        let message =
            format!("'{param}' must be one of {}, but is '{}'.", EFFORTS.join(", "), shown(effort));
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    let (by_effort, by_switch) =
        (template.asks_for("reasoning_effort"), template.asks_for("enable_thinking"));
    if by_effort {
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
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
