//! Who is next: by class, then by what each principal has had.

use std::collections::{BTreeMap, BTreeSet};

use crate::generation::SeqId;

/// On whose behalf a request comes: tokens are shared fairly between principals.
pub type Principal = u64;

/// How urgent a request is.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
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
///
/// Requests choose their principals, so there can be as many lines as sequences: everything here
/// takes logarithmic time in both, whatever waits.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// Each line by arrival. None is empty.
    lines: BTreeMap<Line, BTreeMap<u64, Waiting>>,
    /// The lines of each lane and class in order of turns.
    turns: BTreeMap<(Lane, Class), BTreeSet<Turn>>,
    /// Tokens that each principal has had, as far as that is still of interest.
    had: BTreeMap<Principal, u64>,
    /// Those of `had` that have no line.
    absent: BTreeSet<(u64, Principal)>,
    /// Where a principal starts that comes anew: what the one with the least had when it was last
    /// served.
    floor: u64,
    len: usize,
    tokens: u64,
}

type Line = (Lane, Class, Principal);

/// A line by the tokens that its principal has had, then by the arrival of its first.
type Turn = (u64, u64, Principal);

/// Lanes and classes: a principal has at most one line in each.
const LANES: [Lane; 2] = [Lane::Usual, Lane::Long];
const CLASSES: [Class; 3] = [Class::Interactive, Class::Normal, Class::Background];

/// Principals without a line whose tokens are remembered. Beyond that those that have had least are
/// forgotten first: what they would owe is the least.
const REMEMBERED: usize = 1 << 16;

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
    fn line(&self) -> Line {
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

    /// Sequences of a principal that wait, of `least` class or more urgent.
    pub(crate) fn len_of(&self, principal: Principal, least: Class) -> usize {
        let lines = lines_of(principal).filter(|&(_, class, _)| class <= least);
        lines.filter_map(|line| self.lines.get(&line)).map(BTreeMap::len).sum()
    }

    /// Puts a sequence into its line, in order of arrival: one that was taken out of the batch
    /// comes before those that arrived after it.
    pub(crate) fn push(&mut self, waiting: Waiting) {
        let principal = waiting.principal;
        let had = self.floor.max(self.had(principal));
        self.set_had(principal, had);
        self.absent.remove(&(had, principal));
        let before = self.front(waiting.line());
        self.lines.entry(waiting.line()).or_default().insert(waiting.arrival, waiting);
        self.move_turn(waiting.line(), before);
        self.len += 1;
        self.tokens += u64::from(waiting.tokens);
    }

    /// Whose turn it is: of the most urgent class the first of the principal that has had least.
    pub(crate) fn next(&self, lane: Lane) -> Option<Waiting> {
        self.fronts(lane).next()
    }

    /// The first of each principal in the most urgent class, in order of turns.
    pub(crate) fn fronts(&self, lane: Lane) -> impl Iterator<Item = Waiting> {
        let all = (lane, Class::Interactive)..=(lane, Class::Background);
        let turns = self.turns.range(all).next();
        turns.into_iter().flat_map(move |(&(lane, class), turns)| {
            turns.iter().filter_map(move |&(_, arrival, principal)| {
                self.lines.get(&(lane, class, principal))?.get(&arrival).copied()
            })
        })
    }

    /// Takes a sequence out.
    pub(crate) fn remove(&mut self, of: &Waiting) {
        let before = self.front(of.line());
        let Some(line) = self.lines.get_mut(&of.line()) else { return };
        if let Some(waiting) = line.remove(&of.arrival) {
            self.len -= 1;
            self.tokens -= u64::from(waiting.tokens);
        }
        if line.is_empty() {
            self.lines.remove(&of.line());
        }
        self.move_turn(of.line(), before);
        if !self.has_line(of.principal) {
            self.absent.insert((self.had(of.principal), of.principal));
        }
    }

    /// Tells that a principal gets tokens.
    pub(crate) fn charge(&mut self, principal: Principal, tokens: u32) {
        let had = self.floor.max(self.had(principal)).saturating_add(u64::from(tokens));
        self.set_had(principal, had);
    }

    /// Tells that it did not need so many.
    pub(crate) fn refund(&mut self, principal: Principal, tokens: u32) {
        if let Some(had) = self.had.get(&principal) {
            self.set_had(principal, had.saturating_sub(u64::from(tokens)));
        }
    }

    /// Forgets the principals that need not be known: those that neither wait nor are `active`
    /// and have had no more than whoever has had least of the others.
    pub(crate) fn settle(&mut self, active: impl Iterator<Item = Principal>) {
        let active: BTreeSet<Principal> = active.collect();
        let waiting = self.turns.values().filter_map(BTreeSet::first).map(|&(had, ..)| had);
        let least = active.iter().map(|&p| self.had(p)).chain(waiting).min();
        self.floor = self.floor.max(least.unwrap_or(self.floor));
        let mut stay = Vec::new();
        while let Some(&(had, principal)) = self.absent.first() {
            if had > self.floor && self.absent.len() <= REMEMBERED {
                break;
            }
            self.absent.pop_first();
            if active.contains(&principal) {
                stay.push((had, principal));
            } else {
                self.had.remove(&principal);
            }
        }
        self.absent.extend(stay);
    }

    fn had(&self, principal: Principal) -> u64 {
        self.had.get(&principal).copied().unwrap_or(0)
    }

    fn has_line(&self, principal: Principal) -> bool {
        lines_of(principal).any(|line| self.lines.contains_key(&line))
    }

    /// The arrival of a line's first.
    fn front(&self, line: Line) -> Option<u64> {
        self.lines.get(&line)?.first_key_value().map(|(&arrival, _)| arrival)
    }

    /// Puts a line where it belongs among the turns; its first was `before`.
    fn move_turn(&mut self, line: Line, before: Option<u64>) {
        let (now, had) = (self.front(line), self.had(line.2));
        if before == now {
            return;
        }
        let turns = self.turns.entry((line.0, line.1)).or_default();
        if let Some(arrival) = before {
            turns.remove(&(had, arrival, line.2));
        }
        if let Some(arrival) = now {
            turns.insert((had, arrival, line.2));
        }
        if turns.is_empty() {
            self.turns.remove(&(line.0, line.1));
        }
    }

    /// Remembers what a principal has had.
    fn set_had(&mut self, principal: Principal, had: u64) {
        let before = self.had.insert(principal, had);
        if before == Some(had) {
            return;
        }
        let mut waits = false;
        for line in lines_of(principal) {
            let Some(arrival) = self.front(line) else { continue };
            waits = true;
            if let Some(turns) = self.turns.get_mut(&(line.0, line.1)) {
                turns.remove(&(before.unwrap_or(0), arrival, principal));
                turns.insert((had, arrival, principal));
            }
        }
        if !waits {
            self.absent.remove(&(before.unwrap_or(0), principal));
            self.absent.insert((had, principal));
        }
    }
}

