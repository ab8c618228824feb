//! Continuous batching of generation requests.
//!
//! Each answer of a request is a *sequence*. It waits in the queue, is admitted, gets a slot of the
//! KV cache that holds as much of its prompt as anybody has (`kv.rs`), and then goes into steps:
//! decode rows into every one, prompts into the time that is left (`step_budget.rs`). When cells run
//! out, or somebody more urgent needs its place, it goes back to the queue with all its tokens and
//! its slot is parked; it comes back like any other sequence, with a longer prompt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::call_costs::CallCosts;
use crate::kv::{Kv, KvLimits, Reuse, Salt, SavedId};
use crate::learned_costs::LearnedCosts;
use crate::queue::{Class, Principal, Queue, Waiting};
use crate::step::{Cutting, Step};
use crate::step_budget::{ItlTarget, StepBudget};

mod admission;
mod fairness;
mod gaps;
mod planning;
mod sequence;

use fairness::Allowance;
use sequence::{Sequence, State};

/// The depth that answers have somewhere in their middle, for estimates, in tokens.
const ANSWER_DEPTH: u32 = 256;

/// A generation request, as the engine numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One of a request's answers: the sequence of its prompt and that answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId {
    /// The request.
    pub request: RequestId,
    /// Which of its answers, from 0.
    pub choice: u32,
}

/// What the engine can do. All counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
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

/// A request as the scheduler sees it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number; never used before.
    pub id: RequestId,
    /// The prompt, at least one token.
    pub prompt: Arc<[u32]>,
    /// Where messages begin or end in it, ascending: other prompts are likely to part from it there.
    /// Of use where slots cannot be cut back.
    pub borders: Arc<[u32]>,
    /// Whose KV it may reuse: that of requests with the same salt.
    pub salt: Salt,
    /// On whose behalf it comes.
    pub principal: Principal,
    /// How urgent it is.
    pub class: Class,
    /// The most tokens an answer can have.
    pub max_new_tokens: u32,
    /// Number of answers, at least 1.
    pub choices: u32,
    /// Whether the logits of every prompt token are wanted, not only the last one's.
    pub all_logits: bool,
    /// Where it goes on somewhere else's work: what each answer has so far, `None` of those that are
    /// complete. Empty for one that begins.
    pub said: Vec<Option<Vec<u32>>>,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The queue holds as many requests as it may.
    QueueFull {
        /// That number.
        limit: usize,
    },
    /// It can never fit into a slot.
    TooLong {
        /// What it needs, in tokens.
        needed: u32,
        /// What a slot holds, in tokens.
        limit: u32,
    },
}

/// What has happened since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
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
    limits: Limits,
    sequences: BTreeMap<SeqId, Sequence>,
    queue: Queue,
    kv: Kv,
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
    counts: Counts,
}

// === impl Scheduler ===

