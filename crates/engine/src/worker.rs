//! The generation loop: receive, plan, step, emit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use forebay_scheduler::{
    Limits, Output, Request, RequestId, Scheduler, SeqId, Step, StepTime, Work,
};
use tokio::sync::mpsc;

use crate::Token;
use crate::logprobs::token_logprob;
use crate::model::{Model, ModelConfig, ModelInfo, Row};
use crate::request::{Event, Failure, FinishReason, GenerateRequest, Stamped, TokenLogprob};
use crate::sampling::Scratch;
use crate::sequence::{Growth, Sequence};
use crate::status::{Board, Status};
use crate::vocab::Vocab;

/// Steps that may fail one after the other before the engine gives up.
const MAX_FAILED_STEPS: u32 = 3;

/// Rows of a step that may need logits for one sequence: the backend keeps a row of vocabulary
/// size for each, so 64 of them take 64 MB with a vocabulary of 256k.
const ALL_LOGITS_TOKENS: u32 = 64;

/// The shortest head of a prompt that is kept for others, and the least that must be behind it:
/// a step of few tokens costs about as much as one of several times as many.
const MIN_HEAD_TOKENS: usize = 16;
const MIN_REST_TOKENS: usize = 32;

/// A request on its way to the worker. Its channel has room for every event it can cause.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: GenerateRequest,
    pub(crate) events: mpsc::Sender<Stamped>,
    pub(crate) submitted: Instant,
}

/// The thread's state.
pub(crate) struct Worker<M> {
    model: M,
    vocab: Vocab,
    scheduler: Scheduler,
    requests: HashMap<RequestId, Ticket>,
    sequences: BTreeMap<SeqId, Sequence>,
    board: Arc<Board>,
    next_id: u64,
    failed_steps: u32,
    rows: Vec<Row>,
    scratch: Scratch,
}

/// An accepted request.
struct Ticket {
    request: GenerateRequest,
    events: mpsc::Sender<Stamped>,
    submitted: Instant,
    started: bool,
    prompt_logprobs: Vec<TokenLogprob>,
    unfinished: u32,
}

