//! What an engine tells the rest of the process without being asked: its own thread does, or the one
//! that looks after its process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use forebay_scheduler::{Counters, LearnedCosts};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::exit_cause::ExitCause;
use crate::failure::Failure;
use crate::lock::lock;
use crate::report_sink::{Activity, ReportSink};
use crate::step_timeouts::{StepKind, StepTimeouts};
use crate::step_times::StepTimes;

/// Times that a question may take longer which runs when no other thread wants the core.
const PATIENT_TIMES: u32 = 60;

/// How an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The model is being read.
    Loading,
    /// Requests are served.
    Ready,
    /// The engine has died and is being started again: requests wait.
    Restarting,
    /// The engine has ended; requests fail.
    Failed,
}

/// How far loading has come, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress(pub f32);

/// Counts since the start, and the state of now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Sequences that were admitted (for embeddings: inputs in the current pass).
    pub running: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// KV cells in use, in tokens.
    pub kv_used: u64,
    /// KV cells that only parked sequences hold, in tokens.
    pub kv_parked: u64,
    /// Tokens whose KV is kept in host memory.
    pub kv_saved: u64,
    /// KV cells, in tokens.
    pub kv_total: u64,
    /// Steps computed.
    pub steps: u64,
    /// Tokens that went through the model, over all steps.
    pub step_tokens: u64,
    /// Steps that failed.
    pub step_errors: u64,
    /// Requests whose client went away.
    pub cancelled: u64,
    /// Requests that ran out of time.
    pub timed_out: u64,
    /// Bytes of events that wait to be read.
    pub unread_bytes: u64,
    /// Answers that were cut because nobody read them.
    pub cut: u64,
    /// Drafted tokens that were computed.
    pub drafted: u64,
    /// Those of them that were right.
    pub accepted: u64,
    /// How often a draft's token must be right for drafts to pay, from 0 to 1.
    pub draft_break_even: f64,
    /// Where the time of steps went.
    pub times: StepTimes,
    /// What the scheduler has done.
    pub scheduler: Counters,
    /// Processes that died, by cause.
    pub deaths: BTreeMap<ExitCause, u64>,
}

/// What a board tells, as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) stats: Stats,
    /// How long it is likely to take until what waits has been served.
    pub(crate) backlog: Duration,
    /// How long the step that began first has run, where one is running.
    pub(crate) stalled: Option<Duration>,
    /// The same of a step, or a question, that has run longer than it may.
    pub(crate) overdue: Option<Duration>,
    /// The kinds of steps that were computed, or are being computed.
    pub(crate) seen: Vec<StepKind>,
}

/// A step that runs.
#[derive(Debug, Clone, Copy)]
struct RunningStep {
    began: Instant,
    limit: Duration,
}

/// Reads what an engine has learned of costs, also after it has ended. Cheap to clone; keeps no engine
/// running.
#[derive(Debug, Clone)]
pub struct CostWatch(pub(crate) Arc<StatusBoard>);

impl CostWatch {
    /// What its calls were learned to cost, a few seconds ago at most, and a number that changes when
    /// that does. Empty for embedding models.
    pub fn learned(&self) -> (u64, Arc<LearnedCosts>) {
        self.0.costs()
    }
}

impl Stats {
    /// The same, where an engine before this one had counted so much.
    pub(crate) fn after(mut self, before: &Self) -> Self {
        let add = |count: &mut u64, earlier: u64| *count = count.saturating_add(earlier);
        add(&mut self.steps, before.steps);
        add(&mut self.step_tokens, before.step_tokens);
        add(&mut self.step_errors, before.step_errors);
        add(&mut self.cancelled, before.cancelled);
        add(&mut self.timed_out, before.timed_out);
        add(&mut self.drafted, before.drafted);
        add(&mut self.accepted, before.accepted);
        self.times.add_all(&before.times);
        let (counts, earlier) = (&mut self.scheduler, &before.scheduler);
        for (&reuse, &count) in &earlier.reuse {
            add(counts.reuse.entry(reuse).or_default(), count);
        }
        add(&mut counts.waited, earlier.waited);
        add(&mut counts.preempted_for_cells, earlier.preempted_for_cells);
        add(&mut counts.outgrown, earlier.outgrown);
        add(&mut counts.preempted_for_others, earlier.preempted_for_others);
        add(&mut counts.evicted, earlier.evicted);
        self
    }
}

