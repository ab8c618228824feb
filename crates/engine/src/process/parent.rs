//! The parent's side: it starts a child, passes on what is asked and said, and when the child dies
//! starts another one that goes on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::process::{Child, Command as Program};
use tokio::sync::mpsc;
use tokio_util::codec::Framed;

use super::black_box::BlackBox;
use super::ledger::{Ledger, Outcome};
use super::remote::{Asked, Remote};
use super::{Description, FromChild, Launcher, ToChild, frames};
use crate::Progress;
use crate::host::{Announce, Announcement, Compiles, LoadError};
use crate::hub::{Hub, Outbox};
use crate::message::{Command, Report};
use crate::model::ModelConfig;
use crate::status::{Board, State, Stats, Status};
use crate::vocab::Vocab;

/// How often it is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long a child that has closed its socket may take to end.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// Waiting before a child is started again: the first time, and at most. It doubles with each that
/// dies within [`HEALTHY`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const HEALTHY: Duration = Duration::from_secs(60);
/// Children that may die while they have the same question; then it has no answer.
const MOST_DEATHS: u8 = 3;
/// Children in a row that may fail to load what another one had loaded.
const MOST_FAILED_LOADS: u32 = 5;

/// An engine's children, one after the other.
pub(crate) struct Parent {
    pub(crate) config: ModelConfig,
    pub(crate) launcher: Launcher,
    pub(crate) board: Arc<Board>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    /// Until the first child has loaded the model.
    pub(crate) announce: Option<Announce>,
}

/// The state of a thread that looks after children.
struct Keeper {
    parent: Parent,
    black_box: BlackBox,
    ledger: Ledger,
    /// Questions without an answer, each with the number of children that died over it.
    asked: BTreeMap<u64, (Asked, u8)>,
    questions: mpsc::UnboundedReceiver<Asked>,
    remote: Remote,
    last_question: u64,
    /// What children before this one have counted, and what this one has.
    before: Stats,
    counted: Stats,
    closing: bool,
}

/// A child that runs.
struct Running {
    process: Child,
    frames: mpsc::UnboundedSender<Bytes>,
    heard: Instant,
    loaded: bool,
}

/// How a child ended.
#[derive(Debug)]
enum End {
    /// It was asked to.
    Closed,
    /// It cannot load the model.
    CannotLoad(String),
    /// By itself, or it had to be killed when its socket was closed.
    Died(String),
    /// It said nothing for too long, and is killed.
    Silent,
}

