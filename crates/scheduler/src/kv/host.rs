//! The host tier: what slots held, copied to host memory, and what of it makes room.
//!
//! Where slots can be cut back a copy takes as much as it has tokens. Where they cannot, a copy is
//! of any size (a window, a recurrent state, with or without all tokens beside it), so each is
//! measured when it is there, and what the next one will take is estimated from the shortest and the
//! longest that were.

use std::collections::BTreeMap;

use crate::kv::tree::{Match, Tree};
use crate::kv::{Begun, Kv, KvOp, LEAST_SAVED, Limit, Reuse, Salt, SavedId, SlotId, Worth};
use crate::kv::{cost, least_worth};

/// A sequence is not saved of which nobody else has less than this part, as a divisor.
const LEAST_PART_SAVED: u32 = 8;

/// How large copies are, where that does not follow from their tokens.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    of: BTreeMap<SavedId, Size>,
    pub(super) total: u64,
    /// The shortest and the longest that were measured.
    seen: Option<[Sample; 2]>,
}

/// A copy that was measured.
#[derive(Debug, Clone, Copy)]
struct Sample {
    tokens: u32,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Size {
    bytes: u64,
    /// Tokens that would have to be computed again without it.
    gain: u32,
}

impl Sizes {
    /// What a copy of so many tokens takes: a part that is the same in all and one that grows with
    /// the tokens, by the shortest and the longest measured; 0 where none was.
    ///
    /// Beyond those two it is a guess: a state grows with its tokens and never faster than they do, so
    /// it takes somewhat between as much as the nearer of them and a share of that. Where the guess is
    /// more than the `limit` it is the least of this: it is tried, and once it is measured that is
    /// known. Else nothing would ever be saved, or measured, again.
    pub(super) fn estimate(&self, len: u32, limit: u64) -> u64 {
        let Some([least, most]) = self.seen else { return 0 };
        let share =
            |of: Sample| i128::from(of.bytes) * i128::from(len) / i128::from(of.tokens.max(1));
        let from_least = i128::from(len) - i128::from(least.tokens);
        let line = match i128::from(most.tokens - least.tokens) {
            0 => share(least),
            apart => {
                let growth = i128::from(most.bytes) - i128::from(least.bytes);
                i128::from(least.bytes) + growth * from_least / apart
            }
        };
        let (low, high) = if len < least.tokens {
            (share(least), least.bytes.into())
        } else if len > most.tokens {
            (most.bytes.into(), share(most))
        } else {
            (line, line)
        };
        let guess = line.clamp(low, high);
        u64::try_from(if guess > limit.into() { low } else { guess }).unwrap_or(u64::MAX)
    }

    /// Takes in what a copy of so many tokens has taken.
    fn see(&mut self, tokens: u32, bytes: u64) {
        let new = Sample { tokens, bytes };
        let [least, most] = self.seen.get_or_insert([new; 2]);
        if tokens <= least.tokens {
            *least = new;
        }
        if tokens >= most.tokens {
            *most = new;
        }
    }

    fn set(&mut self, saved: SavedId, size: Size) {
        self.remove(saved);
        self.total = self.total.saturating_add(size.bytes);
        self.of.insert(saved, size);
    }

    fn remove(&mut self, saved: SavedId) {
        if let Some(size) = self.of.remove(&saved) {
            self.total -= size.bytes;
        }
    }
}

impl Kv {
    /// Tokens kept in host memory.
    pub(crate) fn saved(&self) -> u64 {
        self.saved.cells()
    }

    /// Takes in how many bytes a copy has taken; `None` where it could not be made.
    pub(crate) fn measured(&mut self, saved: SavedId, bytes: Option<u64>) {
        if !self.saved_worth.contains_key(&saved) {
            return;
        }
        let Some(bytes) = bytes else { return self.forget(saved) };
        if self.limits.rewinds {
            return;
        }
        self.saved_sizes.see(self.saved.len(saved), bytes);
        if bytes > self.limits.saved_bytes {
            // The others would go first and it last.
            return self.forget(saved);
        }
        if let Some(&size) = self.saved_sizes.of.get(&saved) {
            self.saved_sizes.set(saved, Size { bytes, ..size });
            self.rate_saved(saved);
        }
        while self.saved_sizes.total > self.limits.saved_bytes && self.evict_saved() {}
    }

    /// Copies a slot that makes room to host memory if it is worth that. Returns whether its tokens are
    /// there.
    pub(super) fn save(&mut self, slot: SlotId, tokens: &[u32], uses: f64) -> bool {
        let (salt, len) = (self.tree.salt(slot), self.tree.len(slot));
        let rewinds = self.limits.rewinds;
        let saved = self.saved.matches(salt, tokens);
        if saved.iter().any(|m| m.len == len && (rewinds || m.whole)) {
            return true;
        }
        // What others have as well need not be saved with this one; all of it would be.
        let others = self.tree.matches(salt, tokens);
        let others = others.iter().filter(|m| m.holder != slot);
        let others = others.filter(|m| rewinds || m.whole).map(|m| m.len);
        let saved = saved.iter().filter(|m| rewinds || m.whole).map(|m| m.len);
        let elsewhere = others.chain(saved).max().unwrap_or(0);
        let worth = len - elsewhere.min(len) >= LEAST_SAVED.max(len / LEAST_PART_SAVED);
        worth && self.store(slot, salt, tokens, uses)
    }

