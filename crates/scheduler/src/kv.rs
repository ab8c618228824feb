//! The prefix cache: what active slots, parked slots and copies in host memory hold, and its reuse.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{HostCopyId, Salt, SlotId, Token};
use crate::kv::copy_sizes::CopySizes;
use crate::kv::evicted_prefixes::EvictedPrefixes;
use crate::kv::eviction_score::{EvictionScore, cost, lowest_score};
use crate::kv::long_slot::LongSlot;
use crate::kv::prefix_tree::{Match, PrefixTree};
use crate::kv::reuse::{MIN_HOST_TOKENS, ReuseLimit, SlotAssignment};

pub(crate) mod checkpoints;
mod copy_sizes;
mod evicted_prefixes;
mod eviction_score;
mod host_tier;
mod limits;
mod long_slot;
mod long_slot_reuse;
mod op;
pub(crate) mod prefix_tree;
pub(crate) mod reuse;

pub use limits::KvLimits;
pub use op::KvOp;
pub use reuse::Reuse;

/// Cells that are copied in less than half the time that one token takes to compute.
///
/// A copy between slots is one of all their cells, whatever part is needed. Measured with SmolLM2: 2.5 µs a
/// cell, 2 ms a token; with larger models the time of a token grows by more than that of a cell.
const CELLS_COPIED_PER_TOKEN: u32 = 128;
/// Minimum number of tokens that a copy between slots must save.
const MIN_COPIED_TOKENS: u32 = 16;

/// The slots, their content, and copies in host memory.
#[derive(Debug)]
pub(crate) struct KvCache {
    limits: KvLimits,
    /// What slots hold, active and parked, the long slot aside.
    tree: PrefixTree<SlotId>,
    empty: BTreeSet<SlotId>,
    parked: BTreeMap<SlotId, EvictionScore>,
    long: Option<LongSlot>,
    /// What host memory holds.
    copies: PrefixTree<HostCopyId>,
    copy_scores: BTreeMap<HostCopyId, EvictionScore>,
    copy_sizes: CopySizes,
    /// A copy that is being restored: it is not evicted.
    restoring: Option<HostCopyId>,
    evicted_prefixes: EvictedPrefixes,
    next_copy: u64,
    /// Scores evicted last, on the device and in host memory: new scores start from them, so that old
    /// ones fade.
    ages: [f64; 2],
    ops: Vec<KvOp>,
    /// Slots of pending copies: the backend makes them when the next step runs, and until then no state
    /// is saved from these slots or restored into them.
    copying: BTreeSet<SlotId>,
    evictions: u64,
}

impl KvCache {
    pub(crate) fn new(limits: KvLimits) -> Self {
        Self {
            limits,
            tree: PrefixTree::new(limits.shares),
            empty: (0..limits.slots).map(SlotId).collect(),
            parked: BTreeMap::new(),
            long: limits.long_slot().map(LongSlot::new),
            // Checkpoints of a prompt share its prefix.
            copies: PrefixTree::new(!limits.rewinds),
            copy_scores: BTreeMap::new(),
            copy_sizes: CopySizes::default(),
            restoring: None,
            evicted_prefixes: EvictedPrefixes::default(),
            next_copy: 0,
            ages: [0.0; 2],
            ops: Vec::new(),
            copying: BTreeSet::new(),
            evictions: 0,
        }
    }

    /// Takes the changes that come before the next step; `runs` says whether the step computes anything.
    pub(crate) fn take_ops(&mut self, runs: bool) -> Vec<KvOp> {
        if runs {
            self.copying.clear();
        }
        std::mem::take(&mut self.ops)
    }

    /// Cells of active sequences, the long slot included.
    pub(crate) fn running(&self) -> u64 {
        self.pinned() + self.long.as_ref().map_or(0, LongSlot::running)
    }

    /// Cells of active sequences, the long slot aside.
    pub(crate) fn pinned(&self) -> u64 {
        self.tree.cells_of(|slot| !self.parked.contains_key(&slot))
    }

