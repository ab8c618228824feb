//! Where one answer stands in its grammar: which tokens may come next.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llguidance::toktrie::SimpleVob;
use llguidance::{CancellationHandle, Matcher};

use super::number_bound::{Digits, NumberBound};
use super::time_limit;
use crate::Token;
use crate::lock::lock;

/// The longest that one question to a grammar may take while an answer grows. Real schemas need
/// one to ten milliseconds.
pub(super) const QUESTION: Duration = Duration::from_millis(150);
/// What all questions about an answer may take: so much at first, and more with each token.
const ANSWER: Duration = Duration::from_secs(1);
const EACH_TOKEN: Duration = Duration::from_millis(10);

/// A grammar that answers can follow. Cheap to clone.
#[derive(Clone)]
pub struct CompiledGrammar {
    pub(super) matcher: Arc<Mutex<Matcher>>,
    /// Of JSON.
    pub(super) numbers: Option<Arc<NumberBound>>,
}

/// Where one answer stands in its grammar.
pub(crate) struct Constraint {
    grammar: CompiledGrammar,
    /// The answer's own copy of the parser. It can take tens of milliseconds to make, so it is
    /// made where masks are prepared, beside the model's step.
    pub(super) matching: Option<Matching>,
    mask: Option<Mask>,
    /// Tokens that the answer has already and the parser has not seen.
    before: Vec<Token>,
    /// The number that the answer ends with.
    digits: Digits,
    /// What questions may still take.
    left: Duration,
}

/// A parser that can be cancelled.
pub(super) struct Matching {
    pub(super) matcher: Matcher,
    cancel: CancellationHandle,
}

/// The tokens that may come next.
#[derive(Debug)]
pub(crate) struct Mask(SimpleVob);

/// The grammar needs more than its limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooComplex;

// === impl CompiledGrammar ===

impl CompiledGrammar {
    /// The beginning of an answer.
    pub(crate) fn start(&self) -> Constraint {
        let (matching, mask, before, digits) = (None, None, Vec::new(), Digits::default());
        Constraint { grammar: self.clone(), matching, mask, before, digits, left: ANSWER }
    }

    fn copy(&self) -> Matching {
        Matching::new(lock(&self.matcher).deep_clone())
    }
}

impl fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompiledGrammar")
    }
}

// === impl Constraint ===

impl Constraint {
    /// Computes what [`Constraint::mask`] will say, if it is not known yet: for the time in which
    /// the model computes.
    pub(crate) fn prepare(&mut self) {
        if self.mask.is_none() {
            let mask = self.ask(|matcher| matcher.compute_mask_or_eos().ok()).flatten();
            self.mask = mask.map(|mut mask| {
                if let Some(numbers) = &self.grammar.numbers {
                    numbers.narrow(self.digits, &mut mask);
                }
                Mask(mask)
            });
        }
    }

    /// Goes on behind tokens that another parser of the same grammar has taken.
    pub(crate) fn resume(&mut self, tokens: Vec<Token>) {
        tokens.iter().for_each(|token| self.count_digits(*token));
        self.before = tokens;
    }

    /// The tokens that may come next.
    pub(crate) fn mask(&mut self) -> Result<&Mask, TooComplex> {
        self.prepare();
        self.mask.as_ref().ok_or(TooComplex)
    }

    /// Goes on with a token that may come next.
    pub(crate) fn take(&mut self, token: Token) -> Result<(), TooComplex> {
        self.mask = None;
        self.count_digits(token);
        self.left = (self.left + EACH_TOKEN).min(ANSWER);
        self.ask(|matcher| matcher.consume_token(token).ok()).flatten().ok_or(TooComplex)
    }

    fn count_digits(&mut self, token: Token) {
        if let Some(numbers) = &self.grammar.numbers {
            numbers.extend(&mut self.digits, token);
        }
    }

    /// Whether nothing may follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matching.as_ref().is_some_and(|matching| matching.matcher.is_stopped())
    }

    /// The tokens that must come next, whatever the model says.
    pub(crate) fn forced(&mut self) -> Vec<Token> {
        self.ask(Matcher::compute_ff_tokens).unwrap_or_default()
    }

    /// How many of these tokens may come next, one after the other.
    pub(crate) fn allowed(&mut self, tokens: &[Token]) -> usize {
        self.ask(|matcher| matcher.validate_tokens(tokens).unwrap_or(0)).unwrap_or(0)
    }

    /// Asks the parser something; `None` where the answer's time is used up. A question that takes
    /// too long ends the parser, and all that follow fail.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Matcher) -> T) -> Option<T> {
        let limit = self.left.min(QUESTION);
        if limit.is_zero() {
            return None;
        }
        let matching = self.matching.get_or_insert_with(|| self.grammar.copy());
        for token in self.before.drain(..) {
            // One that fails shows in the next answer.
            let _ = matching.limited(QUESTION, |matcher| matcher.consume_token(token));
        }
        let (answer, took) = matching.limited(limit, question);
        self.left = self.left.saturating_sub(took);
        Some(answer)
    }
}

impl Matching {
    pub(super) fn new(matcher: Matcher) -> Self {
        let matcher = matcher.into_cancellable();
        let cancel = matcher.cancellation_handle().unwrap_or_default();
        Self { matcher, cancel }
    }

    pub(super) fn limited<T>(
        &mut self,
        limit: Duration,
        question: impl FnOnce(&mut Matcher) -> T,
    ) -> (T, Duration) {
        time_limit::limited(&self.cancel, limit, || question(&mut self.matcher))
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("mask", &self.mask.is_some()).finish_non_exhaustive()
    }
}

// === impl Mask ===

impl Mask {
    /// Whether a token may come next.
    pub(crate) fn allows(&self, token: Token) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// The logits of tokens that may come next, minus infinity for all others.
    pub(crate) fn apply(&self, logits: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(logits.len(), f32::NEG_INFINITY);
        self.0.iter_set_entries(|token| {
            if let (Some(to), Some(&from)) = (out.get_mut(token), logits.get(token)) {
                *to = from;
            }
        });
    }
}
