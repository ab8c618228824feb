//! Continuous batching of generation requests.
//!
//! Each answer of a request is a *sequence*. It waits in the queue, is admitted, gets a slot of the
//! KV cache that holds as much of its prompt as anybody has (`kv.rs`), and then goes into steps:
//! decode rows into every one, prompts into the time that is left (`step_budget.rs`). When cells run
//! out, or somebody more urgent needs its place, it goes back to the queue with all its tokens and
//! its slot is parked; it comes back like any other sequence, with a longer prompt.

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

/// The depth that answers have somewhere in their middle, for estimates, in tokens.
const ANSWER_DEPTH: u32 = 256;

/// What the engine can do. All counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct SchedulerLimits {
    /// Sequences that can be in a step together.
    pub parallel: u32,
    /// The KV cache. At least `parallel` slots.
    pub kv: KvLimits,
    /// What one step can hold, over all sequences. At least `parallel`.
    pub batch_tokens: u32,
    /// A prompt's chunk of at least this many tokens is computed otherwise than a shorter one; 1
    /// where that is not so.
    pub block: u32,
    /// The longest that a step with decode rows should take if it also holds prompts.
    pub itl_target: ItlTarget,
    /// Whether a prompt's answer may not depend on how much of it was reused; else everything is reused.
    pub reproducible: bool,
    /// What one sequence may take of a step that needs the logits of every prompt token.
    pub all_logits_tokens: u32,
    /// Number of requests that may wait.
    pub queue: usize,
}

/// What has happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Sequences that got a slot, by whether it held some of their tokens already, and why not.
    pub reuse: BTreeMap<Reuse, u64>,
    /// Sequences that waited for a prefix that another was computing.
    pub waited: u64,
    /// Sequences that went back to the queue because cells ran out.
    pub preempted_for_cells: u64,
    /// Sequences that went back to the queue for the long slot, because they had filled theirs.
    pub outgrown: u64,
    /// Sequences that went back to the queue for a more urgent one, or one of a principal that had
    /// less.
    pub preempted_for_others: u64,
    /// Parked sequences that had to make room.
    pub evicted: u64,
}

/// The queue, the KV cache and the policy.
#[derive(Debug)]
pub struct Scheduler {
    limits: SchedulerLimits,
    sequences: BTreeMap<SeqId, ScheduledSequence>,
    queue: FairQueue,
    kv: KvCache,
    costs: CallCosts,
    budget: StepBudget,
    /// Those of them that are not in the queue: steps visit these alone, however many wait.
    admitted: BTreeSet<SeqId>,
    /// The sequence that has the long slot.
    long: Option<SeqId>,
    /// Numbers arrivals.
    arrivals: u64,
    /// Prompt tokens that were computed.
    prefilled: u64,
    allowance: Allowance,
    /// Mean length of the answers so far.
    answer_tokens: f64,
    counts: Counters,
}

// === impl Scheduler ===

impl Scheduler {
    /// An idle scheduler.
    ///
    /// # Panics
    /// If a step cannot hold one decode row for each sequence, or there are too few slots.
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

    /// An idle scheduler that begins with what another one has learned of the same calls on the same
    /// machine. Samples that cannot have been measured are left out; new ones soon outweigh the others.
    ///
    /// # Panics
    /// As [`Scheduler::new`].
    pub fn with_costs(limits: SchedulerLimits, kept: &LearnedCosts) -> Self {
        let mut scheduler = Self::new(limits);
        scheduler.costs.restore(kept);
        scheduler
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// [`Rejected`] when it can never run, or not enough others have gone.
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

    /// Whether one more request may wait.
    pub fn has_room(&self) -> bool {
        self.queue.len() < self.limits.queue
    }

    /// Takes back a request, wherever it is. What was computed for it stays for others to reuse.
    pub fn cancel(&mut self, id: RequestId) {
        for seq in self.seqs_of(id) {
            self.finish(seq);
        }
    }

    /// Takes back a request whose slots may hold anything after a step that failed.
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

    /// Ends one sequence. Its slot is parked.
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

    /// Tells that a token was sampled for `seq`; the next step will compute it.
    pub fn append_token(&mut self, seq: SeqId, token: Token) {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            sequence.tokens.push(token);
        }
    }