impl Scheduler {
    /// An idle scheduler.
    ///
    /// # Panics
    /// If a step cannot hold one decode row for each sequence, or there are too few slots.
    pub fn new(limits: Limits) -> Self {
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
            queue: Queue::default(),
            kv: Kv::new(limits.kv),
            costs: CallCosts::new(Cutting::new(limits.block, &limits.kv)),
            budget: StepBudget::new(limits.itl_target),
            admitted: BTreeSet::new(),
            long: None,
            arrivals: 0,
            prefilled: 0,
            allowance: Allowance::default(),
            answer_tokens: 64.0,
            counts: Counts::default(),
        }
    }

    /// An idle scheduler that begins with what another one has learned of the same calls on the same
    /// machine. Samples that cannot have been measured are left out; new ones soon outweigh the others.
    ///
    /// # Panics
    /// As [`Scheduler::new`].
    pub fn with_costs(limits: Limits, kept: &LearnedCosts) -> Self {
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
        let said = |choice: u32| request.said.get(choice as usize);
        for choice in 0..request.choices {
            let Some(said) = said(choice).map_or(Some(&[][..]), Option::as_deref) else { continue };
            self.arrivals += 1;
            let seq = SeqId { request: request.id, choice };
            let sequence = Sequence::new(request, choice, said, self.arrivals);
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
            match self.sequences.get(&seq).and_then(Sequence::slot) {
                None => self.finish(seq),
                Some(slot) => {
                    self.kv.release(slot);
                    self.sequences.remove(&seq);
                    self.vacate(seq);
                }
            }
        }
    }

    /// Ends one sequence. Its slot is parked.
    pub fn finish(&mut self, seq: SeqId) {
        self.settle_drafts(seq);
        let Some(sequence) = self.sequences.remove(&seq) else { return };
        match sequence.state {
            State::Queued => self.queue.remove(&self.waiting_for(seq, &sequence)),
            State::Awaiting(_) => {
                self.vacate(seq);
                self.queue.refund(sequence.principal, sequence.known());
            }
            State::Active(slot) => {
                self.vacate(seq);
                self.kv.park(slot);
                let length = f64::from(sequence.generated()) + 1.0;
                self.answer_tokens += 0.05 * (length - self.answer_tokens);
            }
        }
    }

    /// Tells that a token was sampled for `seq`; the next step will compute it.
    pub fn append(&mut self, seq: SeqId, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            sequence.tokens.push(token);
        }
    }

    /// Tells that the next draft of `seq` is what was sampled: its KV is there already.
    pub fn accept(&mut self, seq: SeqId, token: u32) {
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        // The token before it was computed; this one was as well, as a draft.
        sequence.tokens.push(token);
        sequence.computed += 1;
        sequence.accepted += 1;
        if let State::Active(slot) = sequence.state {
            self.kv.extend(slot, &[token]);
        }
    }

    /// Offers drafts: as many tokens as are likely to follow the last one of `seq`. The next step
    /// takes as many of them as are worth their time.
    pub fn propose(&mut self, seq: SeqId, drafts: u32, likely: f64) {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            (sequence.offered, sequence.likely) = (drafts, likely);
        }
    }

    /// Records that `step` was computed, and how long each of its calls took.
    pub fn complete(&mut self, step: &Step, took: &[Duration]) {
        self.costs.learn(&step.calls, took);
        for work in &step.work {
            let Some(sequence) = self.sequences.get_mut(&work.seq) else { continue };
            let sure = work.tokens - work.drafts;
            let (from, to) = (work.start as usize, (work.start + sure) as usize);
            self.kv.extend(work.slot, sequence.tokens.get(from..to).unwrap_or_default());
            sequence.computed += sure;
            if work.tokens > 1 && sequence.generated() == 0 {
                self.prefilled += u64::from(sure);
                sequence.prefilled_baseline += u64::from(sure);
            }
            sequence.drafted = work.drafts;
            sequence.accepted = 0;
            sequence.all_logits &= sequence.missing() > 0;
            if sequence.stops.contains(&sequence.computed) {
                self.kv.checkpoint(work.slot);
            }
            self.queue.charge(sequence.principal, sure);
        }
        let active: Vec<Principal> = self.admitted_sequences().map(|(_, s)| s.principal).collect();
        self.queue.settle(active.into_iter());
    }

    /// Tells how many bytes a copy in host memory has taken; `None` where it could not be made.
    pub fn saved(&mut self, copy: SavedId, bytes: Option<u64>) {
        self.kv.measured(copy, bytes);
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
        self.kv.saved()
    }

    /// What has happened since the start.
    pub fn counts(&self) -> Counts {
        Counts { evicted: self.kv.evictions(), ..self.counts.clone() }
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

    fn waiting_for(&self, seq: SeqId, sequence: &Sequence) -> Waiting {
        let has_long = self.limits.kv.long_tokens > 0;
        let slot_tokens = if has_long { self.limits.kv.slot_tokens } else { u32::MAX };
        sequence.waiting(seq, slot_tokens)
    }

    /// Gives back the place that an admitted sequence has.
    fn vacate(&mut self, seq: SeqId) {
        self.admitted.remove(&seq);
        self.long.take_if(|long| *long == seq);
    }

    fn seqs_of(&self, id: RequestId) -> Vec<SeqId> {
        let from = SeqId { request: id, choice: 0 };
        let to = SeqId { request: id, choice: u32::MAX };
        self.sequences.range(from..=to).map(|(seq, _)| *seq).collect()
    }

    /// Drops the KV of drafts that were not what was sampled.
    fn settle_drafts(&mut self, seq: SeqId) {
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        if let (State::Active(slot), true) = (sequence.state, sequence.drafted > sequence.accepted)
        {
            self.kv.truncate(slot, sequence.computed);
        }
        (sequence.drafted, sequence.accepted) = (0, 0);
    }
}

#[cfg(test)]
mod tests;
