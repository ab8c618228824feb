//! The host tier: copies of slots in host memory, their reuse and eviction.

use crate::ids::{HostCopyId, Salt, SlotId, Token};
use crate::kv::copy_sizes::CopySize;
use crate::kv::eviction_score::{EvictionScore, cost, lowest_score};
use crate::kv::prefix_tree::Match;
use crate::kv::reuse::{MIN_HOST_TOKENS, Reuse, ReuseLimit, SlotAssignment};
use crate::kv::{KvCache, KvOp};

/// A slot is copied only if at least this part of it, as a divisor, is nowhere else.
const MIN_UNIQUE_PART: u32 = 8;

impl KvCache {
    /// Tokens of all copies in host memory.
    pub(crate) fn host_tokens(&self) -> u64 {
        self.copies.cells()
    }

    /// Records the size of a copy in bytes; `None` drops it, as it could not be made.
    pub(crate) fn record_copy_size(&mut self, copy: HostCopyId, bytes: Option<u64>) {
        if !self.copy_scores.contains_key(&copy) {
            return;
        }
        let Some(bytes) = bytes else { return self.drop_copy(copy) };
        if self.limits.rewinds {
            return;
        }
        self.copy_sizes.see(self.copies.len(copy), bytes);
        if bytes > self.limits.saved_bytes {
            // Eviction would drop all others before this one.
            return self.drop_copy(copy);
        }
        if let Some(&size) = self.copy_sizes.of.get(&copy) {
            self.copy_sizes.set(copy, CopySize { bytes, ..size });
            self.rescore_copy(copy);
        }
        while self.copy_sizes.total > self.limits.saved_bytes && self.evict_copy() {}
    }

    /// Copies an evicted slot to host memory if that is worthwhile. Returns whether its tokens are there.
    pub(super) fn save_if_worthwhile(&mut self, slot: SlotId, tokens: &[Token], uses: f64) -> bool {
        let (salt, len) = (self.tree.salt(slot), self.tree.len(slot));
        let rewinds = self.limits.rewinds;
        let copies = self.copies.matches(salt, tokens);
        if copies.iter().any(|m| m.len == len && (rewinds || m.whole)) {
            return true;
        }
        // Tokens that others hold too need no copy.
        let others = self.tree.matches(salt, tokens);
        let others = others.iter().filter(|m| m.holder != slot);
        let others = others.filter(|m| rewinds || m.whole).map(|m| m.len);
        let copies = copies.iter().filter(|m| rewinds || m.whole).map(|m| m.len);
        let elsewhere = others.chain(copies).max().unwrap_or(0);
        let worth = len - elsewhere.min(len) >= MIN_HOST_TOKENS.max(len / MIN_UNIQUE_PART);
        worth && self.add_copy(slot, salt, tokens, uses)
    }

    /// Copies a slot to host memory, after evicting others if need be. Returns whether it does.
    pub(super) fn add_copy(
        &mut self,
        slot: SlotId,
        salt: Salt,
        tokens: &[Token],
        uses: f64,
    ) -> bool {
        let len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if !self.fits_host(len, false) || self.copying.contains(&slot) {
            return false;
        }
        while !self.fits_host(len, true) {
            if !self.evict_copy() {
                return false;
            }
        }
        let copy = self.next_copy_id();
        let best = self.copies.longest_whole(salt, tokens, len);
        if !self.limits.rewinds {
            let gain = len - best.map_or(0, |m| m.len);
            let bytes = self.copy_sizes.estimate(len, self.limits.saved_bytes);
            self.copy_sizes.set(copy, CopySize { bytes, gain });
        }
        self.index_copy(copy, salt, tokens);
        self.copy_scores.insert(copy, EvictionScore { uses, value: 0.0 });
        self.rescore_copy(copy);
        self.ops.push(KvOp::Save { slot, copy });
        true
    }

    pub(super) fn next_copy_id(&mut self) -> HostCopyId {
        let copy = HostCopyId(self.next_copy);
        self.next_copy += 1;
        copy
    }

