//! Continuous batching of generation requests.
//!
//! Each answer of a request is a *sequence*. It is queued, admitted, and assigned a slot with the longest
//! reusable prefix (`kv.rs`). Then it takes part in steps: as a decode row in each, with chunks of its
//! prompt within the budget (`step_budget.rs`). If cells run out, or a more urgent sequence needs its slot,
//! it is preempted: its slot is parked and it is queued again with all its tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::call_costs::CallCosts;
use crate::fair_queue::{FairQueue, QueuedSequence};
use crate::ids::{HostCopyId, Principal, RequestId, SeqId, Token};
use crate::kv::{KvCache, KvLimits, Reuse};
use crate::learned_costs::LearnedCosts;
use crate::request::{Rejected, Request};
use crate::step::{CallSplitter, Step};
use crate::step_budget::{ItlTarget, StepBudget};

mod admission;
mod allowance;
mod fairness;

mod planning;
mod row_gaps;
mod sequence;

use allowance::Allowance;
use sequence::{ScheduledSequence, SequenceState};

/// Depth of a typical decode row, for estimates, in tokens.
const ANSWER_DEPTH: u32 = 256;

/// Capacity and settings of the engine. Counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerLimits {
    /// Maximum number of admitted sequences, the one in the long slot aside.
    pub parallel: u32,
    /// The KV cache; at least `parallel` slots.
    pub kv: KvLimits,
    /// Maximum number of tokens in a step; at least one for each admitted sequence.
    pub batch_tokens: u32,
    /// Block size of attention: a chunk of at least this many tokens is computed otherwise than a shorter
    /// one; 1 if there is no difference.
    pub block: u32,
    /// Target time of a step with decode rows and chunks.
    pub itl_target: ItlTarget,
    /// Whether an answer must not depend on how much of its prompt was reused: reuse is then in whole
    /// blocks.
    pub reproducible: bool,
    /// Maximum chunk of a prompt whose every token needs logits.
    pub all_logits_tokens: u32,
    /// Maximum number of queued sequences at which a request is still taken.
    pub queue: usize,
}

/// Cumulative counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Slot assignments by the result of the prefix lookup.
    pub reuse: BTreeMap<Reuse, u64>,
    /// Sequences that waited for a prefix that another one computed.
    pub waited: u64,
    /// Preemptions because cells ran out.
    pub preempted_for_cells: u64,
    /// Preemptions of sequences that had filled their slot; they resume in the long slot.
    pub outgrown: u64,
    /// Preemptions for a more urgent sequence, or one of a principal with fewer.
    pub preempted_for_others: u64,
    /// Evictions of parked slots.
    pub evicted: u64,
}

/// Schedules generation: the queue, the prefix cache, the cost model and the policy.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    sequences: BTreeMap<SeqId, ScheduledSequence>,
    queue: FairQueue,
    kv: KvCache,
    costs: CallCosts,
    budget: StepBudget,
    /// Sequences that are not queued: a step visits only these, so its time does not depend on the queue.
    admitted: BTreeSet<SeqId>,
    /// The sequence in the long slot.
    long: Option<SeqId>,
    /// Number of arrivals so far.
    arrivals: u64,
    /// Prompt tokens computed so far.
    prefilled: u64,
    allowance: Allowance,
    /// Moving mean of the length of answers.
    answer_tokens: f64,
    counts: Counters,
}

// === impl Scheduler ===

impl Scheduler {
    /// Creates an idle scheduler.
    ///
    /// # Panics
    /// If a step cannot hold a decode row for each admitted sequence, or there are too few slots.
    pub fn new(limits: SchedulerLimits) -> Self {
        let rows = limits.parallel + u32::from(limits.kv.long_tokens > 0);
        assert!(
            limits.parallel > 0
                && limits.batch_tokens >= rows
                && limits.kv.slots >= limits.parallel,
            "{limits:?}"
        );
        Self {
            limits,
            sequences: BTreeMap::new(),
            queue: FairQueue::default(),
            kv: KvCache::new(limits.kv),
            costs: CallCosts::new(CallSplitter::new(limits.block, &limits.kv)),
            budget: StepBudget::new(limits.itl_target),
            admitted: BTreeSet::new(),
            long: None,
            arrivals: 0,
            prefilled: 0,
            allowance: Allowance::default(),
            answer_tokens: 64.0,
            counts: Counters::default(),
        }
    }

