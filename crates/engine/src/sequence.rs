//! One answer while it is generated: its tokens, its sampler, and the text that is held back.

use std::sync::Arc;

use crate::Token;
use crate::detokenize::Utf8Assembler;
use crate::grammar::{CompiledGrammar, Constraint, TooComplex};
use crate::logprobs::token_logprob;
use crate::message::PartialAnswer;
use crate::prompt_lookup::PromptLookup;
use crate::reasoning_budget::ReasoningLimiter;
use crate::request::{FinishReason, GenerateRequest, StopRules, TokenLogprob};
use crate::sampling::{Sampler, Scratch};
use crate::stop_strings::{StopMatcher, Verdict};
use crate::vocab::Vocab;

/// An answer and the state that generates it.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// The prompt and what was generated.
    all: Vec<Token>,
    prompt_tokens: usize,
    /// Drafts tokens, if enabled.
    lookup: Option<PromptLookup>,
    max_tokens: u32,
    rules: StopRules,
    logprobs: Option<u32>,
    sampler: Sampler,
    /// Control tokens whose names appear in the text.
    visible_controls: Arc<[Token]>,
    /// Ends reasoning at its budget.
    reasoning: Option<ReasoningLimiter>,
    /// The grammar that the answer follows.
    constraint: Option<Constraint>,
    assembler: Utf8Assembler,
    stops: StopMatcher,
    /// Log probabilities whose text is held back, each with the length of its text in bytes.
    unsent: Vec<(TokenLogprob, u32)>,
    /// Tokens that must not be sampled before `min_tokens`, and at any time.
    banned_early: Vec<Token>,
    banned_always: Vec<Token>,
}

/// How many tokens were drafted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Draft {
    pub(crate) tokens: u32,
    /// How likely one of them is right if those before it are, from 0 to 1.
    pub(crate) acceptance: f64,
}

/// What one more token adds to an answer.
#[derive(Debug, Default)]
pub(crate) struct TokenOutcome {
    /// Text that may be sent now.
    pub(crate) text: String,
    /// The tokens of that text, if requested.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Log probabilities whose text is held back, each with its length in bytes.
    pub(crate) held: Vec<(TokenLogprob, u32)>,
    /// Set if the answer ends with this token.
    pub(crate) finished: Option<FinishReason>,
    /// Set if the grammar exceeds the parser's limits: the answer cannot continue.
    pub(crate) failed: bool,
}

impl Sequence {
    /// Answer number `choice` of a request.
    pub(crate) fn new(
        request: &GenerateRequest,
        choice: u32,
        grammar: Option<&CompiledGrammar>,
        vocab: &Vocab,
        speculate: bool,
    ) -> Self {
        let eog = vocab.end_of_generation();
        let mut banned_early = eog.to_vec();
        banned_early.extend_from_slice(&request.stop.tokens);
        Self {
            all: request.prompt.to_vec(),
            prompt_tokens: request.prompt.len(),
            lookup: speculate.then(PromptLookup::default),
            max_tokens: request.max_tokens,
            logprobs: request.logprobs,
            sampler: Sampler::new(request.sampling.clone(), choice, &request.prompt),
            visible_controls: Arc::clone(&request.visible_controls),
            reasoning: request.reasoning_budget.clone().map(ReasoningLimiter::new),
            constraint: grammar.map(CompiledGrammar::start),
            assembler: Utf8Assembler::default(),
            stops: StopMatcher::new(request.stop.strings.clone()),
            unsent: Vec::new(),
            banned_early,
            banned_always: if request.stop.ignore_eos { eog.to_vec() } else { Vec::new() },
            rules: request.stop.clone(),
        }
    }

    /// Continues an answer of an earlier process: all other state follows from its tokens.
    pub(crate) fn resume(&mut self, said: PartialAnswer, vocab: &Vocab) {
        let PartialAnswer { tokens, rng_position, held } = said;
        if let Some(constraint) = &mut self.constraint {
            constraint.resume(tokens.clone());
        }
        for token in tokens {
            let closes =
                self.reasoning.as_ref().and_then(ReasoningLimiter::forced_token) == Some(token);
            let early = self.tokens() < self.rules.min_tokens;
            self.sampler.accept(token);
            self.all.push(token);
            // This text was sent by the earlier process.
            self.read(token, (early, closes), vocab, &mut String::new());
        }
        self.sampler.seek(rng_position);
        self.unsent = held;
    }

