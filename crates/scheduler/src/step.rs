//! A forward pass, and how it is cut into decode calls.

use std::ops::Range;
use std::time::Duration;

use crate::call_load::CallLoad;
use crate::ids::{SeqId, SlotId};
use crate::kv::{KvLimits, KvOp};

/// One forward pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Changes of the KV cache that come before, in order. They are made even if there is no work.
    pub kv: Vec<KvOp>,
    /// What is computed, call by call, and within a call in order of slots, so that a backend finds
    /// neighbours side by side. Empty if there is nothing to compute.
    pub spans: Vec<TokenSpan>,
    /// The decode calls, in order. Together they hold all of `work`.
    pub calls: Vec<DecodeCall>,
    /// Why its prompts have as many tokens as they have.
    pub budget_reason: BudgetReason,
}

/// Why the prompts got as much of a step as they got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BudgetReason {
    /// No prompt is waiting to be computed.
    #[default]
    NoPrompt,
    /// No sequence decodes: chunks are as large as makes them cheap.
    NoDecodeRows,
    /// What fits beside the decode rows within the target.
    Target,
    /// An efficient chunk, though the step takes longer than the target.
    Efficient,
    /// This step makes up for one that took longer than the target: only prompts that end within it.
    Pace,
}

/// One call of the model's decode function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeCall {
    /// Which calls it is compared with when costs are learned.
    pub kind: CallKind,
    /// Its part of [`Step::work`].
    pub spans: Range<usize>,
    /// What its time depends on.
    pub load: CallLoad,
    /// How long it should take; zero if that is not known yet.
    pub predicted: Duration,
}

/// Kinds of decode calls. Each has a cost curve of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// One token for each sequence: decode rows.
    Rows,
    /// Several tokens for a sequence, fewer than a block: drafts, forced tokens, short prompts.
    Short,
    /// A block of a prompt, or more.
    Chunk,
    /// Decode rows and prompts in one call.
    Mixed,
}

/// One sequence's part of a call: its tokens `start .. start + tokens` go in. A prompt may have two parts in a
/// step: a token among the rows, and a chunk after that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpan {
    /// The sequence.
    pub seq: SeqId,
    /// Where its KV is.
    pub slot: SlotId,
    /// Position of the first token: how many its slot holds already.
    pub start: u32,
    /// Number of tokens, at least 1.
    pub tokens: u32,
    /// How many of them, the last ones, are drafts.
    pub drafts: u32,
    /// Which logits are needed.
    pub output: Output,
}

/// Which rows of a [`TokenSpan`] need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// None: the prompt goes on in a later step.
    None,
    /// The last, and that before each draft; a token is sampled from it.
    Last,
    /// Every one; a token is sampled from the last if the prompt is complete.
    All {
        /// Whether it is.
        complete: bool,
    },
}

/// How work is cut into calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallSplitter {
    /// A chunk of at least this many tokens is computed otherwise than a shorter one.
    block: u32,
    /// Whether decode rows and prompts share a call. Not where each slot has a KV stream of its own:
    /// llama.cpp would cut such a call itself. Nor where attention computes blocks: a block that holds
    /// rows of several sequences goes over the cells of all of them (docs/performance.md).
    mixes: bool,
    /// Whether each slot has a KV stream of its own.
    streams: bool,
    /// The slot that has a KV cache of its own, so that its calls are separate.
    long: Option<SlotId>,
}

// === impl Output ===

impl Output {
    /// Whether a token is to be sampled from the last row.
    pub fn samples(self) -> bool {
        matches!(self, Self::Last | Self::All { complete: true })
    }
}

impl CallLoad {
    /// That of a call which holds this work.
    pub(crate) fn sum(spans: &[TokenSpan]) -> Self {
        let each = spans.iter().map(|w| Self::of(w.tokens, w.start));
        each.fold(Self::default(), Self::plus)
    }
}

// === impl Step ===

impl Step {
    /// Leaves out work that cannot be computed.
    pub fn retain(&mut self, mut keep: impl FnMut(&TokenSpan) -> bool) {
        let all = std::mem::take(&mut self.spans);
        for call in &mut self.calls {
            let begin = self.spans.len();
            let part = all.get(call.spans.clone()).unwrap_or_default();
            self.spans.extend(part.iter().filter(|span| keep(span)).cloned());
            call.spans = begin..self.spans.len();
            call.load = CallLoad::sum(&self.spans[begin..]);
        }
        self.calls.retain(|call| !call.spans.is_empty());
    }

    /// How long it should take; zero if that is not known yet.
    pub fn predicted(&self) -> Duration {
        self.calls.iter().map(|call| call.predicted).sum()
    }
}

// === impl CallSplitter ===

impl CallSplitter {
    pub(crate) fn new(block: u32, kv: &KvLimits) -> Self {
        let (mixes, streams) = (kv.shares && block == 1, !kv.shares);
        Self { block, mixes, streams, long: kv.long_slot() }
    }

