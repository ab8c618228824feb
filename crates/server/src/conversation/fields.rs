//! The names of a request's fields, for error messages.

/// The names of the fields by which a dialect spells a conversation.
#[derive(Debug)]
pub struct FieldNames {
    /// The turns.
    pub conversation: &'static str,
    /// Stop strings.
    pub stop: StopField,
    /// The format of the content.
    pub format: &'static str,
    /// The name of the format's schema.
    pub schema_name: &'static str,
    /// The format's schema.
    pub schema: &'static str,
    /// The effort of reasoning.
    pub effort: &'static str,
    /// The most tokens of reasoning.
    pub reasoning_budget: &'static str,
    /// The allowed tools of a tool choice.
    pub allowed_tools: &'static str,
}

/// The field of stop strings.
#[derive(Debug, Clone, Copy)]
pub struct StopField {
    /// Its name.
    pub name: &'static str,
    /// The most strings that it may hold.
    pub max_strings: usize,
}

impl Default for StopField {
    /// OpenAI's.
    fn default() -> Self {
        Self { name: "stop", max_strings: 4 }
    }
}
