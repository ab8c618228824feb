//! The cost model: estimated times of decode calls, by kind.

use std::time::Duration;

use crate::call_load::CallLoad;
use crate::cost_curve::CostCurve;
use crate::learned_costs::LearnedCosts;
use crate::step::{CallKind, CallSplitter, DecodeCall, Output, TokenSpan};

/// A cost curve for each kind of call.
#[derive(Debug)]
pub(crate) struct CallCosts {
    cutting: CallSplitter,
    rows: CostCurve,
    short: CostCurve,
    chunk: CostCurve,
    mixed: CostCurve,
}

/// The largest chunk that is compared: larger ones cost no less for a token.
pub(crate) const LARGEST_CHUNK: u32 = 512;

impl CallCosts {
    pub(crate) fn new(cutting: CallSplitter) -> Self {
        let new = CostCurve::new;
        Self { cutting, rows: new(), short: new(), chunk: new(), mixed: new() }
    }

    /// Restores costs that an earlier engine learned.
    pub(crate) fn restore(&mut self, kept: &LearnedCosts) {
        self.rows.restore(&kept.rows);
        self.short.restore(&kept.short);
        self.chunk.restore(&kept.chunk);
        self.mixed.restore(&kept.mixed);
    }

    /// The costs learned so far.
    pub(crate) fn learned(&self) -> LearnedCosts {
        LearnedCosts {
            rows: self.rows.learned(),
            short: self.short.learned(),
            chunk: self.chunk.learned(),
            mixed: self.mixed.learned(),
        }
    }

    /// Number of calls learned from.
    pub(crate) fn samples(&self) -> u64 {
        let all = [&self.rows, &self.short, &self.chunk, &self.mixed];
        all.into_iter().map(|curve| u64::from(curve.count())).sum()
    }

    /// Learns from the times of a step's calls.
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

    /// Splits spans into calls with estimated times.
    pub(crate) fn cut(&self, spans: &mut [TokenSpan]) -> Vec<DecodeCall> {
        let mut calls = self.cutting.cut(spans);
        for call in &mut calls {
            call.predicted = self.curve(call.kind).predict(call.load);
        }
        calls
    }

    /// Leaves the last token of short prompts to the next step if they then share a call with others: as a
    /// row beside others it costs next to nothing.
    pub(crate) fn align_short_chunks(&self, chunks: &mut [TokenSpan]) {
        chunks.sort_by_key(|span| span.tokens);
        let mut length = 0;
        for span in chunks {
            let joins = span.output == Output::Last && span.tokens == length + 1;
            if joins && self.cutting.has_equal_lengths(length) {
                (span.tokens, span.output) = (length, Output::None);
            }
            length = span.tokens;
        }
    }

    /// Estimated time of these spans.
    pub(crate) fn time(&self, spans: &[TokenSpan]) -> Duration {
        self.cut(&mut spans.to_vec()).iter().map(|call| call.predicted).sum()
    }

    /// Estimated time of a chunk in a call of its own.
    pub(crate) fn chunk_time(&self, tokens: u32, before: u32) -> Duration {
        let tokens = tokens.max(2);
        self.curve(self.cutting.kind(tokens)).predict(CallLoad::of(tokens, before))
    }

    /// Estimated time of a chunk beside decode rows: what it adds to their call, if they share one.
    pub(crate) fn added_time(&self, rows: CallLoad, tokens: u32, before: u32) -> Duration {
        let alone = self.chunk_time(tokens, before);
        if rows.tokens == 0 || !self.cutting.mixes() || self.mixed.is_blank() {
            return alone;
        }
        let without = self.rows.predict(rows);
        let with = self.mixed.predict(rows.plus(CallLoad::of(tokens, before)));
        // Beside rows a chunk costs no more than alone.
        with.saturating_sub(without).min(alone)
    }

    /// The smallest chunk, up to `most`, in which a token costs at most `tolerance` times what it costs in
    /// the largest one: whole blocks, or powers of two without blocks. A block while costs are unknown.
    ///
    /// The base of a call is taken to be the cost of one row: that is well known, while chunks of one size
    /// say nothing about other sizes.
    pub(crate) fn efficient_chunk(&self, before: u32, tolerance: f64, most: u32) -> u32 {
        let block = self.cutting.block().clamp(16, LARGEST_CHUNK);
        let known = self.curve(CallKind::Chunk).largest().clamp(block, LARGEST_CHUNK);
        let whole = self.chunk_time(known, before).as_secs_f64();
        let base = self.decode_time(1, 0).as_secs_f64().min(whole / 2.0);
        let token = (whole - base) / f64::from(known);
        let each = |tokens: u32| base / f64::from(tokens) + token;
        let least = each(LARGEST_CHUNK) * tolerance;
        let mut sizes = std::iter::successors(Some(block), |size| Some(size * 2));
        let fits = sizes.find(|&size| size >= LARGEST_CHUNK || each(size) <= least);
        fits.unwrap_or(block).min(most)
    }