    /// Copies a slot to host memory if there is or can be room. Returns whether it is there.
    pub(super) fn store(&mut self, slot: SlotId, salt: Salt, tokens: &[u32], uses: f64) -> bool {
        let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if !self.host_holds(len, false) || self.copying.contains(&slot) {
            return false;
        }
        while !self.host_holds(len, true) {
            if !self.evict_saved() {
                return false;
            }
        }
        let saved = self.next_saved();
        let best = whole(&self.saved, salt, tokens, len);
        if !self.limits.rewinds {
            let gain = len - best.map_or(0, |m| m.len);
            let bytes = self.saved_sizes.estimate(len, self.limits.saved_bytes);
            self.saved_sizes.set(saved, Size { bytes, gain });
        }
        self.add_saved(saved, salt, tokens);
        self.saved_worth.insert(saved, Worth { uses, score: 0.0 });
        self.rate_saved(saved);
        self.ops.push(KvOp::Save { slot, saved });
        true
    }

    pub(super) fn next_saved(&mut self) -> SavedId {
        let saved = SavedId(self.next_saved);
        self.next_saved += 1;
        saved
    }

    pub(super) fn restore(
        &mut self,
        source: Match<SavedId>,
        salt: Salt,
        tokens: &[u32],
    ) -> Option<Begun> {
        // What makes room for it is not saved in its place.
        self.restoring = Some(source.holder);
        // All of it comes back before it is cut.
        let room = self.make_room(self.saved.len(source.holder));
        let slot = if room { self.fresh(None) } else { None };
        self.restoring = None;
        let slot = slot?;
        if self.copying.contains(&slot) {
            self.empty.insert(slot);
            return None;
        }
        let (saved, cached) = (source.holder, source.len);
        self.tree.open(slot, salt);
        self.tree.extend(slot, tokens.get(..cached as usize).unwrap_or(tokens));
        self.use_saved(saved);
        self.ops.push(KvOp::Restore { saved, slot, keep: cached });
        Some(Begun { slot, cached, reuse: Reuse::Host })
    }

    /// A copy was of use.
    pub(super) fn use_saved(&mut self, saved: SavedId) {
        if let Some(worth) = self.saved_worth.get_mut(&saved) {
            worth.uses += 1.0;
            self.rate_saved(saved);
        }
    }

    /// What host memory has of them that comes back into `capacity` tokens.
    pub(super) fn in_host(
        &self,
        salt: Salt,
        tokens: &[u32],
        limit: Limit,
        capacity: u32,
    ) -> Option<Match<SavedId>> {
        let usable = self.usable(self.saved.matches(salt, tokens), limit);
        let fits = usable.filter(|m| self.saved.len(m.holder) <= capacity);
        fits.max_by_key(|m| (m.len, m.whole, std::cmp::Reverse(m.holder)))
    }

    /// Whether a copy of so many tokens fits, beside the others or alone.
    fn host_holds(&self, len: u32, beside: bool) -> bool {
        let limits = &self.limits;
        if limits.rewinds {
            let others = if beside { self.saved.cells() } else { 0 };
            return others + u64::from(len) <= u64::from(limits.saved_tokens);
        }
        let others = if beside { self.saved_sizes.total } else { 0 };
        let all = others.saturating_add(self.saved_sizes.estimate(len, limits.saved_bytes));
        limits.saved_bytes > 0 && all <= limits.saved_bytes
    }

    /// Evicts the copy that is worth least.
    fn evict_saved(&mut self) -> bool {
        let others = self.saved_worth.iter().filter(|(saved, _)| Some(**saved) != self.restoring);
        let Some((least, worth)) = least_worth(others) else { return false };
        self.ages[1] = self.ages[1].max(worth.score);
        self.ghosts.add(self.saved.salt(least), &self.saved.tokens(least));
        self.forget(least);
        true
    }

    fn forget(&mut self, saved: SavedId) {
        self.saved.close(saved);
        self.saved_worth.remove(&saved);
        self.saved_sizes.remove(saved);
        self.ops.push(KvOp::Forget { saved });
    }

    /// Adds a copy to the index: behind one that begins like it where they share nodes.
    fn add_saved(&mut self, saved: SavedId, salt: Salt, tokens: &[u32]) {
        let found = self.saved.matches(salt, tokens);
        let longest = found.iter().filter(|_| !self.limits.rewinds).max_by_key(|m| m.len);
        let shared = longest.map_or(0, |m| m.len);
        match longest {
            Some(m) => self.saved.fork(m.holder, saved, m.len),
            None => self.saved.open(saved, salt),
        }
        self.saved.extend(saved, tokens.get(shared as usize..).unwrap_or_default());
    }

    /// What a copy is worth: its uses times what computing it again would take, by the room it takes.
    fn rate_saved(&mut self, saved: SavedId) {
        let (len, age) = (self.saved.len(saved), self.ages[1]);
        let price = match self.saved_sizes.of.get(&saved) {
            None => cost(len, 0),
            #[expect(clippy::cast_precision_loss, reason = "a score")]
            Some(&Size { bytes, gain }) => {
                f64::from(gain) * cost(gain, len.saturating_sub(gain)) / bytes.max(1) as f64
            }
        };
        if let Some(worth) = self.saved_worth.get_mut(&saved) {
            worth.score = age + worth.uses * price;
        }
    }
}

/// The longest holder of which all is the beginning of the tokens, and no more than `limit`.
pub(super) fn whole<K: Copy + Ord>(
    of: &Tree<K>,
    salt: Salt,
    tokens: &[u32],
    limit: u32,
) -> Option<Match<K>> {
    let found = of.matches(salt, tokens).into_iter().filter(|m| m.whole && m.len <= limit);
    found.max_by_key(|m| m.len)
}
