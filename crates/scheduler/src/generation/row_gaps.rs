//! Filling gaps between decode rows with tokens of prompts.
//!
//! If each slot has a KV stream of its own, llama.cpp computes rows in adjacent slots together and others
//! group after group (`llama_batch_allocr::split_equal` takes consecutive sequences). A prompt in a slot
//! between those of rows makes two groups of them: on two cores 12 rows in three groups take 50 ms, 16 in
//! one group 44. With its next token as a row the group is whole.

use std::collections::BTreeMap;

use super::Scheduler;
use super::planning::chunk;
use crate::ids::SeqId;
use crate::step::TokenSpan;

/// Maximum width of a gap, in slots: more rows would cost more than another group.
const WIDEST: u32 = 4;

impl Scheduler {
    /// Adds the next tokens of prompts to `rows` if that closes gaps between them. A prompt with a chunk in
    /// the step computes that token before it.
    pub(super) fn close_gaps(
        &self,
        rows: &mut Vec<TokenSpan>,
        chunks: &mut [TokenSpan],
        mut room: u32,
    ) {
        if self.limits.kv.shares || self.limits.block <= 1 {
            return;
        }
        let least = self.least_urgent();
        let prompts = self.admitted_sequences().filter(|(seq, s)| {
            s.is_prefilling() && s.priority <= least && !s.all_logits && Some(*seq) != self.long
        });
        let prompts: BTreeMap<u32, SeqId> =
            prompts.filter_map(|(seq, s)| Some((s.slot()?.0, seq))).collect();
        let long = self.limits.kv.long_slot();
        let usual = rows.iter().filter(|row| row.tokens == 1 && Some(row.slot) != long);
        let mut taken: Vec<u32> = usual.map(|row| row.slot.0).collect();
        taken.sort_unstable();
        for pair in taken.windows(2) {
            let gap = pair[0] + 1..pair[1];
            let width = gap.end - gap.start;
            let fillers: Option<Vec<SeqId>> = gap.map(|slot| prompts.get(&slot).copied()).collect();
            let Some(fillers) = fillers.filter(|_| width <= WIDEST.min(room)) else { continue };
            if !fillers.iter().all(|&seq| self.can_lend(seq, chunks)) {
                continue;
            }
            for seq in fillers {
                let Some(s) = self.sequences.get(&seq) else { continue };
                rows.push(chunk(seq, s, 1));
                room -= 1;
                if let Some(own) = chunks.iter_mut().find(|span| span.seq == seq) {
                    let shifts = self.can_shift(seq, own);
                    own.start += 1;
                    own.tokens -= u32::from(!shifts);
                }
            }
        }
    }

    /// Whether a prompt can lend a token: it and its chunk keep a rest, and the chunk stays in a call of
    /// the same kind.
    fn can_lend(&self, seq: SeqId, chunks: &[TokenSpan]) -> bool {
        let Some(s) = self.sequences.get(&seq) else { return false };
        let own = chunks.iter().find(|span| span.seq == seq);
        let shrinks = |own: &&TokenSpan| !self.can_shift(seq, own);
        let is_left = own.filter(shrinks).is_none_or(|own| {
            let left = own.tokens - 1;
            left > 1 && own.tokens != self.limits.block
        });
        is_left && self.chunk_limit(seq, s) > 1
    }

    /// Whether a chunk can start a token later at the same length: the prompt does not end with it.
    fn can_shift(&self, seq: SeqId, own: &TokenSpan) -> bool {
        let Some(s) = self.sequences.get(&seq) else { return false };
        own.start + own.tokens + 1 < s.computed + self.chunk_limit(seq, s)
    }
}
