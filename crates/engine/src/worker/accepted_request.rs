//! A request for text while the worker has it.

use std::time::{Duration, Instant};

use forebay_scheduler::{RequestId, TokenSpan};

use crate::deadlines::Timeouts;
use crate::grammar::CompiledGrammar;
use crate::logprobs::token_logprob;
use crate::message::{PartialAnswer, Update, UpdateKind};
use crate::request::{GenerateRequest, TokenLogprob};
use crate::request_table::Timed;

/// An accepted request.
#[derive(Debug)]
pub(super) struct AcceptedRequest {
    pub(super) request: GenerateRequest,
    pub(super) grammar: Option<CompiledGrammar>,
    pub(super) submitted: Instant,
    /// Whether it has left the queue.
    pub(super) started: bool,
    /// Of the prompt's tokens computed so far.
    pub(super) prompt_logprobs: Vec<TokenLogprob>,
    /// What an engine before this one had generated, by choice; `None` for complete answers.
    pub(super) partial: Vec<Option<PartialAnswer>>,
    /// Answers that are not complete.
    pub(super) unfinished: u32,
}

impl AcceptedRequest {
    /// An update that others follow.
    pub(super) fn update(&self, id: RequestId, kind: UpdateKind) -> Update {
        Update { id: id.0, after: self.submitted.elapsed(), kind, last: false }
    }

    /// The last update.
    pub(super) fn last_update(&self, id: RequestId, kind: UpdateKind) -> Update {
        Update { last: true, ..self.update(id, kind) }
    }

    /// Adds the log probabilities of a span's prompt tokens, given each row's logits by its offset in the span.
    /// Returns those of the whole prompt at its end.
    pub(super) fn add_prompt_logprobs<'l>(
        &mut self,
        span: &TokenSpan,
        logits: impl Fn(usize) -> &'l [f32],
    ) -> Option<Vec<TokenLogprob>> {
        let top = self.request.prompt_logprobs.unwrap_or(0);
        if span.start == 0 {
            // A preempted sequence is computed again from the start.
            self.prompt_logprobs.clear();
        }
        for (row, pos) in (0..).zip(span.start..span.start + span.tokens) {
            // The row at `pos` predicts the next token.
            let Some(&token) = self.request.prompt.get(pos as usize + 1) else { continue };
            self.prompt_logprobs.push(token_logprob(logits(row), token, top));
        }
        span.output.samples().then(|| std::mem::take(&mut self.prompt_logprobs))
    }
}

impl Timed for AcceptedRequest {
    fn timeouts(&self, queue: Option<Duration>) -> Timeouts {
        let queue = queue.filter(|_| !self.started);
        Timeouts { submitted: self.submitted, own: self.request.admission.timeout, queue }
    }

    fn set_started(&mut self) -> bool {
        !std::mem::replace(&mut self.started, true)
    }
}
