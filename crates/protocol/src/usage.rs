//! Token counts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Token counts of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, after templating.
    pub prompt_tokens: u32,
    /// Tokens generated, over all choices.
    pub completion_tokens: u32,
    /// The sum of both.
    pub total_tokens: u32,
    /// Breakdown of `prompt_tokens`.
    pub prompt_tokens_details: PromptTokensDetails,
    /// Breakdown of `completion_tokens`.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// Breakdown of `prompt_tokens`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Prompt tokens whose KV was reused instead of computed.
    pub cached_tokens: u32,
}

/// Breakdown of `completion_tokens`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Tokens of reasoning.
    pub reasoning_tokens: u32,
}

/// Token counts of an embedding request; it generates nothing, so it has no completion tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u32,
    /// The same number.
    pub total_tokens: u32,
}

impl Usage {
    /// Sets how many of the completion tokens are reasoning.
    #[must_use]
    pub fn with_reasoning(self, reasoning_tokens: u32) -> Self {
        Self { completion_tokens_details: CompletionTokensDetails { reasoning_tokens }, ..self }
    }

    /// Adds prompt tokens, those of them that were cached, and completion tokens.
    #[must_use]
    pub fn plus(self, prompt: u32, cached: u32, completion: u32) -> Self {
        let prompt_tokens = self.prompt_tokens.saturating_add(prompt);
        let completion_tokens = self.completion_tokens.saturating_add(completion);
        let cached_tokens = self.prompt_tokens_details.cached_tokens.saturating_add(cached);
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
            ..self
        }
    }
}
