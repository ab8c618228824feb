//! Who runs: out of the queue, and back into it.

use std::collections::{BTreeMap, BTreeSet};

use super::Scheduler;
use super::sequence::{PendingPrefix, RESERVE, ScheduledSequence, SequenceState};
use crate::fair_queue::{QueuedSequence, SlotKind};
use crate::ids::{Principal, SeqId};
use crate::kv::Reuse;
use crate::kv::checkpoints::KnownPrefix;
use crate::kv::reuse::{ReuseLimit, SlotAssignment};
use crate::request::Priority;

/// A prefix that another request is computing is waited for if it saves this many tokens: less is
/// computed sooner in the same step. The answers of one request always share its prompt.
const WORTH_WAITING: u32 = 128;

impl Scheduler {
    /// Admits sequences in the queue's order while there is a place and cells for the next one. A
    /// sequence that holds up a more urgent one, or one of a principal that has fewer places, is
    /// taken out: one such each step, so that clearing places never holds up a step for long.
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

    /// The first in the queue's order who may have another's place, and whose.
    fn fair_preemption(&self) -> Option<(QueuedSequence, SeqId)> {
        let admitted: Vec<_> = self.regular_sequences().collect();
        let first = self.queue.next(SlotKind::Regular)?;
        if let Some(victim) = less_urgent_than(first.priority, admitted.iter().copied()) {
            return Some((first, victim));
        }
        let places = AdmittedCounts::of(&admitted, first.priority);
        // Those without a place can all claim one or none of them can, and one with places only if
        // they can: whatever waits, no more need to be looked at.
        let mut heads = self.queue.heads(SlotKind::Regular).take(places.of.len() + 1);
        let successor = heads.find(|head| places.are_fewer_for(head.principal))?;
        let victim = peer_to_preempt(&successor, &places, &admitted)?;
        Some((successor, victim))
    }

    /// Gives the long slot to whose turn it is, if nobody has it who is as urgent.
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

    /// Sends those back to the queue, for the long slot, whose next token their slot cannot hold.
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

    /// Lets sequences go on whose prefix is there, or that nobody computes any more.
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

    /// Takes a sequence out of the batch; its slot is parked and it waits in its old place.
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

    /// The sequence to take out when cells run out: of the least urgent the cheapest to bring back.
    /// Never the most urgent that arrived first, so that somebody always gets to the end.
    pub(super) fn victim(&self) -> Option<SeqId> {
        let active = || self.regular_sequences().filter(|(_, s)| s.slot().is_some());
        let first = active().min_by_key(|(_, s)| (s.priority, s.arrival)).map(|(seq, _)| seq);
        let others = active().filter(|&(seq, _)| Some(seq) != first);
        let cheapest = others.min_by_key(|(_, s)| {
            let cells = s.slot().map_or(0, |slot| self.kv.exclusive(slot));
            // One that shares all its cells frees none.
            (std::cmp::Reverse(s.priority), cells == 0, cells, std::cmp::Reverse(s.arrival))
        });
        cheapest.map(|(seq, _)| seq)
    }

    /// Where a prefill chunk of `leader` has to end where slots cannot be cut back: for a checkpoint, or
    /// for those who wait for its prefix.
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

    /// Gives an admitted sequence a slot, unless somebody is computing more of its prompt than
    /// there is.
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

    /// Has a checkpoint made of what one sequence computes and another waits for: more will want it.
    fn add_checkpoint(&mut self, prefix: PendingPrefix) {
        let Some(leader) = self.sequences.get_mut(&prefix.leader) else { return };
        if !leader.checkpoints.contains(&prefix.upto) {
            leader.checkpoints.push(prefix.upto);
        }
    }

    /// How much to reuse. All that is there, but where texts shall be reproducible: then whole blocks, and so
    /// many that at least one is left. A part of one would be computed in another way, and a prompt must
    /// not have another answer because its beginning was there; a prompt of less than two blocks is
    /// computed whole. A sequence that comes back continues where it was; further answers of a request
    /// begin where the first did.
    fn reuse_limit(&self, seq: SeqId, sequence: &ScheduledSequence) -> ReuseLimit {
        let cold = sequence.generated() == 0 && seq.choice == 0;
        if !(cold && self.limits.reproducible && self.limits.kv.rewinds) {
            return ReuseLimit { tokens: sequence.reusable(), multiple: 1 };
        }
        let block = self.limits.block.max(1);
        let tokens = sequence.known().saturating_sub(block).min(sequence.reusable());
        ReuseLimit { tokens, multiple: block }
    }

    /// The longest prefix of a sequence that another one is about to compute.
    fn pending(&self, seq: SeqId) -> Option<PendingPrefix> {
        let of = self.sequences.get(&seq)?;
        let leaders = self.admitted_sequences().filter(|(_, s)| {
            // Whoever is less urgent may not be computed while this one waits, and nobody begins
            // like the long slot.
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

    /// Whether the cells last for the running sequences, a few tokens more for each, and this one.
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

    /// Those admitted, that of the long slot aside.
    fn regular_sequences(&self) -> impl Iterator<Item = (SeqId, &ScheduledSequence)> {
        self.admitted_sequences().filter(|&(seq, _)| Some(seq) != self.long)
    }

    /// How many of them there are.
    fn regular_count(&self) -> usize {
        self.admitted.len() - usize::from(self.long.is_some())
    }

    /// The sequences that are not in the queue: bounded by the places, whatever waits.
    pub(super) fn admitted_sequences(&self) -> impl Iterator<Item = (SeqId, &ScheduledSequence)> {
        self.admitted.iter().filter_map(|seq| Some((*seq, self.sequences.get(seq)?)))
    }
}

/// AdmittedCounts that the principals of one priority have.
struct AdmittedCounts {
    of: BTreeMap<Principal, usize>,
    /// The most that one has, which one, and the most that another has.
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

    /// Whether another principal has at least two places more.
    fn are_fewer_for(&self, principal: Principal) -> bool {
        let (most, whose, second) = self.most;
        let others = if whose == Some(principal) { second } else { most };
        others >= self.count(principal) + 2
    }
}

/// Whom `next` may send back to the queue for a place where nobody is less urgent: a sequence of
/// the principal that has the most.
fn peer_to_preempt(
    next: &QueuedSequence,
    places: &AdmittedCounts,
    admitted: &[(SeqId, &ScheduledSequence)],
) -> Option<SeqId> {
    // Beside the slots of the same principal, so that its rows stay side by side; the first
    // at the end. Then the one that has come least far, which loses least.
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

/// The latest of the least urgent sequences, if they are less urgent than `priority`.
fn less_urgent_than<'s>(
    priority: Priority,
    admitted: impl Iterator<Item = (SeqId, &'s ScheduledSequence)>,
) -> Option<SeqId> {
    let (seq, last) = admitted.max_by_key(|(_, s)| (s.priority, s.arrival))?;
    (last.priority > priority).then_some(seq)
}