    pub(super) fn restore(
        &mut self,
        source: Match<HostCopyId>,
        salt: Salt,
        tokens: &[Token],
    ) -> Option<SlotAssignment> {
        // Slots evicted for it must not evict this copy.
        self.restoring = Some(source.holder);
        // The whole copy is restored before it is trimmed.
        let room = self.make_room(self.copies.len(source.holder));
        let slot = if room { self.free_slot(None) } else { None };
        self.restoring = None;
        let slot = slot?;
        if self.copying.contains(&slot) {
            self.empty.insert(slot);
            return None;
        }
        let (copy, cached) = (source.holder, source.len);
        self.tree.open(slot, salt);
        self.tree.extend(slot, tokens.get(..cached as usize).unwrap_or(tokens));
        self.count_copy_use(copy);
        self.ops.push(KvOp::Restore { copy, slot, keep: cached });
        Some(SlotAssignment { slot, cached, reuse: Reuse::Host })
    }

    /// Counts a use of a copy.
    pub(super) fn count_copy_use(&mut self, copy: HostCopyId) {
        if let Some(score) = self.copy_scores.get_mut(&copy) {
            score.uses += 1.0;
            self.rescore_copy(copy);
        }
    }

    /// The copy with the longest reusable prefix that fits into `capacity` tokens.
    pub(super) fn longest_in_host(
        &self,
        salt: Salt,
        tokens: &[Token],
        limit: ReuseLimit,
        capacity: u32,
    ) -> Option<Match<HostCopyId>> {
        let usable = self.usable(self.copies.matches(salt, tokens), limit);
        let fits = usable.filter(|m| self.copies.len(m.holder) <= capacity);
        fits.max_by_key(|m| (m.len, m.whole, std::cmp::Reverse(m.holder)))
    }

    /// Whether a copy of `len` tokens fits, beside the others or alone.
    fn fits_host(&self, len: u32, beside: bool) -> bool {
        let limits = &self.limits;
        if limits.rewinds {
            let others = if beside { self.copies.cells() } else { 0 };
            return others + u64::from(len) <= u64::from(limits.saved_tokens);
        }
        let others = if beside { self.copy_sizes.total } else { 0 };
        let all = others.saturating_add(self.copy_sizes.estimate(len, limits.saved_bytes));
        limits.saved_bytes > 0 && all <= limits.saved_bytes
    }

    /// Evicts the copy with the lowest score. Returns whether there was one.
    fn evict_copy(&mut self) -> bool {
        let others = self.copy_scores.iter().filter(|(copy, _)| Some(**copy) != self.restoring);
        let Some((least, score)) = lowest_score(others) else { return false };
        self.ages[1] = self.ages[1].max(score.value);
        self.evicted_prefixes.add(self.copies.salt(least), &self.copies.tokens(least));
        self.drop_copy(least);
        true
    }

    fn drop_copy(&mut self, copy: HostCopyId) {
        self.copies.close(copy);
        self.copy_scores.remove(&copy);
        self.copy_sizes.remove(copy);
        self.ops.push(KvOp::Forget { copy });
    }

    /// Adds a copy to the index; copies of prompts with checkpoints share nodes.
    fn index_copy(&mut self, copy: HostCopyId, salt: Salt, tokens: &[Token]) {
        let found = self.copies.matches(salt, tokens);
        let longest = found.iter().filter(|_| !self.limits.rewinds).max_by_key(|m| m.len);
        let shared = longest.map_or(0, |m| m.len);
        match longest {
            Some(m) => self.copies.fork(m.holder, copy, m.len),
            None => self.copies.open(copy, salt),
        }
        self.copies.extend(copy, tokens.get(shared as usize..).unwrap_or_default());
    }

    /// Computes the score of a copy: its uses times the cost of computing it again, by the room it takes.
    fn rescore_copy(&mut self, copy: HostCopyId) {
        let (len, age) = (self.copies.len(copy), self.ages[1]);
        let price = match self.copy_sizes.of.get(&copy) {
            None => cost(len, 0),
            #[expect(clippy::cast_precision_loss, reason = "a score")]
            Some(&CopySize { bytes, gain }) => {
                f64::from(gain) * cost(gain, len.saturating_sub(gain)) / bytes.max(1) as f64
            }
        };
        if let Some(score) = self.copy_scores.get_mut(&copy) {
            score.value = age + score.uses * price;
        }
    }
}
