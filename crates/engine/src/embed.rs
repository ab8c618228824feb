//! The embedding loop: receive, plan, compute, emit, on several lanes.
//!
//! A lane is a thread with a context of its own. On a CPU several narrow ones side by side compute
//! more than one over all cores, whose threads wait for each other after every operation. What is
//! alone, or longer than a lane's context, is computed in the wide context, by all cores.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use forebay_scheduler::{EmbeddingInput, EmbeddingQueue, EmbeddingRequestId, PassLimits};
use tokio::sync::mpsc;

use crate::Token;
use crate::deadlines::{Deadlines, Timeouts};
use crate::failure::Failure;
use crate::lock::lock;
use crate::message::{Command, EmbedCommand, Report};
use crate::model::{EmbeddingModel, StepError};
use crate::report_sink::{Activity, ReportSink};
use crate::status::{Status, StatusBoard};
use crate::step_timeouts::StepKind;

/// Passes that may fail one after the other before the engine gives up.
const MAX_FAILED_PASSES: u32 = 3;

/// Weight of the newest pass in what a token costs.
const WEIGHT: f64 = 0.1;

/// A request while the worker has it.
#[derive(Debug)]
struct EmbeddingJob {
    id: EmbeddingRequestId,
    inputs: Vec<Vec<Token>>,
    vectors: Vec<Vec<f32>>,
    missing: usize,
    submitted: Instant,
    timeout: Option<Duration>,
    /// Whether one of its inputs has been in a pass.
    started: bool,
}

/// Where requests come from, how long they may take, and where answers go.
pub(crate) struct EmbeddingChannels {
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) out: Arc<dyn ReportSink>,
}

/// What passes are computed in.
pub(crate) struct EmbeddingContexts<M> {
    /// Takes any input that the model takes.
    pub(crate) wide: M,
    /// Each takes one [`EmbeddingContexts::pass`]. None: all passes go to the wide one.
    pub(crate) narrow: Vec<M>,
    /// What a pass can hold, unless one input is longer.
    pub(crate) pass: PassLimits,
}

/// What the lanes share. Where both locks are held, the inbox's was taken first.
pub(crate) struct EmbedWorker<M> {
    /// What is not yet being computed. Held by the lane that waits for something to do.
    inbox: Mutex<EmbeddingInbox>,
    /// The requests that are not yet answered.
    jobs: Mutex<Jobs>,
    out: Arc<dyn ReportSink>,
    wide: Mutex<M>,
    pass: PassLimits,
    /// Whether what comes out are vectors, of which only the direction counts; else it is scores.
    directions: bool,
    board: Arc<StatusBoard>,
    computing: AtomicUsize,
    failed_passes: AtomicU32,
    ended: AtomicBool,
    /// What a token takes under load, in seconds, as the bits of an `f64`.
    token_time: AtomicU64,
}

struct EmbeddingInbox {
    inbox: mpsc::UnboundedReceiver<Command>,
    queue: EmbeddingQueue,
    /// Whether to end when all that was asked is done.
    closing: bool,
}

/// The requests that are not yet answered, and when their time is up.
struct Jobs {
    open: BTreeMap<EmbeddingRequestId, EmbeddingJob>,
    deadlines: Deadlines<EmbeddingRequestId>,
    queue_timeout: Option<Duration>,
}

/// What one lane computes at once.
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

    /// How long it may take.
    fn timeouts(&self, queue: Option<Duration>) -> Timeouts {
        let queue = queue.filter(|_| !self.started);
        Timeouts { submitted: self.submitted, own: self.timeout, queue }
    }

    fn deadline(&self, queue: Option<Duration>) -> Option<Instant> {
        self.timeouts(queue).deadline()
    }

    /// What a failure of it is reported as.
    fn failed(&self, failure: Failure) -> Report {
        Report::Vectors { id: self.id.0, vectors: Err(failure) }
    }
}

impl Jobs {
    fn insert(&mut self, job: EmbeddingJob) {
        self.deadlines.insert(job.deadline(self.queue_timeout), job.id);
        self.open.insert(job.id, job);
    }

    fn remove(&mut self, id: EmbeddingRequestId) -> Option<EmbeddingJob> {
        let job = self.open.remove(&id)?;
        self.deadlines.remove(job.deadline(self.queue_timeout), id);
        Some(job)
    }

    /// An input that is about to be computed: its request waits no longer.
    fn start(&mut self, item: &EmbeddingInput) -> Option<Vec<Token>> {
        let job = self.open.get_mut(&item.job)?;
        if !job.started {
            self.deadlines.remove(job.deadline(self.queue_timeout), job.id);
            job.started = true;
            self.deadlines.insert(job.deadline(self.queue_timeout), job.id);
        }
        job.inputs.get(item.index as usize).cloned()
    }

    /// Takes out a request whose time is up, and says by which limit.
    fn pop_overdue(&mut self, now: Instant) -> Option<(EmbeddingJob, Failure)> {
        let id = self.deadlines.pop_due(now)?;
        let failure = self.open.get(&id)?.timeouts(self.queue_timeout).overdue(now)?;
        Some((self.open.remove(&id)?, failure))
    }

    /// Takes out a request that has all its vectors.
    fn take_if_complete(&mut self, id: EmbeddingRequestId) -> Option<Report> {
        self.open.get(&id).filter(|job| job.missing == 0)?;
        let job = self.remove(id)?;
        Some(Report::Vectors { id: id.0, vectors: Ok(job.vectors) })
    }
}

