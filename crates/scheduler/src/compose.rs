//! How much of a step the prompts may take beside decode rows.

use std::time::Duration;

use crate::cost::{Curve, Load, StepTime};

/// However long the decode rows take, prompts get at least this part of their time: answers slow
/// down before prompts starve.
const LEAST_SHARE: f64 = 0.5;
/// What the prompt whose turn it is gets, whatever it costs.
const LEAST_CHUNK: u32 = 8;
/// How far a chunk may overdraw its time so that no remainder shorter than a block is left.
const OVERDRAFT: f64 = 1.5;
/// Drafts that the break-even is told for.
const BREAK_EVEN_DRAFTS: u32 = 4;

/// Why the prompts got as much of a step as they got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Why {
    /// No prompt is waiting to be computed.
    #[default]
    NoPrompt,
    /// Nobody decodes: all that a step can hold.
    NobodyDecodes,
    /// What the costs say fits beside the decode rows within the target.
    Target,
    /// The decode rows alone leave too little of the target: prompts get their least share.
    Least,
}

/// What the time of a step depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loads {
    /// The sequences with one token: decode rows, in the main.
    pub single: Load,
    /// Those with several, but less than a block.
    pub short: Load,
    /// Those with a block or more.
    pub long: Load,
    /// The decode calls that those take: one for each where blocks matter. llama.cpp cuts a call
    /// where its sequences have different lengths, and what is cut off is less than a block.
    pub long_calls: u32,
}

/// What has been learned about costs, and the target.
#[derive(Debug)]
pub(crate) struct Composer {
    itl_target: Duration,
    /// A chunk of at least this many tokens is computed otherwise than a shorter one: llama.cpp's
    /// CPU attention takes so many queries at once, and goes through fewer one by one, which can
    /// cost more. The two kinds have prices of their own, and prompts are cut into multiples of it.
    block: u32,
    single: Curve,
    short: Curve,
    long: Curve,
}

impl Loads {
    /// With `tokens` more, of a sequence that has `before` already.
    #[must_use]
    pub fn and(mut self, tokens: u32, before: u32, block: u32) -> Self {
        let kind = match tokens {
            0 | 1 => &mut self.single,
            _ if tokens < block => &mut self.short,
            _ => {
                self.long_calls = if block > 1 { self.long_calls + 1 } else { 1 };
                &mut self.long
            }
        };
        *kind = kind.plus(Load::of(tokens, before));
        self
    }
}

impl Composer {
    pub(crate) fn new(itl_target: Duration, block: u32) -> Self {
        Self { itl_target, block, single: Curve::new(), short: Curve::new(), long: Curve::new() }
    }

    /// Takes in how long a step took.
    pub(crate) fn learn(&mut self, loads: Loads, took: StepTime) {
        self.single.learn(loads.single, took.single);
        self.short.learn(loads.short, took.short);
        self.long.learn_mean(loads.long, loads.long_calls, took.long);
    }

    /// How long a step will take.
    pub(crate) fn predict(&self, loads: Loads) -> StepTime {
        StepTime {
            single: self.single.predict(loads.single),
            short: self.short().predict(loads.short),
            long: self.long().predict_sum(loads.long, loads.long_calls),
        }
    }

    /// What prompts may take of the time of a step with these decode rows.
    pub(crate) fn time_for_prompts(&self, rows: Loads) -> (Duration, Why) {
        let decoding = self.predict(rows).total();
        let left = self.itl_target.saturating_sub(decoding);
        let least = decoding.mul_f64(LEAST_SHARE);
        if left >= least { (left, Why::Target) } else { (least, Why::Least) }
    }

    /// The tokens that a prompt gets which has `before` and lacks `need`. Its share of the time is
    /// `share`; it may use up to `all` where less makes no block.
    pub(crate) fn chunk(&self, need: u32, before: u32, share: Duration, all: Duration) -> u32 {
        // Where a kind's cost is not known, one chunk of it tells.
        let unknown = if need < self.block { &self.short } else { &self.long };
        if unknown.is_blank() && (need >= self.block || self.long.is_blank()) {
            return self.least(need);
        }
        let fits = |tokens: u32| self.within(tokens, before, all);
        let (pair, least) = (2 * self.block, self.least(need));
        match self.blocks_within(need, before, share) {
            // Of a pair each block costs less than alone.
            tokens if tokens <= self.block && need >= pair + self.block && fits(pair) => pair,
            0 if fits(least) => least,
            0 if need >= self.block => {
                self.short().tokens_within(share, before, need.min(self.block - 1))
            }
            tokens => tokens,
        }
    }

