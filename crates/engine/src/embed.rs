//! The embedding loop: receive, plan, compute, emit, on several lanes.
//!
//! A lane is a thread with a context of its own. On a CPU several narrow contexts side by side compute
//! more than one over all cores, whose threads wait for each other after every operation. A pass that is
//! alone, or longer than a lane's context, is computed in the wide context, by all cores.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use forebay_scheduler::{EmbeddingInput, EmbeddingQueue, EmbeddingRequestId, PassLimits};
use tokio::sync::mpsc;

use crate::Token;
use crate::deadlines::Timeouts;
use crate::failure::Failure;
use crate::lock::lock;
use crate::message::{Command, EmbedCommand, Report};
use crate::model::{EmbeddingModel, StepError};
use crate::report_sink::{Activity, ReportSink};
use crate::request_table::{RequestTable, Timed};
use crate::status::{Status, StatusBoard};
use crate::step_timeouts::StepKind;

/// Consecutive passes that may fail before the engine ends.
const MAX_FAILED_PASSES: u32 = 3;

/// Weight of the newest pass in the mean cost of a token.
const WEIGHT: f64 = 0.1;

/// A request for vectors while the worker has it.
#[derive(Debug)]
struct EmbeddingJob {
    id: EmbeddingRequestId,
    inputs: Vec<Vec<Token>>,
    vectors: Vec<Vec<f32>>,
    /// Inputs whose vectors are not computed yet.
    missing: usize,
    submitted: Instant,
    timeout: Option<Duration>,
    /// Whether one of its inputs has been in a pass.
    started: bool,
}

/// Where requests come from, their queue timeout, and where answers go.
pub(crate) struct EmbeddingChannels {
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) out: Arc<dyn ReportSink>,
}

/// What passes are computed in.
pub(crate) struct EmbeddingContexts<M> {
    /// Takes any input that the model takes.
    pub(crate) wide: M,
    /// Each takes one [`EmbeddingContexts::pass`]. Empty: all passes use the wide context.
    pub(crate) narrow: Vec<M>,
    /// What a pass can hold, unless one input is longer.
    pub(crate) pass: PassLimits,
}

/// The state that the lanes share. Lock order: `inbox`, then `jobs`.
pub(crate) struct EmbedWorker<M> {
    /// The inputs that are not yet being computed. Held by the lane that waits for commands.
    inbox: Mutex<EmbeddingInbox>,
    /// The requests that are not yet answered.
    jobs: Mutex<Jobs>,
    out: Arc<dyn ReportSink>,
    wide: Mutex<M>,
    pass: PassLimits,
    /// Whether to scale the output to length 1; scores of rerankers stay as they are.
    normalise: bool,
    board: Arc<StatusBoard>,
    computing: AtomicUsize,
    failed_passes: AtomicU32,
    ended: AtomicBool,
    /// Estimated seconds per token under load, as the bits of an `f64`.
    token_time: AtomicU64,
}

struct EmbeddingInbox {
    inbox: mpsc::UnboundedReceiver<Command>,
    queue: EmbeddingQueue,
    /// Whether to end when all accepted requests are done.
    closing: bool,
}

/// The requests that are not yet answered.
type Jobs = RequestTable<EmbeddingRequestId, EmbeddingJob>;

/// What one lane computes in one pass.
struct PassInput {
    items: Vec<EmbeddingInput>,
    inputs: Vec<Vec<Token>>,
    wide: bool,
}

impl EmbeddingJob {
    fn new(embed: EmbedCommand) -> Self {
        let EmbedCommand { id, inputs, submitted, started, timeout } = embed;
        let (missing, submitted) = (inputs.len(), submitted.0);
        let (id, vectors) = (EmbeddingRequestId(id), vec![Vec::new(); missing]);
        Self { id, inputs, vectors, missing, submitted, timeout, started }
    }

    /// The report of its failure.
    fn failed(&self, failure: Failure) -> Report {
        Report::Vectors { id: self.id.0, vectors: Err(failure) }
    }
}

impl Timed for EmbeddingJob {
    fn timeouts(&self, queue: Option<Duration>) -> Timeouts {
        let queue = queue.filter(|_| !self.started);
        Timeouts { submitted: self.submitted, own: self.timeout, queue }
    }

    fn set_started(&mut self) -> bool {
        !std::mem::replace(&mut self.started, true)
    }
}

/// Takes an input that is about to be computed: its request leaves the queue.
fn start_input(jobs: &mut Jobs, item: &EmbeddingInput) -> Option<Vec<Token>> {
    jobs.start(item.job);
    jobs.get(item.job)?.inputs.get(item.index as usize).cloned()
}

/// Removes a request that has all its vectors, and returns the report of them.
fn take_if_complete(jobs: &mut Jobs, id: EmbeddingRequestId) -> Option<Report> {
    jobs.get(id).filter(|job| job.missing == 0)?;
    let job = jobs.remove(id)?;
    Some(Report::Vectors { id: id.0, vectors: Ok(job.vectors) })
}