    /// Creates an idle scheduler with costs learned earlier on the same machine. Implausible samples are
    /// left out; new samples soon outweigh the others.
    ///
    /// # Panics
    /// As [`Scheduler::new`].
    pub fn with_costs(limits: SchedulerLimits, kept: &LearnedCosts) -> Self {
        let mut scheduler = Self::new(limits);
        scheduler.costs.restore(kept);
        scheduler
    }

    /// Queues the sequences of a request.
    ///
    /// # Errors
    /// [`Rejected`] if it can never fit, or the queue is full.
    pub fn submit(&mut self, request: &Request) -> Result<(), Rejected> {
        let prompt = u32::try_from(request.prompt.len()).unwrap_or(u32::MAX);
        let needed = prompt.saturating_add(request.max_new_tokens);
        let limit = self.limits.kv.request_tokens();
        if needed > limit || prompt == 0 {
            return Err(Rejected::TooLong { needed, limit });
        }
        if !self.has_room() {
            return Err(Rejected::QueueFull { limit: self.limits.queue });
        }
        let generated = |choice: u32| request.generated.get(choice as usize);
        for choice in 0..request.choices {
            let Some(generated) = generated(choice).map_or(Some(&[][..]), Option::as_deref) else {
                continue;
            };
            self.arrivals += 1;
            let seq = SeqId { request: request.id, choice };
            let sequence = ScheduledSequence::new(request, choice, generated, self.arrivals);
            self.queue.push(self.waiting_for(seq, &sequence));
            self.sequences.insert(seq, sequence);
        }
        Ok(())
    }

