//! The generation loop: receive, plan, step, emit.

use std::collections::{BTreeMap, HashMap};
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
use crate::deadlines::{Deadlines, Timeouts};
use crate::failure::Failure;
use crate::grammar::CompiledGrammar;
use crate::grammar_recompiler::{GrammarLookup, GrammarRecompiler};
use crate::logprobs::token_logprob;
use crate::message::{
    Command, GenerateCommand, NewToken, PartialAnswer, Report, Update, UpdateKind,
};
use crate::model::{Capacity, GenerationModel, Row, StepError};
use crate::model_config::ModelConfig;
use crate::report_sink::{Activity, ReportSink};
use crate::request::{AdmissionParams, FinishReason, GenerateRequest, TokenLogprob};
use crate::sequence::{Draft, Sequence, TokenOutcome};
use crate::status::{Status, StatusBoard};
use crate::step_log::StepLog;
use crate::step_timeouts::StepKind;
use crate::step_times::{StepClock, StepPart};
use crate::vocab::Vocab;

mod cost_reports;

use cost_reports::CostReports;

/// Steps that may fail one after the other before the engine gives up.
const MAX_FAILED_STEPS: u32 = 3;

/// All steps are computed on this lane.
const LANE: usize = 0;

/// What the loop waits where requests are there and nothing is to be computed for them.
const IDLE: Duration = Duration::from_millis(1);

/// Rows of a step that may need logits for one sequence: the backend keeps a row of vocabulary
/// size for each, so 64 of them take 64 MB with a vocabulary of 256k.
const ALL_LOGITS_TOKENS: u32 = 64;

/// The thread's state.
pub(crate) struct Worker<M> {
    model: M,
    vocab: Vocab,
    scheduler: Scheduler,
    requests: HashMap<RequestId, AcceptedRequest>,
    deadlines: Deadlines<RequestId>,
    /// Those that have been in a step.
    sequences: BTreeMap<SeqId, Box<Sequence>>,
    board: Arc<StatusBoard>,
    out: Arc<dyn ReportSink>,
    compiler: GrammarRecompiler,
    /// What is not reported yet.
    updates: Vec<Update>,
    /// Whether to end when all that was asked is done.
    closing: bool,
    failed_steps: u32,
    rows: Vec<Row>,
    clock: StepClock,
    speculate: bool,
    queue_timeout: Option<Duration>,
    /// How many of `rows` are in each call.
    calls: Vec<usize>,
    log: StepLog,
    /// Whether the scheduler makes checkpoints.
    checkpoints: bool,
    cost_reports: CostReports,
}

/// What a worker speaks through.
pub(crate) struct Ports {
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) out: Arc<dyn ReportSink>,
    pub(crate) compiler: GrammarRecompiler,
}

/// An accepted request.
struct AcceptedRequest {
    request: GenerateRequest,
    grammar: Option<CompiledGrammar>,
    submitted: Instant,
    started: bool,
    prompt_logprobs: Vec<TokenLogprob>,
    /// What another engine had of its answers.
    partial: Vec<Option<PartialAnswer>>,
    unfinished: u32,
}

impl<M: GenerationModel> Worker<M> {
    pub(crate) fn new(
        model: M,
        vocab: Vocab,
        config: &ModelConfig,
        capacity: Capacity,
        ports: Ports,
    ) -> Self {
        let Ports { board, out, compiler } = ports;
        let Capacity { kv, batch_tokens, block } = capacity;
        let limits = SchedulerLimits {
            parallel: config.parallel,
            kv,
            batch_tokens,
            block,
            itl_target: config.itl_target,
            reproducible: config.reproducible,
            all_logits_tokens: ALL_LOGITS_TOKENS.min(batch_tokens),
            // The handle's permits are the real bound; this one is never met.
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
            requests: HashMap::new(),
            deadlines: Deadlines::default(),
            sequences: BTreeMap::new(),
            board,
            out,
            compiler,
            updates: Vec::new(),
            closing: false,
            failed_steps: 0,
            rows: Vec::new(),
            clock: StepClock::new(),
            // A draft that is wrong is taken back.
            speculate: config.speculate && kv.rewinds,
            queue_timeout: config.queue_timeout,
            calls: Vec::new(),
            log: StepLog::new(config.itl_target),
            checkpoints: kv.checkpoints(),
            cost_reports: CostReports::default(),
        }
    }

