//! An engine's status and counters, which its thread (or its process's supervisor) publishes and any thread reads.

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

/// How many times longer a call may take on a background thread, which runs when no other thread needs the core.
const BACKGROUND_FACTOR: u32 = 60;

/// Engine status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The model is being read.
    Loading,
    /// Requests are served.
    Ready,
    /// The engine's process has died and is restarting: requests wait.
    Restarting,
    /// The engine has ended; requests fail.
    Failed,
}

/// Progress of loading, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress(pub f32);

/// Cumulative counters, and gauges of the current state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Admitted sequences (for embeddings: inputs in the current pass).
    pub running: u64,
    /// Queued requests.
    pub waiting: u64,
    /// KV cells in use, in tokens.
    pub kv_used: u64,
    /// KV cells held by parked sequences alone, in tokens.
    pub kv_parked: u64,
    /// Tokens in the host tier.
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
    /// Requests that timed out.
    pub timed_out: u64,
    /// Bytes of events that clients have not read.
    pub unread_bytes: u64,
    /// Answers cut because their events were not read.
    pub cut: u64,
    /// Drafted tokens that were computed.
    pub drafted: u64,
    /// Drafted tokens that were right.
    pub accepted: u64,
    /// The share of right drafts at which drafting breaks even, from 0 to 1.
    pub draft_break_even: f64,
    /// Time of steps by part.
    pub times: StepTimes,
    /// The scheduler's counters.
    pub scheduler: Counters,
    /// Exits of engine processes, by cause.
    pub deaths: BTreeMap<ExitCause, u64>,
}

/// The content of a status board, as plain data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) stats: Stats,
    /// Estimated time until the queued requests have been served.
    pub(crate) backlog: Duration,
    /// How long the oldest running step has run.
    pub(crate) stalled: Option<Duration>,
    /// How long the oldest activity beyond its limit has run.
    pub(crate) overdue: Option<Duration>,
    /// The kinds of steps computed so far.
    pub(crate) seen: Vec<StepKind>,
}

/// A running activity.
#[derive(Debug, Clone, Copy)]
struct RunningActivity {
    began: Instant,
    limit: Duration,
}

/// Reads the costs that an engine has learned, also after it has ended. Cheap to clone; does not keep the engine
/// running.
#[derive(Debug, Clone)]
pub struct CostWatch(pub(crate) Arc<StatusBoard>);

impl CostWatch {
    /// A version number and the learned costs of decode calls, at most a few seconds old. Empty for embedding models.
    pub fn learned(&self) -> (u64, Arc<LearnedCosts>) {
        self.0.costs()
    }
}

