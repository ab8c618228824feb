//! The slots that nobody runs in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::generation::SlotId;

/// Empty slots, and slots that still hold the head of the prompt they had last.
#[derive(Debug)]
pub(crate) struct IdleSlots {
    empty: BTreeSet<SlotId>,
    parked: BTreeMap<SlotId, Parked>,
    /// Counts what was parked, so that the oldest is known.
    parkings: u64,
}

#[derive(Debug)]
struct Parked {
    head: Arc<[u32]>,
    at: u64,
}

impl IdleSlots {
    pub(crate) fn new(slots: u32) -> Self {
        Self { empty: (0..slots).map(SlotId).collect(), parked: BTreeMap::new(), parkings: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.empty.len() + self.parked.len()
    }

    /// A slot for a prompt that begins with `head`, and how many tokens of it the slot holds
    /// already: one with the same head, else the lowest empty one (slots in use stay next to each
    /// other), else the one that was parked first.
    pub(crate) fn take(&mut self, head: &[u32]) -> Option<(SlotId, u32)> {
        let same = self.parked.iter().find(|(_, p)| !head.is_empty() && *p.head == *head);
        if let Some((&slot, _)) = same {
            self.parked.remove(&slot);
            return Some((slot, u32::try_from(head.len()).unwrap_or(u32::MAX)));
        }
        self.empty.pop_first().or_else(|| self.evict()).map(|slot| (slot, 0))
    }

    fn evict(&mut self) -> Option<SlotId> {
        let (&slot, _) = self.parked.iter().min_by_key(|(_, p)| p.at)?;
        self.parked.remove(&slot);
        Some(slot)
    }

    /// Takes a slot back that holds at least `head`; what is behind it does not count.
    pub(crate) fn give(&mut self, slot: SlotId, head: Arc<[u32]>) {
        if head.is_empty() {
            self.empty.insert(slot);
        } else {
            self.parkings += 1;
            self.parked.insert(slot, Parked { head, at: self.parkings });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_with_the_same_head_comes_first_then_an_empty_one_then_the_oldest() {
        let (a, b): (Arc<[u32]>, Arc<[u32]>) = ([1, 2, 3].into(), [1, 2].into());
        let mut idle = IdleSlots::new(3);
        for _ in 0..3 {
            idle.take(&a);
        }
        assert_eq!(idle.take(&[]), None);
        idle.give(SlotId(2), Arc::clone(&b));
        idle.give(SlotId(0), Arc::clone(&a));
        idle.give(SlotId(1), [].into());
        assert_eq!(idle.len(), 3);
        assert_eq!(idle.take(&a), Some((SlotId(0), 3)));
        assert_eq!(idle.take(&a), Some((SlotId(1), 0)), "part of a head is not the head");
        assert_eq!(idle.take(&a), Some((SlotId(2), 0)));
        assert_eq!(idle.len(), 0);
    }
}
