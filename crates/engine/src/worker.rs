//! The generation loop: receive, plan, step, emit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use forebay_scheduler::{
    KvOp, Output, Request, RequestId, Scheduler, SchedulerLimits, SeqId, Step, TokenSpan,
};
use tokio::sync::mpsc;

use crate::Token;
use crate::batch_sampler::{SampledToken, SamplingJob, sample_all};
use crate::failure::Failure;
use crate::grammar::CompiledGrammar;
use crate::grammar_recompiler::{GrammarLookup, GrammarRecompiler};
use crate::message::{
    Command, GenerateCommand, NewToken, PartialAnswer, Report, Update, UpdateKind,
};
use crate::model::{Capacity, GenerationModel, Row, StepError};
use crate::model_config::ModelConfig;
use crate::report_sink::{Activity, ReportSink};
use crate::request::{AdmissionParams, FinishReason};
use crate::request_table::RequestTable;
use crate::sequence::{Draft, Sequence, TokenOutcome};
use crate::status::{Status, StatusBoard};
use crate::step_log::StepLog;
use crate::step_timeouts::StepKind;
use crate::step_times::{StepClock, StepPart};
use crate::vocab::Vocab;

mod accepted_request;
mod cost_reports;

use accepted_request::AcceptedRequest;
use cost_reports::CostReports;

/// Consecutive steps that may fail before the engine ends.
const MAX_FAILED_STEPS: u32 = 3;

/// The number of the lane that computes all steps.
const LANE: usize = 0;

/// How long the loop sleeps when requests are active and nothing is to be computed for them.
const IDLE: Duration = Duration::from_millis(1);

/// Rows of a step that may need logits for one sequence: the backend keeps a row of vocabulary
/// size for each, so 64 of them take 64 MB with a vocabulary of 256k.
const ALL_LOGITS_TOKENS: u32 = 64;

/// The state of a generation model's thread.
pub(crate) struct Worker<M> {
    model: M,
    vocab: Vocab,
    scheduler: Scheduler,
    requests: RequestTable<RequestId, AcceptedRequest>,
    /// The sequences that have been in a step.
    sequences: BTreeMap<SeqId, Box<Sequence>>,
    board: Arc<StatusBoard>,
    out: Arc<dyn ReportSink>,
    grammars: GrammarRecompiler,
    /// Updates that are not reported yet.
    updates: Vec<Update>,
    /// Whether to end when all accepted requests are done.
    closing: bool,
    failed_steps: u32,
    rows: Vec<Row>,
    clock: StepClock,
    speculate: bool,
    /// How many of `rows` are in each decode call.
    calls: Vec<usize>,
    log: StepLog,
    /// Whether the scheduler makes checkpoints.
    checkpoints: bool,
    cost_reports: CostReports,
}

/// What a worker reports to, and where it finds grammars.
pub(crate) struct WorkerPorts {
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) out: Arc<dyn ReportSink>,
    pub(crate) grammars: GrammarRecompiler,
}

impl<M: GenerationModel> Worker<M> {
    pub(crate) fn new(
        model: M,
        vocab: Vocab,
        config: &ModelConfig,
        capacity: Capacity,
        ports: WorkerPorts,
    ) -> Self {
        let WorkerPorts { board, out, grammars } = ports;
        let Capacity { kv, batch_tokens, block } = capacity;
        let limits = SchedulerLimits {
            parallel: config.parallel,
            kv,
            batch_tokens,
            block,
            itl_target: config.itl_target,
            reproducible: config.reproducible,
            all_logits_tokens: ALL_LOGITS_TOKENS.min(batch_tokens),
            // The handle's permits bound the queue.
            queue: usize::MAX,
        };
        board.kv_total.store(u64::from(kv.cells), Relaxed);
        let scheduler = Scheduler::with_costs(limits, &config.costs);
        if let samples @ 1.. = scheduler.sample_count() {
            tracing::info!(model = config.name, samples, "restored learned costs");
        }
        Self {
            model,
            vocab,
            scheduler,
            requests: RequestTable::new(config.queue_timeout),
            sequences: BTreeMap::new(),
            board,
            out,
            grammars,
            updates: Vec::new(),
            closing: false,
            failed_steps: 0,
            rows: Vec::new(),
            clock: StepClock::new(),
            // A wrong draft is trimmed from the KV cache.
            speculate: config.speculate && kv.rewinds,
            calls: Vec::new(),
            log: StepLog::new(config.itl_target),
            checkpoints: kv.checkpoints(),
            cost_reports: CostReports::default(),
        }
    }