impl Stats {
    /// Adds the counters of earlier processes of the same engine.
    pub(crate) fn plus(mut self, before: &Self) -> Self {
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
    /// The id of the engine's process; 0 if it has none of its own.
    process: AtomicU32,
    limits: Mutex<StepTimeouts>,
    /// What runs now.
    running_now: Mutex<BTreeMap<Activity, RunningActivity>>,
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
    /// Estimated time until the queue is served, in milliseconds.
    pub(crate) backlog_ms: AtomicU64,
    /// The share of right drafts at which drafting breaks even, in hundredths.
    pub(crate) break_even: AtomicU32,
    step_times: Mutex<(StepTimes, Counters)>,
    /// A version number and the learned costs.
    costs: Mutex<(u64, Arc<LearnedCosts>)>,
    deaths: Mutex<BTreeMap<ExitCause, u64>>,
    /// Requests that wait for a restart before they are prepared.
    waiting_for_restart: AtomicU64,
}

/// Adds one to a gauge while it lives.
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
    /// The board of an engine that is loading.
    pub(crate) fn new(limits: StepTimeouts) -> Self {
        Self {
            limits: Mutex::new(limits),
            status: AtomicU8::new(0),
            changed: Notify::new(),
            progress: AtomicU32::new(0),
            process: AtomicU32::new(0),
            running_now: Mutex::default(),
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
            step_times: Mutex::default(),
            costs: Mutex::default(),
            deaths: Mutex::default(),
            waiting_for_restart: AtomicU64::new(0),
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

    /// Waits while the engine restarts.
    ///
    /// # Errors
    /// [`Failure::QueueTimeout`] if that takes longer than `limit`.
    pub(crate) async fn wait_until_restarted(
        &self,
        limit: Option<Duration>,
    ) -> Result<(), Failure> {
        if self.status() != Status::Restarting {
            return Ok(());
        }
        let _waiting = Counted::new(&self.waiting_for_restart);
        match limit {
            None => self.restarted().await,
            Some(limit) => {
                let late = |_| Failure::QueueTimeout(limit);
                tokio::time::timeout(limit, self.restarted()).await.map_err(late)?;
            }
        }
        Ok(())
    }

    async fn restarted(&self) {
        self.wait_for(|status| status != Status::Restarting).await;
    }

    /// Waits until the engine has ended.
    pub(crate) async fn ended(&self) {
        self.wait_for(|status| status == Status::Failed).await;
    }

    async fn wait_for(&self, wanted: impl Fn(Status) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Changes from here on wake it.
            changed.as_mut().enable();
            if wanted(self.status()) {
                return;
            }
            changed.await;
        }
    }

    /// The id of the engine's process; `None` if it runs in this one.
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

    /// A copy of all but the status.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            stats: self.stats(),
            backlog: self.backlog(),
            stalled: self.stalled_for(),
            overdue: self.overdue_for(),
            seen: lock(&self.limits).seen(),
        }
    }

    /// Mirrors the board of the engine's current process; `before` is what earlier ones counted.
    pub(crate) fn mirror(&self, snapshot: Snapshot, before: &Stats) {
        let Snapshot { stats, backlog, stalled, .. } = snapshot;
        let stats = stats.plus(before);
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
        let step = |began| (Activity::Step(0), RunningActivity { began, limit: Duration::MAX });
        let step = began.map(step);
        *lock(&self.running_now) = step.into_iter().collect();
        self.set_counters(stats.times, stats.scheduler);
    }

    /// Records that a step begins on a lane, with its predicted time.
    pub(crate) fn begin_step(&self, lane: usize, kind: StepKind, predicted: Duration) {
        let limit = lock(&self.limits).next(kind, predicted);
        self.begin(Activity::Step(lane), limit);
    }

    /// Runs `work` as an activity that is recorded while it lasts. `id` is the request or question that it is for;
    /// on a `background` thread it may wait very long for a core.
    pub(crate) fn run_activity<T>(
        &self,
        out: &dyn ReportSink,
        activity: Activity,
        id: u64,
        background: bool,
        work: impl FnOnce() -> T,
    ) -> T {
        let limit = lock(&self.limits).least() * if background { BACKGROUND_FACTOR } else { 1 };
        out.computing(activity, &mut std::iter::once(id));
        self.begin(activity, limit);
        let done = work();
        lock(&self.running_now).remove(&activity);
        out.computing(activity, &mut std::iter::empty());
        done
    }

    fn begin(&self, activity: Activity, limit: Duration) {
        lock(&self.running_now).insert(activity, RunningActivity { began: Instant::now(), limit });
    }

    /// Records that the step of `tokens` tokens was computed.
    pub(crate) fn end_step(&self, lane: usize, tokens: usize) {
        lock(&self.running_now).remove(&Activity::Step(lane));
        self.steps.fetch_add(1, Relaxed);
        self.step_tokens.fetch_add(tokens as u64, Relaxed);
    }

    /// How long the oldest running step has run; `None` if none runs.
    pub(crate) fn stalled_for(&self) -> Option<Duration> {
        let running = lock(&self.running_now);
        let steps = running.iter().filter(|(by, _)| matches!(by, Activity::Step(_)));
        steps.map(|(_, step)| step.began.elapsed()).max()
    }

    /// How long the oldest activity beyond its limit has run.
    fn overdue_for(&self) -> Option<Duration> {
        let overdue = |step: &RunningActivity| {
            Some(step.began.elapsed()).filter(|&elapsed| elapsed > step.limit)
        };
        lock(&self.running_now).values().filter_map(overdue).max()
    }

    /// Extends the limits of all running activities, after the whole process was stopped.
    pub(crate) fn extend_limits(&self, time: Duration) {
        for step in lock(&self.running_now).values_mut() {
            step.limit = step.limit.saturating_add(time);
        }
    }

    /// Counts an unexpected exit of the engine's process and clears the gauges.
    pub(crate) fn record_exit(&self, cause: ExitCause) {
        *lock(&self.deaths).entry(cause).or_default() += 1;
        self.set_process_id(None);
        lock(&self.running_now).clear();
        for gauge in [&self.running, &self.kv_used, &self.kv_parked, &self.kv_saved] {
            gauge.store(0, Relaxed);
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (times, scheduler) = lock(&self.step_times).clone();
        Stats {
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed) + self.waiting_for_restart.load(Relaxed),
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

    /// Publishes the time of steps by part, and the scheduler's counters.
    pub(crate) fn set_counters(&self, times: StepTimes, counts: Counters) {
        *lock(&self.step_times) = (times, counts);
    }

    /// A version number and the learned costs of decode calls.
    pub(crate) fn costs(&self) -> (u64, Arc<LearnedCosts>) {
        lock(&self.costs).clone()
    }

    /// Publishes learned costs.
    pub(crate) fn set_costs(&self, costs: LearnedCosts) {
        let mut published = lock(&self.costs);
        *published = (published.0.saturating_add(1), Arc::new(costs));
    }

    /// Estimated time until the queued requests have been served.
    pub(crate) fn backlog(&self) -> Duration {
        Duration::from_millis(self.backlog_ms.load(Relaxed))
    }
}
