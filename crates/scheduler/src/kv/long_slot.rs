//! The long slot: it holds the whole context, for a sequence that has outgrown its part of split cells.
//!
//! It has cells of its own, so states are copied into it through host memory only, and other slots do
//! not reuse its prefix.

use crate::ids::{Salt, SlotId, Token};

/// The long slot and its content.
#[derive(Debug)]
pub(super) struct LongSlot {
    pub(super) slot: SlotId,
    pub(super) salt: Salt,
    pub(super) tokens: Vec<Token>,
    pub(super) is_active: bool,
}

impl LongSlot {
    pub(super) fn new(slot: SlotId) -> Self {
        Self { slot, salt: Salt::default(), tokens: Vec::new(), is_active: false }
    }

    /// Tokens of its active sequence; 0 while it is parked.
    pub(super) fn running(&self) -> u64 {
        if self.is_active { self.tokens.len() as u64 } else { 0 }
    }

    /// Its salt and tokens.
    pub(super) fn held(&self) -> (Salt, Vec<Token>) {
        (self.salt, self.tokens.clone())
    }

    pub(super) fn extend(&mut self, tokens: &[Token]) {
        self.tokens.extend_from_slice(tokens);
    }

    pub(super) fn truncate(&mut self, keep: u32) {
        self.tokens.truncate(keep as usize);
    }

    /// Parks the slot; its content stays for reuse.
    pub(super) fn park(&mut self) {
        self.is_active = false;
    }

    pub(super) fn clear(&mut self) {
        self.is_active = false;
        self.tokens.clear();
    }
}
