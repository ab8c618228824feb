//! One answer while it grows: its tokens, its sampler, its text so far unsent.

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

/// An answer and how it continues.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// The prompt and what was generated.
    all: Vec<Token>,
    prompt_tokens: usize,
    /// Guesses at what comes next, where that is wanted.
    lookup: Option<PromptLookup>,
    max_tokens: u32,
    rules: StopRules,
    logprobs: Option<u32>,
    sampler: Sampler,
    /// Control tokens that show.
    visible_controls: Arc<[Token]>,
    /// Ends thoughts that are too long.
    reasoning: Option<ReasoningLimiter>,
    /// What the answer has to be.
    constraint: Option<Constraint>,
    assembler: Utf8Assembler,
    stops: StopMatcher,
    /// Log probabilities whose text is still held back, each with the length of its text.
    unsent: Vec<(TokenLogprob, u32)>,
    /// Tokens that may not be chosen before `min_tokens`, and those that may never be.
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

/// What one more token did.
#[derive(Debug, Default)]
pub(crate) struct TokenOutcome {
    /// Text that may be sent now.
    pub(crate) text: String,
    /// The tokens behind it, when asked for.
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Those whose text is held back, each with its length in bytes.
    pub(crate) held: Vec<(TokenLogprob, u32)>,
    /// Set when that was the end.
    pub(crate) finished: Option<FinishReason>,
    /// Set when it cannot go on: the grammar is too complex.
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

    /// Goes on where another engine was: all that it knew follows from the tokens.
    pub(crate) fn resume(&mut self, said: PartialAnswer, vocab: &Vocab) {
        let PartialAnswer { tokens, rng_position, held } = said;
        if let Some(constraint) = &mut self.constraint {
            constraint.resume(tokens.clone());
        }
        for token in tokens {
            let closes = self.reasoning.as_ref().and_then(ReasoningLimiter::next) == Some(token);
            let early = self.tokens() < self.rules.min_tokens;
            self.sampler.accept(token);
            self.all.push(token);
            // What may be sent was sent.
            self.read(token, (early, closes), vocab, &mut String::new());
        }
        self.sampler.seek(rng_position);
        self.unsent = held;
    }

    /// Random numbers that were used.
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

    /// How many tokens were generated.
    pub(crate) fn tokens(&self) -> u32 {
        u32::try_from(self.all.len() - self.prompt_tokens).unwrap_or(u32::MAX)
    }

    /// The token chosen last.
    pub(crate) fn last(&self) -> Token {
        self.all.last().copied().unwrap_or_default()
    }

    /// Drafts what may come next: how many tokens, and how likely one is right if those before it
    /// are.
    pub(crate) fn propose(&mut self) -> Draft {
        let Some(lookup) = &mut self.lookup else { return Draft::default() };
        let mut drafts = lookup.propose(&self.all).len();
        if let Some(constraint) = &mut self.constraint {
            drafts = constraint.allowed(lookup.draft());
        }
        Draft { tokens: u32::try_from(drafts).unwrap_or(0), acceptance: lookup.acceptance() }
    }

    /// Whether the answer has to follow a grammar.
    pub(crate) fn is_constrained(&self) -> bool {
        self.constraint.is_some()
    }

    /// What is asked of the grammar while the model computes.
    pub(crate) fn constraint(&mut self) -> Option<&mut Constraint> {
        self.constraint.as_mut()
    }

    /// Adds a token that the grammar forces, if there is one. Where log probabilities are wanted
    /// each token has to come from the model, so there none is.
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

    /// Compares the token chosen last with the draft's at `index`.
    pub(crate) fn is_as_drafted(&mut self, index: usize) -> bool {
        let last = self.last();
        self.lookup.as_mut().is_some_and(|lookup| lookup.observe(index, last))
    }

    /// Chooses the next token by `logits` and says what may be sent.
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
        let forced = self.reasoning.as_ref().and_then(ReasoningLimiter::next);
        let forced = forced.filter(|&token| mask.is_none_or(|mask| mask.allows(token)));
        let token = forced.unwrap_or_else(|| self.sampler.sample(logits, mask, banned, scratch));
        if mask.is_some_and(|mask| !mask.allows(token)) {
            // Nothing is left that may come next and is not banned.
            return self.end(FinishReason::EndOfText);
        }
        self.append(token, Some(logits), vocab, forced.is_some())
    }

    /// Adds a token and says what may be sent.
    fn append(
        &mut self,
        token: Token,
        logits: Option<&[f32]>,
        vocab: &Vocab,
        closes_thoughts: bool,
    ) -> TokenOutcome {
        let early = self.tokens() < self.rules.min_tokens;
        self.sampler.accept(token);
        self.all.push(token);
        if let Some(reason) = self.ending_token(token, vocab) {
            return self.end(reason);
        }
        if self.constraint.as_mut().is_some_and(|c| c.take(token).is_err()) {
            return TokenOutcome { failed: true, ..TokenOutcome::default() };
        }
        if let (Some(top), Some(logits)) = (self.logprobs, logits) {
            let bytes = u32::try_from(self.piece(token, vocab).len()).unwrap_or(u32::MAX);
            self.unsent.push((token_logprob(logits, token, top), bytes));
        }
        let mut outcome = TokenOutcome::default();
        let verdict = self.read(token, (early, closes_thoughts), vocab, &mut outcome.text);
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

    /// Reads a token's text and appends what of it may be sent. `early` where nothing ends the answer
    /// yet, `closes` where the token ends thoughts that are too long.
    fn read(
        &mut self,
        token: Token,
        (early, closes): (bool, bool),
        vocab: &Vocab,
        out: &mut String,
    ) -> Verdict {
        let piece = self.piece(token, vocab);
        if let Some(reasoning) = &mut self.reasoning {
            reasoning.take(&String::from_utf8_lossy(piece), closes);
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

    /// Whether choosing `token` ends the answer.
    fn ending_token(&self, token: Token, vocab: &Vocab) -> Option<FinishReason> {
        if self.rules.tokens.contains(&token) {
            return Some(FinishReason::StopToken(token));
        }
        let eog = !self.rules.ignore_eos && vocab.end_of_generation().contains(&token);
        eog.then_some(FinishReason::EndOfText)
    }

    /// Lets out everything that was held back.
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
