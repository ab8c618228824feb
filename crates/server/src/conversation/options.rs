//! How a prompt ends and how the model reasons.

use serde_json::{Map, Value};

/// How a prompt ends.
#[derive(Debug, Clone, Copy)]
pub struct PromptEnd {
    /// It opens the assistant's turn.
    pub add_generation_prompt: bool,
    /// It leaves the last turn open.
    pub continue_final_message: bool,
}

impl Default for PromptEnd {
    fn default() -> Self {
        Self { add_generation_prompt: true, continue_final_message: false }
    }
}

/// How the model reasons.
#[derive(Debug, Clone, Default)]
pub struct ReasoningOptions {
    /// The effort, in OpenAI's words, for templates that have a control for it.
    pub effort: Option<String>,
    /// The most tokens of reasoning; no limit if `None` or negative.
    pub budget: Option<i64>,
    /// Variables of the template.
    pub variables: Map<String, Value>,
}
