//! Admission and preemption of sequences.

use std::collections::{BTreeMap, BTreeSet};

use super::Scheduler;
use super::sequence::{PendingPrefix, RESERVE, ScheduledSequence, SequenceState};
use crate::fair_queue::{QueuedSequence, SlotKind};
use crate::ids::{Principal, SeqId};
use crate::kv::Reuse;
use crate::kv::checkpoints::KnownPrefix;
use crate::kv::reuse::{ReuseLimit, SlotAssignment};
use crate::request::Priority;

/// Minimum number of tokens saved by waiting for a prefix that another request computes: fewer are computed
/// sooner in the same step. Answers of one request always wait for their prompt.
const WORTH_WAITING: u32 = 128;

impl Scheduler {
    /// Admits queued sequences while fewer than `parallel` are admitted and cells suffice.
    ///
    /// At most one sequence a step is preempted for the slot of another, which bounds the time of a step;
    /// less urgent ones are preempted until cells suffice for the next.
    pub(super) fn admit(&mut self) {
        self.admit_long();
        let mut cleared = false;
        while let Some(mut next) = self.queue.next(SlotKind::Regular) {
            if self.regular_count() >= self.limits.parallel as usize {
                let claim = if cleared { None } else { self.fair_preemption() };
                let Some((successor, victim)) = claim else { return };
                self.preempt(victim);
                self.counts.preempted_for_others += 1;
                (next, cleared) = (successor, true);
            }
            if !self.has_cells_for(&next) {
                let victim = less_urgent_than(next.priority, self.regular_sequences());
                match victim {
                    Some(seq) => self.preempt(seq),
                    None => return,
                }
                self.counts.preempted_for_others += 1;
                continue;
            }
            self.admit_sequence(&next);
        }
    }

    /// The first queued sequence that may preempt another, and that one.
    fn fair_preemption(&self) -> Option<(QueuedSequence, SeqId)> {
        let admitted: Vec<_> = self.regular_sequences().collect();
        let first = self.queue.next(SlotKind::Regular)?;
        if let Some(victim) = less_urgent_than(first.priority, admitted.iter().copied()) {
            return Some((first, victim));
        }
        let places = AdmittedCounts::of(&admitted, first.priority);
        // Principals without an admitted sequence either all may preempt or none may, and others only if
        // these may: looking at one more than have admitted sequences suffices, however long the queue is.
        let mut heads = self.queue.heads(SlotKind::Regular).take(places.of.len() + 1);
        let successor = heads.find(|head| places.are_fewer_for(head.principal))?;
        let victim = peer_to_preempt(&successor, &places, &admitted)?;
        Some((successor, victim))
    }

    /// Admits the next sequence to the long slot, unless one of at least its priority has it.
    fn admit_long(&mut self) {
        let Some(next) = self.queue.next(SlotKind::Long) else { return };
        if let Some(holder) = self.long {
            if self.sequences.get(&holder).is_none_or(|s| s.priority <= next.priority) {
                return;
            }
            self.preempt(holder);
            self.counts.preempted_for_others += 1;
        }
        self.long = Some(next.seq);
        self.admit_sequence(&next);
    }

    fn admit_sequence(&mut self, next: &QueuedSequence) {
        self.queue.remove(next);
        self.queue.charge(next.principal, next.tokens);
        self.admitted.insert(next.seq);
        if let Some(sequence) = self.sequences.get_mut(&next.seq) {
            sequence.state = SequenceState::Awaiting(None);
        }
        self.assign_slot(next.seq);
    }

    /// Preempts sequences whose slot cannot hold their next token; they resume in the long slot.
    pub(super) fn preempt_outgrown(&mut self) {
        let full = self.admitted_sequences().filter(|(_, s)| {
            s.slot().is_some_and(|slot| s.known() > self.limits.kv.capacity(slot))
        });
        let full: Vec<SeqId> = full.map(|(seq, _)| seq).collect();
        for seq in full {
            self.preempt(seq);
            self.counts.outgrown += 1;
        }
    }

