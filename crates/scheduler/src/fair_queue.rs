//! The queue: by priority, then fair over principals, then by arrival.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Principal, SeqId};
use crate::request::Priority;

/// The kind of slot that a sequence waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SlotKind {
    /// Any slot but the long one.
    Regular,
    /// The long slot.
    Long,
}

/// Queued sequences, in a line for each slot kind, priority and principal.
///
/// Clients choose their principals, so there can be as many lines as sequences: every operation takes
/// logarithmic time in both.
#[derive(Debug, Default)]
pub(crate) struct FairQueue {
    /// Lines by arrival; none is empty.
    lines: BTreeMap<Line, BTreeMap<u64, QueuedSequence>>,
    /// The lines of each slot kind and priority, in order of turns.
    turns: BTreeMap<(SlotKind, Priority), BTreeSet<Turn>>,
    /// Tokens that each principal was served, as long as that is above the floor.
    served: BTreeMap<Principal, u64>,
    /// Principals of `served` without a line.
    without_line: BTreeSet<(u64, Principal)>,
    /// What a new principal starts from: the least that a present one was served.
    floor: u64,
    len: usize,
    tokens: u64,
}

type Line = (SlotKind, Priority, Principal);

/// A line, by the tokens that its principal was served, then by its first arrival.
type Turn = (u64, u64, Principal);

/// Slot kinds and priorities: a principal has at most one line for each pair.
const SLOT_KINDS: [SlotKind; 2] = [SlotKind::Regular, SlotKind::Long];
const PRIORITIES: [Priority; 3] = [Priority::Interactive, Priority::Normal, Priority::Background];

/// Maximum number of principals without a line that are kept; beyond it those served least are dropped
/// first.
const REMEMBERED: usize = 1 << 16;

/// A sequence in the queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueuedSequence {
    pub(crate) seq: SeqId,
    pub(crate) kind: SlotKind,
    pub(crate) priority: Priority,
    pub(crate) principal: Principal,
    /// Number in order of arrival.
    pub(crate) arrival: u64,
    /// Maximum number of tokens to compute before its next one.
    pub(crate) tokens: u32,
}

impl QueuedSequence {
    fn line(&self) -> Line {
        (self.kind, self.priority, self.principal)
    }
}

impl FairQueue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Tokens to compute over all queued sequences.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Number of queued sequences of a principal, of priority `least` or higher.
    pub(crate) fn len_of(&self, principal: Principal, least: Priority) -> usize {
        let lines = lines_of(principal).filter(|&(_, priority, _)| priority <= least);
        lines.filter_map(|line| self.lines.get(&line)).map(BTreeMap::len).sum()
    }

    /// Queues a sequence in order of arrival: a preempted one comes before later arrivals.
    pub(crate) fn push(&mut self, waiting: QueuedSequence) {
        let principal = waiting.principal;
        let served = self.floor.max(self.served(principal));
        self.set_served(principal, served);
        self.without_line.remove(&(served, principal));
        let before = self.first_arrival(waiting.line());
        self.lines.entry(waiting.line()).or_default().insert(waiting.arrival, waiting);
        self.reorder(waiting.line(), before);
        self.len += 1;
        self.tokens += u64::from(waiting.tokens);
    }

    /// The next sequence: of the highest priority, the first of the principal that was served least.
    pub(crate) fn next(&self, kind: SlotKind) -> Option<QueuedSequence> {
        self.heads(kind).next()
    }

    /// The first sequence of each principal with the highest priority, in order of turns.
    pub(crate) fn heads(&self, kind: SlotKind) -> impl Iterator<Item = QueuedSequence> {
        let all = (kind, Priority::Interactive)..=(kind, Priority::Background);
        let turns = self.turns.range(all).next();
        turns.into_iter().flat_map(move |(&(kind, priority), turns)| {
            turns.iter().filter_map(move |&(_, arrival, principal)| {
                self.lines.get(&(kind, priority, principal))?.get(&arrival).copied()
            })
        })
    }

    /// Removes a sequence.
    pub(crate) fn remove(&mut self, of: &QueuedSequence) {
        let before = self.first_arrival(of.line());
        let Some(line) = self.lines.get_mut(&of.line()) else { return };
        if let Some(waiting) = line.remove(&of.arrival) {
            self.len -= 1;
            self.tokens -= u64::from(waiting.tokens);
        }
        if line.is_empty() {
            self.lines.remove(&of.line());
        }
        self.reorder(of.line(), before);
        if !self.has_line(of.principal) {
            self.without_line.insert((self.served(of.principal), of.principal));
        }
    }

    /// Charges a principal for tokens.
    pub(crate) fn charge(&mut self, principal: Principal, tokens: u32) {
        let served = self.floor.max(self.served(principal)).saturating_add(u64::from(tokens));
        self.set_served(principal, served);
    }

    /// Takes back a charge.
    pub(crate) fn refund(&mut self, principal: Principal, tokens: u32) {
        if let Some(served) = self.served.get(&principal) {
            self.set_served(principal, served.saturating_sub(u64::from(tokens)));
        }
    }

    /// Raises the floor to the least that a queued or `active` principal was served, and drops absent
    /// principals at or below it.
    pub(crate) fn forget_idle(&mut self, active: impl Iterator<Item = Principal>) {
        let active: BTreeSet<Principal> = active.collect();
        let waiting = self.turns.values().filter_map(BTreeSet::first).map(|&(served, ..)| served);
        let least = active.iter().map(|&p| self.served(p)).chain(waiting).min();
        self.floor = self.floor.max(least.unwrap_or(self.floor));
        let mut stay = Vec::new();
        while let Some(&(served, principal)) = self.without_line.first() {
            if served > self.floor && self.without_line.len() <= REMEMBERED {
                break;
            }
            self.without_line.pop_first();
            if active.contains(&principal) {
                stay.push((served, principal));
            } else {
                self.served.remove(&principal);
            }
        }
        self.without_line.extend(stay);
    }

    fn served(&self, principal: Principal) -> u64 {
        self.served.get(&principal).copied().unwrap_or(0)
    }

    fn has_line(&self, principal: Principal) -> bool {
        lines_of(principal).any(|line| self.lines.contains_key(&line))
    }

    /// The first arrival in a line.
    fn first_arrival(&self, line: Line) -> Option<u64> {
        self.lines.get(&line)?.first_key_value().map(|(&arrival, _)| arrival)
    }

    /// Moves a line to its turn; its first arrival was `before`.
    fn reorder(&mut self, line: Line, before: Option<u64>) {
        let (now, served) = (self.first_arrival(line), self.served(line.2));
        if before == now {
            return;
        }
        let turns = self.turns.entry((line.0, line.1)).or_default();
        if let Some(arrival) = before {
            turns.remove(&(served, arrival, line.2));
        }
        if let Some(arrival) = now {
            turns.insert((served, arrival, line.2));
        }
        if turns.is_empty() {
            self.turns.remove(&(line.0, line.1));
        }
    }

    /// Sets what a principal was served, and moves its lines.
    fn set_served(&mut self, principal: Principal, served: u64) {
        let before = self.served.insert(principal, served);
        if before == Some(served) {
            return;
        }
        let mut waits = false;
        for line in lines_of(principal) {
            let Some(arrival) = self.first_arrival(line) else { continue };
            waits = true;
            if let Some(turns) = self.turns.get_mut(&(line.0, line.1)) {
                turns.remove(&(before.unwrap_or(0), arrival, principal));
                turns.insert((served, arrival, principal));
            }
        }
        if !waits {
            self.without_line.remove(&(before.unwrap_or(0), principal));
            self.without_line.insert((served, principal));
        }
    }
}

