//! Reasoning that a reply can begin with, and its limit.

use forebay_chat::{ReasoningFormat, ReasoningMode};
use forebay_engine::{ParseSpecial, ReasoningBudget, Vocab};

use super::sampling::integer;
use crate::conversation::fields::FieldNames;
use crate::error::ApiError;

/// Reasoning that a reply can begin with.
#[derive(Debug, Clone)]
pub struct ExpectedReasoning {
    /// How it is delimited.
    pub format: ReasoningFormat,
    /// Whether the prompt has opened it.
    pub mode: ReasoningMode,
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
        let Some((tokens, Self { format, mode })) = tokens.zip(expected) else {
            return Ok(None);
        };
        let ReasoningFormat { open, close, after_close, .. } = format;
        let closing = match format.in_channels() {
            true => format!("{close}{after_close}"),
            false => format!("\n{close}\n\n"),
        };
        let closing = vocab.tokenize(&closing, ParseSpecial::Yes)?;
        Ok(Some(ReasoningBudget {
            tokens,
            opened: *mode == ReasoningMode::Opened,
            open: open.as_str().into(),
            close: close.as_str().into(),
            closing: closing.into(),
        }))
    }
}
