//! The parent's side: it starts a child, passes on what is asked and said, and when the child dies
//! starts another one that goes on.

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
use super::child_process::{ChildExit, ChildProcess, Frames, LAST_BREATH, LEAVE};
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

/// How often a child is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long one may be silent, or in a step, until the parent sees to its requests' deadlines, in ticks.
const LATE: u32 = 10;
/// Waiting before a child is started again: the first time, and at most. It doubles with each that
/// dies within [`HEALTHY`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(60);
/// Children in a row that may fail to load what another one had loaded: over a minute or so, for what
/// is missing may come back, such as file descriptors.
const MOST_FAILED_LOADS: u32 = 12;
/// File descriptors that starting a child takes: a socket pair, a pipe, copies, and the process's own.
const SPARE: usize = 8;
/// Questions are numbered from here, far from all requests.
const FIRST_QUESTION: u64 = 1 << 63;

/// An engine's children, one after the other.
pub(crate) struct SupervisorSetup {
    pub(crate) config: ModelConfig,
    pub(crate) launcher: Launcher,
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) router: Arc<ReportRouter>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    /// Until the first child has loaded the model.
    pub(crate) on_loaded: Option<OnLoaded>,
}

/// The state of a thread that looks after children.
struct Supervisor {
    parent: SupervisorSetup,
    crash_record: CrashRecord,
    /// File descriptors for the next child: connections may have taken all others.
    spare: Vec<File>,
    in_flight: InFlight,
    questions: mpsc::UnboundedReceiver<PendingQuestion>,
    /// Who waits for answers to questions.
    replies: HashMap<u64, SyncSender<Reply>>,
    remote: ChildClient,
    last_question: u64,
    /// What children before this one have counted, and what this one has.
    before: Stats,
    counted: Stats,
    /// The kinds of steps that children have computed.
    seen: Vec<StepKind>,
    /// What the first child has loaded, and the file that this one loads.
    first: Option<(ModelInfo, Arc<VocabTable>, Option<FileStamp>)>,
    file: Option<FileStamp>,
    /// Requests whose clients have left.
    left: u64,
    closing: bool,
    /// Looks at a child since it had only to end.
    ending: u32,
    /// When the child had loaded the model, if there is one that has; those in a row that never had.
    loaded: Option<Instant>,
    failed_loads: u32,
}

/// What tells one file from another that has its delivery: its size in bytes, and when it was written.
type FileStamp = (u64, SystemTime);

fn file_of(config: &ModelConfig) -> Option<FileStamp> {
    let file = std::fs::metadata(config.source.path()?).ok()?;
    Some((file.len(), file.modified().ok()?))
}

/// Waiting before children are started again.
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
            runtime.block_on(Supervisor::new(self, crash_record).keep());
            drop(guard);
        };
        thread::Builder::new().name(name).spawn(run).map_err(failed)
    }
}

impl Supervisor {
    fn new(parent: SupervisorSetup, crash_record: CrashRecord) -> Self {
        #[expect(clippy::disallowed_methods, reason = "each is asked by a thread that waits")]
        let (ask, questions) = mpsc::unbounded_channel();
        Self {
            crash_record,
            spare: Vec::new(),
            in_flight: InFlight::new(parent.config.queue_timeout),
            parent,
            questions,
            replies: HashMap::new(),
            remote: ChildClient::new(ask),
            last_question: FIRST_QUESTION,
            before: Stats::default(),
            counted: Stats::default(),
            seen: Vec::new(),
            first: None,
            file: None,
            left: 0,
            closing: false,
            ending: 0,
            loaded: None,
            failed_loads: 0,
        }
    }

