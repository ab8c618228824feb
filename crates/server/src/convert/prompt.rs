//! A conversation's prompt: rendered by the model's template, then tokenised.

use forebay_chat::{RenderError, RenderOptions, Thinking, Turn};
use forebay_engine::{ParseSpecial, ReasoningBudget, Token, Vocab};
use serde_json::{Map, Value};

use super::model_view::ChatView;
use super::sampling::integer;
use super::tokens;
use crate::conversation::{FieldNames, PromptEnd, Reasoning};
use crate::error::{ApiError, shown};

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// A rendered and tokenised prompt.
#[derive(Debug)]
pub struct Prompt {
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// The reasoning that the reply can begin with, if it can.
    pub reasoning: Option<ExpectedReasoning>,
}

/// Reasoning that a reply can begin with.
#[derive(Debug, Clone)]
pub struct ExpectedReasoning {
    /// How it is delimited.
    pub markers: Thinking,
    /// Whether the prompt ends with the opening marker, so that the reply begins inside.
    pub is_opened: bool,
}

impl ExpectedReasoning {
    /// The engine's limit on its tokens, if the request sets one.
    ///
    /// # Errors
    /// 400 where it is out of range.
    pub fn limit(
        expected: Option<&Self>,
        budget: Option<i64>,
        names: &FieldNames,
        vocab: &Vocab,
    ) -> Result<Option<ReasoningBudget>, ApiError> {
        let tokens = integer(names.reasoning_budget, budget, -1, i64::from(i32::MAX))?;
        let tokens = tokens.and_then(|tokens| u32::try_from(tokens).ok());
        let Some((tokens, Self { markers, is_opened })) = tokens.zip(expected) else {
            return Ok(None);
        };
        let Thinking { open, close, then, .. } = markers;
        let closing = match markers.in_channels() {
            true => format!("{close}{then}"),
            false => format!("\n{close}\n\n"),
        };
        let closing = vocab.tokenize(&closing, ParseSpecial::Yes)?;
        Ok(Some(ReasoningBudget {
            tokens,
            opened: *is_opened,
            open: open.as_str().into(),
            close: close.as_str().into(),
            closing: closing.into(),
        }))
    }
}

/// Renders and tokenises a prompt. It can take long, so it runs off the async runtime.
///
/// # Errors
/// What the template refuses, and more text than the model's context holds.
pub fn render(
    turns: &[Turn],
    tools: &[Value],
    chat: ChatView<'_>,
    end: PromptEnd,
    variables: &Map<String, Value>,
    param: &str,
) -> Result<Prompt, ApiError> {
    let ChatView { model, format } = chat;
    let bytes = turns.iter().map(|turn| turn.content.len()).sum();
    tokens::check_text(param, bytes, model)?;
    // Each turn is at least a token.
    let limit = model.info.slot_tokens;
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
        format.template().render(turns, &options)
    } else {
        let calls = chat.calls();
        options.arguments_as_text = calls.takes_text();
        if !calls.native {
            options.tools = &[];
        }
        format.template().render(&calls.adapt(turns, tools), &options)
    };
    let pieces = pieces.map_err(|error| at_conversation(error, param))?;
    let tokens = tokens::tokenize_prompt(param, &pieces, model)?;
    let markers = format.template().thinking().filter(|_| !end.continue_final_message);
    let reasoning = markers.and_then(|markers| {
        let end = pieces.last().map_or("", |piece| piece.trim_end());
        // A prompt that ends with empty reasoning turns it off.
        let is_opened = end.ends_with(&markers.open);
        (!end.ends_with(&markers.close)).then_some(ExpectedReasoning { markers, is_opened })
    });
    Ok(Prompt { tokens: model.vocab.with_prefix(tokens), reasoning })
}

/// A template's error, at the field that the conversation is in.
fn at_conversation(error: RenderError, param: &str) -> ApiError {
    let error = ApiError::from(error);
    if error.param() == Some("messages") { error.at(param) } else { error }
}

/// The template's variables: those of the request, and those that control reasoning.
///
/// # Errors
/// 400 if the template has no such control.
pub fn variables(
    reasoning: &Reasoning,
    names: &FieldNames,
    chat: ChatView<'_>,
) -> Result<Map<String, Value>, ApiError> {
    let mut variables = reasoning.variables.clone();
    let Some(effort) = reasoning.effort.as_deref() else { return Ok(variables) };
    let (param, template) = (names.effort, chat.format.template());
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
