//! A conversation's prompt: rendered by the model's template, then tokenised.

use forebay_chat::{ReasoningMode, RenderError, RenderOptions, Turn};
use forebay_engine::Token;
use serde_json::{Map, Value};

use super::model_view::ChatView;
use super::reasoning::ExpectedReasoning;
use super::tokens;
use crate::conversation::fields::FieldNames;
use crate::conversation::options::{PromptEnd, ReasoningOptions};
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
    let template = format.template();
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
        template.render(turns, &options)
    } else {
        let calls = chat.calls();
        options.arguments_as_text = calls.arguments_as_text();
        if !calls.describes_tools {
            options.tools = &[];
        }
        template.render(&calls.adapt(turns, tools), &options)
    };
    let pieces = pieces.map_err(|error| at_conversation(error, param))?;
    let tokens = tokens::tokenize_prompt(param, &pieces, model)?;
    let reasoning = template.features().reasoning.as_ref();
    let reasoning = reasoning.filter(|_| !end.continue_final_message).and_then(|format| {
        let mode = format.mode_after(pieces.last().map_or("", String::as_str));
        let expected = || ExpectedReasoning { format: format.clone(), mode };
        (mode != ReasoningMode::Off).then(expected)
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
    reasoning: &ReasoningOptions,
    names: &FieldNames,
    chat: ChatView<'_>,
) -> Result<Map<String, Value>, ApiError> {
    let mut variables = reasoning.variables.clone();
    let Some(effort) = reasoning.effort.as_deref() else { return Ok(variables) };
    let (param, features) = (names.effort, chat.format.template().features());
    if !EFFORTS.contains(&effort) {
        let message =
            format!("'{param}' must be one of {}, but is '{}'.", EFFORTS.join(", "), shown(effort));
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    if features.reasoning_effort {
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    if features.enable_thinking {
        variables.entry("enable_thinking").or_insert_with(|| (effort != "none").into());
    }
    let has_control = features.has_reasoning_control();
    if !has_control && (effort != "none" || features.reasoning.is_some()) {
        let message =
            format!("'{param}' is not supported: the model's chat template knows no such control.");
        return Err(ApiError::invalid(param, "unsupported_parameter", message));
    }
    Ok(variables)
}
