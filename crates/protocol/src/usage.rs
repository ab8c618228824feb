//! Token accounting, in tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a generation cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, after templating.
    pub prompt_tokens: u32,
    /// Tokens generated, over all choices.
    pub completion_tokens: u32,
    /// The sum of both.
    pub total_tokens: u32,
    /// Where the prompt tokens came from.
    pub prompt_tokens_details: PromptTokensDetails,
    /// What the completion tokens were.
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
    /// Tokens spent on reasoning text.
    pub reasoning_tokens: u32,
}

/// What an embedding request cost; it generates nothing, so it has no completion tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u32,
    /// The same number.
    pub total_tokens: u32,
}

impl Usage {
    /// With so many of the completion tokens spent on thoughts.
    #[must_use]
    pub fn reasoned(self, reasoning_tokens: u32) -> Self {
        Self { completion_tokens_details: CompletionTokensDetails { reasoning_tokens }, ..self }
    }

    /// With more prompt tokens, more of them cached, and more completion tokens.
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
