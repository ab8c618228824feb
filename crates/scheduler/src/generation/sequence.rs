//! A sequence: its tokens and state.

use std::sync::Arc;

use crate::fair_queue::{QueuedSequence, SlotKind};
use crate::ids::{Principal, Salt, SeqId, SlotId, Token};
use crate::request::{Priority, Request};

/// Cells reserved for a sequence's next tokens, so that it is not preempted at once.
pub(super) const RESERVE: u32 = 64;

/// Maximum number of known tokens of an answer in one row: tokens that a grammar forced. More are
/// prefilled.
const AT_ONCE: u32 = 16;

/// A sequence from submission to its end.
#[derive(Debug)]
pub(super) struct ScheduledSequence {
    pub(super) state: SequenceState,
    pub(super) tokens: SequenceTokens,
    /// Positions where messages of the prompt begin or end.
    pub(super) borders: Arc<[u32]>,
    /// Positions of its checkpoints.
    pub(super) checkpoints: Vec<u32>,
    /// Number of tokens whose KV is in the slot.
    pub(super) computed: u32,
    pub(super) max_new_tokens: u32,
    pub(super) priority: Priority,
    pub(super) principal: Principal,
    pub(super) salt: Salt,
    /// Number in order of arrival; kept on preemption.
    pub(super) arrival: u64,
    /// Prompt tokens computed when it was assigned its slot, and its own since: the scheduler's count less
    /// this was computed for others while it waited.
    pub(super) prefilled_baseline: u64,
    pub(super) all_logits: bool,
    /// Drafts offered for the next step, and the probability that one of them is right.
    pub(super) offered: u32,
    pub(super) likely: f64,
    /// Drafts in the last step, and how many were accepted.
    pub(super) drafted: u32,
    pub(super) accepted: u32,
}

/// The state of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceState {
    /// Queued.
    Queued,
    /// Admitted, without a slot: waits for a prefix that another sequence computes.
    Awaiting(Option<PendingPrefix>),
    /// Active in a slot.
    Active(SlotId),
}

/// A prefix that another sequence computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingPrefix {
    pub(super) leader: SeqId,
    /// Length in tokens.
    pub(super) upto: u32,
}

/// The tokens of a sequence: the prompt, shared with other answers, and the generated tokens.
#[derive(Debug)]
pub(super) struct SequenceTokens {
    prompt: Arc<[Token]>,
    /// All tokens, once one was generated.
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
    /// The sequence of answer `choice` of a request, with the tokens `generated` so far.
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

    /// Number of known tokens: prompt and generated ones.
    pub(super) fn known(&self) -> u32 {
        u32::try_from(self.tokens.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn generated(&self) -> u32 {
        self.known() - u32::try_from(self.tokens.prompt.len()).unwrap_or(u32::MAX)
    }

    /// Number of known tokens that are not computed.
    pub(super) fn missing(&self) -> u32 {
        self.known() - self.computed
    }

    /// Maximum reusable prefix: the last token is computed for its logits; if all logits are needed,
    /// nothing is reused.
    pub(super) fn reusable(&self) -> u32 {
        if self.all_logits { 0 } else { self.known() - 1 }
    }

    /// Tokens that may still be generated.
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

    /// Whether it decodes: one token is missing, or a few that a grammar forced.
    pub(super) fn is_decoding(&self) -> bool {
        let few = if self.generated() > 0 { AT_ONCE } else { 1 };
        self.slot().is_some() && (1..=few).contains(&self.missing())
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.slot().is_some() && self.missing() > 0 && !self.is_decoding()
    }

    /// Its queue entry; for the long slot if it would soon outgrow a slot of `slot_tokens`.
    pub(super) fn waiting(&self, seq: SeqId, slot_tokens: u32) -> QueuedSequence {
        let Self { priority, principal, arrival, .. } = *self;
        let soon = self.known() + self.growth().min(RESERVE);
        let kind = if soon > slot_tokens { SlotKind::Long } else { SlotKind::Regular };
        QueuedSequence { seq, kind, priority, principal, arrival, tokens: self.known() }
    }
}
