//! Prompts that lend a token to the decode rows.
//!
//! Where each slot has a KV stream of its own, llama.cpp computes rows in slots side by side together and
//! others one group after the other (`llama_batch_allocr::split_equal` takes consecutive sequences). A
//! prompt in a slot between those of rows so makes two groups of them: on two cores 12 rows in three groups
//! take 50 ms, 16 in one 44. So it takes part as a row, with its next token, and the group is whole.

use std::collections::BTreeMap;

use super::Scheduler;
use super::planning::chunk;
use crate::ids::SeqId;
use crate::step::TokenSpan;

/// Slots between two rows that may be filled: more rows cost more than another group.
const WIDEST: u32 = 4;

impl Scheduler {
    /// Adds the next tokens of prompts to `rows` where that closes gaps between them. A prompt that is in
    /// `chunks` as well computes that token before its chunk.
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

    /// Whether a prompt has a token to lend: something is left of it and of its chunk, which stays in a
    /// call of the same kind.
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

    /// Whether a chunk can begin a token later and be as long: if the prompt does not end there.
    fn can_shift(&self, seq: SeqId, own: &TokenSpan) -> bool {
        let Some(s) = self.sequences.get(&seq) else { return false };
        own.start + own.tokens + 1 < s.computed + self.chunk_limit(seq, s)
    }
}
