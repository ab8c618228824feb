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

/// The most CPU time of one call of the parser while an answer is generated. Real schemas need one to ten milliseconds.
pub(super) const CALL_LIMIT: Duration = Duration::from_millis(150);
/// The most CPU time of all parser calls of an answer: at first, and added with each token.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
const TOKEN_LIMIT: Duration = Duration::from_millis(10);

/// A grammar that answers can follow. Cheap to clone.
#[derive(Clone)]
pub struct CompiledGrammar {
    pub(super) matcher: Arc<Mutex<Matcher>>,
    /// The bound of numbers, for a grammar of JSON.
    pub(super) numbers: Option<Arc<NumberBound>>,
}

/// The state of one answer in its grammar.
pub(crate) struct Constraint {
    grammar: CompiledGrammar,
    /// The answer's copy of the parser. Copying can take tens of milliseconds, so it is made with the first mask, beside
    /// the model's step.
    pub(super) matching: Option<Matching>,
    mask: Option<Mask>,
    /// Tokens of the answer that the parser has not consumed.
    before: Vec<Token>,
    /// The number at the end of the answer.
    digits: Digits,
    /// CPU time left for parser calls.
    time_left: Duration,
}

/// A parser that can be cancelled.
pub(super) struct Matching {
    pub(super) matcher: Matcher,
    cancel: CancellationHandle,
}

/// The allowed next tokens.
#[derive(Debug)]
pub(crate) struct Mask(SimpleVob);

/// The grammar exceeds the parser's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooComplex;

// === impl CompiledGrammar ===

impl CompiledGrammar {
    /// The state at the start of an answer.
    pub(crate) fn start(&self) -> Constraint {
        let (matching, mask, before, digits) = (None, None, Vec::new(), Digits::default());
        Constraint {
            grammar: self.clone(),
            matching,
            mask,
            before,
            digits,
            time_left: ANSWER_LIMIT,
        }
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
    /// Computes the mask for [`Constraint::mask`] unless it is known: beside the model's step.
    pub(crate) fn prepare(&mut self) {
        if self.mask.is_none() {
            let mask = self.call(|matcher| matcher.compute_mask_or_eos().ok()).flatten();
            self.mask = mask.map(|mut mask| {
                if let Some(numbers) = &self.grammar.numbers {
                    numbers.narrow(self.digits, &mut mask);
                }
                Mask(mask)
            });
        }
    }

    /// Continues after tokens that a parser of the same grammar in an earlier process has consumed.
    pub(crate) fn resume(&mut self, tokens: Vec<Token>) {
        tokens.iter().for_each(|token| self.count_digits(*token));
        self.before = tokens;
    }

    /// The allowed next tokens.
    pub(crate) fn mask(&mut self) -> Result<&Mask, TooComplex> {
        self.prepare();
        self.mask.as_ref().ok_or(TooComplex)
    }

    /// Consumes an allowed token.
    pub(crate) fn consume(&mut self, token: Token) -> Result<(), TooComplex> {
        self.mask = None;
        self.count_digits(token);
        self.time_left = (self.time_left + TOKEN_LIMIT).min(ANSWER_LIMIT);
        self.call(|matcher| matcher.consume_token(token).ok()).flatten().ok_or(TooComplex)
    }

    fn count_digits(&mut self, token: Token) {
        if let Some(numbers) = &self.grammar.numbers {
            numbers.extend(&mut self.digits, token);
        }
    }

    /// Whether no token may follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matching.as_ref().is_some_and(|matching| matching.matcher.is_stopped())
    }

    /// The next tokens that the grammar forces.
    pub(crate) fn forced(&mut self) -> Vec<Token> {
        self.call(Matcher::compute_ff_tokens).unwrap_or_default()
    }

    /// How many of these tokens are allowed in sequence.
    pub(crate) fn count_allowed(&mut self, tokens: &[Token]) -> usize {
        self.call(|matcher| matcher.validate_tokens(tokens).unwrap_or(0)).unwrap_or(0)
    }

    /// Calls the parser; `None` if the answer's time is used up. A call that takes too long cancels the parser, and all
    /// later calls fail.
    fn call<T>(&mut self, work: impl FnOnce(&mut Matcher) -> T) -> Option<T> {
        let limit = self.time_left.min(CALL_LIMIT);
        if limit.is_zero() {
            return None;
        }
        let matching = self.matching.get_or_insert_with(|| self.grammar.copy());
        for token in self.before.drain(..) {
            // A failure shows in the next call.
            let _ = matching.limited(CALL_LIMIT, |matcher| matcher.consume_token(token));
        }
        let (answer, took) = matching.limited(limit, work);
        self.time_left = self.time_left.saturating_sub(took);
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
        work: impl FnOnce(&mut Matcher) -> T,
    ) -> (T, Duration) {
        time_limit::limited(&self.cancel, limit, || work(&mut self.matcher))
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("mask", &self.mask.is_some()).finish_non_exhaustive()
    }
}

// === impl Mask ===

impl Mask {
    /// Whether a token is allowed.
    pub(crate) fn allows(&self, token: Token) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// Copies the logits of allowed tokens to `out`; all others are minus infinity.
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