    /// Position of the random number generator.
    pub(crate) fn rng_position(&self) -> u64 {
        self.sampler.rng_position()
    }

    /// The token at `position`: of the prompt, generated, or drafted.
    pub(crate) fn token_at(&self, position: u32) -> Option<Token> {
        let position = position as usize;
        match position.checked_sub(self.all.len()) {
            None => self.all.get(position).copied(),
            Some(at) => self.lookup.as_ref()?.draft().get(at).copied(),
        }
    }

    /// Tokens generated so far.
    pub(crate) fn tokens(&self) -> u32 {
        u32::try_from(self.all.len() - self.prompt_tokens).unwrap_or(u32::MAX)
    }

    /// The last token.
    pub(crate) fn last(&self) -> Token {
        self.all.last().copied().unwrap_or_default()
    }

    /// Drafts the next tokens.
    pub(crate) fn propose(&mut self) -> Draft {
        let Some(lookup) = &mut self.lookup else { return Draft::default() };
        let mut drafts = lookup.propose(&self.all).len();
        if let Some(constraint) = &mut self.constraint {
            drafts = constraint.count_allowed(lookup.draft());
        }
        Draft { tokens: u32::try_from(drafts).unwrap_or(0), acceptance: lookup.acceptance() }
    }

    /// Whether the answer has to follow a grammar.
    pub(crate) fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// The grammar's state, to prepare its mask while the model computes.
    pub(crate) fn constraint(&mut self) -> Option<&mut Constraint> {
        self.constraint.as_mut()
    }

    /// Appends the tokens that the grammar forces. None are if log probabilities are requested: those come from the
    /// model.
    pub(crate) fn append_forced(&mut self, vocab: &Vocab) -> Vec<(Token, TokenOutcome)> {
        let Some(constraint) = self.constraint.as_mut().filter(|_| self.logprobs.is_none()) else {
            return Vec::new();
        };
        let mut appended = Vec::new();
        for token in constraint.forced() {
            let outcome = self.append(token, None, vocab, false);
            let ended = outcome.finished.is_some() || outcome.failed;
            appended.push((token, outcome));
            if ended {
                break;
            }
        }
        appended
    }

    /// Whether the last token is the draft's token at `index`.
    pub(crate) fn is_as_drafted(&mut self, index: usize) -> bool {
        let last = self.last();
        self.lookup.as_mut().is_some_and(|lookup| lookup.observe(index, last))
    }