    /// Tells that the next draft of `seq` is what was sampled: its KV is there already.
    pub fn accept_draft(&mut self, seq: SeqId, token: Token) {
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        // The token before it was computed; this one was as well, as a draft.
        sequence.tokens.push(token);
        sequence.computed += 1;
        sequence.accepted += 1;
        if let SequenceState::Active(slot) = sequence.state {
            self.kv.extend(slot, &[token]);
        }
    }

    /// Offers drafts: as many tokens as are likely to follow the last one of `seq`. The next step
    /// takes as many of them as are worth their time.
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

    /// Tells how many bytes a copy in host memory has taken; `None` where it could not be made.
    pub fn record_copy_size(&mut self, copy: HostCopyId, bytes: Option<u64>) {
        self.kv.record_copy_size(copy, bytes);
    }

    /// Sequences that wait to be admitted.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Sequences that were admitted.
    pub fn running(&self) -> usize {
        self.admitted.len()
    }

    /// Cells that running sequences hold, in tokens.
    pub fn kv_tokens(&self) -> u64 {
        self.kv.running()
    }

    /// Cells that parked sequences alone hold, in tokens.
    pub fn parked_tokens(&self) -> u64 {
        self.kv.parked()
    }

    /// What host memory keeps, in tokens.
    pub fn saved_tokens(&self) -> u64 {
        self.kv.host_tokens()
    }

    /// What has happened since the start.
    pub fn counts(&self) -> Counters {
        Counters { evicted: self.kv.evictions(), ..self.counts.clone() }
    }

    /// How long it will take until what waits now has been served, by what steps cost; zero where
    /// that is not known.
    pub fn backlog(&self) -> Duration {
        let prompts = u32::try_from(self.queue.tokens()).unwrap_or(u32::MAX);
        let rows = self.limits.parallel.min(u32::try_from(self.queue.len()).unwrap_or(u32::MAX));
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let turns = self.queue.len() as f64 / f64::from(rows.max(1));
        self.costs.prefill_time(prompts)
            + self.costs.decode_time(rows, ANSWER_DEPTH).mul_f64(turns * self.answer_tokens)
    }

    /// How often the token of a draft must be right for drafts to pay, by what steps cost now.
    pub fn draft_break_even(&self) -> f64 {
        self.costs.break_even(ANSWER_DEPTH)
    }

    /// What calls were learned to cost so far.
    pub fn learned_costs(&self) -> LearnedCosts {
        self.costs.learned()
    }

    /// Samples taken in so far, restored ones included: what was learned is the same as long as this is.
    pub fn sample_count(&self) -> u64 {
        self.costs.samples()
    }

    fn waiting_for(&self, seq: SeqId, sequence: &ScheduledSequence) -> QueuedSequence {
        let has_long = self.limits.kv.long_tokens > 0;
        let slot_tokens = if has_long { self.limits.kv.slot_tokens } else { u32::MAX };
        sequence.waiting(seq, slot_tokens)
    }

    /// Gives back the place that an admitted sequence has.
    fn clear_admission(&mut self, seq: SeqId) {
        self.admitted.remove(&seq);
        self.long.take_if(|long| *long == seq);
    }

    fn seqs_of(&self, id: RequestId) -> Vec<SeqId> {
        let from = SeqId { request: id, choice: 0 };
        let to = SeqId { request: id, choice: u32::MAX };
        self.sequences.range(from..=to).map(|(seq, _)| *seq).collect()
    }

    /// Drops the KV of drafts that were not what was sampled.
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
