//! A bound on thoughts: where it is reached, the tokens that end them come next, whatever the model
//! would say.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Token;

/// How long an answer may think, and how it stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasoningBudget {
    /// The most tokens of thoughts, the mark that begins them aside where the prompt has it.
    pub tokens: u32,
    /// Whether the prompt has begun the thoughts.
    pub opened: bool,
    /// What begins thoughts.
    pub open: Arc<str>,
    /// What ends them.
    pub close: Arc<str>,
    /// The tokens that end them: at least one.
    pub closing: Arc<[Token]>,
}

/// Where one answer stands.
#[derive(Debug)]
pub(crate) struct ReasoningLimiter {
    limit: ReasoningBudget,
    state: ReasoningState,
    /// The text so far as it is needed to see a mark that several tokens spell.
    tail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReasoningState {
    /// Nothing but space so far.
    Before,
    /// This many tokens of thoughts so far.
    In(u32),
    /// This many of the closing tokens so far.
    Closing(usize),
    /// Behind the thoughts, or there were none.
    After,
}

// === impl ReasoningLimiter ===

impl ReasoningLimiter {
    pub(crate) fn new(limit: ReasoningBudget) -> Self {
        let state = if limit.opened { ReasoningState::In(0) } else { ReasoningState::Before };
        Self { limit, state, tail: String::new() }
    }

    /// The token that has to come next, if thoughts have to end.
    pub(crate) fn next(&self) -> Option<Token> {
        match self.state {
            ReasoningState::In(tokens) if tokens >= self.limit.tokens => {
                self.limit.closing.first().copied()
            }
            ReasoningState::Closing(told) => self.limit.closing.get(told).copied(),
            _ => None,
        }
    }

    /// Takes in a token that came and its text; `forced` where it is what [`Self::next`] said.
    pub(crate) fn take(&mut self, text: &str, forced: bool) {
        if forced {
            let told = if let ReasoningState::Closing(told) = self.state { told + 1 } else { 1 };
            self.state = ReasoningState::Closing(told);
            if told == self.limit.closing.len() {
                self.state = ReasoningState::After;
            }
            return;
        }
        match self.state {
            ReasoningState::Before => {
                self.tail.push_str(text);
                let said = self.tail.trim_start();
                // Space may go on for ever; none of it is needed.
                let space = self.tail.len() - said.len();
                if said.starts_with(&*self.limit.open) {
                    self.state = ReasoningState::In(0);
                    self.tail.clear();
                } else if self.limit.open.starts_with(said) {
                    self.tail.drain(..space);
                } else {
                    self.state = ReasoningState::After;
                }
            }
            // What was to end them came by itself in between: it is all the same.
            ReasoningState::In(_) | ReasoningState::Closing(_) => {
                self.tail.push_str(text);
                if self.tail.contains(&*self.limit.close) {
                    self.state = ReasoningState::After;
                    return;
                }
                let keep = self.limit.close.len();
                if let Some(from) = self.tail.len().checked_sub(keep) {
                    let from = (from..=self.tail.len()).find(|&at| self.tail.is_char_boundary(at));
                    self.tail.drain(..from.unwrap_or(0));
                }
                if let ReasoningState::In(tokens) = &mut self.state {
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

    /// Says `text` character by character under a limit; what comes of it.
    fn say(text: &str, tokens: u32, opened: bool) -> String {
        let close = "\n</t>\n";
        let closing: Vec<Token> = close.chars().map(u32::from).collect();
        let (open, close) = ("<t>".into(), "</t>".into());
        let limit = ReasoningBudget { tokens, opened, open, close, closing: closing.into() };
        let mut guard = ReasoningLimiter::new(limit);
        let mut out = String::new();
        let mut text = text.chars();
        loop {
            let forced = guard.next().and_then(char::from_u32);
            let Some(c) = forced.or_else(|| text.next()) else { return out };
            guard.take(&c.to_string(), forced.is_some());
            out.push(c);
        }
    }

    #[test]
    fn thoughts_end_where_the_limit_is() {
        assert_eq!(say("<t>abcdef", 3, false), "<t>abc\n</t>\ndef");
        assert_eq!(say("abcdef", 3, true), "abc\n</t>\ndef");
        assert_eq!(say("abc", 0, true), "\n</t>\nabc");
    }

    #[test]
    fn space_in_front_is_not_kept() {
        let (open, close) = ("<t>".into(), "</t>".into());
        let limit = ReasoningBudget { tokens: 1, opened: false, open, close, closing: [1].into() };
        let mut guard = ReasoningLimiter::new(limit);
        for _ in 0..1000 {
            guard.take(" \n", false);
        }
        assert!(guard.tail.is_empty());
        for text in [" <", "t", ">a"] {
            guard.take(text, false);
        }
        assert_eq!(guard.state, ReasoningState::In(0));
    }

    #[test]
    fn thoughts_that_end_before_are_left_alone() {
        assert_eq!(say("<t>ab</t>cdefghijklmnop", 9, false), "<t>ab</t>cdefghijklmnop");
        assert_eq!(say(" no <t>thoughts at all", 3, false), " no <t>thoughts at all");
    }
}