    /// Cells that only parked slots hold.
    pub(crate) fn parked(&self) -> u64 {
        self.tree.cells() - self.pinned()
    }

    /// Number of parked slots evicted so far.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Cells that would be free without the sequence in `slot`.
    pub(crate) fn exclusive(&self, slot: SlotId) -> u32 {
        if self.is_long(slot) { 0 } else { self.tree.exclusive(slot) }
    }

    /// Cells that active sequences can still take; unbounded if each slot has cells of its own.
    pub(crate) fn available(&self) -> u32 {
        if !self.limits.shares {
            return u32::MAX;
        }
        let left = u64::from(self.limits.cells).saturating_sub(self.pinned());
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Length of the longest prefix that can be reused within `limit`.
    pub(crate) fn longest_reusable(&self, salt: Salt, tokens: &[Token], limit: ReuseLimit) -> u32 {
        let device = self.longest_on_device(salt, tokens, limit).map_or(0, |m| m.len);
        let host = self.longest_in_host(salt, tokens, limit, self.limits.slot_tokens);
        device.max(host.map_or(0, |m| m.len))
    }

    /// Length of the longest prefix in an active slot, if slots share cells.
    pub(crate) fn shareable(&self, salt: Salt, tokens: &[Token]) -> u32 {
        let matches = if self.limits.shares { self.tree.matches(salt, tokens) } else { Vec::new() };
        let running = matches.iter().filter(|m| !self.parked.contains_key(&m.holder));
        running.map(|m| m.len).max().unwrap_or(0)
    }

    /// Assigns a slot that holds the longest reusable prefix within `limit`; `None` if all slots are
    /// active.
    pub(crate) fn assign(
        &mut self,
        salt: Salt,
        tokens: &[Token],
        limit: ReuseLimit,
    ) -> Option<SlotAssignment> {
        let device = self.longest_on_device(salt, tokens, limit);
        let have = device.map_or(0, |m| m.len);
        let host = self.longest_in_host(salt, tokens, limit, self.limits.slot_tokens);
        let host = host.filter(|m| m.len >= have + MIN_HOST_TOKENS);
        let device = match host {
            None => device,
            Some(host) => match self.restore(host, salt, tokens) {
                Some(assignment) => return Some(assignment),
                // Making room may have evicted the match on the device.
                None => self.longest_on_device(salt, tokens, limit),
            },
        };
        let Some(source) = device else {
            let slot = self.free_slot(None)?;
            self.tree.open(slot, salt);
            return Some(SlotAssignment {
                slot,
                cached: 0,
                reuse: self.miss_reason(salt, tokens, limit),
            });
        };
        let (len, reuse) = (source.len, Reuse::Device);
        self.count_parked_use(source.holder);
        // Continuing a parked slot loses nothing, unless the slot lies apart from the active ones; one
        // that would be trimmed may be needed whole.
        let next = self.next_slot(Some(source.holder));
        let better = |slot: &SlotId| self.gaps(*slot) < self.gaps(source.holder);
        let adopts = self.parked.contains_key(&source.holder) && source.whole;
        let next = next.filter(|slot| !adopts || better(slot));
        let Some(slot) = next else {
            self.parked.remove(&source.holder)?;
            self.truncate(source.holder, len);
            return Some(SlotAssignment { slot: source.holder, cached: len, reuse });
        };
        // What the new slot holds itself needs no copy.
        let own = self.usable(self.tree.matches(salt, tokens), limit).find(|m| m.holder == slot);
        let own = own.map_or(0, |m| m.len);
        self.save_evicted(slot);
        let least = MIN_COPIED_TOKENS.max(self.limits.slot_tokens / CELLS_COPIED_PER_TOKEN);
        if !self.limits.shares && len < own + least {
            self.parked.remove(&slot);
            self.empty.remove(&slot);
            self.tree.truncate_or_open(slot, own, salt);
            self.ops.push(KvOp::Trim { slot, keep: own });
            let reuse = if own > 0 { reuse } else { Reuse::Short };
            return Some(SlotAssignment { slot, cached: own, reuse });
        }
        self.take_slot(slot);
        self.tree.fork(source.holder, slot, len);
        self.ops.push(KvOp::Copy { from: source.holder, to: slot, keep: len });
        if !self.limits.shares {
            self.copying.extend([source.holder, slot]);
        }
        Some(SlotAssignment { slot, cached: len, reuse })
    }

    /// Adds computed tokens to a slot.
    pub(crate) fn extend(&mut self, slot: SlotId, tokens: &[Token]) {
        match self.long_at(slot) {
            Some(long) => long.extend(tokens),
            None => self.tree.extend(slot, tokens),
        }
    }

    /// Trims a slot to `keep` tokens, drafts that were not added included.
    pub(crate) fn truncate(&mut self, slot: SlotId, keep: u32) {
        match self.long_at(slot) {
            Some(long) => long.truncate(keep),
            None => self.tree.truncate(slot, keep),
        }
        self.ops.push(KvOp::Trim { slot, keep });
    }

    /// Parks a slot: its content stays for reuse.
    pub(crate) fn park(&mut self, slot: SlotId) {
        if let Some(long) = self.long_at(slot) {
            return long.park();
        }
        let tokens = self.tree.tokens(slot);
        let others = self.tree.matches(self.tree.salt(slot), &tokens);
        let others: Vec<_> = others.into_iter().filter(|m| m.holder != slot).collect();
        let len = self.tree.len(slot);
        let covered = |m: &Match<SlotId>| m.len == len && (self.limits.rewinds || m.whole);
        if tokens.is_empty() || others.iter().any(covered) {
            return self.release(slot);
        }
        let mut uses = 1.0;
        if self.limits.rewinds {
            // The slot holds all that these hold.
            for part in others.iter().filter(|m| m.whole) {
                if let Some(score) = self.parked.get(&part.holder) {
                    uses += score.uses;
                    self.release(part.holder);
                }
            }
        }
        self.parked.insert(slot, EvictionScore { uses, value: 0.0 });
        self.rescore(slot);
        while self.parked() > u64::from(self.limits.parked_tokens) && self.evict() {}
    }

    /// Empties a slot without keeping its content.
    pub(crate) fn release(&mut self, slot: SlotId) {
        if let Some(long) = self.long_at(slot) {
            long.clear();
            self.ops.push(KvOp::Trim { slot, keep: 0 });
            return;
        }
        self.parked.remove(&slot);
        self.tree.close(slot);
        self.ops.push(KvOp::Trim { slot, keep: 0 });
        self.empty.insert(slot);
    }

    /// Evicts the lowest scores until `cells` are free. Returns whether they are.
    pub(crate) fn make_room(&mut self, cells: u32) -> bool {
        let fits = |kv: &Self| kv.tree.cells() + u64::from(cells) <= u64::from(kv.limits.cells);
        while !fits(self) {
            if !self.evict() {
                return false;
            }
        }
        true
    }

    /// Frees a slot other than `except`, by eviction if need be.
    fn free_slot(&mut self, except: Option<SlotId>) -> Option<SlotId> {
        let slot = self.next_slot(except)?;
        self.save_evicted(slot);
        self.take_slot(slot);
        Some(slot)
    }

    /// The empty or parked slot to use next.
    ///
    /// If slots do not share cells, rows in adjacent slots are computed together and others one group
    /// after another, in every later step: so the slot with the most active neighbours comes first. Of
    /// these an empty one, else one used once, else the one with the lowest score.
    fn next_slot(&self, except: Option<SlotId>) -> Option<SlotId> {
        let empty = self.empty.iter().map(|&slot| (self.gaps(slot), 0, 0.0, slot));
        let parked = self.parked.iter().map(|(&slot, score)| {
            let kind = if score.uses > 1.0 { 2 } else { 1 };
            (self.gaps(slot), kind, score.value, slot)
        });
        let candidates = empty.chain(parked).filter(|c| Some(c.3) != except);
        let best = candidates.min_by(|a, b| {
            (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
        });
        best.map(|(.., slot)| slot)
    }

    /// Number of neighbours of a slot that are not active; 0 if slots share cells.
    fn gaps(&self, slot: SlotId) -> usize {
        let runs = |slot: Option<u32>| {
            let slot = slot.map(SlotId).filter(|s| s.0 < self.limits.slots);
            slot.is_some_and(|s| !self.empty.contains(&s) && !self.parked.contains_key(&s))
        };
        let beside = [slot.0.checked_sub(1), slot.0.checked_add(1)].map(runs);
        if self.limits.shares { 0 } else { beside.into_iter().filter(|r| !r).count() }
    }

    /// Evicts the parked slot with the lowest score. Returns whether there was one.
    fn evict(&mut self) -> bool {
        let Some((slot, _)) = lowest_score(&self.parked) else { return false };
        self.save_evicted(slot);
        self.release(slot);
        true
    }

    /// Counts the eviction of a parked slot and copies it to host memory if that is worthwhile.
    fn save_evicted(&mut self, slot: SlotId) {
        let Some(&score) = self.parked.get(&slot) else { return };
        self.ages[0] = self.ages[0].max(score.value);
        self.evictions += 1;
        let tokens = self.tree.tokens(slot);
        if !self.save_if_worthwhile(slot, &tokens, score.uses) {
            self.evicted_prefixes.add(self.tree.salt(slot), &tokens);
        }
    }

    /// Takes an empty or parked slot for a new sequence.
    fn take_slot(&mut self, slot: SlotId) {
        if self.parked.contains_key(&slot) {
            self.release(slot);
        }
        self.empty.remove(&slot);
    }

    /// The slot with the longest reusable prefix, a parked one first.
    fn longest_on_device(
        &self,
        salt: Salt,
        tokens: &[Token],
        limit: ReuseLimit,
    ) -> Option<Match<SlotId>> {
        let usable = self.usable(self.tree.matches(salt, tokens), limit);
        usable.max_by_key(|m| {
            let parked = self.parked.contains_key(&m.holder);
            (m.len, parked && m.whole, parked, std::cmp::Reverse(m.holder))
        })
    }

    /// The reusable part of each match: any prefix if slots can be trimmed, else all or nothing.
    fn usable<K>(&self, found: Vec<Match<K>>, limit: ReuseLimit) -> impl Iterator<Item = Match<K>> {
        let rewinds = self.limits.rewinds;
        let cut = move |m: Match<K>| {
            let len = limit.of(m.len);
            Match { len, whole: m.whole && m.len == len, ..m }
        };
        found.into_iter().map(cut).filter(move |m| m.len > 0 && (rewinds || m.whole))
    }

    /// Why nothing is reused.
    fn miss_reason(&self, salt: Salt, tokens: &[Token], limit: ReuseLimit) -> Reuse {
        if limit.of(limit.tokens) == 0 {
            Reuse::Short
        } else if !self.limits.rewinds
            && self.known_prefix(salt, tokens).parts >= evicted_prefixes::LENGTH
        {
            Reuse::NoRewind
        } else if self.evicted_prefixes.knows(salt, tokens) {
            Reuse::Evicted
        } else {
            Reuse::Unseen
        }
    }

    /// Counts a use of a parked slot, if it is one.
    fn count_parked_use(&mut self, slot: SlotId) {
        if let Some(score) = self.parked.get_mut(&slot) {
            score.uses += 1.0;
            self.rescore(slot);
        }
    }

    /// Computes the score of a parked slot.
    fn rescore(&mut self, slot: SlotId) {
        let (exclusive, len) = (self.tree.exclusive(slot), self.tree.len(slot));
        let age = self.ages[0];
        if let Some(score) = self.parked.get_mut(&slot) {
            score.value = age + score.uses * cost(exclusive, len - exclusive);
        }
    }
}

#[cfg(test)]
mod tests;