/// The shared side of [`Status`], [`Progress`] and [`Stats`]: written by the engine's thread.
#[derive(Debug)]
pub(crate) struct StatusBoard {
    status: AtomicU8,
    /// Woken when the status changes.
    changed: Notify,
    progress: AtomicU32,
    /// The number of the engine's process; 0 where it has none of its own.
    process: AtomicU32,
    limits: Mutex<StepTimeouts>,
    /// What runs, by who runs it.
    running_steps: Mutex<BTreeMap<Activity, RunningStep>>,
    pub(crate) running: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) kv_used: AtomicU64,
    pub(crate) kv_parked: AtomicU64,
    pub(crate) kv_saved: AtomicU64,
    pub(crate) kv_total: AtomicU64,
    steps: AtomicU64,
    step_tokens: AtomicU64,
    pub(crate) step_errors: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) drafted: AtomicU64,
    pub(crate) accepted: AtomicU64,
    /// How long what waits will take, in milliseconds.
    pub(crate) backlog_ms: AtomicU64,
    /// How often a draft's token must be right for drafts to pay, in hundredths.
    pub(crate) break_even: AtomicU32,
    told: Mutex<(StepTimes, Counters)>,
    /// What calls were learned to cost, and from how many calls.
    costs: Mutex<(u64, Arc<LearnedCosts>)>,
    deaths: Mutex<BTreeMap<ExitCause, u64>>,
    /// Requests that wait for the engine to be started again before they are prepared.
    outside: AtomicU64,
}

/// Counts one while it lives.
struct Counted<'c>(&'c AtomicU64);

impl<'c> Counted<'c> {
    fn new(count: &'c AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl StatusBoard {
    /// One that nothing was told to yet.
    pub(crate) fn new(limits: StepTimeouts) -> Self {
        Self {
            limits: Mutex::new(limits),
            status: AtomicU8::new(0),
            changed: Notify::new(),
            progress: AtomicU32::new(0),
            process: AtomicU32::new(0),
            running_steps: Mutex::default(),
            running: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            kv_used: AtomicU64::new(0),
            kv_parked: AtomicU64::new(0),
            kv_saved: AtomicU64::new(0),
            kv_total: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            step_tokens: AtomicU64::new(0),
            step_errors: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            drafted: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            backlog_ms: AtomicU64::new(0),
            break_even: AtomicU32::new(100),
            told: Mutex::default(),
            costs: Mutex::default(),
            deaths: Mutex::default(),
            outside: AtomicU64::new(0),
        }
    }

    pub(crate) fn status(&self) -> Status {
        match self.status.load(Relaxed) {
            0 => Status::Loading,
            1 => Status::Ready,
            3 => Status::Restarting,
            _ => Status::Failed,
        }
    }

    pub(crate) fn set_status(&self, status: Status) {
        let value = match status {
            Status::Loading => 0,
            Status::Ready => 1,
            Status::Failed => 2,
            Status::Restarting => 3,
        };
        self.status.store(value, Relaxed);
        self.changed.notify_waiters();
    }

    /// Waits while the engine is being started again.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub(crate) async fn wait_until_restarted(
        &self,
        limit: Option<Duration>,
    ) -> Result<(), Failure> {
        if self.status() != Status::Restarting {
            return Ok(());
        }
        let _waiting = Counted::new(&self.outside);
        match limit {
            None => self.no_longer_restarts().await,
            Some(limit) => {
                let late = |_| Failure::QueueTimeout(limit);
                tokio::time::timeout(limit, self.no_longer_restarts()).await.map_err(late)?;
            }
        }
        Ok(())
    }

    async fn no_longer_restarts(&self) {
        self.becomes(|status| status != Status::Restarting).await;
    }

    /// Waits until the engine has ended.
    pub(crate) async fn ended(&self) {
        self.becomes(|status| status == Status::Failed).await;
    }

