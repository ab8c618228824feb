//! Samples a token from a row of logits.
//!
//! [`Sampler::sample`] applies penalties and bias, then temperature, top-k, typical-p, top-p and min-p, then draws. A
//! vocabulary has many thousands of tokens and this runs between two forward passes, so only the few tokens that a
//! filter can leave are sorted or visited one by one.

use std::cmp::Ordering;
use std::collections::HashMap;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::Token;
use crate::grammar::Mask;
use crate::request::SamplingParams;
use crate::softmax;

/// Elements of a row that are summed or compared as a block.
const BLOCK: usize = 64;

/// The sampler of one sequence: its parameters, random number generator, and token counts.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: ChaCha8Rng,
    seen: Seen,
}

/// Buffers of the vocabulary's length, shared by all samplers of a thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Logits after penalties and bias.
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    candidates: Vec<Candidate>,
    ranked: Vec<Ranked>,
}

/// The tokens that penalties apply to. Every step visits all of them.
#[derive(Debug, Default)]
struct Seen {
    /// Each with its count in the answer.
    tokens: Vec<(Token, u32)>,
    places: HashMap<Token, usize>,
}

/// A token that can still be drawn, with its weight (proportional to its probability).
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: Token,
    weight: f32,
}

/// A candidate and how far its surprise is from the expected one.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    distance: f64,
    candidate: Candidate,
}

/// The tokens that the filters have left, and their total weight.
struct Candidates<'a> {
    tokens: &'a mut Vec<Candidate>,
    total: f64,
}

impl Sampler {
    /// A sampler for answer number `choice` of a request with this prompt.
    pub(crate) fn new(params: SamplingParams, choice: u32, prompt: &[Token]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(params.seed);
        rng.set_stream(u64::from(choice));
        let mut seen = Seen::default();
        if params.uses_repetition() {
            prompt.iter().for_each(|&token| *seen.count(token) += 0);
        }
        Self { params, rng, seen }
    }

    /// Position of the random number generator, in words.
    pub(crate) fn rng_position(&self) -> u64 {
        // An answer uses two words for each token: it ends before the upper half is needed.
        u64::try_from(self.rng.get_word_pos()).unwrap_or(u64::MAX)
    }

    /// Sets the position of the random number generator.
    pub(crate) fn seek(&mut self, rng_position: u64) {
        self.rng.set_word_pos(rng_position.into());
    }

    /// Samples a token from `logits`, one for each vocabulary entry, among those in `allowed` and not in `forbidden`. If
    /// none is left, it returns some token.
    pub(crate) fn sample(
        &mut self,
        logits: &[f32],
        allowed: Option<&Mask>,
        forbidden: &[Token],
        scratch: &mut Scratch,
    ) -> Token {
        let adjusts = self.adjust(logits, allowed, forbidden, &mut scratch.adjusted);
        let row = if adjusts { scratch.adjusted.as_slice() } else { logits };
        if self.params.temperature <= 0.0 {
            return argmax(row);
        }
        let max = softmax::maximum(row);
        softmax::weigh(row, max, self.params.temperature.recip(), &mut scratch.weights);
        let uniform = uniform(&mut self.rng);
        let drawn = if self.params.filters() {
            let Scratch { weights, candidates, ranked, .. } = scratch;
            Candidates::of(&self.params, weights, candidates, ranked).draw(uniform)
        } else {
            draw(&scratch.weights, uniform)
        };
        // Logits that are all NaN or minus infinity weigh nothing.
        drawn.unwrap_or_else(|| argmax(row))
    }

    /// Records that `token` is part of the answer.
    pub(crate) fn accept(&mut self, token: Token) {
        if self.params.uses_penalties() {
            *self.seen.count(token) += 1;
        }
    }