    /// Samples the next token from `logits` and appends it.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        vocab: &Vocab,
        scratch: &mut Scratch,
    ) -> TokenOutcome {
        if self.max_tokens == 0 {
            return TokenOutcome {
                finished: Some(FinishReason::Length),
                ..TokenOutcome::default()
            };
        }
        let early = self.tokens() < self.rules.min_tokens;
        let banned = if early { &self.banned_early } else { &self.banned_always };
        let mask = match self.constraint.as_mut().map(Constraint::mask) {
            None => None,
            Some(Ok(mask)) => Some(mask),
            Some(Err(TooComplex)) => {
                return TokenOutcome { failed: true, ..TokenOutcome::default() };
            }
        };
        let forced = self.reasoning.as_ref().and_then(ReasoningLimiter::forced_token);
        let forced = forced.filter(|&token| mask.is_none_or(|mask| mask.allows(token)));
        let token = forced.unwrap_or_else(|| self.sampler.sample(logits, mask, banned, scratch));
        if mask.is_some_and(|mask| !mask.allows(token)) {
            // Every token that the grammar allows is banned.
            return self.end(FinishReason::EndOfText);
        }
        self.append(token, Some(logits), vocab, forced.is_some())
    }

    /// Appends a token.
    fn append(
        &mut self,
        token: Token,
        logits: Option<&[f32]>,
        vocab: &Vocab,
        closes_reasoning: bool,
    ) -> TokenOutcome {
        let early = self.tokens() < self.rules.min_tokens;
        self.sampler.accept(token);
        self.all.push(token);
        if let Some(reason) = self.ending_token(token, vocab) {
            return self.end(reason);
        }
        if self.constraint.as_mut().is_some_and(|c| c.consume(token).is_err()) {
            return TokenOutcome { failed: true, ..TokenOutcome::default() };
        }
        if let (Some(top), Some(logits)) = (self.logprobs, logits) {
            let bytes = u32::try_from(self.piece(token, vocab).len()).unwrap_or(u32::MAX);
            self.unsent.push((token_logprob(logits, token, top), bytes));
        }
        let mut outcome = TokenOutcome::default();
        let verdict = self.read(token, (early, closes_reasoning), vocab, &mut outcome.text);
        if let Verdict::Matched(index) = verdict {
            let stop = self.stops.stop(index).to_owned();
            outcome.logprobs = self.logprobs_within(outcome.text.len());
            outcome.finished = Some(FinishReason::StopString(stop));
            return outcome;
        }
        let complete = self.constraint.as_ref().is_some_and(Constraint::is_complete);
        let reason = match complete {
            true => Some(FinishReason::EndOfText),
            false => (self.tokens() >= self.max_tokens).then_some(FinishReason::Length),
        };
        if let Some(reason) = reason {
            let rest = self.end(reason);
            outcome.text.push_str(&rest.text);
            return TokenOutcome { text: outcome.text, ..rest };
        }
        if !outcome.text.is_empty()
            && !self.stops.is_holding()
            && !self.assembler.is_mid_character()
        {
            outcome.logprobs = self.unsent.drain(..).map(|(l, _)| l).collect();
        } else if !outcome.text.is_empty() {
            outcome.logprobs = self.logprobs_within(outcome.text.len());
        }
        outcome.held.clone_from(&self.unsent);
        outcome
    }

    /// Decodes a token's text and appends to `out` what may be sent. `early`: the answer must not end yet; `closes`: the
    /// token is one that the reasoning budget forced.
    fn read(
        &mut self,
        token: Token,
        (early, closes): (bool, bool),
        vocab: &Vocab,
        out: &mut String,
    ) -> Verdict {
        let piece = self.piece(token, vocab);
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.observe(&String::from_utf8_lossy(piece), closes);
        }
        let mut text = String::new();
        self.assembler.push(piece, &mut text);
        if !early {
            return self.stops.push(&text, out);
        }
        self.stops.flush(out);
        out.push_str(&text);
        Verdict::Continue
    }

    /// The bytes that a token adds to the answer.
    fn piece<'v>(&self, token: Token, vocab: &'v Vocab) -> &'v [u8] {
        if self.visible_controls.contains(&token) {
            vocab.piece(token)
        } else {
            vocab.text_piece(token)
        }
    }

    /// Why `token` ends the answer, if it does.
    fn ending_token(&self, token: Token, vocab: &Vocab) -> Option<FinishReason> {
        if self.rules.tokens.contains(&token) {
            return Some(FinishReason::StopToken(token));
        }
        let eog = !self.rules.ignore_eos && vocab.end_of_generation().contains(&token);
        eog.then_some(FinishReason::EndOfText)
    }

    /// Flushes all text that is held back.
    fn end(&mut self, reason: FinishReason) -> TokenOutcome {
        let mut text = String::new();
        self.stops.flush(&mut text);
        self.assembler.finish(&mut text);
        let logprobs = self.unsent.drain(..).map(|(l, _)| l).collect();
        TokenOutcome { text, logprobs, finished: Some(reason), ..TokenOutcome::default() }
    }

    /// Takes the log probabilities of the tokens that begin within the first `bytes` of the text
    /// that is being sent; the others belong to what is held back or cut off.
    fn logprobs_within(&mut self, bytes: usize) -> Vec<TokenLogprob> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut start = 0;
        let mut count = 0;
        while let Some((_, len)) = self.unsent.get(count).filter(|_| start < bytes) {
            start += len;
            count += 1;
        }
        // The last of them may reach beyond what is sent: its rest is held back without it.
        let overhang = start.saturating_sub(bytes);
        let taken: Vec<_> = self.unsent.drain(..count).map(|(l, _)| l).collect();
        if let Some(next) = self.unsent.first_mut() {
            next.1 += overhang;
        }
        taken
    }
}

#[cfg(test)]
#[cfg(feature = "scripted")]
mod tests;