    /// Resumes sequences whose prefix has been computed, or is no longer being computed.
    pub(super) fn resume_ready(&mut self) {
        let ready = self.admitted_sequences().filter(|(_, s)| match s.state {
            SequenceState::Awaiting(prefix) => !prefix.is_some_and(|p| self.is_pending(p)),
            SequenceState::Queued | SequenceState::Active(_) => false,
        });
        let mut ready: Vec<_> = ready.map(|(seq, s)| (s.priority, s.arrival, seq)).collect();
        ready.sort_unstable();
        for (_, _, seq) in ready {
            self.assign_slot(seq);
        }
    }

    /// Preempts a sequence: its slot is parked and it is queued by its old arrival.
    pub(super) fn preempt(&mut self, seq: SeqId) {
        self.drop_rejected_drafts(seq);
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        match sequence.state {
            SequenceState::Active(slot) => self.kv.park(slot),
            SequenceState::Awaiting(_) => self.queue.refund(sequence.principal, sequence.known()),
            SequenceState::Queued => return,
        }
        sequence.state = SequenceState::Queued;
        sequence.computed = 0;
        if let Some(sequence) = self.sequences.get(&seq) {
            self.queue.push(self.waiting_for(seq, sequence));
        }
        self.clear_admission(seq);
    }

    /// The sequence to preempt when cells run out: of the lowest priority the cheapest to resume. Never the
    /// oldest of the highest priority, so that one sequence always finishes.
    pub(super) fn victim(&self) -> Option<SeqId> {
        let active = || self.regular_sequences().filter(|(_, s)| s.slot().is_some());
        let first = active().min_by_key(|(_, s)| (s.priority, s.arrival)).map(|(seq, _)| seq);
        let others = active().filter(|&(seq, _)| Some(seq) != first);
        let cheapest = others.min_by_key(|(_, s)| {
            let cells = s.slot().map_or(0, |slot| self.kv.exclusive(slot));
            // Preempting one that shares all its cells frees none.
            (std::cmp::Reverse(s.priority), cells == 0, cells, std::cmp::Reverse(s.arrival))
        });
        cheapest.map(|(seq, _)| seq)
    }

    /// Where the next chunk of `leader` ends if slots cannot be trimmed: at a checkpoint, or at a prefix
    /// that others wait for.
    pub(super) fn next_checkpoint(&self, leader: SeqId, computed: u32, known: u32) -> u32 {
        if self.limits.kv.rewinds {
            return known;
        }
        let checkpoints = self.admitted_sequences().filter_map(|(_, s)| match s.state {
            SequenceState::Awaiting(Some(p)) if p.leader == leader && p.upto > computed => {
                Some(p.upto)
            }
            _ => None,
        });
        let own = self.sequences.get(&leader).into_iter().flat_map(|s| &s.checkpoints);
        checkpoints
            .chain(own.copied().filter(|&stop| stop > computed))
            .min()
            .unwrap_or(known)
            .min(known)
    }

