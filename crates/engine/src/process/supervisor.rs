//! The parent's side: a thread per model that starts a child, passes messages in both directions, and restarts the
//! child when it dies.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::child_client::{ChildClient, PendingQuestion, Reply};
use super::child_process::{ChildExit, ChildProcess, DRAINED_EXIT_TIMEOUT, EXIT_TIMEOUT, Frames};
use super::crash_record::CrashRecord;
use super::in_flight::{Actions, InFlight};
use super::launcher::Launcher;
use super::messages::{FromChild, ModelDescription, ToChild};
use super::{frames, memory};
use crate::engine_thread::{EngineEndGuard, LoadError, LoadReport, OnLoaded};
use crate::exit_cause::ExitCause;
use crate::failure::Failure;
use crate::grammar::GrammarCompiler;
use crate::message::{Command, Report};
use crate::model_config::ModelConfig;
use crate::model_info::ModelInfo;
use crate::report_router::ReportRouter;
use crate::report_sink::ReportSink;
use crate::status::{Snapshot, Stats, Status, StatusBoard};
use crate::step_timeouts::StepKind;
use crate::vocab::{Vocab, VocabTable};

/// Interval between checks of a child.
const TICK: Duration = Duration::from_millis(100);
/// How long a child may be silent, or in a step, until the parent enforces its requests' deadlines, in ticks.
const LATE_TICKS: u32 = 10;
/// Delay before a restart: the first one, and the longest. It doubles with each child that dies within [`HEALTHY`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(60);
/// Consecutive children that may fail to load a model that was loaded before: over about a minute, because what is
/// missing may become available, such as file descriptors.
const MAX_FAILED_LOADS: u32 = 12;
/// File descriptors that starting a child needs: a socket pair, a pipe, copies, and the process's own.
const SPARE_FILES: usize = 8;
/// The first id of questions, beyond all ids of requests.
const FIRST_QUESTION: u64 = 1 << 63;

/// What a supervisor needs to start.
pub(crate) struct SupervisorSetup {
    pub(crate) config: ModelConfig,
    pub(crate) launcher: Launcher,
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) router: Arc<ReportRouter>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    /// `None` once the first child has loaded the model.
    pub(crate) on_loaded: Option<OnLoaded>,
}

/// The state of a supervisor's thread.
struct Supervisor {
    setup: SupervisorSetup,
    crash_record: CrashRecord,
    /// Reserved file descriptors for the next child: connections may have taken all others.
    spare: Vec<File>,
    in_flight: InFlight,
    questions: mpsc::UnboundedReceiver<PendingQuestion>,
    /// Threads that wait for answers, by question.
    replies: HashMap<u64, SyncSender<Reply>>,
    remote: ChildClient,
    last_question: u64,
    /// The counters of earlier children, and of this one.
    earlier_stats: Stats,
    child_stats: Stats,
    /// The kinds of steps that children have computed.
    seen: Vec<StepKind>,
    /// What the first child has loaded; the file that this one loads.
    first: Option<(ModelInfo, Arc<VocabTable>, Option<FileStamp>)>,
    file: Option<FileStamp>,
    /// Cancelled requests.
    cancelled: u64,
    closing: bool,
    /// Checks of a child since it had only to exit.
    exit_checks: u32,
    /// When the current child had loaded the model, if it has; consecutive children that had not.
    loaded: Option<Instant>,
    failed_loads: u32,
}

/// Identifies a file's content: its size in bytes, and its modification time.
type FileStamp = (u64, SystemTime);

fn file_of(config: &ModelConfig) -> Option<FileStamp> {
    let file = std::fs::metadata(config.source.path()?).ok()?;
    Some((file.len(), file.modified().ok()?))
}

/// The delay before the next restart.
struct BackOff(Duration);