    /// Keeps a child running until the engine is closed, or none can be had.
    async fn keep(mut self) {
        let mut back_off = BackOff(FIRST_WAIT);
        loop {
            let end = match self.live().await {
                Ok(end) => end,
                Err(error) if self.loaded.is_some() => {
                    ChildExit::Died(ExitCause::ProtocolError, error.to_string())
                }
                Err(error) => ChildExit::CannotLoad(error.to_string()),
            };
            if self.take_note(end).is_break() {
                return;
            }
            let served = self.loaded.take().map(|loaded| loaded.elapsed());
            let wait = back_off.next(served.unwrap_or_default());
            if self.rest(wait).await.is_break() {
                return;
            }
        }
    }

    /// One child's life.
    async fn live(&mut self) -> io::Result<ChildExit> {
        self.file = file_of(&self.parent.config);
        self.crash_record.clear();
        self.spare.clear();
        let SupervisorSetup { config, launcher, .. } = &self.parent;
        let started = ChildProcess::start(&config.name, launcher, &self.crash_record);
        self.spare = (0..SPARE).map_while(|_| self.crash_record.file().ok()).collect();
        let (mut child, mut frames) = started?;
        self.parent.board.set_process_id(child.id());
        let config = Box::new(self.parent.config.clone());
        child.send(&ToChild::Load { config, seen: self.seen.clone() })?;
        let end = self.serve(&mut child, &mut frames).await;
        let process = child.id();
        if !child.end(self.patience()).await && !self.is_done() {
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
                    let Some(Ok(frame)) = frame else { return Ok(self.last_breath(child).await) };
                    let said = child.hear(&frame)?;
                    self.hear(child, said)?
                }
                command = self.parent.inbox.recv() => self.obey(command, Some(child))?,
                Some(question) = self.questions.recv() => {
                    self.ask(question, Some(child))?;
                    None
                }
                _ = tick.tick() => self.look_at(child)?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// How a child ends that has closed its socket.
    async fn last_breath(&self, child: &mut ChildProcess) -> ChildExit {
        match child.last_breath(self.is_ending(), self.patience()).await {
            ChildExit::Died(ExitCause::Silent, _) if self.is_ending() && self.is_done() => {
                ChildExit::Closed
            }
            end => end,
        }
    }

    /// How long a child's end is waited for: there is no other one that would need its memory if
    /// nobody wants anything any more.
    fn patience(&self) -> Duration {
        if self.is_done() { LEAVE } else { LAST_BREATH }
    }

    /// Waits before the next child; takes commands meanwhile.
    async fn rest(&mut self, wait: Duration) -> ControlFlow<()> {
        let over = tokio::time::sleep(wait);
        tokio::pin!(over);
        let mut tick = tokio::time::interval(TICK);
        loop {
            // Without a child there is nothing that could fail.
            let end = tokio::select! {
                () = &mut over => return ControlFlow::Continue(()),
                command = self.parent.inbox.recv() => self.obey(command, None),
                Some(question) = self.questions.recv() => self.ask(question, None).map(|()| None),
                _ = tick.tick() => self.reap(None).map(|()| None),
            };
            if matches!(end, Ok(Some(_))) {
                return ControlFlow::Break(());
            }
        }
    }

    fn obey(
        &mut self,
        command: Option<Command>,
        child: Option<&ChildProcess>,
    ) -> io::Result<Option<ChildExit>> {
        let Some(command) = command else { return Ok(Some(ChildExit::Closed)) };
        self.closing |= command == Command::Close;
        let leaves = matches!(command, Command::Cancel(_));
        let outcome = self.in_flight.ask(command);
        if leaves && outcome != Actions::default() {
            self.left += 1;
            self.parent.board.cancelled.store(self.left, Relaxed);
        }
        self.follow(child, outcome)?;
        // One that loads, or is to be started, is not needed any more.
        let needless = self.loaded.is_none() && self.is_done();
        Ok(needless.then_some(ChildExit::Closed))
    }

    /// Whether nobody is there any more who wants something.
    fn is_done(&self) -> bool {
        self.closing && self.in_flight.len() == 0
    }

    /// Whether the child was told to end.
    fn is_ending(&self) -> bool {
        self.closing && self.loaded.is_some()
    }

    fn ask(&mut self, asked: PendingQuestion, child: Option<&ChildProcess>) -> io::Result<()> {
        let PendingQuestion { question, patient, reply } = asked;
        self.last_question += 1;
        self.replies.insert(self.last_question, reply);
        let outcome = self.in_flight.question(self.last_question, question, patient);
        self.follow(child, outcome)
    }

    /// Looks whether a child is well, and sees to deadlines where it cannot.
    fn look_at(&mut self, child: &mut ChildProcess) -> io::Result<Option<ChildExit>> {
        let silent = child.look();
        if TICK * silent > self.parent.launcher.silence {
            return Ok(Some(ChildExit::Died(ExitCause::Silent, "it says nothing".to_owned())));
        }
        if self.is_ending() && self.is_done() {
            self.ending += 1;
            if TICK * self.ending > LAST_BREATH {
                return Ok(Some(ChildExit::Closed));
            }
        }
        if let Some(limit) = self.parent.config.memory_limit {
            let taken = child.id().and_then(memory::of).unwrap_or(0);
            if taken > limit {
                let how =
                    format!("it takes {} MiB of memory, but may {}", taken >> 20, limit >> 20);
                return Ok(Some(ChildExit::Died(ExitCause::Memory, how)));
            }
        }
        let stalled = self.parent.board.stalled_for().unwrap_or_default();
        let late = silent > LATE || stalled > TICK * LATE;
        if self.loaded.is_none() || late || self.in_flight.is_trying() {
            self.reap(Some(child))?;
        }
        Ok(None)
    }

    fn reap(&mut self, child: Option<&ChildProcess>) -> io::Result<()> {
        let outcome = self.in_flight.reap(Instant::now());
        let reaped = outcome.tell.len() as u64;
        self.before.timed_out += reaped;
        self.parent.board.timed_out.fetch_add(reaped, Relaxed);
        self.follow(child, outcome)
    }

    /// Takes in what a child says.
    fn hear(&mut self, child: &mut ChildProcess, said: FromChild) -> io::Result<Option<ChildExit>> {
        match said {
            FromChild::Progress(progress) => self.parent.board.set_progress(progress),
            FromChild::Loaded(description) => return self.is_loaded(child, *description),
            FromChild::LoadFailed(why) => return Ok(Some(ChildExit::CannotLoad(why))),
            FromChild::Report(report) => {
                let outcome = self.in_flight.hear(report)?;
                self.follow(Some(child), outcome)?;
            }
            FromChild::Answer { id, answer, took } => {
                let outcome = self.in_flight.answered(id, &answer)?;
                // Whoever asked waits.
                self.replies.remove(&id).map(|reply| reply.send(Ok((answer, took))));
                self.follow(Some(child), outcome)?;
            }
            FromChild::Costs(costs) => {
                let costs = costs.plausible();
                // The next child begins with it.
                self.parent.config.costs.clone_from(&costs);
                self.parent.board.set_costs(costs);
            }
            FromChild::Snapshot(mut state) => {
                // It is asked to forget others as well.
                state.stats.cancelled = self.left;
                if self.loaded.is_none() {
                    return Ok(None);
                }
                let Snapshot { stats, overdue, seen, .. } = &*state;
                self.counted.clone_from(stats);
                self.seen.clone_from(seen);
                let end = overdue.map(|took| {
                    ChildExit::Died(
                        ExitCause::Hung,
                        format!("a step has run for {} s", took.as_secs()),
                    )
                });
                self.parent.board.mirror(*state, &self.before);
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Takes note of a child that has loaded the model.
    fn is_loaded(
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
            // All that was made of the first one would be wrong: prompts, limits, grammars.
            self.failed_loads = MOST_FAILED_LOADS;
            let why = "the model's file is another one than at first: start the server again";
            return Ok(Some(ChildExit::CannotLoad(why.to_owned())));
        }
        self.loaded = Some(Instant::now());
        if let Some(on_loaded) = self.parent.on_loaded.take() {
            let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
            let announcement = LoadReport {
                info,
                vocab: Vocab::new(now.1, Arc::new(self.remote.clone())),
                max_requests: count(max_requests),
                max_tokens: count(max_tokens),
                compiler: generates
                    .then(|| Arc::new(self.remote.clone()) as Arc<dyn GrammarCompiler>),
            };
            // Nobody may want it any more.
            if !on_loaded(Ok(announcement)) {
                return Ok(Some(ChildExit::Closed));
            }
        }
        self.failed_loads = 0;
        self.warn_of_memory(child);
        self.parent.board.set_status(Status::Ready);
        let outcome = self.in_flight.loaded();
        self.follow(Some(child), outcome)?;
        if self.closing {
            child.send(&ToChild::Command(Command::Close))?;
        }
        Ok(None)
    }

    /// Warns where a model that does nothing yet takes nearly all the memory that it may.
    fn warn_of_memory(&self, child: &ChildProcess) {
        let Some(limit) = self.parent.config.memory_limit else { return };
        let taken = child.id().and_then(memory::of).unwrap_or(0);
        if taken > limit / 8 * 7 {
            let (model, mib, of) = (&self.parent.config.name, taken >> 20, limit >> 20);
            tracing::warn!(model, mib, of, "memory_limit_mib leaves the model little to work with");
        }
    }

    /// Does what follows from what happened.
    fn follow(&mut self, child: Option<&ChildProcess>, outcome: Actions) -> io::Result<()> {
        let Actions { ask, tell, guilty } = outcome;
        for id in guilty {
            let model = &self.parent.config.name;
            tracing::error!(model, id, "the request makes the engine crash; it is given up");
            // Whoever asked waits.
            self.replies.remove(&id).map(|reply| reply.send(Err(Failure::Crashed)));
        }
        tell.into_iter().for_each(|report: Report| self.parent.router.report(report));
        child.map_or(Ok(()), |child| ask.iter().try_for_each(|message| child.send(message)))
    }

    /// Takes note of how a child ended; whether there shall be another one.
    fn take_note(&mut self, end: ChildExit) -> ControlFlow<()> {
        let (death, how) = match end {
            ChildExit::Closed => return ControlFlow::Break(()),
            ChildExit::CannotLoad(why) => (ExitCause::CannotLoad, why),
            ChildExit::Died(death, how) => (death, how),
        };
        self.failed_loads += u32::from(self.loaded.is_none());
        self.parent.board.record_exit(death);
        if let Some(on_loaded) = self.parent.on_loaded.take() {
            let why = match death {
                ExitCause::CannotLoad => how,
                _ => format!("the engine died while it loaded the model: {how}"),
            };
            on_loaded(Err(LoadError(why)));
            return ControlFlow::Break(());
        }
        let (model, death) = (&self.parent.config.name, death.label());
        tracing::error!(model, death, how, "the engine died; it is started again");
        if self.failed_loads >= MOST_FAILED_LOADS {
            return ControlFlow::Break(());
        }
        self.parent.board.set_status(Status::Restarting);
        let outcome = self.in_flight.died(&self.crash_record.read());
        // There is no child that anything could be sent to.
        drop(self.follow(None, outcome));
        let counted = Stats { cancelled: 0, ..std::mem::take(&mut self.counted) };
        self.before = counted.plus(&std::mem::take(&mut self.before));
        self.parent.board.waiting.store(self.in_flight.len() as u64, Relaxed);
        self.parent.router.pause();
        // Nobody may be there any more who wants another one.
        if self.is_done() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl BackOff {
    /// How long to wait after a child that served for so long.
    fn next(&mut self, served: Duration) -> Duration {
        let wait = if served > HEALTHY { FIRST_WAIT } else { self.0 };
        self.0 = (wait * 2).min(LONGEST_WAIT);
        wait
    }
}