    async fn becomes(&self, wanted: impl Fn(Status) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // What changes from here on wakes it.
            changed.as_mut().enable();
            if wanted(self.status()) {
                return;
            }
            changed.await;
        }
    }

    /// The number of the process that the engine runs in, if it is not this one.
    pub(crate) fn process_id(&self) -> Option<u32> {
        Some(self.process.load(Relaxed)).filter(|&id| id != 0)
    }

    pub(crate) fn set_process_id(&self, id: Option<u32>) {
        self.process.store(id.unwrap_or(0), Relaxed);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress(f32::from_bits(self.progress.load(Relaxed)))
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        self.progress.store(progress.0.to_bits(), Relaxed);
    }

    /// All that it tells, but how the engine is.
    pub(crate) fn state(&self) -> Snapshot {
        Snapshot {
            stats: self.stats(),
            backlog: self.backlog(),
            stalled: self.stalled_for(),
            overdue: self.overdue_for(),
            seen: lock(&self.limits).seen(),
        }
    }

    /// Tells what the board of an engine somewhere else told, `before` having been counted by those
    /// before it.
    pub(crate) fn follow(&self, state: Snapshot, before: &Stats) {
        let Snapshot { stats, backlog, stalled, .. } = state;
        let stats = stats.after(before);
        self.running.store(stats.running, Relaxed);
        self.waiting.store(stats.waiting, Relaxed);
        self.kv_used.store(stats.kv_used, Relaxed);
        self.kv_parked.store(stats.kv_parked, Relaxed);
        self.kv_saved.store(stats.kv_saved, Relaxed);
        self.kv_total.store(stats.kv_total, Relaxed);
        self.steps.store(stats.steps, Relaxed);
        self.step_tokens.store(stats.step_tokens, Relaxed);
        self.step_errors.store(stats.step_errors, Relaxed);
        self.cancelled.store(stats.cancelled, Relaxed);
        self.timed_out.store(stats.timed_out, Relaxed);
        self.drafted.store(stats.drafted, Relaxed);
        self.accepted.store(stats.accepted, Relaxed);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        self.break_even.store((stats.draft_break_even * 100.0) as u32, Relaxed);
        self.backlog_ms.store(u64::try_from(backlog.as_millis()).unwrap_or(u64::MAX), Relaxed);
        let began = stalled.and_then(|stalled| Instant::now().checked_sub(stalled));
        let step = |began| (Activity::Step(0), RunningStep { began, limit: Duration::MAX });
        let step = began.map(step);
        *lock(&self.running_steps) = step.into_iter().collect();
        self.tell(stats.times, stats.scheduler);
    }

    /// Tells that a step is about to be computed on a lane, and how long that is predicted to take.
    pub(crate) fn begin_step(&self, lane: usize, kind: StepKind, predicted: Duration) {
        let limit = lock(&self.limits).next(kind, predicted);
        self.begin(Activity::Step(lane), limit);
    }

    /// Does something that is no step, with this number, and tells of it while it lasts. What is
    /// `patient` may have to wait for a core, for very long.
    pub(crate) fn during<T>(
        &self,
        out: &dyn ReportSink,
        by: Activity,
        id: u64,
        patient: bool,
        work: impl FnOnce() -> T,
    ) -> T {
        let limit = lock(&self.limits).least() * if patient { PATIENT_TIMES } else { 1 };
        out.computing(by, &mut std::iter::once(id));
        self.begin(by, limit);
        let done = work();
        lock(&self.running_steps).remove(&by);
        out.computing(by, &mut std::iter::empty());
        done
    }

    fn begin(&self, by: Activity, limit: Duration) {
        lock(&self.running_steps).insert(by, RunningStep { began: Instant::now(), limit });
    }

    /// Tells that the step of `tokens` tokens was computed.
    pub(crate) fn end_step(&self, lane: usize, tokens: usize) {
        lock(&self.running_steps).remove(&Activity::Step(lane));
        self.steps.fetch_add(1, Relaxed);
        self.step_tokens.fetch_add(tokens as u64, Relaxed);
    }

    /// How long the step that began first has run; `None` where none is running.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        let running = lock(&self.running_steps);
        let steps = running.iter().filter(|(by, _)| matches!(by, Activity::Step(_)));
        steps.map(|(_, step)| step.began.elapsed()).max()
    }

    /// The same of the steps and answers that have run longer than they may.
    fn overdue_for(&self) -> Option<Duration> {
        let overdue =
            |step: &RunningStep| Some(step.began.elapsed()).filter(|&elapsed| elapsed > step.limit);
        lock(&self.running_steps).values().filter_map(overdue).max()
    }

    /// Gives the steps that run so much more time: all of the process was stopped.
    pub(crate) fn forgive(&self, time: Duration) {
        for step in lock(&self.running_steps).values_mut() {
            step.limit = step.limit.saturating_add(time);
        }
    }

    /// Counts the death of the engine's process.
    pub(crate) fn died(&self, death: ExitCause) {
        *lock(&self.deaths).entry(death).or_default() += 1;
        self.set_process_id(None);
        lock(&self.running_steps).clear();
        for gauge in [&self.running, &self.kv_used, &self.kv_parked, &self.kv_saved] {
            gauge.store(0, Relaxed);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (times, scheduler) = lock(&self.told).clone();
        Stats {
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed) + self.outside.load(Relaxed),
            kv_used: self.kv_used.load(Relaxed),
            kv_parked: self.kv_parked.load(Relaxed),
            kv_saved: self.kv_saved.load(Relaxed),
            kv_total: self.kv_total.load(Relaxed),
            steps: self.steps.load(Relaxed),
            step_tokens: self.step_tokens.load(Relaxed),
            step_errors: self.step_errors.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            unread_bytes: 0,
            cut: 0,
            drafted: self.drafted.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            draft_break_even: f64::from(self.break_even.load(Relaxed)) / 100.0,
            times,
            scheduler,
            deaths: lock(&self.deaths).clone(),
        }
    }

    /// Tells where the time went and what the scheduler has done.
    pub(crate) fn tell(&self, times: StepTimes, counts: Counters) {
        *lock(&self.told) = (times, counts);
    }

    /// What calls were learned to cost, and a number that changes when that does.
    pub(crate) fn costs(&self) -> (u64, Arc<LearnedCosts>) {
        lock(&self.costs).clone()
    }

    /// Publishes what calls were learned to cost.
    pub(crate) fn set_costs(&self, costs: LearnedCosts) {
        let mut published = lock(&self.costs);
        *published = (published.0.saturating_add(1), Arc::new(costs));
    }

    /// How long it is likely to take until what waits now has been served.
    pub(crate) fn backlog(&self) -> Duration {
        Duration::from_millis(self.backlog_ms.load(Relaxed))
    }
}