    pub(crate) fn board(&self) -> &StatusBoard {
        &self.board
    }

    /// Serves until it is closed or too many steps have failed.
    pub(crate) fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while self.receive(&mut inbox) {
            self.clock.begin();
            self.end_overdue();
            let mut step = self.scheduler.plan();
            if step.spans.is_empty() && step.kv.is_empty() {
                self.publish();
                // Between a request's end and the next plan: short.
                self.report();
                std::thread::sleep(IDLE);
                continue;
            }
            self.announce_step(&step);
            self.open_slots(&mut step);
            self.publish();
            match self.step(&step) {
                Some(took) => self.emit(&step, &took),
                None if self.fail_step(&step) => {}
                None => break,
            }
            self.report();
            self.clock.end(StepPart::Send);
        }
        // The next start uses what was learned since the last publication.
        self.cost_reports.publish(&self.scheduler, &self.board, true);
        self.out.ending();
        self.board.set_status(Status::Failed);
        // Open requests fail, or continue with the next engine.
        self.report();
    }

    /// Handles the commands that have arrived; without requests, waits for one. Returns false when the worker is to end.
    fn receive(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) -> bool {
        while self.requests.is_empty() {
            if self.closing {
                return false;
            }
            self.publish();
            self.report();
            match inbox.blocking_recv() {
                Some(command) => self.handle_command(command),
                None => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => self.handle_command(command),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => self.closing = true,
            }
            if self.closing {
                return !self.requests.is_empty();
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Generate(generate) => match self.grammars.find(generate) {
                GrammarLookup::Ready(generate, grammar) => self.accept(*generate, grammar),
                GrammarLookup::Pending => {}
                GrammarLookup::Failed(generate) => {
                    let GenerateCommand { id, submitted, .. } = *generate;
                    let kind = UpdateKind::Failed(Failure::Grammar);
                    let after = submitted.0.elapsed();
                    self.updates.push(Update { id, after, kind, last: true });
                }
            },
            Command::Cancel(id) => {
                if self.grammars.forget(id) || self.remove(RequestId(id)).is_some() {
                    self.scheduler.cancel(RequestId(id));
                    self.board.cancelled.fetch_add(1, Relaxed);
                    let (after, kind) = (Duration::ZERO, UpdateKind::Dropped);
                    self.updates.push(Update { id, after, kind, last: true });
                }
            }
            Command::Close => self.closing = true,
            Command::Embed(_) => tracing::error!("a generation model was asked for vectors"),
        }
    }

    fn accept(&mut self, generate: GenerateCommand, grammar: Option<CompiledGrammar>) {
        let GenerateCommand { id, request, submitted, started, partial } = generate;
        let id = RequestId(id);
        let AdmissionParams { salt, principal, priority, .. } = request.admission;
        let tokens = |partial: &Option<PartialAnswer>| {
            partial.as_ref().map(|partial| partial.tokens.clone())
        };
        let accepted = self.scheduler.submit(&Request {
            id,
            prompt: Arc::clone(&request.prompt),
            borders: if self.checkpoints { self.borders(&request.prompt) } else { Arc::new([]) },
            salt,
            principal,
            priority,
            max_new_tokens: request.max_tokens,
            choices: request.choices,
            all_logits: request.prompt_logprobs.is_some(),
            generated: partial.iter().map(tokens).collect(),
        });
        let complete = partial.iter().filter(|partial| partial.is_none()).count();
        let accepted_request = AcceptedRequest {
            unfinished: request.choices - u32::try_from(complete).unwrap_or(request.choices),
            request,
            grammar,
            submitted: submitted.0,
            started,
            prompt_logprobs: Vec::new(),
            partial,
        };
        self.requests.insert(id, accepted_request);
        if let Err(rejected) = accepted {
            tracing::error!(?rejected, "the scheduler rejected a validated request");
            self.end(id, UpdateKind::Failed(Failure::Step));
        }
    }

    /// Positions where messages begin or end in a prompt: chat templates put control tokens there.
    fn borders(&self, prompt: &[Token]) -> Arc<[u32]> {
        let numbered = (0..).zip(prompt);
        numbered.filter(|&(_, &token)| self.vocab.is_control(token)).map(|(at, _)| at).collect()
    }

    /// Reports the pending updates.
    fn report(&mut self) {
        if !self.updates.is_empty() {
            self.out.report(Report::Updates(std::mem::take(&mut self.updates)));
        }
    }

    /// Ends the requests whose deadline has passed, queued or running.
    fn end_overdue(&mut self) {
        let now = Instant::now();
        while let Some((id, request, failure)) = self.requests.pop_overdue(now) {
            self.scheduler.cancel(id);
            self.board.timed_out.fetch_add(1, Relaxed);
            self.remove_sequences(id, &request);
            self.updates.push(request.last_update(id, UpdateKind::Failed(failure)));
        }
    }

    /// Removes a request and reports why.
    fn end(&mut self, id: RequestId, kind: UpdateKind) {
        if let Some(request) = self.remove(id) {
            self.updates.push(request.last_update(id, kind));
        }
    }

    /// Removes a request and its sequences.
    fn remove(&mut self, id: RequestId) -> Option<AcceptedRequest> {
        let request = self.requests.remove(id)?;
        self.remove_sequences(id, &request);
        Some(request)
    }

    fn remove_sequences(&mut self, id: RequestId, request: &AcceptedRequest) {
        for choice in 0..request.request.choices {
            self.sequences.remove(&SeqId { request: id, choice });
        }
    }

    /// Reports what a step is about to compute, and how long that may take.
    fn announce_step(&self, step: &Step) {
        let mut ids = step.spans.iter().map(|span| span.seq.request.0);
        self.out.computing(Activity::Step(LANE), &mut ids);
        let predicted = step.predicted();
        let rows = step.spans.iter().map(|span| span.tokens as usize).sum();
        let prompts = step.spans.iter().any(|span| span.tokens > 1);
        self.board.begin_step(LANE, StepKind::new(rows, prompts), predicted);
    }

    /// Fails the requests whose slot cannot be made, and removes them from the step.
    fn open_slots(&mut self, step: &mut Step) {
        step.retain(|span| match self.model.open(span.slot) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "a slot cannot be made");
                self.fail(span.seq.request, Failure::Step);
                false
            }
        });
        // A failed request may have other spans in the step.
        step.retain(|span| self.requests.contains(span.seq.request));
    }

    /// Runs the model over one step. Returns the time of each call; `None` if the step failed.
    fn step(&mut self, step: &Step) -> Option<Vec<Duration>> {
        self.rows.clear();
        self.calls.clear();
        for call in &step.calls {
            let before = self.rows.len();
            for span in step.spans.get(call.spans.clone()).unwrap_or_default() {
                self.start(span);
                self.add_rows(span);
            }
            self.calls.push(self.rows.len() - before);
        }
        self.report();
        let result = self.compute(step);
        self.clock.end(StepPart::Forward);
        self.board.end_step(LANE, self.rows.len());
        match result {
            Ok(took) => {
                self.failed_steps = 0;
                self.log.log(step, &took);
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

    fn compute(&mut self, step: &Step) -> Result<Vec<Duration>, StepError> {
        self.clock.end(StepPart::Plan);
        // All of them, even if one fails: the scheduler counts them as done.
        let changes: Vec<_> = step.kv.iter().map(|&op| self.model.change(op)).collect();
        for op in &step.kv {
            if let KvOp::Save { copy, .. } = *op {
                self.scheduler.record_copy_size(copy, self.model.copy_bytes(copy));
            }
        }
        self.clock.end(StepPart::Kv);
        changes.into_iter().collect::<Result<(), StepError>>()?;
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        // Masks do not depend on the logits, so they are computed beside the forward pass.
        let sampled = step.spans.iter().filter(|w| w.output.samples()).map(|w| w.seq);
        let constrained = |seq: &SeqId| self.sequences.get(seq).is_some_and(|s| s.is_constrained());
        let constrained: Vec<SeqId> = sampled.filter(constrained).collect();
        if constrained.is_empty() {
            return self.model.step(&self.rows, &self.calls);
        }
        let mut constrained = self.lend(constrained.into_iter());
        let constraints = constrained.iter_mut().filter_map(|(_, s)| s.constraint());
        let result = rayon::in_place_scope(|scope| {
            for constraint in constraints {
                scope.spawn(|_| constraint.prepare());
            }
            self.model.step(&self.rows, &self.calls)
        });
        self.sequences.extend(constrained);
        result
    }

    /// Takes sequences out of the map, so that several can be changed in parallel without a walk over all of them.
    /// The caller puts them back.
    fn lend(&mut self, seqs: impl Iterator<Item = SeqId>) -> Vec<(SeqId, Box<Sequence>)> {
        seqs.filter_map(|seq| self.sequences.remove_entry(&seq)).collect()
    }

    fn add_rows(&mut self, span: &TokenSpan) {
        let Some(sequence) = self.sequences.get(&span.seq) else { return };
        let end = span.start + span.tokens;
        let sampled = end - 1 - span.drafts;
        for pos in span.start..end {
            let Some(token) = sequence.token_at(pos) else { continue };
            let logits = match span.output {
                Output::None => false,
                Output::Last => pos >= sampled,
                Output::All { .. } => true,
            };
            self.rows.push(Row { token, pos, slot: span.slot.0, logits });
        }
    }

    /// Creates a span's sequence if this is its first step, and reports the start of its request.
    fn start(&mut self, span: &TokenSpan) {
        let TokenSpan { seq, start, .. } = *span;
        let is_first = self.requests.start(seq.request);
        let Some(accepted) = self.requests.get_mut(seq.request) else { return };
        if !self.sequences.contains_key(&seq) {
            let (request, grammar) = (&accepted.request, accepted.grammar.as_ref());
            let mut sequence =
                Sequence::new(request, seq.choice, grammar, &self.vocab, self.speculate);
            let partial = accepted.partial.get_mut(seq.choice as usize);
            if let Some(partial) = partial.and_then(Option::take) {
                sequence.resume(partial, &self.vocab);
            }
            self.sequences.insert(seq, Box::new(sequence));
        }
        if is_first {
            let queued = accepted.submitted.elapsed();
            let kind = UpdateKind::Started { queued, cached: start };
            self.updates.push(accepted.update(seq.request, kind));
        }
    }

    /// Fails the requests of a failed step. Returns whether the worker continues.
    fn fail_step(&mut self, step: &Step) -> bool {
        for span in &step.spans {
            self.fail(span.seq.request, Failure::Step);
        }
        self.failed_steps < MAX_FAILED_STEPS
    }

    fn fail(&mut self, id: RequestId, failure: Failure) {
        self.scheduler.discard(id);
        self.end(id, UpdateKind::Failed(failure));
    }

    /// Samples the tokens of a step, and reports them.
    fn emit(&mut self, step: &Step, took: &[Duration]) {
        self.scheduler.complete_step(step, took);
        let mut row = 0;
        let mut rows_to_sample = BTreeMap::new();
        for span in &step.spans {
            self.board.drafted.fetch_add(u64::from(span.drafts), Relaxed);
            let rows = row..row + span.tokens as usize;
            row = rows.end;
            if matches!(span.output, Output::All { .. }) {
                self.collect_prompt_logprobs(span, rows.start);
            }
            if span.output.samples() {
                rows_to_sample.insert(span.seq, rows.end - 1 - span.drafts as usize..rows.end);
            }
        }
        let sampled = self.sample(&rows_to_sample);
        self.clock.end(StepPart::Sample);
        for (seq, tokens, draft) in sampled {
            self.append(seq, tokens, draft);
        }
    }

    /// Samples each sequence's next token from its first row, and one more for each draft that was right. `rows` are
    /// each sequence's rows in the step.
    fn sample(
        &mut self,
        rows: &BTreeMap<SeqId, Range<usize>>,
    ) -> Vec<(SeqId, Vec<SampledToken>, Draft)> {
        let mut sequences = self.lend(rows.keys().copied());
        let rows_of = |seq: &SeqId| rows.get(seq).cloned().unwrap_or_default();
        let logits = |seq: &SeqId| rows_of(seq).map(|row| self.model.logits(row)).collect();
        let each = sequences.iter_mut();
        let mut jobs: Vec<_> = each.map(|(seq, s)| SamplingJob::new(s, logits(seq))).collect();
        sample_all(&mut jobs, &self.vocab);
        let sampled: Vec<_> = jobs.into_iter().map(|job| (job.sampled, job.draft)).collect();
        let seqs = sequences.iter().map(|(seq, _)| *seq);
        let results =
            seqs.zip(sampled).map(|(seq, (tokens, draft))| (seq, tokens, draft)).collect();
        self.sequences.extend(sequences);
        results
    }

    /// Passes sampled tokens to the scheduler and the client.
    fn append(&mut self, seq: SeqId, sampled: Vec<SampledToken>, draft: Draft) {
        for SampledToken { token, outcome, tokens, rng_position, as_drafted } in sampled {
            let Some(accepted) = self.requests.get(seq.request) else { return };
            let TokenOutcome { text, logprobs, held, finished, failed } = outcome;
            if failed {
                return self.fail(seq.request, Failure::Grammar);
            }
            let choice = seq.choice;
            let new = NewToken { choice, token, tokens, rng_position, text, logprobs, held };
            self.updates.push(accepted.update(seq.request, UpdateKind::Token(new)));
            match finished {
                Some(reason) => return self.finish(seq, reason, tokens),
                None if as_drafted => {
                    self.board.accepted.fetch_add(1, Relaxed);
                    self.scheduler.accept_draft(seq, token);
                }
                None => self.scheduler.append_token(seq, token),
            }
        }
        self.scheduler.offer_drafts(seq, draft.tokens, draft.acceptance);
    }

    fn finish(&mut self, seq: SeqId, reason: FinishReason, tokens: u32) {
        self.scheduler.finish(seq);
        self.sequences.remove(&seq);
        let Some(accepted) = self.requests.get_mut(seq.request) else { return };
        accepted.unfinished -= 1;
        let kind = UpdateKind::Finished { choice: seq.choice, reason, tokens };
        if accepted.unfinished > 0 {
            self.updates.push(accepted.update(seq.request, kind));
        } else {
            self.end(seq.request, kind);
        }
    }

    /// Reads the log probabilities of a span's prompt tokens from its rows' logits.
    fn collect_prompt_logprobs(&mut self, span: &TokenSpan, first_row: usize) {
        let Some(accepted) = self.requests.get_mut(span.seq.request) else { return };
        let logits = |row| self.model.logits(first_row + row);
        if let Some(logprobs) = accepted.add_prompt_logprobs(span, logits) {
            self.updates.push(accepted.update(span.seq.request, UpdateKind::Prompt(logprobs)));
        }
    }

    /// Publishes gauges, counters and learned costs on the status board.
    fn publish(&mut self) {
        let (board, scheduler) = (&self.board, &self.scheduler);
        self.cost_reports.publish(scheduler, board, self.requests.is_empty());
        board.running.store(scheduler.running() as u64, Relaxed);
        board.waiting.store(scheduler.waiting() as u64, Relaxed);
        board.kv_used.store(scheduler.kv_tokens(), Relaxed);
        board.kv_parked.store(scheduler.parked_tokens(), Relaxed);
        board.kv_saved.store(scheduler.saved_tokens(), Relaxed);
        let backlog = scheduler.backlog().as_millis();
        board.backlog_ms.store(u64::try_from(backlog).unwrap_or(u64::MAX), Relaxed);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        let break_even = (scheduler.draft_break_even() * 100.0) as u32;
        board.break_even.store(break_even, Relaxed);
        board.set_counters(self.clock.times(), scheduler.counts());
    }
}

#[cfg(test)]
#[cfg(feature = "scripted")]
mod tests;