    /// Copies `logits` and applies mask, penalties, bias and bans, unless there are none.
    fn adjust(
        &self,
        logits: &[f32],
        allowed: Option<&Mask>,
        forbidden: &[Token],
        adjusted: &mut Vec<f32>,
    ) -> bool {
        let is_free = self.params.logit_bias.is_empty() && forbidden.is_empty();
        match allowed {
            Some(mask) => mask.apply(logits, adjusted),
            None if is_free && self.seen.tokens.is_empty() => return false,
            None => {
                adjusted.clear();
                adjusted.extend_from_slice(logits);
            }
        }
        let params = &self.params;
        for &(token, generated) in &self.seen.tokens {
            let Some(logit) = adjusted.get_mut(token as usize) else { continue };
            let divide = if *logit > 0.0 {
                params.repetition_penalty.recip()
            } else {
                params.repetition_penalty
            };
            *logit *= divide;
            if generated > 0 {
                #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
                let count = generated as f32;
                *logit -= params.frequency_penalty * count + params.presence_penalty;
            }
        }
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for &token in forbidden {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        true
    }
}

impl Seen {
    /// The count of a token, which is seen from now on.
    fn count(&mut self, token: Token) -> &mut u32 {
        let place = *self.places.entry(token).or_insert_with(|| {
            self.tokens.push((token, 0));
            self.tokens.len() - 1
        });
        &mut self.tokens[place].1
    }
}

impl<'a> Candidates<'a> {
    /// Applies the filters to `weights` in order.
    fn of(
        params: &SamplingParams,
        weights: &[f32],
        tokens: &'a mut Vec<Candidate>,
        ranked: &mut Vec<Ranked>,
    ) -> Self {
        let mut candidates = Self { tokens, total: softmax::sum(weights) };
        let floor = candidates.floor(params, weights);
        candidates.tokens.clear();
        let all = (0..).zip(weights).map(|(token, &weight)| Candidate { token, weight });
        candidates.tokens.extend(all.filter(|c| c.weight >= floor));
        candidates.keep_top_k(params.top_k as usize);
        candidates.keep_typical(params.typical_p, ranked);
        candidates.keep_top_p(params.top_p);
        candidates.keep_min_p(params.min_p);
        candidates
    }

    /// A weight below which no token passes the filters; finding it costs less than filtering the tokens below.
    fn floor(&self, params: &SamplingParams, weights: &[f32]) -> f32 {
        let k = params.top_k as usize;
        if k > 0 {
            return kth_block_maximum(weights, k).max(f32::MIN_POSITIVE);
        }
        if params.typical_p >= 1.0 {
            // Tokens that each weigh less than an equal part of what top-p may cut off weigh less
            // than that together. Half of it keeps clear of rounding.
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let equal = f64::from(1.0 - params.top_p) * self.total / weights.len() as f64;
            #[expect(clippy::cast_possible_truncation, reason = "a bound, not a value")]
            let floor = (equal * 0.5) as f32;
            // The heaviest token weighs 1 and gets through top-p.
            return floor.max(params.min_p).max(f32::MIN_POSITIVE);
        }
        f32::MIN_POSITIVE
    }

    fn draw(&self, uniform: f64) -> Option<Token> {
        let total: f64 = self.tokens.iter().map(|c| f64::from(c.weight)).sum();
        let mut left = uniform * total;
        for candidate in self.tokens.iter() {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return Some(candidate.token);
            }
        }
        // Rounding can leave a little.
        self.tokens.last().map(|c| c.token)
    }

    fn keep(&mut self, count: usize) {
        self.tokens.truncate(count);
        self.total = self.tokens.iter().map(|c| f64::from(c.weight)).sum();
    }

    fn keep_top_k(&mut self, k: usize) {
        if k > 0 && k < self.tokens.len() {
            self.tokens.select_nth_unstable_by(k - 1, heavier_first);
            self.keep(k);
        }
    }

    /// Keeps the tokens whose surprise is nearest to the expected surprise, up to the mass.
    fn keep_typical(&mut self, mass: f32, ranked: &mut Vec<Ranked>) {
        if mass >= 1.0 || self.tokens.len() < 2 {
            return;
        }
        let total = self.total;
        // One logarithm for each token: a comparison must not take one.
        ranked.clear();
        ranked.extend(self.tokens.iter().map(|&candidate| {
            let distance = -(f64::from(candidate.weight) / total).ln();
            Ranked { distance, candidate }
        }));
        let share = |r: &Ranked| f64::from(r.candidate.weight) / total;
        let entropy: f64 = ranked.iter().map(|r| share(r) * r.distance).sum();
        ranked.iter_mut().for_each(|r| r.distance = (r.distance - entropy).abs());
        let nearer_first = |a: &Ranked, b: &Ranked| {
            a.distance.total_cmp(&b.distance).then(a.candidate.token.cmp(&b.candidate.token))
        };
        let weight = |r: &Ranked| f64::from(r.candidate.weight);
        let keep = select_mass(ranked, f64::from(mass) * total, nearer_first, weight);
        self.tokens.clear();
        self.tokens.extend(ranked[..keep].iter().map(|r| r.candidate));
        self.keep(keep);
    }