impl<M: EmbeddingModel + Send> EmbedWorker<M> {
    /// Serves until it is told to end or too many passes have failed.
    pub(crate) fn serve(
        contexts: EmbeddingContexts<M>,
        clients: EmbeddingChannels,
        directions: bool,
        board: Arc<StatusBoard>,
    ) {
        let EmbeddingContexts { wide, narrow, pass } = contexts;
        let EmbeddingChannels { inbox, queue_timeout, out } = clients;
        let (open, deadlines) = (BTreeMap::new(), Deadlines::default());
        let worker = Self {
            inbox: Mutex::new(EmbeddingInbox {
                inbox,
                queue: EmbeddingQueue::new(),
                closing: false,
            }),
            jobs: Mutex::new(Jobs { open, deadlines, queue_timeout }),
            out,
            wide: Mutex::new(wide),
            pass,
            directions,
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
        while let Some(PassInput { items, inputs, wide }) = self.take() {
            self.out.computing(Activity::Step(number), &mut items.iter().map(|item| item.job.0));
            let computed = self.compute(number, &inputs, own.as_mut().filter(|_| !wide));
            self.out.computing(Activity::Step(number), &mut std::iter::empty());
            match computed {
                Ok(vectors) => self.emit(&items, vectors),
                Err(error) => {
                    tracing::error!(%error, inputs = items.len(), "an embedding pass failed");
                    if !self.survive(&items) {
                        break;
                    }
                }
            }
        }
    }

    /// The next pass; waits while there is nothing to do. `None` when there will be nothing more, or
    /// another lane has given up.
    fn take(&self) -> Option<PassInput> {
        let mut inbox = lock(&self.inbox);
        loop {
            if !self.receive(&mut inbox) || self.ended.load(Relaxed) {
                return None;
            }
            let mut items = inbox.queue.next_batch(self.pass);
            self.publish(&inbox);
            let mut jobs = lock(&self.jobs);
            // The rest of a request of which a pass has failed.
            items.retain(|item| jobs.open.contains_key(&item.job));
            if items.is_empty() {
                continue;
            }
            let inputs = items.iter().filter_map(|item| jobs.start(item)).collect();
            let alone = self.computing.fetch_add(1, Relaxed) == 0 && inbox.queue.is_empty();
            let long = items.iter().any(|item| item.tokens > self.pass.tokens);
            return Some(PassInput { items, inputs, wide: alone || long });
        }
    }

    /// Takes what has arrived, and drops the requests whose time is up; with nothing to do, waits.
    /// Returns false when there will be nothing more.
    fn receive(&self, inbox: &mut EmbeddingInbox) -> bool {
        while inbox.queue.is_empty() {
            if inbox.closing || self.ended.load(Relaxed) {
                return false;
            }
            self.publish(inbox);
            match inbox.inbox.blocking_recv() {
                Some(command) => self.obey(inbox, command),
                None => return false,
            }
        }
        while let Ok(command) = inbox.inbox.try_recv() {
            self.obey(inbox, command);
        }
        let mut jobs = lock(&self.jobs);
        while let Some((job, failure)) = jobs.pop_overdue(Instant::now()) {
            inbox.queue.cancel(job.id);
            self.board.timed_out.fetch_add(1, Relaxed);
            self.out.report(job.failed(failure));
        }
        true
    }

    fn obey(&self, inbox: &mut EmbeddingInbox, command: Command) {
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
        jobs.insert(job);
        if let Some(answer) = jobs.take_if_complete(id) {
            self.out.report(answer);
        }
    }

    /// Reports what waits, and how long that is likely to take.
    fn publish(&self, inbox: &EmbeddingInbox) {
        self.board.waiting.store(inbox.queue.len() as u64, Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let tokens = inbox.queue.tokens() as f64;
        let backlog = tokens * f64::from_bits(self.token_time.load(Relaxed)) * 1e3;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        self.board.backlog_ms.store(backlog as u64, Relaxed);
    }

    /// Learns what a token takes from a pass beside `lanes` of them. Passes that report at once may
    /// overwrite each other: any of them will do.
    fn learn(&self, took: Duration, tokens: usize, lanes: usize) {
        let before = f64::from_bits(self.token_time.load(Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let each = took.as_secs_f64() / (tokens.max(1) * lanes.max(1)) as f64;
        let known = before > 0.0;
        let now = if known { before + WEIGHT * (each - before) } else { each };
        self.token_time.store(now.to_bits(), Relaxed);
    }

    /// How long a pass is likely to take beside those that run.
    fn predicted(&self, tokens: usize) -> Duration {
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
        // Those that wait for the wide context do not run yet.
        let mut wide;
        let model = match own {
            Some(own) => own,
            None => {
                wide = lock(&self.wide);
                &mut *wide
            }
        };
        self.board.begin_step(lane, StepKind::new(tokens, true), self.predicted(tokens));
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
        if self.directions {
            vectors.iter_mut().for_each(|vector| normalise(vector));
        }
        let mut answers = Vec::new();
        let mut jobs = lock(&self.jobs);
        for (item, vector) in items.iter().zip(vectors) {
            if let Some(job) = jobs.open.get_mut(&item.job) {
                job.vectors[item.index as usize] = vector;
                job.missing -= 1;
                answers.extend(jobs.take_if_complete(item.job));
            }
        }
        drop(jobs);
        answers.into_iter().for_each(|answer| self.out.report(answer));
    }

    /// Fails the requests of a failed pass. Returns whether to go on.
    fn survive(&self, items: &[EmbeddingInput]) -> bool {
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

/// Ends all lanes with the first one that ends, however that was, a panic included.
struct LaneEndGuard<'w, M>(&'w EmbedWorker<M>);

impl<M> Drop for LaneEndGuard<'_, M> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
        self.0.board.set_status(Status::Failed);
    }
}

/// Scales a vector to Euclidean length 1; a vector of zeros stays as it is.
fn normalise(vector: &mut [f32]) {
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
