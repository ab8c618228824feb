//! Planning of a step.

use std::collections::BTreeMap;

use super::Scheduler;
use super::fairness::Contention;
use super::sequence::{ScheduledSequence, SequenceState};
use crate::call_load::CallLoad;
use crate::ids::{SeqId, SlotId};
use crate::request::Priority;
use crate::step::{BudgetReason, Output, Step, TokenSpan};

impl Scheduler {
    /// Plans the next step, after admissions and preemptions.
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
            // No progress: the cells are full of partly computed prompts.
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

    /// The decode rows, after evictions and preemptions until there is a cell for each.
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

    /// Cells that these spans need, the long slot aside.
    fn cells_for(&self, spans: &[TokenSpan]) -> u32 {
        let long = self.limits.kv.long_slot();
        spans.iter().filter(|w| Some(w.slot) != long).map(|w| w.tokens).sum()
    }

    /// The decode rows: the last token of each sequence, and forced tokens that are not computed.
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

    /// Adds drafts that are worth their time to decode rows.
    fn with_drafts(&mut self, mut rows: Vec<TokenSpan>) -> Vec<TokenSpan> {
        let alone = self.prefilling().next().is_none();
        let mut cells = self.kv.available().saturating_sub(self.cells_for(&rows));
        let used: u32 = rows.iter().map(|row| row.tokens).sum();
        let mut room = self.limits.batch_tokens.saturating_sub(used);
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        for row in &mut rows {
            let Some(s) = self.sequences.get_mut(&row.seq) else { continue };
            let room_in_slot = self.limits.kv.capacity(row.slot).saturating_sub(row.start + 1);
            let offered = std::mem::take(&mut s.offered).min(s.growth().saturating_sub(1));
            let offered = offered.min(room_in_slot);
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

    /// The chunks of a step with these rows.
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

    /// For reproducible texts, rounds a chunk so that each is whole blocks, the last one a block and the
    /// rest: in a shorter or odd chunk a token is computed otherwise. Returns `tokens` if there is no room
    /// for that.
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

    /// The prompts that may take part in a step, in order, each with the tokens it needs and has computed.
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

    /// The lowest priority that takes part in a step: background only if no other sequence is active.
    pub(super) fn least_urgent(&self) -> Priority {
        let is_busy =
            |s: &ScheduledSequence| s.slot().is_some() && s.priority < Priority::Background;
        let busy = self.admitted_sequences().any(|(_, s)| is_busy(s));
        if busy { Priority::Normal } else { Priority::Background }
    }

    /// The prompts in order of their chunks: by priority; preempted answers first, as clients read them;
    /// then by fewest missing tokens, less those computed for others meanwhile. The mean wait is shortest
    /// so.
    fn prompts_by_urgency(&self) -> Vec<(SeqId, &ScheduledSequence)> {
        let mut prompts: Vec<(SeqId, &ScheduledSequence)> = self.prefilling().collect();
        let waiting = self.shortest_waiting();
        prompts.sort_by_key(|(seq, s)| {
            // A longer prompt comes before a shorter one once the difference was computed while it waited:
            // it waits for no more than its own length.
            let waited = self.prefilled - s.prefilled_baseline;
            let lacks = waiting.get(seq).map_or(s.missing(), |&shorter| shorter.min(s.missing()));
            let lacks = u64::from(lacks).saturating_sub(waited);
            (s.priority, s.generated() == 0, lacks, s.arrival)
        });
        prompts
    }

    /// For each prompt that others wait for, the fewest tokens that one of those lacks: the prompt is
    /// computed for them as well.
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

    /// Maximum chunk of a prompt in a step.
    pub(super) fn chunk_limit(&self, seq: SeqId, s: &ScheduledSequence) -> u32 {
        let missing = self.next_checkpoint(seq, s.computed, s.known()) - s.computed;
        if s.all_logits { missing.min(self.limits.all_logits_tokens) } else { missing }
    }
}

/// The span of a sequence's next tokens.
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

/// If preempted answers are to be prefilled, leaves out new prompts of the same or lower priority:
/// otherwise these answers would share each step with ever new prompts.
fn leave_begun(prompts: &mut Vec<(SeqId, &ScheduledSequence)>) {
    let begun = prompts.iter().filter(|(_, s)| s.generated() > 0).map(|(_, s)| s.priority).min();
    if let Some(priority) = begun {
        prompts.retain(|(_, s)| s.priority < priority || s.generated() > 0);
    }
}