    /// Rounds down to whole blocks, if there is one.
    pub(crate) fn whole_blocks(&self, tokens: u32) -> u32 {
        let block = self.cutting.block();
        if tokens > block { tokens - tokens % block } else { tokens }
    }

    /// Rounds up to whole blocks.
    pub(crate) fn whole_blocks_up(&self, tokens: u32) -> u32 {
        tokens.next_multiple_of(self.cutting.block().max(1))
    }

    /// Estimated time of prefilling `tokens` tokens from the start of prompts.
    pub(crate) fn prefill_time(&self, tokens: u32) -> Duration {
        const CHUNK: u32 = 256;
        self.chunk_time(CHUNK, 0).mul_f64(f64::from(tokens) / f64::from(CHUNK))
    }

    /// Estimated time of a step of decode rows, each at a depth of `before` tokens.
    pub(crate) fn decode_time(&self, rows: u32, before: u32) -> Duration {
        let depth = u64::from(rows) * u64::from(before);
        self.rows.predict(CallLoad { tokens: rows, depth })
    }

    /// Whether costs of decode rows, or of all other calls, are unknown.
    pub(crate) fn is_blank(&self) -> bool {
        let all = [&self.short, &self.chunk, &self.mixed];
        self.rows.is_blank() || all.into_iter().all(CostCurve::is_blank)
    }

    /// The curve of a kind of call, or of a similar kind while it is blank.
    fn curve(&self, kind: CallKind) -> &CostCurve {
        let order = match kind {
            CallKind::Rows => [&self.rows; 3],
            CallKind::Short => [&self.short, &self.chunk, &self.mixed],
            CallKind::Chunk => [&self.chunk, &self.short, &self.mixed],
            CallKind::Mixed => [&self.mixed, &self.chunk, &self.short],
        };
        order.into_iter().find(|curve| !curve.is_blank()).unwrap_or(order[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RequestId, SeqId, SlotId};
    use crate::kv::KvLimits;

    const KV: KvLimits = KvLimits {
        slots: 8,
        cells: 8000,
        slot_tokens: 1000,
        long_tokens: 0,
        shares: false,
        rewinds: true,
        parked_tokens: 8000,
        saved_tokens: 0,
        saved_bytes: 0,
        checkpoint_every: 0,
    };

    /// A call takes `base` ms and `token` ms for each token.
    fn known(block: u32, base: f64, token: f64) -> CallCosts {
        let mut costs = CallCosts::new(CallSplitter::new(block, &KV));
        let mut learn = |kind, tokens: u32| {
            let load = CallLoad::of(tokens, 0);
            let call = DecodeCall { kind, spans: 0..1, load, predicted: Duration::ZERO };
            let ms = base + token * f64::from(tokens);
            costs.learn(&[call], &[Duration::from_secs_f64(ms / 1e3)]);
        };
        for tokens in [1, 4, 8, 1, 2, 1] {
            learn(CallKind::Rows, tokens);
            learn(CallKind::Chunk, 64);
        }
        costs
    }

    #[test]
    fn an_efficient_chunk_makes_its_tokens_cheap() {
        assert_eq!(known(64, 4.0, 2.0).efficient_chunk(0, 1.15, 500), 64);
        assert_eq!(known(64, 15.0, 2.7).efficient_chunk(0, 1.15, 500), 64);
        assert_eq!(known(64, 15.0, 2.7).efficient_chunk(0, 1.03, 500), 256);
        assert_eq!(known(64, 15.0, 2.7).efficient_chunk(0, 1.03, 100), 100);
        // A GPU: a call costs much, a token next to nothing.
        assert_eq!(known(1, 6.0, 0.07).efficient_chunk(0, 1.15, 5000), 256);
        assert_eq!(known(1, 6.0, 0.07).efficient_chunk(0, 1.03, 5000), 512);
        let blank = CallCosts::new(CallSplitter::new(64, &KV));
        assert_eq!(blank.efficient_chunk(0, 1.15, 500), 64);
    }

    #[test]
    fn prompts_that_are_a_token_apart_share_a_call() {
        let span = |tokens: u32| {
            let seq = SeqId { request: RequestId(tokens.into()), choice: 0 };
            let slot = SlotId(tokens);
            TokenSpan { seq, slot, start: 0, tokens, drafts: 0, output: Output::Last }
        };
        let mut chunks: Vec<TokenSpan> = [16, 14, 13, 15, 30, 64, 65].map(span).to_vec();
        CallCosts::new(CallSplitter::new(64, &KV)).align_short_chunks(&mut chunks);
        let parts: Vec<_> = chunks.iter().map(|w| (w.tokens, w.output)).collect();
        let (none, last) = (Output::None, Output::Last);
        assert_eq!(
            parts,
            [(13, last), (13, none), (15, last), (15, none), (30, last), (64, last), (65, last)]
        );
    }
}
