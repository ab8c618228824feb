//! A model's chat template: what it has, read once when it is loaded, and prompts rendered by it.

pub(crate) mod jinja;

mod fuel;
mod render_input;
mod string_methods;
mod tojson;

use std::collections::BTreeMap;
use std::sync::Arc;

use jinja::JinjaTemplate;
pub use jinja::{RenderError, RenderOptions, SpecialTokens, TemplateError};

use serde_json::Value;

use crate::reasoning::ReasoningFormat;
use crate::tool_call_format::{ToolCallFormat, learn};
use crate::tool_call_parser::ToolCallParser;
use crate::tool_call_parser::call_patterns::CallPatterns;
use crate::turn::Turn;

/// A loaded chat template. Cheap to clone but for its [`TemplateFeatures`].
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    jinja: JinjaTemplate,
    features: TemplateFeatures,
    call_patterns: Arc<CallPatterns>,
}

/// What a chat template has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateFeatures {
    /// How the model delimits its reasoning; `None` if it has none.
    pub reasoning: Option<ReasoningFormat>,
    /// Whether the template reads the variable `reasoning_effort`.
    pub reasoning_effort: bool,
    /// Whether the template reads the variable `enable_thinking`.
    pub enable_thinking: bool,
    /// How the model writes tool calls.
    pub tool_calls: ToolCallFormat,
}

impl TemplateFeatures {
    /// Whether requests can control how much the model reasons.
    pub fn has_reasoning_control(&self) -> bool {
        self.reasoning_effort || self.enable_thinking
    }
}

impl ChatTemplate {
    /// Parses `source` and reads its features, rendering some twenty short conversations for that.
    ///
    /// # Errors
    /// [`TemplateError`] with the line at fault.
    pub fn new(source: &str, tokens: &SpecialTokens<'_>) -> Result<Self, TemplateError> {
        let jinja = JinjaTemplate::parse(source, tokens)?;
        let reasoning = ReasoningFormat::find(source);
        let tool_calls = learn::learn(&jinja, source, reasoning.as_ref(), &tokens.ends);
        let features = TemplateFeatures {
            reasoning,
            reasoning_effort: source.contains("reasoning_effort"),
            enable_thinking: source.contains("enable_thinking"),
            tool_calls,
        };
        let call_patterns = Arc::new(CallPatterns::new(&features.tool_calls));
        Ok(Self { jinja, features, call_patterns })
    }

    /// What the template has.
    pub fn features(&self) -> &TemplateFeatures {
        &self.features
    }

    /// A parser of calls to `tools`: names, each with its parameters' schema. With `only_one` all that follows the first
    /// call is dropped. The parsers of a request's replies are clones: they share the tools.
    pub fn tool_call_parser(
        &self,
        tools: Arc<BTreeMap<String, Value>>,
        only_one: bool,
    ) -> ToolCallParser {
        ToolCallParser::with_patterns(Arc::clone(&self.call_patterns), tools, only_one)
    }

    /// Renders a prompt as pieces, to be tokenised one by one with control tokens recognised. The pieces together are
    /// the prompt's text; no text of a user is part of a control token within a piece.
    ///
    /// Turns with calls and tools go through [`ToolCallFormat::adapt`] before.
    ///
    /// # Errors
    /// [`RenderError`] if the template refuses the turns, also with their system turns merged into one or folded into
    /// the first user turn, or if rendering costs too much.
    pub fn render(
        &self,
        turns: &[Turn],
        options: &RenderOptions<'_>,
    ) -> Result<Vec<String>, RenderError> {
        self.jinja.render(turns, options)
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
