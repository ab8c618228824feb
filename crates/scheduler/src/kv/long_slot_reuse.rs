//! Assigning the long slot, with the longest reusable prefix.

use crate::ids::{Salt, SlotId, Token};
use crate::kv::long_slot::LongSlot;
use crate::kv::prefix_tree::{Match, common_prefix};
use crate::kv::reuse::{MIN_HOST_TOKENS, Reuse, ReuseLimit, SlotAssignment};
use crate::kv::{KvCache, KvOp};

impl KvCache {
    pub(super) fn is_long(&self, slot: SlotId) -> bool {
        self.limits.long_slot() == Some(slot)
    }

    pub(super) fn long_at(&mut self, slot: SlotId) -> Option<&mut LongSlot> {
        self.long.as_mut().filter(|long| long.slot == slot)
    }

    /// Length of the longest prefix within `limit` that can be reused in the long slot.
    pub(crate) fn longest_reusable_in_long_slot(
        &self,
        salt: Salt,
        tokens: &[Token],
        limit: ReuseLimit,
    ) -> u32 {
        let own = self.reusable_in_long_slot(salt, tokens, limit);
        let device = self.source_for_long_slot(salt, tokens, limit).map_or(0, |m| m.len);
        let host = self.longest_in_host(salt, tokens, limit, self.limits.long_tokens);
        own.max(device).max(host.map_or(0, |m| m.len))
    }

    /// Assigns the long slot with the longest reusable prefix within `limit`; `None` if it is active or
    /// there is none.
    pub(crate) fn assign_long(
        &mut self,
        salt: Salt,
        tokens: &[Token],
        limit: ReuseLimit,
    ) -> Option<SlotAssignment> {
        let slot = self.long.as_ref().filter(|long| !long.is_active)?.slot;
        let own = self.reusable_in_long_slot(salt, tokens, limit);
        let device = self
            .source_for_long_slot(salt, tokens, limit)
            .filter(|m| m.len >= own + MIN_HOST_TOKENS);
        let best = own.max(device.map_or(0, |m| m.len));
        let host = self.longest_in_host(salt, tokens, limit, self.limits.long_tokens);
        let host = host.filter(|m| m.len >= best + MIN_HOST_TOKENS);
        let (cached, reuse) = if let Some(source) = host {
            // Its content is not copied first: that could evict the source.
            self.release(slot);
            self.count_copy_use(source.holder);
            self.ops.push(KvOp::Restore { copy: source.holder, slot, keep: source.len });
            (source.len, Reuse::Host)
        } else if let Some(source) = device {
            self.clear_long_slot();
            let copy = self.next_copy_id();
            self.ops.push(KvOp::Save { slot: source.holder, copy });
            self.ops.push(KvOp::Restore { copy, slot, keep: source.len });
            self.ops.push(KvOp::Forget { copy });
            self.count_parked_use(source.holder);
            (source.len, Reuse::Device)
        } else if own > 0 {
            self.truncate(slot, own);
            (own, Reuse::Device)
        } else {
            self.clear_long_slot();
            (0, self.miss_reason(salt, tokens, limit))
        };
        let long = self.long.as_mut()?;
        long.tokens.clear();
        long.extend(tokens.get(..cached as usize).unwrap_or_default());
        (long.salt, long.is_active) = (salt, true);
        Some(SlotAssignment { slot, cached, reuse })
    }

    /// Length of the reusable prefix that the long slot itself holds.
    fn reusable_in_long_slot(&self, salt: Salt, tokens: &[Token], limit: ReuseLimit) -> u32 {
        let Some(long) = self.long.as_ref().filter(|long| long.salt == salt) else { return 0 };
        let len = limit.of(common_prefix(&long.tokens, tokens));
        let whole = len as usize == long.tokens.len();
        if self.limits.rewinds || whole { len } else { 0 }
    }

    /// The slot to copy from, among those without a pending copy.
    fn source_for_long_slot(
        &self,
        salt: Salt,
        tokens: &[Token],
        limit: ReuseLimit,
    ) -> Option<Match<SlotId>> {
        let usable = self.usable(self.tree.matches(salt, tokens), limit);
        usable.filter(|m| !self.copying.contains(&m.holder)).max_by_key(|m| (m.len, m.whole))
    }

    /// Empties the long slot, after copying its content to host memory if that is worthwhile.
    fn clear_long_slot(&mut self) {
        let Some(long) = self.long.as_ref() else { return };
        let (slot, salt, tokens) = (long.slot, long.salt, long.tokens.clone());
        let copies = self.copies.matches(salt, &tokens);
        let covers = |m: &Match<_>| self.limits.rewinds || m.whole;
        let there = copies.iter().any(|m| m.len as usize == tokens.len() && covers(m));
        if tokens.len() >= MIN_HOST_TOKENS as usize
            && !there
            && !self.add_copy(slot, salt, &tokens, 1.0)
        {
            self.evicted_prefixes.add(salt, &tokens);
        }
        self.release(slot);
    }
}