    pub(crate) fn board(&self) -> &StatusBoard {
        &self.board
    }

    /// Serves until it is told to end or too many steps have failed.
    pub(crate) fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while self.receive(&mut inbox) {
            self.clock.begin();
            self.reap();
            let mut step = self.scheduler.plan();
            if step.spans.is_empty() && step.kv.is_empty() {
                self.publish();
                // Between a request's end and the next plan; never for long.
                self.report();
                std::thread::sleep(IDLE);
                continue;
            }
            self.begin(&step);
            self.open_slots(&mut step);
            self.publish();
            match self.step(&step) {
                Some(took) => self.emit(&step, &took),
                None if self.survive(&step) => {}
                None => break,
            }
            self.report();
            self.clock.end(StepPart::Send);
        }
        // What was learned since the last time is for the next start.
        self.cost_reports.publish(&self.scheduler, &self.board, true);
        self.out.ending();
        self.board.set_status(Status::Failed);
        // Whoever is left hears that the engine has ended, or goes on with the next one.
        self.report();
    }

    /// Takes what has arrived; with nothing to do, waits for it. Returns false when there is
    /// nothing left to do.
    fn receive(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) -> bool {
        while self.requests.is_empty() {
            if self.closing {
                return false;
            }
            self.publish();
            self.report();
            match inbox.blocking_recv() {
                Some(command) => self.obey(command),
                None => return false,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => self.closing = true,
            }
            if self.closing {
                return !self.requests.is_empty();
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Generate(generate) => match self.compiler.find(generate) {
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
                if self.compiler.forget(id) || self.forget(RequestId(id)).is_some() {
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
        let ticket = AcceptedRequest {
            unfinished: request.choices - u32::try_from(complete).unwrap_or(request.choices),
            request,
            grammar,
            submitted: submitted.0,
            started,
            prompt_logprobs: Vec::new(),
            partial,
        };
        self.deadlines.insert(ticket.deadline(self.queue_timeout), id);
        self.requests.insert(id, ticket);
        if let Err(rejected) = accepted {
            tracing::error!(?rejected, "the handle let an impossible request through");
            self.end(id, UpdateKind::Failed(Failure::Step));
        }
    }

    /// Where messages begin or end in a prompt: chat templates put control tokens there.
    fn borders(&self, prompt: &[Token]) -> Arc<[u32]> {
        let numbered = (0..).zip(prompt);
        numbered.filter(|&(_, &token)| self.vocab.is_control(token)).map(|(at, _)| at).collect()
    }

    /// Reports what is new.
    fn report(&mut self) {
        if !self.updates.is_empty() {
            self.out.report(Report::Updates(std::mem::take(&mut self.updates)));
        }
    }

    /// Drops the requests whose time is up, queued or running.
    fn reap(&mut self) {
        let now = Instant::now();
        while let Some(id) = self.deadlines.pop_due(now) {
            let ticket = self.requests.get(&id);
            let Some(failure) = ticket.and_then(|t| t.timeouts(self.queue_timeout).overdue(now))
            else {
                continue;
            };
            self.scheduler.cancel(id);
            self.board.timed_out.fetch_add(1, Relaxed);
            self.end(id, UpdateKind::Failed(failure));
        }
    }

    /// Forgets a request and reports why.
    fn end(&mut self, id: RequestId, kind: UpdateKind) {
        if let Some(ticket) = self.forget(id) {
            self.updates.push(Update { last: true, ..ticket.update(id, kind) });
        }
    }

    /// Takes a request and its sequences away.
    fn forget(&mut self, id: RequestId) -> Option<AcceptedRequest> {
        let ticket = self.requests.remove(&id)?;
        self.deadlines.remove(ticket.deadline(self.queue_timeout), id);
        for choice in 0..ticket.request.choices {
            self.sequences.remove(&SeqId { request: id, choice });
        }
        Some(ticket)
    }

    /// Tells what a step is about to compute, and how long that may take.
    fn begin(&self, step: &Step) {
        let mut ids = step.spans.iter().map(|span| span.seq.request.0);
        self.out.computing(Activity::Step(LANE), &mut ids);
        let predicted = step.predicted();
        let rows = step.spans.iter().map(|span| span.tokens as usize).sum();
        let prompts = step.spans.iter().any(|span| span.tokens > 1);
        self.board.begin_step(LANE, StepKind::new(rows, prompts), predicted);
    }

    /// Leaves out, and fails, what has a slot that cannot be made.
    fn open_slots(&mut self, step: &mut Step) {
        step.retain(|span| match self.model.open(span.slot) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "a slot cannot be made");
                self.fail(span.seq.request, Failure::Step);
                false
            }
        });
        // What else such a request had in the step has gone with it.
        step.retain(|span| self.requests.contains_key(&span.seq.request));
    }

    /// Runs the model over one step. Returns how long it took, if it worked.
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
        // All of them, even where one fails: the scheduler takes them as done.
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
        // What may come next does not depend on what the model says.
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

    /// Takes sequences out of the map for a while, so that several can be changed side by side
    /// without going through all that are there.
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

    /// Creates a sequence when its first step comes, and tells of its request's.
    fn start(&mut self, span: &TokenSpan) {
        let Some(ticket) = self.requests.get_mut(&span.seq.request) else { return };
        if !self.sequences.contains_key(&span.seq) {
            let TokenSpan { seq, .. } = *span;
            let (request, grammar) = (&ticket.request, ticket.grammar.as_ref());
            let mut sequence =
                Sequence::new(request, seq.choice, grammar, &self.vocab, self.speculate);
            if let Some(partial) =
                ticket.partial.get_mut(seq.choice as usize).and_then(Option::take)
            {
                sequence.resume(partial, &self.vocab);
            }
            self.sequences.insert(seq, Box::new(sequence));
        }
        if !ticket.started {
            self.deadlines.remove(ticket.deadline(self.queue_timeout), span.seq.request);
            ticket.started = true;
            self.deadlines.insert(ticket.deadline(self.queue_timeout), span.seq.request);
            let queued = ticket.submitted.elapsed();
            let kind = UpdateKind::Started { queued, cached: span.start };
            self.updates.push(ticket.update(span.seq.request, kind));
        }
    }

    /// Fails the requests of a failed step. Returns whether to go on.
    fn survive(&mut self, step: &Step) -> bool {
        for span in &step.spans {
            self.fail(span.seq.request, Failure::Step);
        }
        self.failed_steps < MAX_FAILED_STEPS
    }

    fn fail(&mut self, id: RequestId, failure: Failure) {
        self.scheduler.discard(id);
        self.end(id, UpdateKind::Failed(failure));
    }

    /// Samples where a step asked for it and sends what came of it.
    fn emit(&mut self, step: &Step, took: &[Duration]) {
        self.scheduler.complete_step(step, took);
        let mut row = 0;
        let mut sampled = BTreeMap::new();
        for span in &step.spans {
            self.board.drafted.fetch_add(u64::from(span.drafts), Relaxed);
            let rows = row..row + span.tokens as usize;
            row = rows.end;
            if matches!(span.output, Output::All { .. }) {
                self.collect_prompt_logprobs(span, rows.start);
            }
            if span.output.samples() {
                sampled.insert(span.seq, rows.end - 1 - span.drafts as usize..rows.end);
            }
        }
        let sampled = self.sample(&sampled);
        self.clock.end(StepPart::Sample);
        for (seq, tokens, draft) in sampled {
            self.append(seq, tokens, draft);
        }
    }

    /// Draws each sequence's next token from its first row, and after it one for each draft that
    /// was right.
    fn sample(
        &mut self,
        sampled: &BTreeMap<SeqId, Range<usize>>,
    ) -> Vec<(SeqId, Vec<SampledToken>, Draft)> {
        let mut sequences = self.lend(sampled.keys().copied());
        let rows_of = |seq: &SeqId| sampled.get(seq).cloned().unwrap_or_default();
        let rows = |seq: &SeqId| rows_of(seq).map(|row| self.model.logits(row)).collect();
        let each = sequences.iter_mut();
        let mut jobs: Vec<_> = each.map(|(seq, s)| SamplingJob::new(s, rows(seq))).collect();
        sample_all(&mut jobs, &self.vocab);
        let sampled: Vec<_> = jobs.into_iter().map(|job| (job.sampled, job.draft)).collect();
        let seqs = sequences.iter().map(|(seq, _)| *seq);
        let results =
            seqs.zip(sampled).map(|(seq, (tokens, draft))| (seq, tokens, draft)).collect();
        self.sequences.extend(sequences);
        results
    }

    /// Tells the scheduler and the client what was drawn.
    fn append(&mut self, seq: SeqId, sampled: Vec<SampledToken>, draft: Draft) {
        for SampledToken { token, outcome, tokens, rng_position, as_drafted } in sampled {
            let Some(ticket) = self.requests.get(&seq.request) else { return };
            let TokenOutcome { text, logprobs, held, finished, failed } = outcome;
            if failed {
                return self.fail(seq.request, Failure::Grammar);
            }
            let choice = seq.choice;
            let grown = NewToken { choice, token, tokens, rng_position, text, logprobs, held };
            self.updates.push(ticket.update(seq.request, UpdateKind::Token(grown)));
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
        let Some(ticket) = self.requests.get_mut(&seq.request) else { return };
        ticket.unfinished -= 1;
        let kind = UpdateKind::Finished { choice: seq.choice, reason, tokens };
        if ticket.unfinished > 0 {
            self.updates.push(ticket.update(seq.request, kind));
        } else {
            self.end(seq.request, kind);
        }
    }

    /// Reads the log probabilities of the prompt's tokens out of the rows before each.
    fn collect_prompt_logprobs(&mut self, span: &TokenSpan, first_row: usize) {
        let Some(ticket) = self.requests.get_mut(&span.seq.request) else { return };
        let top = ticket.request.prompt_logprobs.unwrap_or(0);
        if span.start == 0 {
            // Computed from the start: again, where it had been taken out.
            ticket.prompt_logprobs.clear();
        }
        for (row, pos) in (first_row..).zip(span.start..span.start + span.tokens) {
            // The row at `pos` predicts the token behind it.
            let Some(&token) = ticket.request.prompt.get(pos as usize + 1) else { continue };
            ticket.prompt_logprobs.push(token_logprob(self.model.logits(row), token, top));
        }
        if span.output.samples() {
            let logprobs = std::mem::take(&mut ticket.prompt_logprobs);
            self.updates.push(ticket.update(span.seq.request, UpdateKind::Prompt(logprobs)));
        }
    }

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
        board.tell(self.clock.times(), scheduler.counts());
    }
}

impl AcceptedRequest {
    /// How long it may take.
    fn timeouts(&self, queue: Option<Duration>) -> Timeouts {
        let queue = queue.filter(|_| !self.started);
        Timeouts { submitted: self.submitted, own: self.request.admission.timeout, queue }
    }

    fn deadline(&self, queue: Option<Duration>) -> Option<Instant> {
        self.timeouts(queue).deadline()
    }

    /// News about it that is not the last.
    fn update(&self, id: RequestId, kind: UpdateKind) -> Update {
        Update { id: id.0, after: self.submitted.elapsed(), kind, last: false }
    }
}

#[cfg(test)]
#[cfg(feature = "scripted")]
mod tests;