impl<M: Model> Worker<M> {
    pub(crate) fn new(
        model: M,
        vocab: Vocab,
        info: &ModelInfo,
        config: &ModelConfig,
        batch_tokens: u32,
        board: Arc<Board>,
    ) -> Self {
        let limits = Limits {
            slots: info.slots,
            slot_tokens: info.slot_tokens,
            batch_tokens,
            itl_target: config.itl_target,
            all_logits_tokens: ALL_LOGITS_TOKENS.min(batch_tokens),
            // The handle's permits are the real bound; this one is never met.
            queue: config.queue + info.slots as usize,
        };
        board.kv_total.store(u64::from(info.slots) * u64::from(info.slot_tokens), Relaxed);
        Self {
            model,
            vocab,
            scheduler: Scheduler::new(limits),
            requests: HashMap::new(),
            sequences: BTreeMap::new(),
            board,
            next_id: 0,
            failed_steps: 0,
            rows: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Serves until the last handle is gone or too many steps have failed. Dropping the requests
    /// that are left tells their clients.
    pub(crate) fn run(mut self, mut inbox: mpsc::Receiver<Submission>) {
        while self.receive(&mut inbox) {
            self.reap();
            let step = self.scheduler.plan();
            self.publish();
            if step.work.is_empty() {
                continue;
            }
            match self.step(&step) {
                Some(took) => self.emit(&step, took),
                None if self.survive(&step) => {}
                None => break,
            }
        }
        self.board.set_status(Status::Failed);
        for ticket in self.requests.values() {
            send(ticket, Event::Failed(Failure::EngineGone));
        }
    }

    /// Takes what has arrived; with nothing to do, waits for it. Returns false when the last
    /// handle is gone and so nobody can be waiting for an answer.
    fn receive(&mut self, inbox: &mut mpsc::Receiver<Submission>) -> bool {
        if self.requests.is_empty() {
            self.publish();
            match inbox.blocking_recv() {
                Some(submission) => self.accept(submission),
                None => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(submission) => self.accept(submission),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return !self.requests.is_empty(),
            }
        }
    }

    fn accept(&mut self, submission: Submission) {
        // A client's channel closes before its permit is free again, so once the requests of those
        // that left are gone there is room for whoever got that permit.
        if !self.scheduler.has_room() {
            self.reap();
        }
        let Submission { request, events, submitted } = submission;
        self.next_id += 1;
        let id = RequestId(self.next_id);
        let rewinds = self.model.rewinds() && request.prompt_logprobs.is_none();
        let head = if rewinds { head(&request.prompt, &self.vocab) } else { &[] };
        let accepted = self.scheduler.submit(Request {
            id,
            prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            head: head.into(),
            max_new_tokens: request.max_tokens,
            choices: request.choices,
            all_logits: request.prompt_logprobs.is_some(),
        });
        let unfinished = request.choices;
        let prompt_logprobs = Vec::new();
        let ticket =
            Ticket { request, events, submitted, started: false, prompt_logprobs, unfinished };
        match accepted {
            Ok(()) => {
                self.requests.insert(id, ticket);
            }
            Err(rejected) => {
                tracing::error!(?rejected, "the handle let an impossible request through");
                send(&ticket, Event::Failed(Failure::Step));
            }
        }
    }

    /// Drops the requests whose clients are gone, queued or running.
    fn reap(&mut self) {
        let gone: Vec<RequestId> = self
            .requests
            .iter()
            .filter(|(_, ticket)| ticket.events.is_closed())
            .map(|(&id, _)| id)
            .collect();
        self.board.cancelled.fetch_add(gone.len() as u64, Relaxed);
        for id in gone {
            self.scheduler.cancel(id);
            self.forget(id);
        }
    }

    /// Takes a request's sequences and its channel away.
    fn forget(&mut self, id: RequestId) -> Option<Ticket> {
        self.sequences.retain(|seq, _| seq.request != id);
        self.requests.remove(&id)
    }

    /// Runs the model over one step. Returns how long it took, if it worked.
    fn step(&mut self, step: &Step) -> Option<StepTime> {
        self.rows.clear();
        for work in &step.work {
            self.start(work);
            let Some(sequence) = self.sequences.get(&work.seq) else { continue };
            let last = work.start + work.tokens - 1;
            for pos in work.start..=last {
                let Some(token) = sequence.token_at(pos) else { continue };
                let logits = match work.output {
                    Output::None => false,
                    Output::Last => pos == last,
                    Output::All { .. } => true,
                };
                self.rows.push(Row { token, pos, slot: work.slot.0, logits });
            }
        }
        self.board.begin_step();
        let result = self.model.step(&self.rows);
        self.board.end_step(self.rows.len());
        match result {
            Ok(took) => {
                self.failed_steps = 0;
                trace(step, took);
                Some(took)
            }
            Err(error) => {
                self.board.step_errors.fetch_add(1, Relaxed);
                self.failed_steps += 1;
                tracing::error!(%error, rows = self.rows.len(), "a step failed");
                None
            }
        }
    }

    /// Creates a request's first sequence when its first step comes.
    fn start(&mut self, work: &Work) {
        let Some(ticket) = self.requests.get_mut(&work.seq.request) else { return };
        if std::mem::replace(&mut ticket.started, true) {
            return;
        }
        self.model.trim_slot(work.slot.0, work.start);
        let sequence = Sequence::new(&ticket.request, work.seq.choice, &self.vocab);
        self.sequences.insert(work.seq, sequence);
        let queued = ticket.submitted.elapsed();
        send(ticket, Event::Started { queued, cached: work.start });
    }

    /// Fails the requests of a failed step. Returns whether to go on.
    fn survive(&mut self, step: &Step) -> bool {
        for work in &step.work {
            self.scheduler.discard(work.seq.request);
            if let Some(ticket) = self.forget(work.seq.request) {
                send(&ticket, Event::Failed(Failure::Step));
            }
        }
        self.failed_steps < MAX_FAILED_STEPS
    }

    /// Samples where a step asked for it and sends what came of it.
    fn emit(&mut self, step: &Step, took: StepTime) {
        self.scheduler.complete(step, took);
        let mut row = 0;
        for work in &step.work {
            let rows = row..row + work.tokens as usize;
            row = rows.end;
            if matches!(work.output, Output::All { .. }) {
                self.collect_prompt_logprobs(work, rows.start);
            }
            if !work.output.samples() {
                continue;
            }
            for fork in &work.forks {
                self.model.copy_slot(work.slot.0, fork.slot.0);
                if let Some(ticket) = self.requests.get(&fork.seq.request) {
                    let sequence = Sequence::new(&ticket.request, fork.seq.choice, &self.vocab);
                    self.sequences.insert(fork.seq, sequence);
                }
            }
            let forks = work.forks.iter().map(|fork| fork.seq);
            for seq in std::iter::once(work.seq).chain(forks) {
                self.grow(seq, rows.end - 1);
            }
        }
    }

    /// Adds one token to a sequence, by the logits of a row of the last step.
    fn grow(&mut self, seq: SeqId, row: usize) {
        let Some(sequence) = self.sequences.get_mut(&seq) else { return };
        let growth = sequence.grow(self.model.logits(row), &self.vocab, &mut self.scratch);
        let tokens = sequence.tokens();
        let Some(ticket) = self.requests.get(&seq.request) else { return };
        let Growth { text, logprobs, finished } = growth;
        if !text.is_empty() || !logprobs.is_empty() {
            send(ticket, Event::Delta { choice: seq.choice, text, tokens, logprobs });
        }
        match finished {
            None => self.scheduler.append(seq),
            Some(reason) => self.finish(seq, reason, tokens),
        }
    }

    fn finish(&mut self, seq: SeqId, reason: FinishReason, tokens: u32) {
        self.scheduler.finish(seq);
        self.sequences.remove(&seq);
        let Some(ticket) = self.requests.get_mut(&seq.request) else { return };
        ticket.unfinished -= 1;
        let done = ticket.unfinished == 0;
        send(ticket, Event::Finished { choice: seq.choice, reason, tokens });
        if done {
            self.requests.remove(&seq.request);
        }
    }

    /// Reads the log probabilities of the prompt's tokens out of the rows before each.
    fn collect_prompt_logprobs(&mut self, work: &Work, first_row: usize) {
        let Some(ticket) = self.requests.get_mut(&work.seq.request) else { return };
        let top = ticket.request.prompt_logprobs.unwrap_or(0);
        for (row, pos) in (first_row..).zip(work.start..work.start + work.tokens) {
            // The row at `pos` predicts the token behind it.
            let Some(&token) = ticket.request.prompt.get(pos as usize + 1) else { continue };
            ticket.prompt_logprobs.push(token_logprob(self.model.logits(row), token, top));
        }
        if work.output.samples() {
            let logprobs = std::mem::take(&mut ticket.prompt_logprobs);
            send(ticket, Event::Prompt(logprobs));
        }
    }

    fn publish(&self) {
        self.board.running.store(self.scheduler.running() as u64, Relaxed);
        self.board.waiting.store(self.scheduler.waiting() as u64, Relaxed);
        self.board.kv_used.store(self.scheduler.kv_tokens(), Relaxed);
    }
}

/// Says what a step held and why, what it was expected to take and what it took.
fn trace(step: &Step, took: StepTime) {
    let loads = step.loads();
    tracing::trace!(
        target: "forebay::step",
        decode = loads.single.tokens,
        decode_us = took.single.as_micros(),
        decode_expected_us = step.predicted.single.as_micros(),
        prefill = loads.short.tokens + loads.long.tokens,
        prefill_us = took.several.as_micros(),
        prefill_expected_us = step.predicted.several.as_micros(),
        why = ?step.why,
    );
}

/// The part of a prompt that others are likely to begin with: the first message, usually the
/// system's, up to its end-of-turn token. Empty where that is too short to be worth a step of its
/// own, or leaves too little behind it.
fn head<'p>(prompt: &'p [Token], vocab: &Vocab) -> &'p [Token] {
    let end =
        prompt.iter().position(|t| vocab.end_of_generation().contains(t)).map_or(0, |i| i + 1);
    let worth = end >= MIN_HEAD_TOKENS && prompt.len() - end >= MIN_REST_TOKENS;
    if worth { &prompt[..end] } else { &[] }
}

/// Sends an event. A closed channel is a client that left: [`Worker::reap`] takes care of it.
fn send(ticket: &Ticket, event: Event) {
    let stamped = Stamped { after: ticket.submitted.elapsed(), event };
    match ticket.events.try_send(stamped) {
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        Err(mpsc::error::TrySendError::Full(stamped)) => {
            tracing::error!(?stamped, "a request caused more events than it can");
        }
    }
}

#[cfg(test)]
#[cfg(feature = "scripted")]
mod tests;
