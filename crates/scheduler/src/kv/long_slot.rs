//! The long slot: beside slots that each have a part of the cells, one that holds as much as the
//! model can, for a request that has outgrown its part.
//!
//! It has cells of its own, so nothing is copied into it from another slot but through host memory,
//! and others never begin like it.

use crate::ids::{Salt, SlotId, Token};

/// The long slot and what it holds.
#[derive(Debug)]
pub(super) struct LongSlot {
    pub(super) slot: SlotId,
    pub(super) salt: Salt,
    pub(super) tokens: Vec<Token>,
    pub(super) runs: bool,
}

impl LongSlot {
    pub(super) fn new(slot: SlotId) -> Self {
        Self { slot, salt: Salt::default(), tokens: Vec::new(), runs: false }
    }

    /// Tokens that a running sequence holds in it.
    pub(super) fn running(&self) -> u64 {
        if self.runs { self.tokens.len() as u64 } else { 0 }
    }

    /// What it holds, and whose that is.
    pub(super) fn held(&self) -> (Salt, Vec<Token>) {
        (self.salt, self.tokens.clone())
    }

    pub(super) fn extend(&mut self, tokens: &[Token]) {
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