impl<M: EmbeddingModel + Send> EmbedWorker<M> {
    /// Serves until it is closed or too many passes have failed.
    pub(crate) fn serve(
        contexts: EmbeddingContexts<M>,
        clients: EmbeddingChannels,
        normalise: bool,
        board: Arc<StatusBoard>,
    ) {
        let EmbeddingContexts { wide, narrow, pass } = contexts;
        let EmbeddingChannels { inbox, queue_timeout, out } = clients;
        let worker = Self {
            inbox: Mutex::new(EmbeddingInbox {
                inbox,
                queue: EmbeddingQueue::new(),
                closing: false,
            }),
            jobs: Mutex::new(Jobs::new(queue_timeout)),
            out,
            wide: Mutex::new(wide),
            pass,
            normalise,
            board,
            computing: AtomicUsize::new(0),
            failed_passes: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            token_time: AtomicU64::new(0),
        };
        let name = thread::current().name().unwrap_or("engine").to_owned();
        let mut narrow = narrow.into_iter();
        let first = narrow.next();
        thread::scope(|scope| {
            for (number, model) in (2..).zip(narrow) {
                let (worker, builder) = (&worker, thread::Builder::new());
                let lane = move || worker.lane(number, Some(model));
                if let Err(error) =
                    builder.name(format!("{name}/{number}")).spawn_scoped(scope, lane)
                {
                    tracing::error!(%error, "a thread cannot be started; going on with fewer");
                }
            }
            worker.lane(1, first);
        });
    }

    /// One lane's loop.
    fn lane(&self, number: usize, mut own: Option<M>) {
        let _end = LaneEndGuard(self);
        while let Some(PassInput { items, inputs, wide }) = self.next_pass() {
            self.out.computing(Activity::Step(number), &mut items.iter().map(|item| item.job.0));
            let computed = self.compute(number, &inputs, own.as_mut().filter(|_| !wide));
            self.out.computing(Activity::Step(number), &mut std::iter::empty());
            match computed {
                Ok(vectors) => self.emit(&items, vectors),
                Err(error) => {
                    tracing::error!(%error, inputs = items.len(), "an embedding pass failed");
                    if !self.fail_pass(&items) {
                        break;
                    }
                }
            }
        }
    }

    /// The next pass; waits while there is nothing to do. `None` when the worker is to end.
    fn next_pass(&self) -> Option<PassInput> {
        let mut inbox = lock(&self.inbox);
        loop {
            if !self.receive(&mut inbox) || self.ended.load(Relaxed) {
                return None;
            }
            let mut items = inbox.queue.next_batch(self.pass);
            self.publish(&inbox);
            let mut jobs = lock(&self.jobs);
            // Inputs of a request that has failed in an earlier pass.
            items.retain(|item| jobs.contains(item.job));
            if items.is_empty() {
                continue;
            }
            let inputs = items.iter().filter_map(|item| start_input(&mut jobs, item)).collect();
            let alone = self.computing.fetch_add(1, Relaxed) == 0 && inbox.queue.is_empty();
            let long = items.iter().any(|item| item.tokens > self.pass.tokens);
            return Some(PassInput { items, inputs, wide: alone || long });
        }
    }

    /// Handles the commands that have arrived, and ends overdue requests; without inputs, waits for a command.
    /// Returns false when the worker is to end.
    fn receive(&self, inbox: &mut EmbeddingInbox) -> bool {
        while inbox.queue.is_empty() {
            if inbox.closing || self.ended.load(Relaxed) {
                return false;
            }
            self.publish(inbox);
            match inbox.inbox.blocking_recv() {
                Some(command) => self.handle_command(inbox, command),
                None => return false,
            }
        }
        while let Ok(command) = inbox.inbox.try_recv() {
            self.handle_command(inbox, command);
        }
        let mut jobs = lock(&self.jobs);
        while let Some((_, job, failure)) = jobs.pop_overdue(Instant::now()) {
            inbox.queue.cancel(job.id);
            self.board.timed_out.fetch_add(1, Relaxed);
            self.out.report(job.failed(failure));
        }
        true
    }

    fn handle_command(&self, inbox: &mut EmbeddingInbox, command: Command) {
        match command {
            Command::Embed(embed) => self.accept(inbox, *embed),
            Command::Cancel(id) => {
                if lock(&self.jobs).remove(EmbeddingRequestId(id)).is_some() {
                    inbox.queue.cancel(EmbeddingRequestId(id));
                    self.board.cancelled.fetch_add(1, Relaxed);
                    self.out.report(Report::Dropped(id));
                }
            }
            Command::Close => inbox.closing = true,
            Command::Generate(_) => tracing::error!("an embedding model was asked for text"),
        }
    }