/// Every line that a principal can have.
fn lines_of(principal: Principal) -> impl Iterator<Item = Line> {
    let kinds = SLOT_KINDS.into_iter();
    kinds.flat_map(move |kind| {
        PRIORITIES.into_iter().map(move |priority| (kind, priority, principal))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::RequestId;

    const P: [Principal; 4] = [Principal(0), Principal(1), Principal(2), Principal(3)];

    fn waiting(id: u64, priority: Priority, principal: Principal) -> QueuedSequence {
        let seq = SeqId { request: RequestId(id), choice: 0 };
        QueuedSequence {
            seq,
            kind: SlotKind::Regular,
            priority,
            principal,
            arrival: id,
            tokens: 10,
        }
    }

    fn take(queue: &mut FairQueue) -> u64 {
        let next = queue.next(SlotKind::Regular).unwrap();
        queue.remove(&next);
        queue.charge(next.principal, next.tokens);
        next.seq.request.0
    }

    #[test]
    fn principals_take_turns_whatever_they_queue() {
        let mut queue = FairQueue::default();
        for id in 0..6 {
            queue.push(waiting(id, Priority::Normal, P[1]));
        }
        queue.push(waiting(6, Priority::Normal, P[2]));
        queue.push(waiting(7, Priority::Normal, P[2]));
        queue.push(waiting(8, Priority::Background, P[3]));
        queue.push(waiting(9, Priority::Interactive, P[1]));
        assert_eq!((queue.len(), queue.tokens()), (10, 100));
        let order: Vec<u64> = (0..10).map(|_| take(&mut queue)).collect();
        assert_eq!(order, [9, 6, 0, 7, 1, 2, 3, 4, 5, 8]);
        assert_eq!((queue.len(), queue.tokens()), (0, 0));
    }

    #[test]
    fn slot_kinds_do_not_wait_for_each_other() {
        let mut queue = FairQueue::default();
        let long =
            QueuedSequence { kind: SlotKind::Long, ..waiting(0, Priority::Interactive, P[1]) };
        queue.push(long);
        queue.push(waiting(1, Priority::Background, P[1]));
        assert_eq!(queue.next(SlotKind::Regular).unwrap().seq.request.0, 1);
        assert_eq!(queue.next(SlotKind::Long).unwrap().seq.request.0, 0);
        queue.remove(&long);
        assert!(queue.next(SlotKind::Long).is_none());
        assert_eq!((queue.len(), queue.tokens()), (1, 10));
    }

    #[test]
    fn a_new_principal_starts_level() {
        let mut queue = FairQueue::default();
        queue.push(waiting(0, Priority::Normal, P[1]));
        queue.charge(P[1], 5000);
        queue.forget_idle([P[1]].into_iter());
        queue.push(waiting(1, Priority::Normal, P[2]));
        assert_eq!(take(&mut queue), 0, "nothing is owed for what was had alone");
        assert_eq!(take(&mut queue), 1);
        queue.charge(P[2], 100);
        queue.forget_idle([P[1]].into_iter());
        assert_eq!(queue.served.len(), 2, "what is owed is not forgotten by leaving");
        queue.charge(P[1], 500);
        queue.forget_idle([P[1]].into_iter());
        assert_eq!(queue.served.len(), 1);
    }

    /// The same rules without an index: each question visits everything.
    #[derive(Default)]
    struct Plain {
        waiting: Vec<QueuedSequence>,
        served: BTreeMap<Principal, u64>,
        floor: u64,
    }

    impl Plain {
        fn served(&self, principal: Principal) -> u64 {
            self.served.get(&principal).copied().unwrap_or(0)
        }

        fn heads(&self, kind: SlotKind) -> Vec<SeqId> {
            let priority = self.waiting.iter().filter(|w| w.kind == kind).map(|w| w.priority).min();
            let of = self.waiting.iter().filter(|w| w.kind == kind && Some(w.priority) == priority);
            let mut first: BTreeMap<Principal, QueuedSequence> = BTreeMap::new();
            for w in of {
                let front = first.entry(w.principal).or_insert(*w);
                if w.arrival < front.arrival {
                    *front = *w;
                }
            }
            let mut heads: Vec<QueuedSequence> = first.into_values().collect();
            heads.sort_by_key(|w| (self.served(w.principal), w.arrival));
            heads.iter().map(|w| w.seq).collect()
        }

        fn forget_idle(&mut self, active: &[Principal]) {
            let waiting = self.waiting.iter().map(|w| w.principal);
            let present: BTreeSet<Principal> = active.iter().copied().chain(waiting).collect();
            let least = present.iter().map(|&p| self.served(p)).min();
            let floor = self.floor.max(least.unwrap_or(self.floor));
            self.floor = floor;
            self.served.retain(|p, had| present.contains(p) || *had > floor);
        }
    }

    proptest! {
        #[test]
        fn the_index_equals_a_walk_over_everything(
            deeds in proptest::collection::vec((0_u8..5, 0_u64..5, 0_u32..60, 0_u8..6), 1..120),
        ) {
            let (mut queue, mut plain) = (FairQueue::default(), Plain::default());
            for (arrival, (deed, principal, tokens, kind)) in (0_u64..).zip(deeds) {
                let principal = Principal(principal);
                let priority = PRIORITIES[usize::from(kind % 3)];
                let kind = SLOT_KINDS[usize::from(kind / 3)];
                match deed {
                    0 | 1 => {
                        // One in three returns with an old arrival.
                        let arrival = if tokens % 3 == 0 { arrival / 2 + 1000 } else { arrival };
                        let seq = SeqId { request: RequestId(arrival), choice: 0 };
                        if plain.waiting.iter().all(|w| w.arrival != arrival) {
                            let waiting = QueuedSequence { seq, kind, priority, principal, arrival, tokens };
                            queue.push(waiting);
                            let served = plain.floor.max(plain.served(principal));
                            plain.served.insert(principal, served);
                            plain.waiting.push(waiting);
                        }
                    }
                    2 => {
                        if !plain.waiting.is_empty() {
                            let at = tokens as usize % plain.waiting.len();
                            queue.remove(&plain.waiting.swap_remove(at));
                        }
                    }
                    3 if tokens % 2 == 0 => {
                        queue.charge(principal, tokens);
                        let served = plain.floor.max(plain.served(principal)) + u64::from(tokens);
                        plain.served.insert(principal, served);
                    }
                    3 => {
                        queue.refund(principal, tokens);
                        if let Some(served) = plain.served.get_mut(&principal) {
                            *served = served.saturating_sub(u64::from(tokens));
                        }
                    }
                    _ => {
                        queue.forget_idle([principal].into_iter());
                        plain.forget_idle(&[principal]);
                    }
                }
                for kind in SLOT_KINDS {
                    let heads: Vec<SeqId> = queue.heads(kind).map(|w| w.seq).collect();
                    prop_assert_eq!(heads, plain.heads(kind));
                }
                prop_assert_eq!(queue.len(), plain.waiting.len());
                prop_assert_eq!((&queue.served, queue.floor), (&plain.served, plain.floor));
                for priority in PRIORITIES {
                    let of = |w: &&QueuedSequence| w.principal == principal && w.priority <= priority;
                    let count = plain.waiting.iter().filter(of).count();
                    prop_assert_eq!(queue.len_of(principal, priority), count);
                }
            }
        }
    }
}
