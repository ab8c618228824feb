//! Continuous batching of generation requests.
//!
//! Policy: admission is first come, first served into fixed slots; decode rows go into every step;
//! what is left of the step's time (`compose.rs`) is shared among the prompts in prefill so that a
//! short one never waits for a long one. A request for `n` answers prefills its
//! prompt once and forks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::compose::{Composer, LEAST_CHUNK, Loads, Why};
use crate::cost::StepTime;
use crate::idle::IdleSlots;
use crate::share::max_min_share;

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

/// A place in the KV cache that holds one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// What the engine can do. All counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Number of slots: sequences that can be in a step together.
    pub slots: u32,
    /// What one slot can hold: prompt and answer.
    pub slot_tokens: u32,
    /// What one step can hold, over all sequences. At least `slots`.
    pub batch_tokens: u32,
    /// The longest that a step with decode rows should take, where it also holds prompts.
    pub itl_target: Duration,
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
    /// Length of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// The first tokens of the prompt, fewer than all, that other requests are likely to begin
    /// with too; may be empty. They are computed in a step of their own, so that whoever finds
    /// them in a slot computes the rest in the very same way.
    pub head: Arc<[u32]>,
    /// The most tokens an answer can have.
    pub max_new_tokens: u32,
    /// Number of answers, at least 1.
    pub choices: u32,
    /// Whether the logits of every prompt token are wanted, not only the last one's.
    pub all_logits: bool,
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
    /// It wants more answers than there are slots.
    TooManyChoices {
        /// The number of slots.
        limit: u32,
    },
}

/// One forward pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// In order of slots, so that a backend finds neighbours side by side. Empty when there is
    /// nothing to do.
    pub work: Vec<Work>,
    /// Why its prompts have as many tokens as they have.
    pub why: Why,
    /// How long it should take; zero where that is not known yet.
    pub predicted: StepTime,
}

/// One sequence's part of a step: its tokens `start .. start + tokens` go in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The sequence.
    pub seq: SeqId,
    /// Where its KV is.
    pub slot: SlotId,
    /// Position of the first token. In a sequence's first step: what its slot holds of it already;
    /// the engine must drop what is behind that.
    pub start: u32,
    /// Number of tokens, at least 1.
    pub tokens: u32,
    /// Which logits are needed.
    pub output: Output,
    /// Sequences that begin as copies of this one once its prompt is computed.
    pub forks: Vec<Fork>,
}

/// Which rows of a [`Work`] need logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// None: the prompt goes on in a later step.
    None,
    /// The last: a token is sampled from it.
    Last,
    /// Every one; a token is sampled from the last if the prompt is complete.
    All {
        /// Whether it is.
        complete: bool,
    },
}

impl Output {
    /// Whether a token is to be sampled from the last row.
    pub fn samples(self) -> bool {
        matches!(self, Self::Last | Self::All { complete: true })
    }
}

/// A sequence that begins as a copy of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The new sequence.
    pub seq: SeqId,
    /// The slot to copy into.
    pub slot: SlotId,
}

/// The queue, the slots and the policy.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    waiting: VecDeque<Request>,
    running: BTreeMap<SeqId, Running>,
    idle: IdleSlots,
    composer: Composer,
    /// Counts admissions, so that prefill is planned in order of arrival.
    admissions: u64,
    /// Counts steps.
    steps: u64,
}

#[derive(Debug, Clone)]
struct Running {
    slot: SlotId,
    prompt: u32,
    head: Arc<[u32]>,
    /// Tokens that exist: the prompt and what was generated.
    known: u32,
    /// Tokens whose KV is in the slot.
    computed: u32,
    admission: u64,
    /// The last step that held some of its prompt.
    served: u64,
    all_logits: bool,
    phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Has tokens to compute, or will once the engine appends one.
    Active,
    /// Waits for choice 0 of its request to finish the prompt.
    AwaitingFork,
}

// === impl Scheduler ===

