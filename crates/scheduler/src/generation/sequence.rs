//! One answer: its tokens and where it stands.

use std::sync::Arc;

use crate::fair_queue::{QueuedSequence, SlotKind};
use crate::ids::{Principal, Salt, SeqId, SlotId, Token};
use crate::request::{Priority, Request};

/// Cells set aside for a sequence's next tokens, so that it does not have to leave its slot at
/// once.
pub(super) const RESERVE: u32 = 64;

/// Tokens of an answer that go into a step together where several are known: those that a grammar
/// forces. More of them are computed like a prompt.
const AT_ONCE: u32 = 16;

/// A sequence, from its submission to its end.
#[derive(Debug)]
pub(super) struct ScheduledSequence {
    pub(super) state: SequenceState,
    pub(super) tokens: SequenceTokens,
    /// Where messages begin or end in its prompt.
    pub(super) borders: Arc<[u32]>,
    /// Where its computation checkpoints for checkpoints.
    pub(super) checkpoints: Vec<u32>,
    /// Tokens whose KV is in the slot.
    pub(super) computed: u32,
    pub(super) max_new_tokens: u32,
    pub(super) priority: Priority,
    pub(super) principal: Principal,
    pub(super) salt: Salt,
    /// Its number in order of arrival; kept when it goes back to the queue.
    pub(super) arrival: u64,
    /// Prompt tokens that had been computed when it got its slot, and its own since: what was computed
    /// beyond them was computed while it waited.
    pub(super) prefilled_baseline: u64,
    pub(super) all_logits: bool,
    /// Drafts that the engine has for the next step, and how likely one of them is right.
    pub(super) offered: u32,
    pub(super) likely: f64,
    /// Drafts in the last step, and how many of them were right.
    pub(super) drafted: u32,
    pub(super) accepted: u32,
}

/// Where a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceState {
    /// In the queue.
    Queued,
    /// Admitted, without a slot: waits for what somebody else computes.
    Awaiting(Option<PendingPrefix>),
    /// In a slot.
    Active(SlotId),
}

/// The part of a prompt that another sequence is computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingPrefix {
    pub(super) leader: SeqId,
    /// Its length in tokens.
    pub(super) upto: u32,
}

/// A prompt, shared with whoever has it too, and what came behind it.
#[derive(Debug)]
pub(super) struct SequenceTokens {
    prompt: Arc<[Token]>,
    /// All tokens, once there is something behind the prompt.
    all: Vec<Token>,
}

impl SequenceTokens {
    pub(super) fn push(&mut self, token: Token) {
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.prompt);
        }
        self.all.push(token);
    }
}

impl std::ops::Deref for SequenceTokens {
    type Target = [Token];

    fn deref(&self) -> &[Token] {
        if self.all.is_empty() { &self.prompt } else { &self.all }
    }
}

impl ScheduledSequence {
    /// Answer number `choice` of a request, that starts with the tokens `generated`.
    pub(super) fn new(request: &Request, choice: u32, generated: &[Token], arrival: u64) -> Self {
        let mut tokens = SequenceTokens { prompt: Arc::clone(&request.prompt), all: Vec::new() };
        generated.iter().for_each(|&token| tokens.push(token));
        Self {
            state: SequenceState::Queued,
            tokens,
            borders: Arc::clone(&request.borders),
            checkpoints: Vec::new(),
            computed: 0,
            max_new_tokens: request.max_new_tokens,
            priority: request.priority,
            principal: request.principal,
            salt: request.salt,
            arrival,
            prefilled_baseline: 0,
            all_logits: request.all_logits && choice == 0,
            offered: 0,
            likely: 0.0,
            drafted: 0,
            accepted: 0,
        }
    }

    /// Tokens that exist: the prompt and what was generated.
    pub(super) fn known(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn generated(&self) -> u32 {
        self.known() - u32::try_from(self.tokens.prompt.len()).unwrap_or(u32::MAX)
    }

    /// Tokens that exist and are not computed.
    pub(super) fn missing(&self) -> u32 {
        self.known() - self.computed
    }

    /// How many of its tokens it may take from others: the last one's logits are its own, and
    /// where all logits are wanted it computes all.
    pub(super) fn reusable(&self) -> u32 {
        if self.all_logits { 0 } else { self.known() - 1 }
    }

    /// Cells that it may still take.
    pub(super) fn growth(&self) -> u32 {
        self.max_new_tokens - self.generated()
    }

    /// Its slot, if it has one.
    pub(super) fn slot(&self) -> Option<SlotId> {
        match self.state {
            SequenceState::Active(slot) => Some(slot),
            SequenceState::Queued | SequenceState::Awaiting(_) => None,
        }
    }

    /// One token is missing, usually the one sampled last, or a few that came with it.
    pub(super) fn is_decoding(&self) -> bool {
        let few = if self.generated() > 0 { AT_ONCE } else { 1 };
        self.slot().is_some() && (1..=few).contains(&self.missing())
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.slot().is_some() && self.missing() > 0 && !self.is_decoding()
    }

    /// Its entry in the queue, if it is to have a slot of so many tokens: the long one where it
    /// would outgrow another soon.
    pub(super) fn waiting(&self, seq: SeqId, slot_tokens: u32) -> QueuedSequence {
        let Self { priority, principal, arrival, .. } = *self;
        let soon = self.known() + self.growth().min(RESERVE);
        let kind = if soon > slot_tokens { SlotKind::Long } else { SlotKind::Regular };
        QueuedSequence { seq, kind, priority, principal, arrival, tokens: self.known() }
    }
}
