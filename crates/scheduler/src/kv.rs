//! Who holds which KV: running sequences, parked ones, and those saved to host memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::kv::ghost::Ghosts;
use crate::kv::host::Sizes;
use crate::kv::long::Long;
use crate::kv::tree::{Match, Tree};

pub(crate) mod checkpoints;
mod ghost;
mod host;
mod long;
pub(crate) mod tree;

pub use tree::Salt;

/// A sequence of the KV cache, as the engine numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// A sequence's state in host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SavedId(pub u64);

/// What the KV cache is. All counts are in tokens unless they say otherwise.
#[derive(Debug, Clone, Copy)]
pub struct KvLimits {
    /// Number of slots, in use and parked, the long one aside.
    pub slots: u32,
    /// Cells over all slots.
    pub cells: u32,
    /// What one slot can hold.
    pub slot_tokens: u32,
    /// What the long slot can hold, the last one, which has cells of its own; 0 where there is
    /// none.
    pub long_tokens: u32,
    /// Whether slots that begin alike can hold the same cells; else they hold copies.
    pub shares: bool,
    /// Whether a slot can be cut back to any length; else only to nothing.
    pub rewinds: bool,
    /// Cells that nobody running holds and that may be kept.
    pub parked_tokens: u32,
    /// What host memory may keep beside that.
    pub saved_tokens: u32,
    /// What it may keep instead where slots cannot be cut back, in bytes: what such a slot holds is of
    /// any size, so it is measured.
    pub saved_bytes: u64,
    /// How far apart the checkpoints of a prompt are at least where slots cannot be cut back.
    pub checkpoint_every: u32,
}

impl KvLimits {
    /// What one request can hold, prompt and answer.
    pub fn request_tokens(&self) -> u32 {
        self.slot_tokens.min(self.cells).max(self.long_tokens)
    }

    /// The long slot.
    pub fn long_slot(&self) -> Option<SlotId> {
        (self.long_tokens > 0).then_some(SlotId(self.slots))
    }

    /// Whether what a slot holds on the way through a prompt is kept: it cannot be cut back to that.
    pub fn checkpoints(&self) -> bool {
        !self.rewinds && self.saved_bytes > 0 && self.checkpoint_every > 0
    }

    /// What a slot can hold.
    pub(crate) fn capacity(&self, slot: SlotId) -> u32 {
        if Some(slot) == self.long_slot() { self.long_tokens } else { self.slot_tokens }
    }
}

/// What is to be done to the KV cache before a step, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvOp {
    /// Drop what a slot holds from position `keep` on.
    Trim {
        /// The slot.
        slot: SlotId,
        /// How many tokens stay.
        keep: u32,
    },
    /// Make a slot, which is empty, begin like another.
    Copy {
        /// The other.
        from: SlotId,
        /// The slot.
        to: SlotId,
        /// The tokens it gets.
        keep: u32,
    },
    /// Keep a copy of what a slot holds in host memory.
    Save {
        /// The slot.
        slot: SlotId,
        /// The copy's number; never used before.
        saved: SavedId,
    },
    /// Make a slot, which is empty, begin like a copy in host memory.
    Restore {
        /// The copy.
        saved: SavedId,
        /// The slot.
        slot: SlotId,
        /// The tokens it gets.
        keep: u32,
    },
    /// Forget a copy in host memory.
    Forget {
        /// The copy.
        saved: SavedId,
    },
}

/// Whether a prompt's beginning was there already, and why not.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Reuse {
    /// In a slot.
    Device,
    /// In host memory.
    Host,
    /// Nobody had a prompt that begins so.
    Unseen,
    /// Somebody had, but it had to make room.
    Evicted,
    /// Somebody has, but the model cannot go back to where the two part.
    NoRewind,
    /// Somebody has, but less than a copy is worth, or than is reused where texts shall be reproducible.
    Short,
    /// The prompt's own logits are wanted, so all of it is computed.
    Unwanted,
}

/// How much of what is there may be reused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// At most so many tokens,
    pub(crate) tokens: u32,
    /// and a multiple of so many; at least 1.
    pub(crate) multiple: u32,
}

impl Limit {
    /// What may be reused of so many tokens.
    fn of(self, tokens: u32) -> u32 {
        let most = tokens.min(self.tokens);
        most - most % self.multiple.max(1)
    }
}