impl Scheduler {
    /// An idle scheduler.
    ///
    /// # Panics
    /// If a step cannot hold one decode row for each slot, or there is no slot.
    pub fn new(limits: Limits) -> Self {
        assert!(limits.slots > 0 && limits.batch_tokens >= limits.slots, "{limits:?}");
        Self {
            limits,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            idle: IdleSlots::new(limits.slots),
            composer: Composer::new(limits.itl_target),
            admissions: 0,
            steps: 0,
        }
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// [`Rejected`] when it can never run, or not enough others have gone.
    pub fn submit(&mut self, request: Request) -> Result<(), Rejected> {
        let needed = request.prompt_tokens.saturating_add(request.max_new_tokens);
        if needed > self.limits.slot_tokens || request.prompt_tokens == 0 {
            return Err(Rejected::TooLong { needed, limit: self.limits.slot_tokens });
        }
        if request.choices > self.limits.slots {
            return Err(Rejected::TooManyChoices { limit: self.limits.slots });
        }
        if !self.has_room() {
            return Err(Rejected::QueueFull { limit: self.limits.queue });
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Whether one more request may wait.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < self.limits.queue
    }

    /// Takes back a request, waiting or running.
    pub fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|r| r.id != id);
        let seqs: Vec<SeqId> = self.seqs_of(id).collect();
        for seq in seqs {
            self.finish(seq);
        }
    }

    /// Takes back a request whose slots may hold anything after a step that failed.
    pub fn discard(&mut self, id: RequestId) {
        let seqs: Vec<SeqId> = self.seqs_of(id).collect();
        for running in seqs.iter().filter_map(|seq| self.running.remove(seq)) {
            self.idle.give(running.slot, [].into());
        }
    }

    /// Ends one sequence. Its slot keeps the prompt's head for whoever begins with the same.
    pub fn finish(&mut self, seq: SeqId) {
        if let Some(running) = self.running.remove(&seq) {
            let whole = running.computed >= running.head_tokens();
            self.idle.give(running.slot, if whole { running.head } else { [].into() });
        }
    }

    /// Tells that a token was sampled for `seq`; the next step will compute it.
    pub fn append(&mut self, seq: SeqId) {
        if let Some(running) = self.running.get_mut(&seq) {
            running.known += 1;
        }
    }

    /// Tells that `step` was computed, forks included, and how long that took.
    pub fn complete(&mut self, step: &Step, took: StepTime) {
        self.composer.learn(step.loads(), took);
        self.steps += 1;
        for work in &step.work {
            let Some(leader) = self.running.get_mut(&work.seq) else { continue };
            leader.computed += work.tokens;
            leader.served = self.steps;
            leader.all_logits &= leader.computed < leader.prompt;
            let computed = leader.computed;
            for fork in &work.forks {
                if let Some(running) = self.running.get_mut(&fork.seq) {
                    running.computed = computed;
                    running.phase = Phase::Active;
                }
            }
        }
    }

    /// Admits what fits and says what the next forward pass holds.
    pub fn plan(&mut self) -> Step {
        self.admit();
        let mut work = self.decode_rows();
        let rows = u32::try_from(work.len()).unwrap_or(u32::MAX);
        let room = self.limits.batch_tokens.saturating_sub(rows);
        let prompts = self.prefilling();
        let (grants, why) = if prompts.is_empty() {
            (Vec::new(), Why::NoPrompt)
        } else if work.is_empty() {
            let needs: Vec<u32> = prompts.iter().map(|(_, r)| self.need(r)).collect();
            (max_min_share(room, &needs), Why::NobodyDecodes)
        } else {
            let (time, why) = self.composer.time_for_prompts(loads(&work).single);
            (self.grants(&prompts, time, room), why)
        };
        self.prefill(prompts.into_iter().zip(grants), &mut work);
        work.sort_by_key(|w| w.slot);
        let predicted = self.composer.predict(loads(&work));
        Step { work, why, predicted }
    }

    /// Requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that wait for a slot, oldest first.
    pub fn waiting_ids(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.iter().map(|r| r.id)
    }

    /// Sequences that have a slot.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// KV cells in use, in tokens.
    pub fn kv_tokens(&self) -> u64 {
        self.running.values().map(|r| u64::from(r.computed)).sum()
    }

