//! What the next step holds.

use std::collections::BTreeMap;

use super::Scheduler;
use super::fairness::Contention;
use super::sequence::{ScheduledSequence, SequenceState};
use crate::call_load::CallLoad;
use crate::ids::{SeqId, SlotId};
use crate::request::Priority;
use crate::step::{BudgetReason, Output, Step, TokenSpan};

impl Scheduler {
    /// Admits what fits and says what the next forward pass holds.
    pub fn plan(&mut self) -> Step {
        let drafted = self.admitted_sequences().filter(|(_, s)| s.drafted > 0);
        let drafted: Vec<SeqId> = drafted.map(|(seq, _)| seq).collect();
        for seq in drafted {
            self.drop_rejected_drafts(seq);
        }
        self.preempt_outgrown();
        self.admit();
        self.resume_ready();
        let mut spans = self.rows_with_cells();
        let contention = self.contention();
        if let Some(contention) = &contention {
            spans = self.fair_rows(spans, contention);
        }
        let (mut chunks, budget_reason) = self.chunks(&spans, contention.as_ref());
        while spans.is_empty() && chunks.is_empty() {
            // Nothing goes on because the cells are full of half-computed prompts.
            match self.victim().filter(|_| self.prefilling().next().is_some()) {
                Some(seq) => self.preempt(seq),
                None => break,
            }
            self.counts.preempted_for_cells += 1;
            (chunks, _) = self.chunks(&spans, None);
        }
        self.charge_allowance(&chunks, contention.as_ref());
        let used: u32 = spans.iter().chain(&chunks).map(|w| w.tokens).sum();
        self.close_gaps(&mut spans, &mut chunks, self.limits.batch_tokens.saturating_sub(used));
        self.costs.align_short_chunks(&mut chunks);
        spans.append(&mut chunks);
        self.kv.make_room(self.cells_for(&spans));
        let calls = self.costs.cut(&mut spans);
        Step { kv: self.kv.take_ops(!spans.is_empty()), spans, calls, budget_reason }
    }

    /// The decode rows, after taking sequences out until there is a cell for each.
    fn rows_with_cells(&mut self) -> Vec<TokenSpan> {
        loop {
            let rows = self.rows();
            let victim =
                if self.kv.make_room(self.cells_for(&rows)) { None } else { self.victim() };
            let Some(victim) = victim else { return self.with_drafts(rows) };
            self.preempt(victim);
            self.counts.preempted_for_cells += 1;
        }
    }

    /// Cells that this work takes of those that slots share or divide.
    fn cells_for(&self, spans: &[TokenSpan]) -> u32 {
        let long = self.limits.kv.long_slot();
        spans.iter().filter(|w| Some(w.slot) != long).map(|w| w.tokens).sum()
    }

    /// The decode rows: each sequence's last token, and what else of its answer is not computed.
    fn rows(&self) -> Vec<TokenSpan> {
        let count = u32::try_from(self.decoding().count()).unwrap_or(u32::MAX);
        let mut more = self.limits.batch_tokens.saturating_sub(count);
        let row = |(seq, s): (SeqId, &ScheduledSequence)| {
            let tokens = s.missing().min(1 + more);
            more -= tokens - 1;
            chunk(seq, s, tokens)
        };
        self.decoding().map(row).collect()
    }

    /// Decode rows with as many of their drafts as are worth the time.
    fn with_drafts(&mut self, mut rows: Vec<TokenSpan>) -> Vec<TokenSpan> {
        let alone = self.prefilling().next().is_none();
        let mut cells = self.kv.available().saturating_sub(self.cells_for(&rows));
        let used: u32 = rows.iter().map(|row| row.tokens).sum();
        let mut room = self.limits.batch_tokens.saturating_sub(used);
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        for row in &mut rows {
            let Some(s) = self.sequences.get_mut(&row.seq) else { continue };
            let behind = self.limits.kv.capacity(row.slot).saturating_sub(row.start + 1);
            let offered = std::mem::take(&mut s.offered).min(s.growth().saturating_sub(1));
            let offered = offered.min(behind);
            if offered == 0 || !alone || s.all_logits || row.tokens > 1 {
                continue;
            }
            let worth = self.costs.drafts(offered, s.likely, count, row.start);
            let drafts = worth.min(cells).min(room);
            (row.drafts, row.tokens) = (drafts, 1 + drafts);
            cells -= drafts;
            room -= drafts;
        }
        rows
    }

    /// The prompts' parts of a step that holds these rows.
    fn chunks(
        &mut self,
        rows: &[TokenSpan],
        contention: Option<&Contention>,
    ) -> (Vec<TokenSpan>, BudgetReason) {
        let used: u32 = rows.iter().map(|w| w.tokens).sum();
        let room = self.limits.batch_tokens.saturating_sub(used);
        let mut room = room.min(self.kv.available().saturating_sub(used));
        let prompts = self.prompts(rows, contention);
        let Some(&(_, first)) = prompts.first() else {
            return (Vec::new(), BudgetReason::NoPrompt);
        };
        let (load, decoding) = (CallLoad::sum(rows), self.costs.time(rows));
        let mut time = self.budget.prefill_budget(&self.costs, load, decoding, first.1);
        let mut chunks = Vec::new();
        for (seq, part) in prompts {
            let tokens = time.allot(&self.costs, part, chunks.is_empty(), room);
            let tokens = self.in_whole_blocks(tokens, part.0, room);
            if let (1.., Some(s)) = (tokens, self.sequences.get(&seq)) {
                room -= tokens;
                chunks.push(chunk(seq, s, tokens));
            }
        }
        self.budget.spend(&time);
        (chunks, time.reason)
    }