    /// Puts work in the order of its calls and says where they are.
    pub(crate) fn cut(self, spans: &mut [TokenSpan]) -> Vec<DecodeCall> {
        let mixed = self.mixes && spans.iter().any(|w| w.tokens > 1);
        let kind = |w: &TokenSpan| if mixed { CallKind::Mixed } else { self.kind(w.tokens) };
        let call = |w: &TokenSpan| {
            let own = (kind(w) == CallKind::Chunk && self.block > 1) || Some(w.slot) == self.long;
            let length = if self.has_equal_lengths(w.tokens) { w.tokens } else { 0 };
            (Some(w.slot) == self.long, kind(w), length, own.then_some(w.slot))
        };
        spans.sort_by_key(|w| (call(w), w.slot));
        let mut end = 0;
        let calls = spans.chunk_by(|a, b| call(a) == call(b)).map(|of| {
            end += of.len();
            let load = CallLoad::sum(of);
            let alone = Some(of[0].slot) == self.long;
            let kind = if alone { self.kind(of[0].tokens) } else { kind(&of[0]) };
            DecodeCall { kind, spans: end - of.len()..end, load, predicted: Duration::ZERO }
        });
        calls.collect()
    }

    /// What attention computes at once; chunks of whole blocks cost least.
    pub(crate) fn block(self) -> u32 {
        self.block
    }

    /// Whether sequences with so many tokens share a call only with those that have as many. llama.cpp
    /// cuts a call of several KV streams where their lengths differ, so what is left of the longer ones
    /// would be computed a token or two at a time.
    pub(crate) fn has_equal_lengths(self, tokens: u32) -> bool {
        self.streams && self.kind(tokens) == CallKind::Short
    }

    /// Whether decode rows and prompts share a call.
    pub(crate) fn mixes(self) -> bool {
        self.mixes
    }

    /// The kind of a call that is not mixed, for a sequence with so many tokens.
    pub(crate) fn kind(self, tokens: u32) -> CallKind {
        match tokens {
            0 | 1 => CallKind::Rows,
            _ if tokens < self.block => CallKind::Short,
            _ => CallKind::Chunk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;

    fn span(slot: u32, start: u32, tokens: u32) -> TokenSpan {
        let seq = SeqId { request: RequestId(slot.into()), choice: 0 };
        TokenSpan { seq, slot: SlotId(slot), start, tokens, drafts: 0, output: Output::Last }
    }

    /// The kinds of calls, each with the slots and tokens of its work.
    fn cut(cutting: CallSplitter, spans: &mut [TokenSpan]) -> Vec<(CallKind, Vec<(u32, u32)>)> {
        let calls = cutting.cut(spans);
        let parts = |call: &DecodeCall| {
            let of = spans[call.spans.clone()].iter();
            (call.kind, of.map(|w| (w.slot.0, w.tokens)).collect())
        };
        calls.iter().map(parts).collect()
    }

    #[test]
    fn calls_with_streams_hold_what_is_equally_long() {
        let streams =
            CallSplitter { block: 64, mixes: false, streams: true, long: Some(SlotId(9)) };
        let mut all = [
            span(9, 500, 1),
            span(0, 10, 1),
            span(4, 0, 20),
            span(1, 0, 128),
            span(3, 30, 20),
            span(5, 0, 21),
            span(2, 7, 1),
            span(6, 0, 128),
        ];
        let expected = vec![
            (CallKind::Rows, vec![(0, 1), (2, 1)]),
            (CallKind::Short, vec![(3, 20), (4, 20)]),
            (CallKind::Short, vec![(5, 21)]),
            (CallKind::Chunk, vec![(1, 128)]),
            (CallKind::Chunk, vec![(6, 128)]),
            (CallKind::Rows, vec![(9, 1)]),
        ];
        assert_eq!(cut(streams, &mut all), expected);
    }

    #[test]
    fn one_call_holds_all_only_where_that_costs_nothing() {
        let mixes = CallSplitter { block: 1, mixes: true, streams: false, long: None };
        let mut all = [span(1, 0, 100), span(0, 10, 1), span(2, 0, 30)];
        let one = vec![(CallKind::Mixed, vec![(0, 1), (1, 100), (2, 30)])];
        assert_eq!(cut(mixes, &mut all), one);
        assert_eq!(cut(mixes, &mut [span(0, 10, 1)]), [(CallKind::Rows, vec![(0, 1)])]);
        let blocks = CallSplitter { block: 64, mixes: false, ..mixes };
        let apart = vec![
            (CallKind::Rows, vec![(0, 1)]),
            (CallKind::Short, vec![(2, 30)]),
            (CallKind::Chunk, vec![(1, 100)]),
        ];
        assert_eq!(cut(blocks, &mut all), apart);
    }

    #[test]
    fn what_is_left_out_is_in_no_call() {
        let streams = CallSplitter { block: 64, mixes: false, streams: true, long: None };
        let mut all = vec![span(0, 10, 1), span(1, 20, 1), span(2, 0, 64), span(3, 0, 30)];
        let calls = streams.cut(&mut all);
        let mut step = Step { spans: all, calls, ..Step::default() };
        step.retain(|span| span.slot.0 == 1 || span.slot.0 == 3);
        let parts: Vec<_> = step.calls.iter().map(|c| (c.kind, c.spans.clone(), c.load)).collect();
        assert_eq!(
            parts,
            [
                (CallKind::Rows, 0..1, CallLoad::of(1, 20)),
                (CallKind::Short, 1..2, CallLoad::of(30, 0))
            ]
        );
        assert_eq!(step.spans.iter().map(|w| w.slot.0).collect::<Vec<_>>(), [1, 3]);
    }
}