    fn seqs_of(&self, id: RequestId) -> impl Iterator<Item = SeqId> + '_ {
        let from = SeqId { request: id, choice: 0 };
        let to = SeqId { request: id, choice: u32::MAX };
        self.running.range(from..=to).map(|(seq, _)| *seq)
    }

    /// Moves requests from the queue's front into slots while the front one fits whole.
    fn admit(&mut self) {
        while let Some(request) = self.waiting.front() {
            if self.idle.len() < request.choices as usize {
                return;
            }
            let Some(request) = self.waiting.pop_front() else { return };
            for choice in 0..request.choices {
                // The other choices get the whole prompt copied.
                let known_head: &[u32] = if choice == 0 { &request.head } else { &[] };
                let Some((slot, computed)) = self.idle.take(known_head) else { return };
                self.admissions += 1;
                let phase = if choice == 0 { Phase::Active } else { Phase::AwaitingFork };
                let running = Running {
                    slot,
                    prompt: request.prompt_tokens,
                    head: Arc::clone(&request.head),
                    known: request.prompt_tokens,
                    computed,
                    admission: self.admissions,
                    served: self.steps,
                    all_logits: request.all_logits && choice == 0,
                    phase,
                };
                self.running.insert(SeqId { request: request.id, choice }, running);
            }
        }
    }

    fn decode_rows(&self) -> Vec<Work> {
        let decoding = self.running.iter().filter(|(_, r)| r.is_decoding());
        decoding
            .map(|(&seq, r)| Work {
                seq,
                slot: r.slot,
                start: r.computed,
                tokens: 1,
                output: Output::Last,
                forks: Vec::new(),
            })
            .collect()
    }

    /// The prompts that are not yet computed: who has waited longest for a part of a step is first,
    /// then who was admitted first.
    fn prefilling(&self) -> Vec<(SeqId, &Running)> {
        let of = self.running.iter().filter(|(_, r)| r.is_prefilling());
        let mut prefilling: Vec<(SeqId, &Running)> = of.map(|(&seq, r)| (seq, r)).collect();
        prefilling.sort_by_key(|(_, r)| (r.served, r.admission));
        prefilling
    }

    /// What a prompt can take of a step.
    fn need(&self, r: &Running) -> u32 {
        let missing = r.next_stop() - r.computed;
        if r.all_logits { missing.min(self.limits.all_logits_tokens) } else { missing }
    }

    /// Divides `time` among prompts, in tokens: each gets an equal part of what those before it
    /// left. The first one gets something whatever it costs; where the time does not do for all,
    /// the others are first in the next steps.
    fn grants(&self, prompts: &[(SeqId, &Running)], time: Duration, room: u32) -> Vec<u32> {
        let (mut time, mut room) = (time, room);
        let mut grants = Vec::with_capacity(prompts.len());
        for (done, (_, r)) in prompts.iter().enumerate() {
            let need = self.need(r).min(room);
            let sharers = u32::try_from(prompts.len() - done).unwrap_or(u32::MAX);
            let tokens = match self.composer.chunk(need, r.computed, time / sharers, time) {
                tokens if done == 0 => tokens.max(need.min(LEAST_CHUNK)),
                tokens => tokens,
            };
            if tokens > 0 {
                time = time.saturating_sub(self.composer.chunk_time(tokens, r.computed));
                room -= tokens;
            }
            grants.push(tokens);
        }
        grants
    }

    fn prefill<'r>(
        &self,
        grants: impl Iterator<Item = ((SeqId, &'r Running), u32)>,
        work: &mut Vec<Work>,
    ) {
        for ((seq, r), tokens) in grants.filter(|&(_, tokens)| tokens > 0) {
            let complete = r.computed + tokens == r.prompt;
            let output = match (r.all_logits, complete) {
                (true, complete) => Output::All { complete },
                (false, true) => Output::Last,
                (false, false) => Output::None,
            };
            let forks = if complete { self.forks_of(seq) } else { Vec::new() };
            work.push(Work { seq, slot: r.slot, start: r.computed, tokens, output, forks });
        }
    }

    fn forks_of(&self, leader: SeqId) -> Vec<Fork> {
        self.seqs_of(leader.request)
            .filter_map(|seq| {
                let r = self.running.get(&seq)?;
                (r.phase == Phase::AwaitingFork).then_some(Fork { seq, slot: r.slot })
            })
            .collect()
    }
}

// === impl Step ===

impl Step {
    /// What its time depends on.
    pub fn loads(&self) -> Loads {
        loads(&self.work)
    }
}

fn loads(work: &[Work]) -> Loads {
    work.iter().fold(Loads::default(), |loads, work| loads.and(work.tokens, work.start))
}

// === impl Running ===

impl Running {
    /// The prompt is computed; what is missing is the token sampled last.
    fn is_decoding(&self) -> bool {
        self.phase == Phase::Active && self.computed >= self.prompt && self.known > self.computed
    }

    fn head_tokens(&self) -> u32 {
        u32::try_from(self.head.len()).unwrap_or(u32::MAX)
    }

    /// Up to where a prefill chunk may go: a head is computed in a step of its own.
    fn next_stop(&self) -> u32 {
        if self.computed < self.head_tokens() { self.head_tokens() } else { self.prompt }
    }

    fn is_prefilling(&self) -> bool {
        self.phase == Phase::Active && self.computed < self.prompt
    }
}

#[cfg(test)]
mod tests;
