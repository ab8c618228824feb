//! Where a token is chosen.
//!
//! [`Sampler::sample`] takes one row of logits and returns a token: penalties and bias, then
//! temperature, top-k, typical-p, top-p, min-p, then a draw. Tokens whose probability is below
//! e^-30 of the likeliest one's are dropped first: in 32-bit arithmetic they cannot be drawn, and
//! what is left is usually a few hundred candidates of a vocabulary of many thousands.

use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::Token;
use crate::request::SamplingParams;

/// Natural logarithm of the smallest relative probability that is considered at all.
const NEGLIGIBLE: f32 = 30.0;

/// One sequence's way of choosing tokens: its parameters, its random numbers and what it has
/// seen.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    seen: HashMap<Token, Seen>,
    /// Logits after penalties and bias; empty when there are none.
    adjusted: Vec<f32>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// How often the token is in the answer.
    generated: u32,
}

/// A token that can still be drawn, with its weight (proportional to its probability).
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: Token,
    weight: f32,
}

impl Sampler {
    /// A sampler for answer number `choice` of a request with this prompt.
    pub(crate) fn new(params: SamplingParams, choice: u32, prompt: &[Token]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
        rng.set_stream(u64::from(choice));
        let mut seen = HashMap::new();
        if params.uses_repetition() {
            seen.extend(prompt.iter().map(|&t| (t, Seen::default())));
        }
        Self { params, rng, seen, adjusted: Vec::new(), candidates: Vec::new() }
    }

    /// Chooses a token by `logits`, one for each vocabulary entry, never one of `forbidden`.
    pub(crate) fn sample(&mut self, logits: &[f32], forbidden: &[Token]) -> Token {
        let adjusts = self.adjust(logits, forbidden);
        let adjusted = std::mem::take(&mut self.adjusted);
        let row = if adjusts { adjusted.as_slice() } else { logits };
        let token = if self.params.temperature <= 0.0 { argmax(row) } else { self.draw(row) };
        self.adjusted = adjusted;
        token
    }

    /// Tells that `token` is now part of the answer.
    pub(crate) fn accept(&mut self, token: Token) {
        if self.params.uses_penalties() {
            self.seen.entry(token).or_default().generated += 1;
        }
    }

    /// Copies `logits` and applies penalties, bias and bans, unless there are none.
    fn adjust(&mut self, logits: &[f32], forbidden: &[Token]) -> bool {
        if self.seen.is_empty() && self.params.logit_bias.is_empty() && forbidden.is_empty() {
            return false;
        }
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        let params = &self.params;
        for (&token, seen) in &self.seen {
            let Some(logit) = self.adjusted.get_mut(token as usize) else { continue };
            let divide = if *logit > 0.0 {
                params.repetition_penalty.recip()
            } else {
                params.repetition_penalty
            };
            *logit *= divide;
            if seen.generated > 0 {
                #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
                let count = seen.generated as f32;
                *logit -= params.frequency_penalty * count + params.presence_penalty;
            }
        }
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = self.adjusted.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for &token in forbidden {
            if let Some(logit) = self.adjusted.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        true
    }

    fn draw(&mut self, logits: &[f32]) -> Token {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let inverse = self.params.temperature.recip();
        let floor = max - NEGLIGIBLE * self.params.temperature;
        self.candidates.clear();
        self.candidates.extend(
            (0..)
                .zip(logits)
                .filter(|&(_, &l)| l >= floor)
                .map(|(token, &l)| Candidate { token, weight: ((l - max) * inverse).exp() }),
        );
        self.keep_top_k();
        self.keep_typical();
        self.keep_top_p();
        self.keep_min_p();
        let total: f64 = self.candidates.iter().map(|c| f64::from(c.weight)).sum();
        let mut left = uniform(&mut self.rng) * total;
        for candidate in &self.candidates {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.token;
            }
        }
        // Rounding can leave a little, and logits that are all NaN leave no candidate at all.
        self.candidates.last().map_or(0, |c| c.token)
    }

    fn keep_top_k(&mut self) {
        let k = self.params.top_k as usize;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, heavier_first);
            self.candidates.truncate(k);
        }
    }

    /// Keeps the tokens whose surprise is nearest to the expected surprise, up to the mass.
    fn keep_typical(&mut self) {
        if self.params.typical_p >= 1.0 || self.candidates.len() < 2 {
            return;
        }
        let total: f32 = self.candidates.iter().map(|c| c.weight).sum();
        let surprise = |c: &Candidate| -(c.weight / total).ln();
        let entropy: f32 = self.candidates.iter().map(|c| c.weight / total * surprise(c)).sum();
        self.candidates.sort_by(|a, b| {
            let (a, b) = ((surprise(a) - entropy).abs(), (surprise(b) - entropy).abs());
            a.total_cmp(&b)
        });
        let keep = mass_prefix(&self.candidates, self.params.typical_p * total);
        self.candidates.truncate(keep);
    }

    /// Keeps the likeliest tokens up to the mass, sorting no more of them than that takes.
    fn keep_top_p(&mut self) {
        if self.params.top_p >= 1.0 || self.candidates.len() < 2 {
            return;
        }
        let total: f32 = self.candidates.iter().map(|c| c.weight).sum();
        let target = self.params.top_p * total;
        let mut sorted = 128_usize;
        loop {
            let len = self.candidates.len();
            if sorted < len {
                self.candidates.select_nth_unstable_by(sorted - 1, heavier_first);
            }
            let head = sorted.min(len);
            self.candidates[..head].sort_unstable_by(heavier_first);
            let keep = mass_prefix(&self.candidates[..head], target);
            if keep < head || head == len {
                self.candidates.truncate(keep);
                return;
            }
            sorted *= 8;
        }
    }

    fn keep_min_p(&mut self) {
        if self.params.min_p <= 0.0 {
            return;
        }
        let heaviest = self.candidates.iter().map(|c| c.weight).fold(0.0, f32::max);
        let floor = heaviest * self.params.min_p;
        self.candidates.retain(|c| c.weight >= floor);
    }
}

impl SamplingParams {
    #[expect(clippy::float_cmp, reason = "1 is the value that turns it off")]
    fn uses_repetition(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    fn uses_penalties(&self) -> bool {
        self.uses_repetition() || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// How many of the first candidates reach `target` weight; at least one.
fn mass_prefix(candidates: &[Candidate], target: f32) -> usize {
    let mut mass = 0.0;
    for (i, candidate) in candidates.iter().enumerate() {
        mass += candidate.weight;
        if mass >= target {
            return i + 1;
        }
    }
    candidates.len()
}

/// Heavier first; the lower token id first among equals, so that the order is always the same.
fn heavier_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The largest logit's token; the lowest id among equals.
fn argmax(logits: &[f32]) -> Token {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let at = logits.iter().position(|&l| l >= max).unwrap_or(0);
    Token::try_from(at).unwrap_or(0)
}

/// A number in `[0, 1)` with 53 random bits.
fn uniform(rng: &mut impl RngCore) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let bits = (rng.next_u64() >> 11) as f64;
    bits / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests;
