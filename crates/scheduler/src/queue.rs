//! Who is next: by class, then by what each principal has had.

use std::collections::{BTreeMap, VecDeque};

use crate::generation::SeqId;

/// On whose behalf a request comes: tokens are shared fairly between principals.
pub type Principal = u64;

/// How urgent a request is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Before all others.
    Interactive,
    /// In between.
    #[default]
    Normal,
    /// Only while nobody else has anything to compute.
    Background,
}

/// What kind of slot a sequence waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Any of the usual ones.
    Usual,
    /// The long one.
    Long,
}

/// Sequences that wait, in a line for each lane, class and principal.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: BTreeMap<(Lane, Class, Principal), VecDeque<Waiting>>,
    /// Tokens that each principal has had, as far as that is still of interest.
    had: BTreeMap<Principal, u64>,
    /// Where a principal starts that comes anew: what the one with the least had when it was last
    /// served.
    floor: u64,
    len: usize,
    tokens: u64,
}

/// A sequence that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) seq: SeqId,
    pub(crate) lane: Lane,
    pub(crate) class: Class,
    pub(crate) principal: Principal,
    /// Its number in order of arrival.
    pub(crate) arrival: u64,
    /// What it will have to compute before its next token, at most.
    pub(crate) tokens: u32,
}

impl Waiting {
    fn line(&self) -> (Lane, Class, Principal) {
        (self.lane, self.class, self.principal)
    }
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Tokens to compute over all that wait.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Puts a sequence into its line, in order of arrival: one that was taken out of the batch
    /// comes before those that arrived after it.
    pub(crate) fn push(&mut self, waiting: Waiting) {
        let had = self.had.entry(waiting.principal).or_insert(0);
        *had = self.floor.max(*had);
        let line = self.lines.entry(waiting.line()).or_default();
        let at = line.partition_point(|w| w.arrival < waiting.arrival);
        line.insert(at, waiting);
        self.len += 1;
        self.tokens += u64::from(waiting.tokens);
    }

    /// Whose turn it is: of the most urgent class the first of the principal that has had least.
    pub(crate) fn next(&self, lane: Lane) -> Option<Waiting> {
        self.fronts(lane).first().copied()
    }

    /// The first of each principal in the most urgent class, in order of turns.
    pub(crate) fn fronts(&self, lane: Lane) -> Vec<Waiting> {
        let all = (lane, Class::Interactive, 0)..=(lane, Class::Background, Principal::MAX);
        let Some((&(_, class, _), _)) = self.lines.range(all).next() else { return Vec::new() };
        let lines = self.lines.range((lane, class, 0)..=(lane, class, Principal::MAX));
        let mut fronts: Vec<Waiting> =
            lines.filter_map(|(_, line)| line.front().copied()).collect();
        fronts.sort_by_key(|w| (self.had.get(&w.principal), w.arrival));
        fronts
    }

    /// Takes a sequence out.
    pub(crate) fn remove(&mut self, of: &Waiting) {
        let Some(line) = self.lines.get_mut(&of.line()) else { return };
        let at = line.iter().position(|w| w.seq == of.seq);
        if let Some(waiting) = at.and_then(|at| line.remove(at)) {
            self.len -= 1;
            self.tokens -= u64::from(waiting.tokens);
        }
        if line.is_empty() {
            self.lines.remove(&of.line());
        }
    }

    /// Tells that a principal gets tokens.
    pub(crate) fn charge(&mut self, principal: Principal, tokens: u32) {
        let had = self.had.entry(principal).or_insert(0);
        *had = self.floor.max(*had).saturating_add(u64::from(tokens));
    }

    /// Tells that it did not need so many.
    pub(crate) fn refund(&mut self, principal: Principal, tokens: u32) {
        if let Some(had) = self.had.get_mut(&principal) {
            *had = had.saturating_sub(u64::from(tokens));
        }
    }

    /// Forgets the principals that need not be known: those that neither wait nor are `active`
    /// and have had no more than whoever has had least of the others.
    pub(crate) fn settle(&mut self, active: impl Iterator<Item = Principal>) {
        let waiting = self.lines.keys().map(|&(_, _, principal)| principal);
        let present: std::collections::BTreeSet<Principal> = active.chain(waiting).collect();
        let had = |p: &Principal| self.had.get(p).copied().unwrap_or(0);
        self.floor = self.floor.max(present.iter().map(had).min().unwrap_or(self.floor));
        let floor = self.floor;
        self.had.retain(|p, had| present.contains(p) || *had > floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::RequestId;

    fn waiting(id: u64, class: Class, principal: Principal) -> Waiting {
        let seq = SeqId { request: RequestId(id), choice: 0 };
        Waiting { seq, lane: Lane::Usual, class, principal, arrival: id, tokens: 10 }
    }

    fn take(queue: &mut Queue) -> u64 {
        let next = queue.next(Lane::Usual).unwrap();
        queue.remove(&next);
        queue.charge(next.principal, next.tokens);
        next.seq.request.0
    }

    #[test]
    fn principals_take_turns_whatever_they_queue() {
        let mut queue = Queue::default();
        for id in 0..6 {
            queue.push(waiting(id, Class::Normal, 1));
        }
        queue.push(waiting(6, Class::Normal, 2));
        queue.push(waiting(7, Class::Normal, 2));
        queue.push(waiting(8, Class::Background, 3));
        queue.push(waiting(9, Class::Interactive, 1));
        assert_eq!((queue.len(), queue.tokens()), (10, 100));
        let order: Vec<u64> = (0..10).map(|_| take(&mut queue)).collect();
        assert_eq!(order, [9, 6, 0, 7, 1, 2, 3, 4, 5, 8]);
        assert_eq!((queue.len(), queue.tokens()), (0, 0));
    }

    #[test]
    fn lanes_do_not_wait_for_each_other() {
        let mut queue = Queue::default();
        let long = Waiting { lane: Lane::Long, ..waiting(0, Class::Interactive, 1) };
        queue.push(long);
        queue.push(waiting(1, Class::Background, 1));
        assert_eq!(queue.next(Lane::Usual).unwrap().seq.request.0, 1);
        assert_eq!(queue.next(Lane::Long).unwrap().seq.request.0, 0);
        queue.remove(&long);
        assert!(queue.next(Lane::Long).is_none());
        assert_eq!((queue.len(), queue.tokens()), (1, 10));
    }

    #[test]
    fn who_comes_anew_starts_level() {
        let mut queue = Queue::default();
        queue.push(waiting(0, Class::Normal, 1));
        queue.charge(1, 5000);
        queue.settle([1].into_iter());
        queue.push(waiting(1, Class::Normal, 2));
        assert_eq!(take(&mut queue), 0, "nothing is owed for what was had alone");
        assert_eq!(take(&mut queue), 1);
        queue.charge(2, 100);
        queue.settle([1].into_iter());
        assert_eq!(queue.had.len(), 2, "what is owed is not forgotten by leaving");
        queue.charge(1, 500);
        queue.settle([1].into_iter());
        assert_eq!(queue.had.len(), 1);
    }
}
