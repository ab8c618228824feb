//! The long slot: beside slots that each have a part of the cells, one that holds as much as the
//! model can, for a request that has outgrown its part.
//!
//! It has cells of its own, so nothing is copied into it from another slot but through host memory,
//! and others never begin like it.

use crate::kv::tree::{Match, common_prefix};
use crate::kv::{Begun, Kv, KvOp, LEAST_SAVED, Limit, Reuse, Salt, SlotId};

/// The long slot and what it holds.
#[derive(Debug)]
pub(super) struct Long {
    slot: SlotId,
    salt: Salt,
    tokens: Vec<u32>,
    runs: bool,
}

impl Long {
    pub(super) fn new(slot: SlotId) -> Self {
        Self { slot, salt: 0, tokens: Vec::new(), runs: false }
    }

    /// Tokens that a running sequence holds in it.
    pub(super) fn running(&self) -> u64 {
        if self.runs { self.tokens.len() as u64 } else { 0 }
    }

    /// What it holds, and whose that is.
    pub(super) fn held(&self) -> (Salt, Vec<u32>) {
        (self.salt, self.tokens.clone())
    }

    pub(super) fn extend(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    pub(super) fn truncate(&mut self, keep: u32) {
        self.tokens.truncate(keep as usize);
    }

    /// It does not run any more; what it holds stays until somebody else needs it.
    pub(super) fn park(&mut self) {
        self.runs = false;
    }

    pub(super) fn clear(&mut self) {
        self.runs = false;
        self.tokens.clear();
    }
}

impl Kv {
    pub(super) fn is_long(&self, slot: SlotId) -> bool {
        self.limits.long_slot() == Some(slot)
    }

    pub(super) fn long_at(&mut self, slot: SlotId) -> Option<&mut Long> {
        self.long.as_mut().filter(|long| long.slot == slot)
    }

    /// How many of the first tokens are there for the long slot, at most by the `limit`.
    pub(crate) fn longest_for_long(&self, salt: Salt, tokens: &[u32], limit: Limit) -> u32 {
        let own = self.own_part(salt, tokens, limit);
        let device = self.for_long(salt, tokens, limit).map_or(0, |m| m.len);
        let host = self.in_host(salt, tokens, limit, self.limits.long_tokens);
        own.max(device).max(host.map_or(0, |m| m.len))
    }

    /// Gives a sequence the long slot, with as many of its first tokens as anybody has, at most
    /// by the `limit`. `None` where it runs, or there is none.
    pub(crate) fn begin_long(&mut self, salt: Salt, tokens: &[u32], limit: Limit) -> Option<Begun> {
        let slot = self.long.as_ref().filter(|long| !long.runs)?.slot;
        let own = self.own_part(salt, tokens, limit);
        let device = self.for_long(salt, tokens, limit).filter(|m| m.len >= own + LEAST_SAVED);
        let best = own.max(device.map_or(0, |m| m.len));
        let host = self.in_host(salt, tokens, limit, self.limits.long_tokens);
        let host = host.filter(|m| m.len >= best + LEAST_SAVED);
        let (cached, reuse) = if let Some(source) = host {
            // Not saved first: that could make its source go.
            self.release(slot);
            self.use_saved(source.holder);
            self.ops.push(KvOp::Restore { saved: source.holder, slot, keep: source.len });
            (source.len, Reuse::Host)
        } else if let Some(source) = device {
            self.retire_long();
            let saved = self.next_saved();
            self.ops.push(KvOp::Save { slot: source.holder, saved });
            self.ops.push(KvOp::Restore { saved, slot, keep: source.len });
            self.ops.push(KvOp::Forget { saved });
            self.use_parked(source.holder);
            (source.len, Reuse::Device)
        } else if own > 0 {
            self.truncate(slot, own);
            (own, Reuse::Device)
        } else {
            self.retire_long();
            (0, self.why_not(salt, tokens, limit))
        };
        let long = self.long.as_mut()?;
        long.tokens.clear();
        long.extend(tokens.get(..cached as usize).unwrap_or_default());
        (long.salt, long.runs) = (salt, true);
        Some(Begun { slot, cached, reuse })
    }

    /// How many of the first tokens the long slot itself holds.
    fn own_part(&self, salt: Salt, tokens: &[u32], limit: Limit) -> u32 {
        let Some(long) = self.long.as_ref().filter(|long| long.salt == salt) else { return 0 };
        let len = limit.of(common_prefix(&long.tokens, tokens));
        let whole = len as usize == long.tokens.len();
        if self.limits.rewinds || whole { len } else { 0 }
    }

    /// The slot to copy from, among those that can be saved now.
    fn for_long(&self, salt: Salt, tokens: &[u32], limit: Limit) -> Option<Match<SlotId>> {
        let usable = self.usable(self.tree.matches(salt, tokens), limit);
        usable.filter(|m| !self.copying.contains(&m.holder)).max_by_key(|m| (m.len, m.whole))
    }

    /// Empties the long slot; what took long to compute is saved to host memory.
    fn retire_long(&mut self) {
        let Some(long) = self.long.as_ref() else { return };
        let (slot, salt, tokens) = (long.slot, long.salt, long.tokens.clone());
        let saved = self.saved.matches(salt, &tokens);
        let covers = |m: &Match<_>| self.limits.rewinds || m.whole;
        let there = saved.iter().any(|m| m.len as usize == tokens.len() && covers(m));
        if tokens.len() >= LEAST_SAVED as usize && !there && !self.store(slot, salt, &tokens, 1.0) {
            self.ghosts.add(salt, &tokens);
        }
        self.release(slot);
    }
}
