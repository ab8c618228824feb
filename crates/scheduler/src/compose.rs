//! How much of a step the prompts may take beside decode rows.

use std::time::Duration;

use crate::cost::{Curve, Load};
use crate::step::{CallKind, Cutting, DecodeCall, Work};

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

/// What has been learned about costs, and the target.
#[derive(Debug)]
pub(crate) struct Composer {
    itl_target: Duration,
    /// A chunk of at least this many tokens is computed otherwise than a shorter one: llama.cpp's
    /// CPU attention takes so many queries at once, and goes through fewer one by one, which can
    /// cost more. The two kinds have prices of their own, and prompts are cut into multiples of it.
    block: u32,
    cutting: Cutting,
    rows: Curve,
    short: Curve,
    chunk: Curve,
    mixed: Curve,
}

impl Composer {
    pub(crate) fn new(itl_target: Duration, block: u32, cutting: Cutting) -> Self {
        let new = Curve::new;
        let (rows, short, chunk, mixed) = (new(), new(), new(), new());
        Self { itl_target, block, cutting, rows, short, chunk, mixed }
    }

    /// Learns from how long each call of a step took.
    pub(crate) fn learn(&mut self, calls: &[DecodeCall], took: &[Duration]) {
        for (call, &took) in calls.iter().zip(took) {
            let curve = match call.kind {
                CallKind::Rows => &mut self.rows,
                CallKind::Short => &mut self.short,
                CallKind::Chunk => &mut self.chunk,
                CallKind::Mixed => &mut self.mixed,
            };
            curve.learn(call.load, took);
        }
    }

    /// Cuts work into calls, and estimates how long each takes.
    pub(crate) fn cut(&self, work: &mut [Work]) -> Vec<DecodeCall> {
        let mut calls = self.cutting.cut(work);
        for call in &mut calls {
            call.predicted = self.curve(call.kind).predict(call.load);
        }
        calls
    }

    /// How long this work will take.
    pub(crate) fn time(&self, work: &[Work]) -> Duration {
        self.cut(&mut work.to_vec()).iter().map(|call| call.predicted).sum()
    }

    /// What prompts may take of the time of a step with these decode rows.
    pub(crate) fn time_for_prompts(&self, rows: &[Work]) -> (Duration, Why) {
        let decoding = self.time(rows);
        let left = self.itl_target.saturating_sub(decoding);
        let least = decoding.mul_f64(LEAST_SHARE);
        if left >= least { (left, Why::Target) } else { (least, Why::Least) }
    }

    /// The tokens that a prompt gets which has `before` and lacks `need`. Its share of the time is
    /// `share`; it may use up to `all` where less makes no block.
    pub(crate) fn chunk(&self, need: u32, before: u32, share: Duration, all: Duration) -> u32 {
        // Where a kind's cost is not known, one chunk of it tells.
        let unknown = if need < self.block { &self.short } else { &self.chunk };
        if unknown.is_blank() && (need >= self.block || self.chunk.is_blank()) {
            return self.least(need);
        }
        let fits = |tokens: u32| self.within(tokens, before, all);
        let (pair, least) = (2 * self.block, self.least(need));
        match self.blocks_within(need, before, share) {
            // Of a pair each block costs less than alone.
            tokens if tokens <= self.block && need >= pair + self.block && fits(pair) => pair,
            0 if fits(least) => least,
            0 if need >= self.block => {
                self.curve(CallKind::Short).tokens_within(share, before, need.min(self.block - 1))
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
        let tokens = tokens.max(2);
        self.curve(self.cutting.kind(tokens)).predict(Load::of(tokens, before))
    }

    /// How long prompts of so many tokens take together, without anything before them.
    pub(crate) fn prefill_time(&self, tokens: u32) -> Duration {
        const CHUNK: u32 = 256;
        self.chunk_time(CHUNK, 0).mul_f64(f64::from(tokens) / f64::from(CHUNK))
    }

    /// How long a step of so many decode rows takes, each behind `before` tokens.
    pub(crate) fn decode_time(&self, rows: u32, before: u32) -> Duration {
        let depth = u64::from(rows) * u64::from(before);
        self.rows.predict(Load { tokens: rows, depth })
    }

    /// How many of `offered` drafts to compute beside a decode row at `before`, each of which is
    /// right with probability `likely` if those before it are: where a token costs least.
    pub(crate) fn drafts(&self, offered: u32, likely: f64, rows: u32, before: u32) -> u32 {
        if self.rows.is_blank() || (self.short.is_blank() && self.chunk.is_blank()) {
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
        let curve = if need < self.block {
            self.curve(CallKind::Short)
        } else {
            self.curve(CallKind::Chunk)
        };
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

    /// The prices of calls of a kind; those of a kind like it while there are no others.
    fn curve(&self, kind: CallKind) -> &Curve {
        let order = match kind {
            CallKind::Rows => [&self.rows; 3],
            CallKind::Short => [&self.short, &self.chunk, &self.mixed],
            CallKind::Chunk => [&self.chunk, &self.short, &self.mixed],
            CallKind::Mixed => [&self.mixed, &self.chunk, &self.short],
        };
        order.into_iter().find(|curve| !curve.is_blank()).unwrap_or(order[0])
    }
}