/// A copy from one slot to another is one of all their cells, whatever is wanted of them. So many cells are copied
/// in less than half the time that one token takes to compute (measured: 2.5 µs a cell of SmolLM2, 2 ms a token; of
/// larger models a token takes longer by more than a cell does). Fewer than [`LEAST_COPY`] tokens are not worth it.
const CELLS_OF_A_TOKEN: u32 = 128;
const LEAST_COPY: u32 = 16;
/// Fewer tokens than this are neither saved to host memory nor restored for.
const LEAST_SAVED: u32 = 64;
/// Depth at which recomputing a token costs twice as much as at the beginning.
const DOUBLING_DEPTH: f64 = 2048.0;

/// A sequence that has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) slot: SlotId,
    /// Tokens that it holds already.
    pub(crate) cached: u32,
    pub(crate) reuse: Reuse,
}

/// The slots, what they hold, and what is parked.
#[derive(Debug)]
pub(crate) struct Kv {
    limits: KvLimits,
    tree: Tree<SlotId>,
    empty: BTreeSet<SlotId>,
    parked: BTreeMap<SlotId, Worth>,
    long: Option<Long>,
    saved: Tree<SavedId>,
    saved_worth: BTreeMap<SavedId, Worth>,
    saved_sizes: Sizes,
    /// A copy that is about to come back: it is not evicted.
    restoring: Option<SavedId>,
    ghosts: Ghosts,
    next_saved: u64,
    /// Scores of what was evicted last, on the device and from host memory: what is parked later
    /// starts from there, so that old worth fades.
    ages: [f64; 2],
    ops: Vec<KvOp>,
    /// Slots of copies that the backend makes when the next step runs, not before: until then
    /// nothing may be saved from them or restored into them.
    copying: BTreeSet<SlotId>,
    evictions: u64,
}

/// What keeping something is worth: how often it was used, times what computing it would cost, by
/// the cells it takes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Worth {
    uses: f64,
    score: f64,
}

impl Kv {
    pub(crate) fn new(limits: KvLimits) -> Self {
        Self {
            limits,
            tree: Tree::new(limits.shares),
            empty: (0..limits.slots).map(SlotId).collect(),
            parked: BTreeMap::new(),
            long: limits.long_slot().map(Long::new),
            // Checkpoints of a prompt begin alike.
            saved: Tree::new(!limits.rewinds),
            saved_worth: BTreeMap::new(),
            saved_sizes: Sizes::default(),
            restoring: None,
            ghosts: Ghosts::default(),
            next_saved: 0,
            ages: [0.0; 2],
            ops: Vec::new(),
            copying: BTreeSet::new(),
            evictions: 0,
        }
    }

    /// What is to be done before the next step; `runs` says whether there is anything to compute
    /// in it.
    pub(crate) fn take_ops(&mut self, runs: bool) -> Vec<KvOp> {
        if runs {
            self.copying.clear();
        }
        std::mem::take(&mut self.ops)
    }

    /// Cells that running sequences hold, in the long slot or others.
    pub(crate) fn running(&self) -> u64 {
        self.pinned() + self.long.as_ref().map_or(0, Long::running)
    }

    /// Cells that running sequences hold, that in the long slot aside.
    pub(crate) fn pinned(&self) -> u64 {
        self.tree.cells_of(|slot| !self.parked.contains_key(&slot))
    }

    /// Cells that parked sequences alone hold.
    pub(crate) fn parked(&self) -> u64 {
        self.tree.cells() - self.pinned()
    }

    /// Parked sequences that had to make room.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Cells that would be free if a running sequence were not.
    pub(crate) fn exclusive(&self, slot: SlotId) -> u32 {
        if self.is_long(slot) { 0 } else { self.tree.exclusive(slot) }
    }

