//! A step and its decode calls.

use std::ops::Range;
use std::time::Duration;

use crate::call_load::CallLoad;
use crate::ids::{SeqId, SlotId};
use crate::kv::{KvLimits, KvOp};

/// A forward pass: changes of the KV cache, token spans and decode calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// Changes of the KV cache before it, in order; made even without spans.
    pub kv: Vec<KvOp>,
    /// The computed spans, call by call, and within a call by slot, so that adjacent slots are adjacent
    /// rows. Empty if there is nothing to compute.
    pub spans: Vec<TokenSpan>,
    /// The decode calls, in order; together they hold all spans.
    pub calls: Vec<DecodeCall>,
    /// What decided the size of its chunks.
    pub budget_reason: BudgetReason,
}

/// What decided the size of a step's chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BudgetReason {
    /// No sequence prefills.
    #[default]
    NoPrompt,
    /// No decode rows: chunks are as large as makes them cheapest.
    NoDecodeRows,
    /// The time that the decode rows leave within the target.
    Target,
    /// An efficient chunk, although the step exceeds the target.
    Efficient,
    /// The step compensates for one that exceeded the target: only chunks that complete a prompt.
    Pace,
}

/// One call of the model's decode function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeCall {
    /// Selects the cost curve.
    pub kind: CallKind,
    /// Its range of [`Step::spans`].
    pub spans: Range<usize>,
    /// What its time depends on.
    pub load: CallLoad,
    /// Estimated time; zero if unknown.
    pub predicted: Duration,
}

/// Kinds of decode calls. Each has a cost curve of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// Decode rows: one token for each sequence.
    Rows,
    /// Spans of several tokens, fewer than a block: drafts, forced tokens, short chunks.
    Short,
    /// A chunk of at least a block.
    Chunk,
    /// Decode rows and chunks in one call.
    Mixed,
}

/// The tokens `start .. start + tokens` of a sequence, in a decode call. A prompt can have two spans in a
/// step: a token among the rows, and a chunk after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSpan {
    /// The sequence.
    pub seq: SeqId,
    /// Its slot.
    pub slot: SlotId,
    /// Position of the first token: the number of tokens in the slot.
    pub start: u32,
    /// Number of tokens; at least 1.
    pub tokens: u32,
    /// Number of drafts among them, at the end.
    pub drafts: u32,
    /// The rows that need logits.
    pub output: Output,
}

/// The rows of a [`TokenSpan`] that need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// None: the prompt continues in a later step.
    None,
    /// The last one and those before drafts; a token is sampled from each.
    Last,
    /// All; a token is sampled from the last one if the prompt is complete.
    All {
        /// Whether the prompt is complete.
        complete: bool,
    },
}

/// Splits the spans of a step into decode calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallSplitter {
    /// Block size of attention, in tokens.
    block: u32,
    /// Whether decode rows and chunks share a call. Not if each slot has a KV stream of its own, as
    /// llama.cpp would split such a call itself; nor if attention computes blocks, as a block with rows of
    /// several sequences goes over the cells of all of them (docs/performance.md).
    mixes: bool,
    /// Whether each slot has a KV stream of its own.
    streams: bool,
    /// The slot with a KV cache of its own: its calls are separate.
    long: Option<SlotId>,
}

// === impl Output ===

impl Output {
    /// Whether a token is sampled from the last row.
    pub fn samples(self) -> bool {
        matches!(self, Self::Last | Self::All { complete: true })
    }
}

impl CallLoad {
    /// The load of a call with these spans.
    pub(crate) fn sum(spans: &[TokenSpan]) -> Self {
        let each = spans.iter().map(|w| Self::of(w.tokens, w.start));
        each.fold(Self::default(), Self::plus)
    }
}

// === impl Step ===

impl Step {
    /// Removes spans for which `keep` is false, and calls that are then empty.
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

    /// Estimated time; zero if unknown.
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

    /// Sorts spans by call and returns the calls.
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

    /// Block size of attention; chunks of whole blocks cost least.
    pub(crate) fn block(self) -> u32 {
        self.block
    }

    /// Whether spans of `tokens` tokens share a call only with spans of equal length: llama.cpp splits a
    /// call of several KV streams where lengths differ, and would compute the rest of longer spans a token
    /// or two at a time.
    pub(crate) fn has_equal_lengths(self, tokens: u32) -> bool {
        self.streams && self.kind(tokens) == CallKind::Short
    }

    /// Whether decode rows and chunks share a call.
    pub(crate) fn mixes(self) -> bool {
        self.mixes
    }

    /// The kind of an unmixed call for spans of `tokens` tokens.
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

    /// The kinds of calls, with the slots and lengths of their spans.
    fn cut(cutting: CallSplitter, spans: &mut [TokenSpan]) -> Vec<(CallKind, Vec<(u32, u32)>)> {
        let calls = cutting.cut(spans);
        let parts = |call: &DecodeCall| {
            let of = spans[call.spans.clone()].iter();
            (call.kind, of.map(|w| (w.slot.0, w.tokens)).collect())
        };
        calls.iter().map(parts).collect()
    }

    #[test]
    fn calls_with_streams_hold_spans_of_equal_length() {
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
    fn one_call_holds_all_only_if_that_costs_nothing() {
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
    fn removed_spans_are_in_no_call() {
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
