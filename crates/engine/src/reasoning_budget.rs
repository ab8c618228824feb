//! A bound on reasoning: when it is reached, the tokens that close the reasoning are forced.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Token;

/// The most reasoning tokens of an answer, and how its reasoning is delimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasoningBudget {
    /// The most tokens of reasoning; an opening delimiter in the prompt does not count.
    pub tokens: u32,
    /// Whether the prompt ends with the opening delimiter.
    pub opened: bool,
    /// The opening delimiter.
    pub open: Arc<str>,
    /// The closing delimiter.
    pub close: Arc<str>,
    /// The tokens that are forced to close the reasoning, at least one.
    pub closing: Arc<[Token]>,
}

/// Applies a budget to one answer.
#[derive(Debug)]
pub(crate) struct ReasoningLimiter {
    budget: ReasoningBudget,
    state: ReasoningState,
    /// The end of the text, as long as a delimiter that several tokens spell.
    tail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReasoningState {
    /// Only white space so far.
    Before,
    /// This many tokens of reasoning so far.
    Inside(u32),
    /// This many of the closing tokens were forced.
    Closing(usize),
    /// After the reasoning, or without any.
    After,
}

// === impl ReasoningLimiter ===

impl ReasoningLimiter {
    pub(crate) fn new(budget: ReasoningBudget) -> Self {
        let state = if budget.opened { ReasoningState::Inside(0) } else { ReasoningState::Before };
        Self { budget, state, tail: String::new() }
    }

    /// The token to force next, if the budget is used up.
    pub(crate) fn forced_token(&self) -> Option<Token> {
        match self.state {
            ReasoningState::Inside(tokens) if tokens >= self.budget.tokens => {
                self.budget.closing.first().copied()
            }
            ReasoningState::Closing(count) => self.budget.closing.get(count).copied(),
            _ => None,
        }
    }

    /// Records an appended token's text; `forced` if it is the token of [`Self::forced_token`].
    pub(crate) fn observe(&mut self, text: &str, forced: bool) {
        if forced {
            let count = if let ReasoningState::Closing(count) = self.state { count + 1 } else { 1 };
            self.state = ReasoningState::Closing(count);
            if count == self.budget.closing.len() {
                self.state = ReasoningState::After;
            }
            return;
        }
        match self.state {
            ReasoningState::Before => {
                self.tail.push_str(text);
                let text = self.tail.trim_start();
                // White space has no bound and is not needed.
                let space = self.tail.len() - text.len();
                if text.starts_with(&*self.budget.open) {
                    self.state = ReasoningState::Inside(0);
                    self.tail.clear();
                } else if self.budget.open.starts_with(text) {
                    self.tail.drain(..space);
                } else {
                    self.state = ReasoningState::After;
                }
            }
            // The model may emit the closing delimiter itself, also while it is being forced.
            ReasoningState::Inside(_) | ReasoningState::Closing(_) => {
                self.tail.push_str(text);
                if self.tail.contains(&*self.budget.close) {
                    self.state = ReasoningState::After;
                    return;
                }
                let keep = self.budget.close.len();
                if let Some(from) = self.tail.len().checked_sub(keep) {
                    let from = (from..=self.tail.len()).find(|&at| self.tail.is_char_boundary(at));
                    self.tail.drain(..from.unwrap_or(0));
                }
                if let ReasoningState::Inside(tokens) = &mut self.state {
                    *tokens += 1;
                }
            }
            ReasoningState::After => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` character by character under a budget; returns the answer.
    fn generate(text: &str, tokens: u32, opened: bool) -> String {
        let close = "\n</t>\n";
        let closing: Vec<Token> = close.chars().map(u32::from).collect();
        let (open, close) = ("<t>".into(), "</t>".into());
        let budget = ReasoningBudget { tokens, opened, open, close, closing: closing.into() };
        let mut limiter = ReasoningLimiter::new(budget);
        let mut out = String::new();
        let mut text = text.chars();
        loop {
            let forced = limiter.forced_token().and_then(char::from_u32);
            let Some(c) = forced.or_else(|| text.next()) else { return out };
            limiter.observe(&c.to_string(), forced.is_some());
            out.push(c);
        }
    }

    #[test]
    fn reasoning_ends_at_the_budget() {
        assert_eq!(generate("<t>abcdef", 3, false), "<t>abc\n</t>\ndef");
        assert_eq!(generate("abcdef", 3, true), "abc\n</t>\ndef");
        assert_eq!(generate("abc", 0, true), "\n</t>\nabc");
    }

    #[test]
    fn leading_white_space_is_not_kept() {
        let (open, close) = ("<t>".into(), "</t>".into());
        let budget = ReasoningBudget { tokens: 1, opened: false, open, close, closing: [1].into() };
        let mut limiter = ReasoningLimiter::new(budget);
        for _ in 0..1000 {
            limiter.observe(" \n", false);
        }
        assert!(limiter.tail.is_empty());
        for text in [" <", "t", ">a"] {
            limiter.observe(text, false);
        }
        assert_eq!(limiter.state, ReasoningState::Inside(0));
    }

    #[test]
    fn reasoning_within_the_budget_is_unchanged() {
        assert_eq!(generate("<t>ab</t>cdefghijklmnop", 9, false), "<t>ab</t>cdefghijklmnop");
        assert_eq!(generate(" no <t>reasoning at all", 3, false), " no <t>reasoning at all");
    }
}