    /// What the prompt whose turn it is gets at least, where `tokens` is what there is time for: a
    /// few, or a whole block where that costs less than twice as much.
    pub(crate) fn at_least(&self, tokens: u32, need: u32, before: u32) -> u32 {
        let few = tokens.max(need.min(LEAST_CHUNK));
        let block = self.least(need);
        let cheap = self.chunk_time(block, before) < self.chunk_time(few, before) * 2;
        if few < block && cheap { block } else { few }
    }

    /// The smallest chunk that leaves nothing to be computed in another way: a block, or all where
    /// less than a block would be left.
    fn least(&self, need: u32) -> u32 {
        if need < 2 * self.block { need } else { self.block }
    }

    /// How long a chunk will take.
    pub(crate) fn chunk_time(&self, tokens: u32, before: u32) -> Duration {
        self.predict(Loads::default().and(tokens.max(2), before, self.block)).total()
    }

    /// How long prompts of so many tokens take together, without anything before them.
    pub(crate) fn prefill_time(&self, tokens: u32) -> Duration {
        const CHUNK: u32 = 256;
        let chunk = Loads::default().and(CHUNK, 0, self.block);
        self.predict(chunk).total().mul_f64(f64::from(tokens) / f64::from(CHUNK))
    }

    /// How long a step of so many decode rows takes, each behind `before` tokens.
    pub(crate) fn decode_time(&self, rows: u32, before: u32) -> Duration {
        let depth = u64::from(rows) * u64::from(before);
        self.single.predict(Load { tokens: rows, depth })
    }

    /// How many of `offered` drafts to compute beside a decode row at `before`, each of which is
    /// right with probability `likely` if those before it are: where a token costs least.
    pub(crate) fn drafts(&self, offered: u32, likely: f64, rows: u32, before: u32) -> u32 {
        if self.single.is_blank() || (self.short.is_blank() && self.long.is_blank()) {
            // One try tells what it costs.
            return offered.min(if likely > 0.5 { 4 } else { 0 });
        }
        let plain = self.decode_time(rows, before).as_secs_f64();
        let (mut best, mut least) = (0, plain / f64::from(rows.max(1)));
        let others = plain * f64::from(rows.saturating_sub(1)) / f64::from(rows.max(1));
        let (mut gain, mut chance) = (1.0, 1.0);
        for drafts in 1..=offered {
            chance *= likely;
            gain += chance;
            let own = self.chunk_time(1 + drafts, before).as_secs_f64();
            // What the others wait longer is a cost as well.
            let each = (own + others - plain).max(0.0) * f64::from(rows.saturating_sub(1));
            let price = (own + each) / gain;
            if price < least {
                (best, least) = (drafts, price);
            }
        }
        best
    }

    /// How often a draft's token must be right for drafts of a sequence alone to pay, to a
    /// twentieth; 1 where they never do.
    pub(crate) fn break_even(&self, before: u32) -> f64 {
        let mut chances = (1..20).map(|twentieths| f64::from(twentieths) / 20.0);
        let pays = |&chance: &f64| self.drafts(BREAK_EVEN_DRAFTS, chance, 1, before) > 0;
        chances.find(pays).unwrap_or(1.0)
    }

    /// As many whole blocks of a prompt as fit; all of it, rather than leave less than a block.
    fn blocks_within(&self, need: u32, before: u32, time: Duration) -> u32 {
        let curve = if need < self.block { self.short() } else { self.long() };
        let fits = curve.tokens_within(time, before, need);
        let blocks = fits - fits % self.block;
        if fits == need || (need - blocks < self.block && self.within(need, before, time)) {
            need
        } else if need - blocks >= self.block {
            blocks
        } else {
            blocks.saturating_sub(self.block)
        }
    }

    fn within(&self, tokens: u32, before: u32, time: Duration) -> bool {
        self.chunk_time(tokens, before) <= time.mul_f64(OVERDRAFT)
    }

    /// The prices of short chunks; those of long ones while there are no others.
    fn short(&self) -> &Curve {
        if self.short.is_blank() { &self.long } else { &self.short }
    }

    /// The prices of long chunks; those of short ones while there are no others.
    fn long(&self) -> &Curve {
        if self.long.is_blank() { &self.short } else { &self.long }
    }
}