impl SupervisorSetup {
    /// Starts the thread.
    pub(crate) fn start(self) -> Result<JoinHandle<()>, LoadError> {
        let failed = |e: io::Error| LoadError(format!("cannot start a thread: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let name = format!("engine-{}", self.config.name);
        let crash_record = CrashRecord::new().map_err(failed)?;
        let run = move || {
            let out = Arc::clone(&self.router) as Arc<dyn ReportSink>;
            let guard = EngineEndGuard(Arc::clone(&self.board), out);
            runtime.block_on(Supervisor::new(self, crash_record).run());
            drop(guard);
        };
        thread::Builder::new().name(name).spawn(run).map_err(failed)
    }
}

impl Supervisor {
    fn new(setup: SupervisorSetup, crash_record: CrashRecord) -> Self {
        #[expect(clippy::disallowed_methods, reason = "each is asked by a thread that waits")]
        let (ask, questions) = mpsc::unbounded_channel();
        Self {
            crash_record,
            spare: Vec::new(),
            in_flight: InFlight::new(setup.config.queue_timeout),
            setup,
            questions,
            replies: HashMap::new(),
            remote: ChildClient::new(ask),
            last_question: FIRST_QUESTION,
            earlier_stats: Stats::default(),
            child_stats: Stats::default(),
            seen: Vec::new(),
            first: None,
            file: None,
            cancelled: 0,
            closing: false,
            exit_checks: 0,
            loaded: None,
            failed_loads: 0,
        }
    }

    /// Keeps a child running until the engine is closed or no child can load the model.
    async fn run(mut self) {
        let mut back_off = BackOff(FIRST_WAIT);
        loop {
            let end = match self.run_child().await {
                Ok(end) => end,
                Err(error) if self.loaded.is_some() => {
                    ChildExit::Died(ExitCause::ProtocolError, error.to_string())
                }
                Err(error) => ChildExit::CannotLoad(error.to_string()),
            };
            if self.handle_exit(end).is_break() {
                return;
            }
            let served = self.loaded.take().map(|loaded| loaded.elapsed());
            let wait = back_off.next(served.unwrap_or_default());
            if self.wait_for_restart(wait).await.is_break() {
                return;
            }
        }
    }

    /// Starts a child and serves it until it exits.
    async fn run_child(&mut self) -> io::Result<ChildExit> {
        self.file = file_of(&self.setup.config);
        self.crash_record.clear();
        self.spare.clear();
        let SupervisorSetup { config, launcher, .. } = &self.setup;
        let started = ChildProcess::start(&config.name, launcher, &self.crash_record);
        self.spare = (0..SPARE_FILES).map_while(|_| self.crash_record.file().ok()).collect();
        let (mut child, mut frames) = started?;
        self.setup.board.set_process_id(child.id());
        let config = Box::new(self.setup.config.clone());
        child.send(&ToChild::Load { config, seen: self.seen.clone() })?;
        let end = self.serve(&mut child, &mut frames).await;
        let process = child.id();
        if !child.kill(self.exit_timeout()).await && !self.is_done() {
            tracing::error!(process, "an engine's process cannot be killed");
        }
        end
    }

    async fn serve(
        &mut self,
        child: &mut ChildProcess,
        frames: &mut impl Frames,
    ) -> io::Result<ChildExit> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let end = tokio::select! {
                frame = frames.next() => {
                    let Some(Ok(frame)) = frame else { return Ok(self.wait_for_exit(child).await) };
                    let message = child.receive(&frame)?;
                    self.handle_message(child, message)?
                }
                command = self.setup.inbox.recv() => self.handle_command(command, Some(child))?,
                Some(question) = self.questions.recv() => {
                    self.handle_question(question, Some(child))?;
                    None
                }
                _ = tick.tick() => self.check(child)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Waits for the exit of a child that has closed its socket.
    async fn wait_for_exit(&self, child: &mut ChildProcess) -> ChildExit {
        match child.wait_for_exit(self.is_ending(), self.exit_timeout()).await {
            ChildExit::Died(ExitCause::Silent, _) if self.is_ending() && self.is_done() => {
                ChildExit::Closed
            }
            end => end,
        }
    }

    /// How long to wait for a child's exit. Without requests no other child follows that would need its memory.
    fn exit_timeout(&self) -> Duration {
        if self.is_done() { DRAINED_EXIT_TIMEOUT } else { EXIT_TIMEOUT }
    }

    /// Waits before the next child, and handles commands meanwhile.
    async fn wait_for_restart(&mut self, wait: Duration) -> ControlFlow<()> {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        let mut tick = tokio::time::interval(TICK);
        loop {
            // Without a child none of these fails.
            let end = tokio::select! {
                () = &mut over => return ControlFlow::Continue(()),
                command = self.setup.inbox.recv() => self.handle_command(command, None),
                Some(question) = self.questions.recv() => self.handle_question(question, None).map(|()| None),
                _ = tick.tick() => self.fail_overdue(None).map(|()| None),
            };
            if matches!(end, Ok(Some(_))) {
                return ControlFlow::Break(());
            }
        }
    }

    fn handle_command(
        &mut self,
        command: Option<Command>,
        child: Option<&ChildProcess>,
    ) -> io::Result<Option<ChildExit>> {
        let Some(command) = command else { return Ok(Some(ChildExit::Closed)) };
        self.closing |= command == Command::Close;
        let leaves = matches!(command, Command::Cancel(_));
        let actions = self.in_flight.handle_command(command);
        if leaves && actions != Actions::default() {
            self.cancelled += 1;
            self.setup.board.cancelled.store(self.cancelled, Relaxed);
        }
        self.apply(child, actions)?;
        // A child that still loads, or is to be started, is not needed.
        let needless = self.loaded.is_none() && self.is_done();
        Ok(needless.then_some(ChildExit::Closed))
    }

    /// Whether the engine was closed and all requests are done.
    fn is_done(&self) -> bool {
        self.closing && self.in_flight.len() == 0
    }

    /// Whether the child was asked to exit.
    fn is_ending(&self) -> bool {
        self.closing && self.loaded.is_some()
    }

    fn handle_question(
        &mut self,
        asked: PendingQuestion,
        child: Option<&ChildProcess>,
    ) -> io::Result<()> {
        let PendingQuestion { question, background, reply } = asked;
        self.last_question += 1;
        self.replies.insert(self.last_question, reply);
        let actions = self.in_flight.add_question(self.last_question, question, background);
        self.apply(child, actions)
    }

    /// Checks whether a child is healthy, and enforces deadlines if it cannot.
    fn check(&mut self, child: &mut ChildProcess) -> io::Result<Option<ChildExit>> {
        let silent_checks = child.count_check();
        if TICK * silent_checks > self.setup.launcher.silence {
            return Ok(Some(ChildExit::Died(ExitCause::Silent, "it says nothing".to_owned())));
        }
        if self.is_ending() && self.is_done() {
            self.exit_checks += 1;
            if TICK * self.exit_checks > EXIT_TIMEOUT {
                return Ok(Some(ChildExit::Closed));
            }
        }
        if let Some(limit) = self.setup.config.memory_limit {
            let taken = child.id().and_then(memory::private_bytes).unwrap_or(0);
            if taken > limit {
                let how =
                    format!("it takes {} MiB of memory, but may {}", taken >> 20, limit >> 20);
                return Ok(Some(ChildExit::Died(ExitCause::Memory, how)));
            }
        }
        let stalled = self.setup.board.stalled_for().unwrap_or_default();
        let late = silent_checks > LATE_TICKS || stalled > TICK * LATE_TICKS;
        if self.loaded.is_none() || late || self.in_flight.is_isolating() {
            self.fail_overdue(Some(child))?;
        }
        Ok(None)
    }

    fn fail_overdue(&mut self, child: Option<&ChildProcess>) -> io::Result<()> {
        let actions = self.in_flight.fail_overdue(Instant::now());
        let reaped = actions.reports.len() as u64;
        self.earlier_stats.timed_out += reaped;
        self.setup.board.timed_out.fetch_add(reaped, Relaxed);
        self.apply(child, actions)
    }

    /// Handles a message from the child.
    fn handle_message(
        &mut self,
        child: &mut ChildProcess,
        message: FromChild,
    ) -> io::Result<Option<ChildExit>> {
        match message {
            FromChild::Progress(progress) => self.setup.board.set_progress(progress),
            FromChild::Loaded(description) => return self.handle_loaded(child, *description),
            FromChild::LoadFailed(why) => return Ok(Some(ChildExit::CannotLoad(why))),
            FromChild::Report(report) => {
                let actions = self.in_flight.handle_report(report)?;
                self.apply(Some(child), actions)?;
            }
            FromChild::Answer { id, answer, took } => {
                let actions = self.in_flight.handle_answer(id, &answer)?;
                self.replies.remove(&id).map(|reply| reply.send(Ok((answer, took))));
                self.apply(Some(child), actions)?;
            }
            FromChild::Costs(costs) => {
                let costs = costs.plausible();
                // The next child starts with these costs.
                self.setup.config.costs.clone_from(&costs);
                self.setup.board.set_costs(costs);
            }
            FromChild::Snapshot(mut snapshot) => {
                // A child also cancels requests that are tried elsewhere: only clients' cancellations count.
                snapshot.stats.cancelled = self.cancelled;
                if self.loaded.is_none() {
                    return Ok(None);
                }
                let Snapshot { stats, overdue, seen, .. } = &*snapshot;
                self.child_stats.clone_from(stats);
                self.seen.clone_from(seen);
                let end = overdue.map(|took| {
                    ChildExit::Died(
                        ExitCause::Hung,
                        format!("a step has run for {} s", took.as_secs()),
                    )
                });
                self.setup.board.mirror(*snapshot, &self.earlier_stats);
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Handles a child that has loaded the model.
    fn handle_loaded(
        &mut self,
        child: &mut ChildProcess,
        description: ModelDescription,
    ) -> io::Result<Option<ChildExit>> {
        let ModelDescription { info, table, max_requests, max_tokens, generates } = description;
        if !table.is_sound() {
            return Err(frames::invalid("its vocabulary makes no sense"));
        }
        let now = (info.clone(), Arc::new(table), self.file);
        let first = self.first.get_or_insert_with(|| now.clone());
        if *first != now {
            // Prompts, limits and grammars were made for the first file.
            self.failed_loads = MAX_FAILED_LOADS;
            let why = "the model's file is another one than at first: start the server again";
            return Ok(Some(ChildExit::CannotLoad(why.to_owned())));
        }
        self.loaded = Some(Instant::now());
        if let Some(on_loaded) = self.setup.on_loaded.take() {
            let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let announcement = LoadReport {
                info,
                vocab: Vocab::new(now.1, Arc::new(self.remote.clone())),
                max_requests: count(max_requests),
                max_tokens: count(max_tokens),
                compiler: generates
                    .then(|| Arc::new(self.remote.clone()) as Arc<dyn GrammarCompiler>),
            };
            // The caller may have given up loading.
            if !on_loaded(Ok(announcement)) {
                return Ok(Some(ChildExit::Closed));
            }
        }
        self.failed_loads = 0;
        self.warn_of_memory(child);
        self.setup.board.set_status(Status::Ready);
        let actions = self.in_flight.handle_loaded();
        self.apply(Some(child), actions)?;
        if self.closing {
            child.send(&ToChild::Command(Command::Close))?;
        }
        Ok(None)
    }

    /// Warns if an idle model takes nearly all of its memory limit.
    fn warn_of_memory(&self, child: &ChildProcess) {
        let Some(limit) = self.setup.config.memory_limit else { return };
        let taken = child.id().and_then(memory::private_bytes).unwrap_or(0);
        if taken > limit / 8 * 7 {
            let (model, mib, of) = (&self.setup.config.name, taken >> 20, limit >> 20);
            tracing::warn!(model, mib, of, "memory_limit_mib leaves the model little to work with");
        }
    }

    /// Applies actions: sends messages to the child and reports to readers.
    fn apply(&mut self, child: Option<&ChildProcess>, actions: Actions) -> io::Result<()> {
        let Actions { to_child, reports, rejected } = actions;
        for id in rejected {
            let model = &self.setup.config.name;
            tracing::error!(model, id, "the request makes the engine crash; it is given up");
            self.replies.remove(&id).map(|reply| reply.send(Err(Failure::Crashed)));
        }
        reports.into_iter().for_each(|report: Report| self.setup.router.report(report));
        child.map_or(Ok(()), |child| to_child.iter().try_for_each(|message| child.send(message)))
    }

    /// Handles a child's exit. Returns whether to start another one.
    fn handle_exit(&mut self, end: ChildExit) -> ControlFlow<()> {
        let (death, how) = match end {
            ChildExit::Closed => return ControlFlow::Break(()),
            ChildExit::CannotLoad(why) => (ExitCause::CannotLoad, why),
            ChildExit::Died(death, how) => (death, how),
        };
        self.failed_loads += u32::from(self.loaded.is_none());
        self.setup.board.record_exit(death);
        if let Some(on_loaded) = self.setup.on_loaded.take() {
            let why = match death {
                ExitCause::CannotLoad => how,
                _ => format!("the engine died while it loaded the model: {how}"),
            };
            on_loaded(Err(LoadError(why)));
            return ControlFlow::Break(());
        }
        let (model, death) = (&self.setup.config.name, death.label());
        tracing::error!(model, death, how, "the engine died; it is started again");
        if self.failed_loads >= MAX_FAILED_LOADS {
            return ControlFlow::Break(());
        }
        self.setup.board.set_status(Status::Restarting);
        let actions = self.in_flight.handle_exit(&self.crash_record.read());
        // Without a child there is nothing to send.
        drop(self.apply(None, actions));
        let counted = Stats { cancelled: 0, ..std::mem::take(&mut self.child_stats) };
        self.earlier_stats = counted.plus(&std::mem::take(&mut self.earlier_stats));
        self.setup.board.waiting.store(self.in_flight.len() as u64, Relaxed);
        self.setup.router.pause();
        if self.is_done() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl BackOff {
    /// The delay after a child that served for this long.
    fn next(&mut self, served: Duration) -> Duration {
        let wait = if served > HEALTHY { FIRST_WAIT } else { self.0 };
        self.0 = (wait * 2).min(LONGEST_WAIT);
        wait
    }
}