impl Parent {
    /// Starts the thread.
    pub(crate) fn start(self) -> Result<JoinHandle<()>, LoadError> {
        let failed = |e: io::Error| LoadError(format!("cannot start a thread: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let name = format!("engine-{}", self.config.name);
        let run = move || {
            let (board, hub) = (Arc::clone(&self.board), Arc::clone(&self.hub));
            match Keeper::new(self) {
                Ok(keeper) => runtime.block_on(keeper.keep()),
                Err(error) => tracing::error!(%error, "an engine cannot be started"),
            }
            board.set_status(Status::Failed);
            hub.ended();
        };
        thread::Builder::new().name(name).spawn(run).map_err(failed)
    }
}

impl Keeper {
    fn new(parent: Parent) -> io::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "each is asked by a thread that waits")]
        let (ask, questions) = mpsc::unbounded_channel();
        Ok(Self {
            parent,
            black_box: BlackBox::new()?,
            ledger: Ledger::default(),
            asked: BTreeMap::new(),
            questions,
            remote: Remote::new(ask),
            last_question: 0,
            before: Stats::default(),
            counted: Stats::default(),
            closing: false,
        })
    }

    /// Keeps a child running until the engine is closed, or none can be had.
    async fn keep(mut self) {
        let (mut wait, mut failed_loads) = (FIRST_WAIT, 0);
        loop {
            let began = Instant::now();
            let end = match self.live().await {
                Ok(end) => end,
                Err(error) => End::CannotLoad(error.to_string()),
            };
            let name = &self.parent.config.name;
            // One that is stopped from outside says nothing either.
            let suspicious = !matches!(end, End::Silent);
            match end {
                End::Closed => return,
                End::CannotLoad(why) => {
                    if let Some(announce) = self.parent.announce.take() {
                        announce(Err(LoadError(why)));
                        return;
                    }
                    failed_loads += 1;
                    tracing::error!(model = name, why, "the engine cannot be started again");
                    if failed_loads >= MOST_FAILED_LOADS {
                        return;
                    }
                }
                End::Died(how) => {
                    failed_loads = 0;
                    tracing::error!(model = name, how, "the engine died; starting it again");
                }
                End::Silent => {
                    failed_loads = 0;
                    tracing::error!(model = name, "the engine says nothing; starting it again");
                }
            }
            if let Some(announce) = self.parent.announce.take() {
                let why = "the engine died while it loaded the model".to_owned();
                announce(Err(LoadError(why)));
                return;
            }
            self.parent.board.set_status(Status::Restarting);
            self.died(suspicious);
            self.parent.hub.pause();
            wait = if began.elapsed() > HEALTHY { FIRST_WAIT } else { wait };
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One child's life.
    async fn live(&mut self) -> io::Result<End> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let Launcher { program, arguments, .. } = &self.parent.launcher;
        let process = Program::new(program)
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(self.black_box.file()?))
            .kill_on_drop(true)
            .spawn()?;
        self.parent.board.set_process(process.id());
        let socket = tokio::net::UnixStream::from_std(ours)?;
        let (mut sink, mut stream) = Framed::new(socket, frames::codec()).split();
        #[expect(clippy::disallowed_methods, reason = "the queue's permits bound it")]
        let (frames, mut outgoing) = mpsc::unbounded_channel::<Bytes>();
        // A child that does not read holds up nothing but this.
        let writer = tokio::spawn(async move {
            while let Some(frame) = outgoing.recv().await {
                if sink.send(frame).await.is_err() {
                    return;
                }
            }
        });
        let mut child = Running { process, frames, heard: Instant::now(), loaded: false };
        child.send(&ToChild::Load(Box::new(self.parent.config.clone())))?;
        let end = self.serve(&mut child, &mut stream).await;
        writer.abort();
        // Its socket is closed, or it is of no use: it ends soon, or now.
        drop(child.process.start_kill());
        end
    }

    async fn serve(
        &mut self,
        child: &mut Running,
        stream: &mut (impl StreamExt<Item = io::Result<bytes::BytesMut>> + Unpin),
    ) -> io::Result<End> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                frame = stream.next() => {
                    let Some(Ok(frame)) = frame else { return Ok(child.last_breath(self.closing).await) };
                    child.heard = Instant::now();
                    if let Some(end) = self.hear(child, frames::decode(&frame)?)? {
                        return Ok(end);
                    }
                }
                command = self.parent.inbox.recv(), if child.loaded => {
                    let Some(command) = command else { return Ok(End::Closed) };
                    self.closing |= command == Command::Close;
                    let outcome = self.ledger.ask(command);
                    self.follow(child, outcome)?;
                }
                question = self.questions.recv(), if child.loaded => {
                    if let Some(question) = question {
                        self.last_question += 1;
                        child.send(&to_child(self.last_question, &question))?;
                        self.asked.insert(self.last_question, (question, 0));
                    }
                }
                _ = tick.tick() => {
                    if child.heard.elapsed() > self.parent.launcher.silence {
                        return Ok(End::Silent);
                    }
                }
            }
        }
    }

    /// Takes in what a child says.
    fn hear(&mut self, child: &mut Running, said: FromChild) -> io::Result<Option<End>> {
        match said {
            FromChild::Progress(Progress(progress)) => {
                self.parent.board.set_progress(Progress(progress));
            }
            FromChild::Loaded(description) => {
                child.loaded = true;
                if let Some(announce) = self.parent.announce.take() {
                    // Nobody may want it any more.
                    if !announce(Ok(self.announcement(*description))) {
                        return Ok(Some(End::Closed));
                    }
                }
                self.parent.board.set_status(Status::Ready);
                self.go_on(child)?;
            }
            FromChild::CannotLoad(why) => return Ok(Some(End::CannotLoad(why))),
            FromChild::Says(report) => {
                let outcome = self.ledger.hear(report);
                self.follow(child, outcome)?;
            }
            FromChild::Answers { id, answer } => {
                if let Some((Asked { reply, .. }, _)) = self.asked.remove(&id) {
                    // Whoever asked waits.
                    drop(reply.send(answer));
                }
            }
            FromChild::State(state) => {
                let State { stats, .. } = &*state;
                self.counted.clone_from(stats);
                self.parent.board.follow(*state, &self.before);
            }
        }
        Ok(None)
    }

    fn announcement(&self, description: Description) -> Announcement {
        let Description { info, table, capacity, token_capacity, generates } = description;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Announcement {
            info,
            vocab: Vocab::new(table, Arc::new(self.remote.clone())),
            capacity: count(capacity),
            token_capacity: count(token_capacity),
            compiles: generates.then(|| Compiles::There(self.remote.clone())),
        }
    }

    /// Does what follows from what happened.
    fn follow(&self, child: &Running, outcome: Outcome) -> io::Result<()> {
        self.tell(outcome.tell);
        outcome.ask.into_iter().try_for_each(|command| child.send(&ToChild::Ask(command)))
    }

    fn tell(&self, reports: Vec<Report>) {
        reports.into_iter().for_each(|report| self.parent.hub.report(report));
    }

    /// Takes note of a child's death; `suspicious` where a request may have caused it.
    fn died(&mut self, suspicious: bool) {
        let computing = suspicious.then(|| self.black_box.read());
        let outcome = self.ledger.died(computing.as_deref());
        for id in outcome.guilty {
            let model = &self.parent.config.name;
            tracing::error!(model, id, "the request makes the engine crash; it is given up");
        }
        self.tell(outcome.tell);
        // Whoever asked what kills hears that there is no answer.
        self.asked.retain(|_, (_, deaths)| {
            *deaths += u8::from(suspicious);
            *deaths < MOST_DEATHS
        });
        let counted = std::mem::take(&mut self.counted);
        self.before = counted.after(&std::mem::take(&mut self.before));
    }

    /// Asks a new child what the one before has not done.
    fn go_on(&mut self, child: &Running) -> io::Result<()> {
        self.black_box.clear();
        let ask = self.ledger.due();
        self.follow(child, Outcome { ask, ..Outcome::default() })?;
        for (&id, (question, _)) in &self.asked {
            child.send(&to_child(id, question))?;
        }
        if self.closing {
            child.send(&ToChild::Ask(Command::Close))?;
        }
        Ok(())
    }
}

fn to_child(id: u64, Asked { question, patient, .. }: &Asked) -> ToChild {
    ToChild::Answer { id, question: question.clone(), patient: *patient }
}

impl Running {
    fn send(&self, message: &ToChild) -> io::Result<()> {
        // One that has died is noticed by its silence.
        drop(self.frames.send(frames::encode(message)?.into()));
        Ok(())
    }

    /// How a child that has closed its socket ends.
    async fn last_breath(&mut self, closing: bool) -> End {
        match tokio::time::timeout(LAST_BREATH, self.process.wait()).await {
            Ok(Ok(status)) if closing && status.success() => End::Closed,
            Ok(Ok(status)) => End::Died(status.to_string()),
            Ok(Err(error)) => End::Died(error.to_string()),
            Err(_) => End::Died("it does not end".to_owned()),
        }
    }
}