    fn accept(&self, inbox: &mut EmbeddingInbox, embed: EmbedCommand) {
        let job = EmbeddingJob::new(embed);
        let id = job.id;
        let lengths = job.inputs.iter().map(|i| u32::try_from(i.len()).unwrap_or(u32::MAX));
        inbox.queue.push(id, lengths);
        let mut jobs = lock(&self.jobs);
        jobs.insert(id, job);
        if let Some(answer) = take_if_complete(&mut jobs, id) {
            self.out.report(answer);
        }
    }

    /// Publishes the requests that wait, and the estimated time until they are served.
    fn publish(&self, inbox: &EmbeddingInbox) {
        self.board.waiting.store(inbox.queue.len() as u64, Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let tokens = inbox.queue.tokens() as f64;
        let backlog = tokens * f64::from_bits(self.token_time.load(Relaxed)) * 1e3;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        self.board.backlog_ms.store(backlog as u64, Relaxed);
    }

    /// Updates the estimated cost of a token by a pass that ran beside `lanes` others. Passes that end at the same time
    /// may overwrite each other: the estimate needs only one of them.
    fn learn(&self, took: Duration, tokens: usize, lanes: usize) {
        let before = f64::from_bits(self.token_time.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let each = took.as_secs_f64() / (tokens.max(1) * lanes.max(1)) as f64;
        let has_estimate = before > 0.0;
        let now = if has_estimate { before + WEIGHT * (each - before) } else { each };
        self.token_time.store(now.to_bits(), Relaxed);
    }

    /// Estimated time of a pass beside those that run.
    fn estimate(&self, tokens: usize) -> Duration {
        let lanes = self.computing.load(Relaxed).max(1);
        let token_time = f64::from_bits(self.token_time.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let predicted = Duration::try_from_secs_f64(token_time * (tokens * lanes) as f64);
        predicted.unwrap_or(Duration::MAX)
    }

    /// Computes inputs in a lane's own context, or the wide one.
    fn compute(
        &self,
        lane: usize,
        inputs: &[Vec<Token>],
        own: Option<&mut M>,
    ) -> Result<Vec<Vec<f32>>, StepError> {
        let inputs: Vec<&[Token]> = inputs.iter().map(Vec::as_slice).collect();
        self.board.running.fetch_add(inputs.len() as u64, Relaxed);
        let tokens = inputs.iter().map(|i| i.len()).sum();
        // A step that waits for the wide context has not begun.
        let mut wide;
        let model = match own {
            Some(own) => own,
            None => {
                wide = lock(&self.wide);
                &mut *wide
            }
        };
        self.board.begin_step(lane, StepKind::new(tokens, true), self.estimate(tokens));
        let begin = Instant::now();
        let result = model.embed(&inputs);
        self.board.end_step(lane, tokens);
        self.board.running.fetch_sub(inputs.len() as u64, Relaxed);
        let lanes = self.computing.fetch_sub(1, Relaxed);
        self.learn(begin.elapsed(), tokens, lanes);
        result
    }

    fn emit(&self, items: &[EmbeddingInput], mut vectors: Vec<Vec<f32>>) {
        self.failed_passes.store(0, Relaxed);
        if self.normalise {
            vectors.iter_mut().for_each(|vector| scale_to_unit(vector));
        }
        let mut answers = Vec::new();
        let mut jobs = lock(&self.jobs);
        for (item, vector) in items.iter().zip(vectors) {
            if let Some(job) = jobs.get_mut(item.job) {
                job.vectors[item.index as usize] = vector;
                job.missing -= 1;
                answers.extend(take_if_complete(&mut jobs, item.job));
            }
        }
        drop(jobs);
        answers.into_iter().for_each(|answer| self.out.report(answer));
    }

    /// Fails the requests of a failed pass. Returns whether the worker continues.
    fn fail_pass(&self, items: &[EmbeddingInput]) -> bool {
        self.board.step_errors.fetch_add(1, Relaxed);
        let failed: Vec<EmbeddingJob> = {
            let mut jobs = lock(&self.jobs);
            items.iter().filter_map(|item| jobs.remove(item.job)).collect()
        };
        for job in failed {
            self.out.report(job.failed(Failure::Step));
        }
        self.failed_passes.fetch_add(1, Relaxed) + 1 < MAX_FAILED_PASSES
    }
}

/// Ends all lanes when one ends for any reason, a panic included.
struct LaneEndGuard<'w, M>(&'w EmbedWorker<M>);

impl<M> Drop for LaneEndGuard<'_, M> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
        self.0.board.set_status(Status::Failed);
    }
}

/// Scales a vector to Euclidean length 1; a vector of zeros stays as it is.
fn scale_to_unit(vector: &mut [f32]) {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if norm > 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "a float of lower precision")]
        let scale = (1.0 / norm) as f32;
        for x in vector {
            *x *= scale;
        }
    }
}

#[cfg(test)]
mod tests;