    /// Cells that running sequences could still take: where each slot has its own, whoever is in
    /// one fits.
    pub(crate) fn available(&self) -> u32 {
        if !self.limits.shares {
            return u32::MAX;
        }
        let left = u64::from(self.limits.cells).saturating_sub(self.pinned());
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// How many of the first tokens can be reused within `limit`.
    pub(crate) fn longest(&self, salt: Salt, tokens: &[u32], limit: Limit) -> u32 {
        let device = self.on_device(salt, tokens, limit).map_or(0, |m| m.len);
        let host = self.in_host(salt, tokens, limit, self.limits.slot_tokens);
        device.max(host.map_or(0, |m| m.len))
    }

    /// How many of the first tokens a running sequence holds, if cells can be shared with it.
    pub(crate) fn shareable(&self, salt: Salt, tokens: &[u32]) -> u32 {
        let matches = if self.limits.shares { self.tree.matches(salt, tokens) } else { Vec::new() };
        let running = matches.iter().filter(|m| !self.parked.contains_key(&m.holder));
        running.map(|m| m.len).max().unwrap_or(0)
    }

    /// Gives a sequence a slot that holds as many of its first tokens as anybody has, at most
    /// by the `limit`. `None` where all slots run.
    pub(crate) fn begin(&mut self, salt: Salt, tokens: &[u32], limit: Limit) -> Option<Begun> {
        let device = self.on_device(salt, tokens, limit);
        let have = device.map_or(0, |m| m.len);
        let host = self.in_host(salt, tokens, limit, self.limits.slot_tokens);
        let host = host.filter(|m| m.len >= have + LEAST_SAVED);
        let device = match host {
            None => device,
            Some(host) => match self.restore(host, salt, tokens) {
                Some(begun) => return Some(begun),
                // It may have been evicted to make room for what then could not be restored.
                None => self.on_device(salt, tokens, limit),
            },
        };
        let Some(source) = device else {
            let slot = self.fresh(None)?;
            self.tree.open(slot, salt);
            return Some(Begun { slot, cached: 0, reuse: self.why_not(salt, tokens, limit) });
        };
        let (len, reuse) = (source.len, Reuse::Device);
        self.use_parked(source.holder);
        // A parked sequence that goes on loses nothing, unless its slot lies apart from those that
        // run; one that would be cut may be wanted whole.
        let next = self.next_slot(Some(source.holder));
        let better = |slot: &SlotId| self.gaps(*slot) < self.gaps(source.holder);
        let adopts = self.parked.contains_key(&source.holder) && source.whole;
        let next = next.filter(|slot| !adopts || better(slot));
        let Some(slot) = next else {
            self.parked.remove(&source.holder)?;
            self.truncate(source.holder, len);
            return Some(Begun { slot: source.holder, cached: len, reuse });
        };
        // What the slot holds itself is there without a copy.
        let own = self.usable(self.tree.matches(salt, tokens), limit).find(|m| m.holder == slot);
        let own = own.map_or(0, |m| m.len);
        self.retire(slot);
        let least = LEAST_COPY.max(self.limits.slot_tokens / CELLS_OF_A_TOKEN);
        if !self.limits.shares && len < own + least {
            self.parked.remove(&slot);
            self.empty.remove(&slot);
            self.tree.truncate_or_open(slot, own, salt);
            self.ops.push(KvOp::Trim { slot, keep: own });
            let reuse = if own > 0 { reuse } else { Reuse::Short };
            return Some(Begun { slot, cached: own, reuse });
        }
        self.vacate(slot);
        self.tree.fork(source.holder, slot, len);
        self.ops.push(KvOp::Copy { from: source.holder, to: slot, keep: len });
        if !self.limits.shares {
            self.copying.extend([source.holder, slot]);
        }
        Some(Begun { slot, cached: len, reuse })
    }

    /// Adds tokens that were computed.
    pub(crate) fn extend(&mut self, slot: SlotId, tokens: &[u32]) {
        match self.long_at(slot) {
            Some(long) => long.extend(tokens),
            None => self.tree.extend(slot, tokens),
        }
    }

    /// Drops what a slot holds behind `keep` tokens, whether it was added or not.
    pub(crate) fn truncate(&mut self, slot: SlotId, keep: u32) {
        match self.long_at(slot) {
            Some(long) => long.truncate(keep),
            None => self.tree.truncate(slot, keep),
        }
        self.ops.push(KvOp::Trim { slot, keep });
    }

    /// Takes a slot back and keeps what it holds for whoever begins alike.
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
            // It holds all that these hold.
            for part in others.iter().filter(|m| m.whole) {
                if let Some(worth) = self.parked.get(&part.holder) {
                    uses += worth.uses;
                    self.release(part.holder);
                }
            }
        }
        self.parked.insert(slot, Worth { uses, score: 0.0 });
        self.rate(slot);
        while self.parked() > u64::from(self.limits.parked_tokens) && self.evict() {}
    }

    /// Takes a slot back whose content is not to be used again.
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

    /// Evicts what is worth least until `cells` are free. Returns whether they are.
    pub(crate) fn make_room(&mut self, cells: u32) -> bool {
        let fits = |kv: &Self| kv.tree.cells() + u64::from(cells) <= u64::from(kv.limits.cells);
        while !fits(self) {
            if !self.evict() {
                return false;
            }
        }
        true
    }

    /// An empty slot, made by eviction if need be; not of `except`.
    fn fresh(&mut self, except: Option<SlotId>) -> Option<SlotId> {
        let slot = self.next_slot(except)?;
        self.retire(slot);
        self.vacate(slot);
        Some(slot)
    }

    /// The slot to use next, which may hold something that is then to be retired. Where slots do not
    /// share cells, rows in slots side by side are computed together and others one group after the
    /// other, in every step to come: so the best connected one comes first. Of these an empty one,
    /// else one that was used once, else the one worth least.
    fn next_slot(&self, except: Option<SlotId>) -> Option<SlotId> {
        let empty = self.empty.iter().map(|&slot| (self.gaps(slot), 0, 0.0, slot));
        let parked = self.parked.iter().map(|(&slot, worth)| {
            let kind = if worth.uses > 1.0 { 2 } else { 1 };
            (self.gaps(slot), kind, worth.score, slot)
        });
        let candidates = empty.chain(parked).filter(|c| Some(c.3) != except);
        let best = candidates.min_by(|a, b| {
            (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
        });
        best.map(|(.., slot)| slot)
    }

    /// Slots beside this one where nobody runs, where that matters.
    fn gaps(&self, slot: SlotId) -> usize {
        let runs = |slot: Option<u32>| {
            let slot = slot.map(SlotId).filter(|s| s.0 < self.limits.slots);
            slot.is_some_and(|s| !self.empty.contains(&s) && !self.parked.contains_key(&s))
        };
        let beside = [slot.0.checked_sub(1), slot.0.checked_add(1)].map(runs);
        if self.limits.shares { 0 } else { beside.into_iter().filter(|r| !r).count() }
    }

    /// Evicts the parked sequence that is worth least.
    fn evict(&mut self) -> bool {
        let Some((slot, _)) = least_worth(&self.parked) else { return false };
        self.retire(slot);
        self.release(slot);
        true
    }

    /// Before a parked sequence goes: what took long to compute is saved to host memory.
    fn retire(&mut self, slot: SlotId) {
        let Some(&worth) = self.parked.get(&slot) else { return };
        self.ages[0] = self.ages[0].max(worth.score);
        self.evictions += 1;
        let tokens = self.tree.tokens(slot);
        if !self.save(slot, &tokens, worth.uses) {
            self.ghosts.add(self.tree.salt(slot), &tokens);
        }
    }

    /// Makes a slot that nobody runs in ready for a new sequence.
    fn vacate(&mut self, slot: SlotId) {
        if self.parked.contains_key(&slot) {
            self.release(slot);
        }
        self.empty.remove(&slot);
    }

    fn on_device(&self, salt: Salt, tokens: &[u32], limit: Limit) -> Option<Match<SlotId>> {
        let usable = self.usable(self.tree.matches(salt, tokens), limit);
        usable.max_by_key(|m| {
            let parked = self.parked.contains_key(&m.holder);
            (m.len, parked && m.whole, parked, std::cmp::Reverse(m.holder))
        })
    }

    /// What can be used of each match: all where a slot can be cut back, else all or nothing.
    fn usable<K>(&self, found: Vec<Match<K>>, limit: Limit) -> impl Iterator<Item = Match<K>> {
        let rewinds = self.limits.rewinds;
        let cut = move |m: Match<K>| {
            let len = limit.of(m.len);
            Match { len, whole: m.whole && m.len == len, ..m }
        };
        found.into_iter().map(cut).filter(move |m| m.len > 0 && (rewinds || m.whole))
    }

    fn why_not(&self, salt: Salt, tokens: &[u32], limit: Limit) -> Reuse {
        if limit.of(limit.tokens) == 0 {
            Reuse::Short
        } else if !self.limits.rewinds && self.seen(salt, tokens).parts >= ghost::LENGTH {
            Reuse::NoRewind
        } else if self.ghosts.knows(salt, tokens) {
            Reuse::Evicted
        } else {
            Reuse::Unseen
        }
    }

    /// Tells that a parked sequence was of use.
    fn use_parked(&mut self, slot: SlotId) {
        if let Some(worth) = self.parked.get_mut(&slot) {
            worth.uses += 1.0;
            self.rate(slot);
        }
    }

    fn rate(&mut self, slot: SlotId) {
        let (exclusive, len) = (self.tree.exclusive(slot), self.tree.len(slot));
        let age = self.ages[0];
        if let Some(worth) = self.parked.get_mut(&slot) {
            worth.score = age + worth.uses * cost(exclusive, len - exclusive);
        }
    }
}

/// What is worth least.
fn least_worth<'k, K: Copy + 'k>(
    of: impl IntoIterator<Item = (&'k K, &'k Worth)>,
) -> Option<(K, Worth)> {
    let least = of.into_iter().min_by(|a, b| a.1.score.total_cmp(&b.1.score));
    least.map(|(&key, &worth)| (key, worth))
}

/// What computing `tokens` tokens behind `before` others costs, for each of them.
fn cost(tokens: u32, before: u32) -> f64 {
    1.0 + (f64::from(before) + f64::from(tokens) / 2.0) / DOUBLING_DEPTH
}

#[cfg(test)]
mod tests;