    /// So many tokens of a prompt that lacks `need`, or, where texts shall be reproducible, such a number
    /// near it that every part of the prompt is whole blocks, but for the last one, which is a block and
    /// the rest: a token is computed in another way in a shorter part, or in an odd one. Where there is
    /// no room for that, as many as there are.
    fn in_whole_blocks(&self, tokens: u32, need: u32, room: u32) -> u32 {
        let block = self.limits.block.max(1);
        if !self.limits.reproducible || tokens == 0 || tokens == need {
            return tokens;
        }
        let before_the_last = need.saturating_sub(block);
        let whole = tokens.max(block).min(before_the_last) / block * block;
        let part = if whole == 0 { need } else { whole };
        if part <= room { part } else { tokens }
    }

    /// The prompts that may be in a step, in order, each with the tokens that it needs and has.
    fn prompts(
        &self,
        rows: &[TokenSpan],
        contention: Option<&Contention>,
    ) -> Vec<(SeqId, (u32, u32))> {
        let mut prompts = self.prompts_by_urgency();
        match contention {
            Some(contention) => prompts = self.fair_prompts(prompts, rows, contention),
            None => leave_begun(&mut prompts),
        }
        let part =
            |(seq, s): (SeqId, &ScheduledSequence)| (seq, (self.chunk_limit(seq, s), s.computed));
        prompts.into_iter().map(part).collect()
    }

    fn decoding(&self) -> impl Iterator<Item = (SeqId, &ScheduledSequence)> {
        let least = self.least_urgent();
        self.admitted_sequences().filter(move |(_, s)| s.is_decoding() && s.priority <= least)
    }

    fn prefilling(&self) -> impl Iterator<Item = (SeqId, &ScheduledSequence)> {
        let least = self.least_urgent();
        self.admitted_sequences().filter(move |(_, s)| s.is_prefilling() && s.priority <= least)
    }

    /// The least urgent priority that takes part: the background does while nobody else runs.
    pub(super) fn least_urgent(&self) -> Priority {
        let is_busy =
            |s: &ScheduledSequence| s.slot().is_some() && s.priority < Priority::Background;
        let busy = self.admitted_sequences().any(|(_, s)| is_busy(s));
        if busy { Priority::Normal } else { Priority::Background }
    }

    /// The prompts in the order in which they get their parts: the more urgent first, then those that
    /// lack the fewest tokens, so that on average they wait the least. One that waits while others are
    /// computed comes forward. Answers that were taken out, or were in another engine, come before those
    /// that have not begun: clients read them.
    fn prompts_by_urgency(&self) -> Vec<(SeqId, &ScheduledSequence)> {
        let mut prompts: Vec<(SeqId, &ScheduledSequence)> = self.prefilling().collect();
        let waiting = self.shortest_waiting();
        prompts.sort_by_key(|(seq, s)| {
            // One that lacks more than another goes before it once the difference has been computed
            // while it waited: it waits for no more than its own length.
            let waited = self.prefilled - s.prefilled_baseline;
            let lacks = waiting.get(seq).map_or(s.missing(), |&shorter| shorter.min(s.missing()));
            let lacks = u64::from(lacks).saturating_sub(waited);
            (s.priority, s.generated() == 0, lacks, s.arrival)
        });
        prompts
    }

    /// What the shortest of those lacks that wait for a prefix which a prompt computes: it is computed for
    /// them as well.
    fn shortest_waiting(&self) -> BTreeMap<SeqId, u32> {
        let mut shortest = BTreeMap::new();
        for (_, s) in self.admitted_sequences() {
            let SequenceState::Awaiting(Some(prefix)) = s.state else { continue };
            let Some(leader) = self.sequences.get(&prefix.leader) else { continue };
            let lacks = s.known().saturating_sub(leader.computed);
            let least = shortest.entry(prefix.leader).or_insert(lacks);
            *least = lacks.min(*least);
        }
        shortest
    }

    /// What a prompt can take of a step.
    pub(super) fn chunk_limit(&self, seq: SeqId, s: &ScheduledSequence) -> u32 {
        let missing = self.next_checkpoint(seq, s.computed, s.known()) - s.computed;
        if s.all_logits { missing.min(self.limits.all_logits_tokens) } else { missing }
    }
}

/// The next tokens of a sequence.
pub(super) fn chunk(seq: SeqId, s: &ScheduledSequence, tokens: u32) -> TokenSpan {
    let complete = s.computed + tokens == s.known();
    let output = match (s.all_logits, complete) {
        (true, complete) => Output::All { complete },
        (false, true) => Output::Last,
        (false, false) => Output::None,
    };
    let slot = s.slot().unwrap_or(SlotId(u32::MAX));
    TokenSpan { seq, slot, start: s.computed, tokens, drafts: 0, output }
}

/// Where answers have begun that are to be computed again, leaves them alone, and what is more urgent: all
/// that is new waits for them, or they would share each step with ever new prompts.
fn leave_begun(prompts: &mut Vec<(SeqId, &ScheduledSequence)>) {
    let begun = prompts.iter().filter(|(_, s)| s.generated() > 0).map(|(_, s)| s.priority).min();
    if let Some(priority) = begun {
        prompts.retain(|(_, s)| s.priority < priority || s.generated() > 0);
    }
}