/// Every line that a principal may have.
fn lines_of(principal: Principal) -> impl Iterator<Item = Line> {
    let lanes = LANES.into_iter();
    lanes.flat_map(move |lane| CLASSES.into_iter().map(move |class| (lane, class, principal)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// The same rules in the plainest way: every question goes through all that is there.
    #[derive(Default)]
    struct Plain {
        waiting: Vec<Waiting>,
        had: BTreeMap<Principal, u64>,
        floor: u64,
    }

    impl Plain {
        fn had(&self, principal: Principal) -> u64 {
            self.had.get(&principal).copied().unwrap_or(0)
        }

        fn fronts(&self, lane: Lane) -> Vec<SeqId> {
            let class = self.waiting.iter().filter(|w| w.lane == lane).map(|w| w.class).min();
            let of = self.waiting.iter().filter(|w| w.lane == lane && Some(w.class) == class);
            let mut first: BTreeMap<Principal, Waiting> = BTreeMap::new();
            for w in of {
                let front = first.entry(w.principal).or_insert(*w);
                if w.arrival < front.arrival {
                    *front = *w;
                }
            }
            let mut fronts: Vec<Waiting> = first.into_values().collect();
            fronts.sort_by_key(|w| (self.had(w.principal), w.arrival));
            fronts.iter().map(|w| w.seq).collect()
        }

        fn settle(&mut self, active: &[Principal]) {
            let waiting = self.waiting.iter().map(|w| w.principal);
            let present: BTreeSet<Principal> = active.iter().copied().chain(waiting).collect();
            let least = present.iter().map(|&p| self.had(p)).min();
            let floor = self.floor.max(least.unwrap_or(self.floor));
            self.floor = floor;
            self.had.retain(|p, had| present.contains(p) || *had > floor);
        }
    }

    proptest! {
        #[test]
        fn the_index_says_what_a_walk_over_everything_says(
            deeds in proptest::collection::vec((0_u8..5, 0_u64..5, 0_u32..60, 0_u8..6), 1..120),
        ) {
            let (mut queue, mut plain) = (Queue::default(), Plain::default());
            for (arrival, (deed, principal, tokens, kind)) in (0_u64..).zip(deeds) {
                let class = CLASSES[usize::from(kind % 3)];
                let lane = LANES[usize::from(kind / 3)];
                match deed {
                    0 | 1 => {
                        // One in three comes back to an old place.
                        let arrival = if tokens % 3 == 0 { arrival / 2 + 1000 } else { arrival };
                        let seq = SeqId { request: RequestId(arrival), choice: 0 };
                        if plain.waiting.iter().all(|w| w.arrival != arrival) {
                            let waiting = Waiting { seq, lane, class, principal, arrival, tokens };
                            queue.push(waiting);
                            let had = plain.floor.max(plain.had(principal));
                            plain.had.insert(principal, had);
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
                        let had = plain.floor.max(plain.had(principal)) + u64::from(tokens);
                        plain.had.insert(principal, had);
                    }
                    3 => {
                        queue.refund(principal, tokens);
                        if let Some(had) = plain.had.get_mut(&principal) {
                            *had = had.saturating_sub(u64::from(tokens));
                        }
                    }
                    _ => {
                        queue.settle([principal].into_iter());
                        plain.settle(&[principal]);
                    }
                }
                for lane in LANES {
                    let fronts: Vec<SeqId> = queue.fronts(lane).map(|w| w.seq).collect();
                    prop_assert_eq!(fronts, plain.fronts(lane));
                }
                prop_assert_eq!(queue.len(), plain.waiting.len());
                prop_assert_eq!((&queue.had, queue.floor), (&plain.had, plain.floor));
                for class in CLASSES {
                    let of = |w: &&Waiting| w.principal == principal && w.class <= class;
                    let count = plain.waiting.iter().filter(of).count();
                    prop_assert_eq!(queue.len_of(principal, class), count);
                }
            }
        }
    }
}