    /// Assigns a slot to an admitted sequence, unless it waits for a longer prefix that another one
    /// computes.
    fn assign_slot(&mut self, seq: SeqId) {
        let Some(sequence) = self.sequences.get(&seq) else { return };
        let (salt, limit) = (sequence.salt, self.reuse_limit(seq, sequence));
        let (is_long, every) = (self.long == Some(seq), self.limits.kv.checkpoint_every);
        let have = if is_long {
            self.kv.longest_reusable_in_long_slot(salt, &sequence.tokens, limit)
        } else {
            self.kv.longest_reusable(salt, &sequence.tokens, limit)
        };
        let worth = |p: &PendingPrefix| {
            let own = p.leader.request == seq.request;
            p.upto >= have + if own { 1 } else { WORTH_WAITING }
        };
        let pending = self.pending(seq).filter(worth);
        let keeps = self.limits.kv.checkpoints() && !sequence.all_logits;
        let seen =
            (keeps && pending.is_none()).then(|| self.kv.known_prefix(salt, &sequence.tokens));
        let begun = match pending {
            Some(_) => None,
            None if is_long => self.kv.assign_long(salt, &sequence.tokens, limit),
            None => self.kv.assign(salt, &sequence.tokens, limit),
        };
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        if pending.is_some() && sequence.state == SequenceState::Awaiting(None) {
            self.counts.waited += 1;
        }
        let Some(SlotAssignment { slot, cached, reuse }) = begun else {
            sequence.state = SequenceState::Awaiting(pending);
            if let Some(prefix) = pending.filter(|p| keeps && p.leader.request != seq.request) {
                self.add_checkpoint(prefix);
            }
            return;
        };
        let prompt = sequence.known() - sequence.generated();
        let checkpoints = |s: KnownPrefix| s.checkpoints(prompt, &sequence.borders, cached, every);
        sequence.checkpoints = seen.map(checkpoints).unwrap_or_default();
        sequence.state = SequenceState::Active(slot);
        sequence.computed = cached;
        sequence.prefilled_baseline = self.prefilled;
        self.queue.refund(sequence.principal, sequence.known());
        let reuse = if sequence.all_logits { Reuse::Unwanted } else { reuse };
        *self.counts.reuse.entry(reuse).or_insert(0) += 1;
    }

    /// Adds a checkpoint at a prefix that another sequence waits for: further ones are likely to need it.
    fn add_checkpoint(&mut self, prefix: PendingPrefix) {
        let Some(leader) = self.sequences.get_mut(&prefix.leader) else { return };
        if !leader.checkpoints.contains(&prefix.upto) {
            leader.checkpoints.push(prefix.upto);
        }
    }

    /// How much of a sequence may be reused: everything, or, for reproducible texts, whole blocks that
    /// leave at least one block to compute, since a part of a block is computed otherwise. Resumed
    /// sequences and further answers of a request reuse everything.
    fn reuse_limit(&self, seq: SeqId, sequence: &ScheduledSequence) -> ReuseLimit {
        let cold = sequence.generated() == 0 && seq.choice == 0;
        if !(cold && self.limits.reproducible && self.limits.kv.rewinds) {
            return ReuseLimit { tokens: sequence.reusable(), multiple: 1 };
        }
        let block = self.limits.block.max(1);
        let tokens = sequence.known().saturating_sub(block).min(sequence.reusable());
        ReuseLimit { tokens, multiple: block }
    }

    /// The longest prefix of a sequence that another one is going to compute.
    fn pending(&self, seq: SeqId) -> Option<PendingPrefix> {
        let of = self.sequences.get(&seq)?;
        let leaders = self.admitted_sequences().filter(|(_, s)| {
            // A less urgent sequence may not be computed while this one waits, and prefixes in the long
            // slot are not reused by others.
            s.is_prefilling()
                && s.slot() != self.limits.kv.long_slot()
                && s.salt == of.salt
                && s.priority <= of.priority
        });
        let prefixes = leaders.map(|(leader, s)| {
            let upto =
                crate::kv::prefix_tree::common_prefix(&s.tokens, &of.tokens).min(of.reusable());
            PendingPrefix { leader, upto }
        });
        prefixes.filter(|&p| self.is_pending(p)).max_by_key(|p| p.upto)
    }

    fn is_pending(&self, prefix: PendingPrefix) -> bool {
        let leader = self.sequences.get(&prefix.leader);
        leader.is_some_and(|s| s.slot().is_some() && s.computed < prefix.upto)
    }

    /// Whether cells suffice for the admitted sequences, a reserve for each, and `next`.
    fn has_cells_for(&self, next: &QueuedSequence) -> bool {
        if !self.limits.kv.shares || self.regular_count() == 0 {
            return true;
        }
        let Some(new) = self.sequences.get(&next.seq) else { return false };
        let planned: u64 = self
            .admitted_sequences()
            .map(|(_, s)| {
                let prefix = match s.state {
                    SequenceState::Awaiting(Some(prefix)) => prefix.upto,
                    SequenceState::Awaiting(None)
                    | SequenceState::Queued
                    | SequenceState::Active(_) => s.computed,
                };
                u64::from(s.known() - prefix + s.growth().min(RESERVE))
            })
            .sum();
        let shared = self.kv.shareable(new.salt, &new.tokens);
        let shared = self.pending(next.seq).map_or(shared, |p| p.upto.max(shared));
        let own = u64::from(new.known() - shared.min(new.known()) + new.growth().min(RESERVE));
        self.kv.pinned() + planned + own <= u64::from(self.limits.kv.cells)
    }