    /// Whether the queue takes another request.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.limits.queue
    }

    /// Cancels a request in any state. Its slots are parked.
    pub fn cancel(&mut self, id: RequestId) {
        for seq in self.seqs_of(id) {
            self.finish(seq);
        }
    }

    /// Cancels a request and empties its slots: after a failed step they may hold anything.
    pub fn discard(&mut self, id: RequestId) {
        for seq in self.seqs_of(id) {
            match self.sequences.get(&seq).and_then(ScheduledSequence::slot) {
                None => self.finish(seq),
                Some(slot) => {
                    self.kv.release(slot);
                    self.sequences.remove(&seq);
                    self.clear_admission(seq);
                }
            }
        }
    }

    /// Finishes a sequence; its slot is parked.
    pub fn finish(&mut self, seq: SeqId) {
        self.drop_rejected_drafts(seq);
        let Some(sequence) = self.sequences.remove(&seq) else { return };
        match sequence.state {
            SequenceState::Queued => self.queue.remove(&self.waiting_for(seq, &sequence)),
            SequenceState::Awaiting(_) => {
                self.clear_admission(seq);
                self.queue.refund(sequence.principal, sequence.known());
            }
            SequenceState::Active(slot) => {
                self.clear_admission(seq);
                self.kv.park(slot);
                let length = f64::from(sequence.generated()) + 1.0;
                self.answer_tokens += 0.05 * (length - self.answer_tokens);
            }
        }
    }

    /// Appends a sampled token to `seq`; the next step computes it.
    pub fn append_token(&mut self, seq: SeqId, token: Token) {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            sequence.tokens.push(token);
        }
    }

    /// Appends a sampled token that equals the next draft of `seq`: its KV is computed already.
    pub fn accept_draft(&mut self, seq: SeqId, token: Token) {
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        // The draft was computed with the row before it.
        sequence.tokens.push(token);
        sequence.computed += 1;
        sequence.accepted += 1;
        if let SequenceState::Active(slot) = sequence.state {
            self.kv.extend(slot, &[token]);
        }
    }

    /// Offers `drafts` tokens that may follow the last one of `seq`, each right with probability `likely`.
    /// The next step takes as many as are worth their time.
    pub fn offer_drafts(&mut self, seq: SeqId, drafts: u32, likely: f64) {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            (sequence.offered, sequence.likely) = (drafts, likely);
        }
    }

    /// Records that `step` was computed, and how long each of its calls took.
    pub fn complete_step(&mut self, step: &Step, took: &[Duration]) {
        self.costs.learn(&step.calls, took);
        for span in &step.spans {
            let Some(sequence) = self.sequences.get_mut(&span.seq) else { continue };
            let sure = span.tokens - span.drafts;
            let (from, to) = (span.start as usize, (span.start + sure) as usize);
            self.kv.extend(span.slot, sequence.tokens.get(from..to).unwrap_or_default());
            sequence.computed += sure;
            if span.tokens > 1 && sequence.generated() == 0 {
                self.prefilled += u64::from(sure);
                sequence.prefilled_baseline += u64::from(sure);
            }
            sequence.drafted = span.drafts;
            sequence.accepted = 0;
            sequence.all_logits &= sequence.missing() > 0;
            if sequence.checkpoints.contains(&sequence.computed) {
                self.kv.checkpoint(span.slot);
            }
            self.queue.charge(sequence.principal, sure);
        }
        let active: Vec<Principal> = self.admitted_sequences().map(|(_, s)| s.principal).collect();
        self.queue.forget_idle(active.into_iter());
    }

    /// Records the size of a copy in host memory in bytes; `None` if it could not be made.
    pub fn record_copy_size(&mut self, copy: HostCopyId, bytes: Option<u64>) {
        self.kv.record_copy_size(copy, bytes);
    }

    /// Number of queued sequences.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Number of admitted sequences.
    pub fn running(&self) -> usize {
        self.admitted.len()
    }

    /// Cells of active sequences.
    pub fn kv_tokens(&self) -> u64 {
        self.kv.running()
    }

    /// Cells that only parked slots hold.
    pub fn parked_tokens(&self) -> u64 {
        self.kv.parked()
    }

    /// Tokens of copies in host memory.
    pub fn saved_tokens(&self) -> u64 {
        self.kv.host_tokens()
    }

    /// Cumulative counters.
    pub fn counts(&self) -> Counters {
        Counters { evicted: self.kv.evictions(), ..self.counts.clone() }
    }

    /// Estimates the time until the present queue has been served; zero if costs are unknown.
    pub fn backlog(&self) -> Duration {
        let prompts = u32::try_from(self.queue.tokens()).unwrap_or(u32::MAX);
        let rows = self.limits.parallel.min(u32::try_from(self.queue.len()).unwrap_or(u32::MAX));
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let turns = self.queue.len() as f64 / f64::from(rows.max(1));
        self.costs.prefill_time(prompts)
            + self.costs.decode_time(rows, ANSWER_DEPTH).mul_f64(turns * self.answer_tokens)
    }

    /// The probability of a right draft from which drafts pay, by the present costs.
    pub fn draft_break_even(&self) -> f64 {
        self.costs.break_even(ANSWER_DEPTH)
    }

    /// The costs of calls learned so far.
    pub fn learned_costs(&self) -> LearnedCosts {
        self.costs.learned()
    }

    /// Number of samples so far, restored ones included: it changes whenever learned costs do.
    pub fn sample_count(&self) -> u64 {
        self.costs.samples()
    }

    fn waiting_for(&self, seq: SeqId, sequence: &ScheduledSequence) -> QueuedSequence {
        let has_long = self.limits.kv.long_tokens > 0;
        let slot_tokens = if has_long { self.limits.kv.slot_tokens } else { u32::MAX };
        sequence.waiting(seq, slot_tokens)
    }

    /// Removes a sequence from the admitted ones.
    fn clear_admission(&mut self, seq: SeqId) {
        self.admitted.remove(&seq);
        self.long.take_if(|long| *long == seq);
    }

    fn seqs_of(&self, id: RequestId) -> Vec<SeqId> {
        let from = SeqId { request: id, choice: 0 };
        let to = SeqId { request: id, choice: u32::MAX };
        self.sequences.range(from..=to).map(|(seq, _)| *seq).collect()
    }

    /// Trims the KV of drafts that were not sampled.
    fn drop_rejected_drafts(&mut self, seq: SeqId) {
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        if let (SequenceState::Active(slot), true) =
            (sequence.state, sequence.drafted > sequence.accepted)
        {
            self.kv.truncate(slot, sequence.computed);
        }
        (sequence.drafted, sequence.accepted) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