    /// Keeps the likeliest tokens up to the mass.
    fn keep_top_p(&mut self, mass: f32) {
        if mass >= 1.0 || self.tokens.len() < 2 {
            return;
        }
        let target = f64::from(mass) * self.total;
        let keep = select_mass(self.tokens, target, heavier_first, |c| f64::from(c.weight));
        self.keep(keep);
    }

    fn keep_min_p(&mut self, min_p: f32) {
        if min_p > 0.0 {
            let heaviest = self.tokens.iter().map(|c| c.weight).fold(0.0, f32::max);
            self.tokens.retain(|c| c.weight >= heaviest * min_p);
        }
    }
}

impl SamplingParams {
    #[expect(clippy::float_cmp, reason = "1 is the value that turns it off")]
    fn uses_repetition(&self) -> bool {
        self.repetition_penalty != 1.0
    }

    fn filters(&self) -> bool {
        self.top_k > 0 || self.typical_p < 1.0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    fn uses_penalties(&self) -> bool {
        self.uses_repetition() || self.frequency_penalty != 0.0 || self.presence_penalty != 0.0
    }
}

/// Draws from all tokens: first the block, then the token in it.
fn draw(weights: &[f32], uniform: f64) -> Option<Token> {
    let mut left = uniform * softmax::sum(weights);
    let mut last = None;
    for (block, first) in weights.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        let mass = softmax::sum(block);
        if left >= mass {
            left -= mass;
            continue;
        }
        for (token, &weight) in (first..).zip(block).filter(|(_, w)| **w > 0.0) {
            left -= f64::from(weight);
            last = Some(token);
            if left < 0.0 {
                return last;
            }
        }
    }
    // Rounding can leave a little.
    last
}

/// The `k`-th largest of the blocks' maxima: `k` tokens weigh at least as much, so the `k`-th
/// heaviest token does too. 0 when there are fewer blocks.
fn kth_block_maximum(weights: &[f32], k: usize) -> f32 {
    let mut maxima: Vec<f32> = weights.chunks(BLOCK).map(softmax::maximum).collect();
    if k > maxima.len() {
        return 0.0;
    }
    *maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Items that are sorted to find how many reach a target.
const SORTED: usize = 128;

/// Moves the fewest first items by `order` that reach `target` weight to the front, at least one; returns their number.
/// The first [`SORTED`] of them are sorted.
///
/// Beyond those only the border is searched: if much of a large vocabulary is about equally likely, sorting it would take
/// ten times as long. Each round halves the range of the border, so the time is linear.
fn select_mass<T>(
    items: &mut [T],
    target: f64,
    order: impl Fn(&T, &T) -> Ordering,
    weight: impl Fn(&T) -> f64,
) -> usize {
    let head = SORTED.min(items.len());
    if head < items.len() {
        items.select_nth_unstable_by(head - 1, &order);
    }
    items[..head].sort_unstable_by(&order);
    let mut mass = 0.0;
    for (index, item) in items[..head].iter().enumerate() {
        mass += weight(item);
        if mass >= target {
            return index + 1;
        }
    }
    // The items before `from` do not reach the target with `mass`; those before `to` do, or are all.
    let (mut from, mut to) = (head, items.len());
    while to - from > 1 {
        let middle = from.midpoint(to);
        items[from..to].select_nth_unstable_by(middle - from - 1, &order);
        let lower = mass + items[from..middle].iter().map(&weight).sum::<f64>();
        if lower >= target {
            to = middle;
        } else {
            (from, mass) = (middle, lower);
        }
    }
    to
}

/// Heavier first; the lower token id first among equals, so that the order is always the same.
fn heavier_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.weight.total_cmp(&a.weight).then(a.token.cmp(&b.token))
}

/// The largest logit's token; the lowest id among equals.
fn argmax(logits: &[f32]) -> Token {
    let max = softmax::maximum(logits);
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