    /// The admitted sequences, that in the long slot aside.
    fn regular_sequences(&self) -> impl Iterator<Item = (SeqId, &ScheduledSequence)> {
        self.admitted_sequences().filter(|&(seq, _)| Some(seq) != self.long)
    }

    /// Number of admitted sequences, that in the long slot aside.
    fn regular_count(&self) -> usize {
        self.admitted.len() - usize::from(self.long.is_some())
    }

    /// The admitted sequences: their number is bounded, however long the queue is.
    pub(super) fn admitted_sequences(&self) -> impl Iterator<Item = (SeqId, &ScheduledSequence)> {
        self.admitted.iter().filter_map(|seq| Some((*seq, self.sequences.get(seq)?)))
    }
}

/// Numbers of admitted sequences of each principal, within one priority.
struct AdmittedCounts {
    of: BTreeMap<Principal, usize>,
    /// The largest number, its principal, and the largest number of another principal.
    most: (usize, Option<Principal>, usize),
}

impl AdmittedCounts {
    fn of(admitted: &[(SeqId, &ScheduledSequence)], priority: Priority) -> Self {
        let mut of = BTreeMap::new();
        for (_, s) in admitted.iter().filter(|(_, s)| s.priority == priority) {
            *of.entry(s.principal).or_insert(0) += 1;
        }
        let mut most = (0, None, 0);
        for (&principal, &places) in &of {
            if places > most.0 {
                most = (places, Some(principal), most.0);
            } else {
                most.2 = most.2.max(places);
            }
        }
        Self { of, most }
    }

    fn count(&self, principal: Principal) -> usize {
        self.of.get(&principal).copied().unwrap_or(0)
    }

    /// Whether another principal has at least two admitted sequences more.
    fn are_fewer_for(&self, principal: Principal) -> bool {
        let (most, holder, second) = self.most;
        let others = if holder == Some(principal) { second } else { most };
        others >= self.count(principal) + 2
    }
}

/// The sequence of equal priority that `next` preempts: one of the principal with the most.
fn peer_to_preempt(
    next: &QueuedSequence,
    places: &AdmittedCounts,
    admitted: &[(SeqId, &ScheduledSequence)],
) -> Option<SeqId> {
    // Prefer slots adjacent to those of the same principal, so that its rows stay adjacent; then the last
    // slot; then the sequence with the fewest computed tokens, which loses least.
    let of = admitted.iter().filter(|(_, s)| s.principal == next.principal);
    let own: BTreeSet<u32> = of.filter_map(|(_, s)| s.slot()).map(|slot| slot.0).collect();
    let peers = admitted.iter().filter(|(_, s)| s.priority == next.priority);
    let others = peers.filter(|(_, s)| s.principal != next.principal);
    let (seq, _) = others.max_by_key(|(_, s)| {
        let slot = s.slot().map_or(u32::MAX, |slot| slot.0);
        let beside = own.contains(&slot.wrapping_sub(1)) || own.contains(&slot.wrapping_add(1));
        (places.count(s.principal), beside, slot, std::cmp::Reverse(s.computed), s.arrival)
    })?;
    Some(*seq)
}

/// The latest arrival of the lowest priority, if that is lower than `priority`.
fn less_urgent_than<'s>(
    priority: Priority,
    admitted: impl Iterator<Item = (SeqId, &'s ScheduledSequence)>,
) -> Option<SeqId> {
    let (seq, last) = admitted.max_by_key(|(_, s)| (s.priority, s.arrival))?;
    (last.priority > priority).then_some(seq)
}
