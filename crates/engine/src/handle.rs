//! Loading a model onto a thread, and the handles that speak to it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::Token;
use crate::backend;
use crate::cost_benchmark::{CostMeasurement, CostPlan, CostTable};
use crate::engine_thread::{EngineThread, LoadError, LoadReport};
use crate::events::Receiver;
use crate::failure::Failure;
use crate::grammar::{Grammar, GrammarCompiler, GrammarError};
use crate::message::{Command, EmbedCommand, GenerateCommand, SubmitTime};
use crate::model_config::ModelConfig;
use crate::model_info::ModelInfo;
use crate::process::{Launcher, SupervisorSetup};
use crate::report_router::{EngineChannel, EngineEnded, ReportRouter};
use crate::report_sink::ReportSink;
use crate::request::{Event, GenerateRequest, TimedEvent};
use crate::status::{CostWatch, Progress, Stats, Status, StatusBoard};
use crate::step_timeouts::StepTimeouts;
use crate::vocab::Vocab;

/// Starts a thread that loads the model and then serves it.
///
/// # Errors
/// When the operating system cannot start a thread. Everything else is told by
/// [`Loading::finish`].
pub fn load(config: ModelConfig) -> Result<Loading, LoadError> {
    let (name, queue_timeout) = (config.name.clone(), config.queue_timeout);
    let board = Arc::new(StatusBoard::new(StepTimeouts::new(config.step_limit, Vec::new())));
    let (ready, loaded) = oneshot::channel();
    let link = EngineChannel::new(config.unread_bytes);
    let host = EngineThread {
        config,
        board: Arc::clone(&board),
        out: Arc::clone(&link.hub) as Arc<dyn ReportSink>,
        commands: link.commands.clone(),
        inbox: link.inbox,
        announce: Box::new(move |announced| ready.send(announced).is_ok()),
        measure: None,
    };
    let thread = backend::start(host)?;
    let closer = CloseOnDrop(link.commands);
    Ok(Loading { name, queue_timeout, board, loaded, hub: link.hub, closer, thread })
}

/// Starts a process that loads the model and then serves it, and that is started again when it dies.
/// Tokenising and compiling grammars then wait for that process: not for an async reactor's thread.
///
/// # Errors
/// When the operating system cannot start a thread. Everything else is told by
/// [`Loading::finish`].
pub fn load_in_process(config: ModelConfig, launcher: Launcher) -> Result<Loading, LoadError> {
    let (name, queue_timeout) = (config.name.clone(), config.queue_timeout);
    let board = Arc::new(StatusBoard::new(StepTimeouts::new(config.step_limit, Vec::new())));
    let (ready, loaded) = oneshot::channel();
    let EngineChannel { commands, inbox, hub } = EngineChannel::new(config.unread_bytes);
    let supervisor = SupervisorSetup {
        config,
        launcher,
        board: Arc::clone(&board),
        hub: Arc::clone(&hub),
        inbox,
        announce: Some(Box::new(move |announced| ready.send(announced).is_ok())),
    };
    let thread = supervisor.start()?;
    let closer = CloseOnDrop(commands);
    Ok(Loading { name, queue_timeout, board, loaded, hub, closer, thread })
}

/// Loads a generation model and measures what its decode calls cost. Takes minutes.
///
/// # Errors
/// When it cannot be loaded, or a call fails.
pub fn measure_costs(config: ModelConfig, plan: CostPlan) -> Result<CostTable, LoadError> {
    let (reply, measured) = std::sync::mpsc::sync_channel(1);
    let (failed, why) = std::sync::mpsc::sync_channel(1);
    let board = Arc::new(StatusBoard::new(StepTimeouts::new(config.step_limit, Vec::new())));
    let link = EngineChannel::new(config.unread_bytes);
    let host = EngineThread {
        config,
        board,
        out: Arc::clone(&link.hub) as Arc<dyn ReportSink>,
        commands: link.commands,
        inbox: link.inbox,
        announce: Box::new(move |announced| {
            drop(failed.send(announced.err()));
            false
        }),
        measure: Some(CostMeasurement { plan, reply }),
    };
    let thread = backend::start(host)?;
    let table = measured.recv();
    drop(thread.join());
    match table {
        Ok(table) => table.map_err(|error| LoadError(error.to_string())),
        Err(_) => {
            let why = why.try_recv().ok().flatten();
            Err(why
                .unwrap_or_else(|| LoadError("it is not a model that generates text".to_owned())))
        }
    }
}

/// How long closing and dropping the last handle wait together for the thread to end.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A model that is being loaded.
#[derive(Debug)]
pub struct Loading {
    name: String,
    queue_timeout: Option<Duration>,
    board: Arc<StatusBoard>,
    loaded: oneshot::Receiver<Result<LoadReport, LoadError>>,
    hub: Arc<ReportRouter>,
    closer: CloseOnDrop,
    thread: JoinHandle<()>,
}

/// A model that is ready to serve.
#[derive(Debug, Clone)]
pub enum ModelHandle {
    /// It generates text.
    Chat(Engine),
    /// It turns text into vectors.
    Embedding(Embedder),
}

/// The handle of a generation model. Cheap to clone; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    compiler: Arc<dyn GrammarCompiler>,
}

/// The handle of an embedding model. Cheap to clone; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Embedder {
    inner: Arc<Inner>,
}

/// Why a request was not accepted. Nothing was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests wait or run as may.
    #[error("{limit} requests are waiting or running already")]
    QueueFull {
        /// That number.
        limit: usize,
        /// How long it is likely to take until they have been served.
        backlog: Duration,
    },
    /// The prompts that wait or run have as many tokens as they may.
    #[error("{tokens} more prompt tokens do not fit into {limit}")]
    QueueTokens {
        /// The prompt's tokens.
        tokens: usize,
        /// That number.
        limit: usize,
        /// How long it is likely to take until they have been served.
        backlog: Duration,
    },
    /// The inputs have more tokens together than may wait over all requests.
    #[error("inputs of {tokens} tokens do not fit into {limit}")]
    TooManyTokens {
        /// The inputs' tokens.
        tokens: usize,
        /// That number.
        limit: usize,
    },
    /// Prompt and answer do not fit into what one request can hold.
    #[error("{tokens} tokens do not fit into {limit}")]
    TooLong {
        /// What it needs, in tokens.
        tokens: usize,
        /// What a request can hold, in tokens.
        limit: u32,
    },
    /// A prompt or input without a token.
    #[error("there is no token to compute")]
    Empty,
    /// A token id that the vocabulary does not have.
    #[error("there is no token {token}")]
    NoSuchToken {
        /// The id.
        token: Token,
    },
    /// The engine's thread is gone.
    #[error("the model's engine has stopped")]
    EngineGone,
}

/// A running request. Dropping it cancels the request: its sequences are gone within one step,
/// queued or running.
#[derive(Debug)]
pub struct Generation {
    events: Receiver,
    /// When the event returned last happened, since the request was submitted.
    elapsed: Duration,
}

struct Inner {
    name: String,
    queue_timeout: Option<Duration>,
    info: ModelInfo,
    vocab: Vocab,
    board: Arc<StatusBoard>,
    hub: Arc<ReportRouter>,
    permits: Arc<Semaphore>,
    capacity: usize,
    tokens: Arc<Semaphore>,
    token_capacity: usize,
    commands: mpsc::UnboundedSender<Command>,
    last_id: AtomicU64,
    /// When the thread was first told to end.
    closed: OnceLock<Instant>,
    /// `None` only while dropping.
    closer: Option<CloseOnDrop>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the thread to end.
#[derive(Debug)]
struct CloseOnDrop(mpsc::UnboundedSender<Command>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // One that has ended need not be told.
        drop(self.0.send(Command::Close));
    }
}

// === impl Loading ===

impl Loading {
    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.board.progress()
    }

    /// What the engine will learn of costs.
    pub fn costs(&self) -> CostWatch {
        CostWatch(Arc::clone(&self.board))
    }

    /// A function that tells how far it has come, for another task.
    pub fn watch(&self) -> impl Fn() -> Progress + Send + Sync + 'static {
        let board = Arc::clone(&self.board);
        move || board.progress()
    }

    /// Waits until the model can serve.
    ///
    /// # Errors
    /// [`LoadError`] if it never will.
    pub async fn finish(self) -> Result<ModelHandle, LoadError> {
        let died = || LoadError("the thread ended while it loaded the model".to_owned());
        let Self { name, queue_timeout, board, loaded, hub, closer, thread } = self;
        let announced = loaded.await.map_err(|_| died())??;
        let compiler = announced.compiler.clone();
        let inner =
            Arc::new(Inner::new((name, queue_timeout), announced, board, hub, closer, thread));
        Ok(match compiler {
            Some(compiler) => ModelHandle::Chat(Engine { inner, compiler }),
            None => ModelHandle::Embedding(Embedder { inner }),
        })
    }
}

// === impl Engine ===

impl Engine {
    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// Its vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.inner.vocab
    }

    /// Compiles a grammar for the requests that will name it. Not for an async reactor's thread: see
    /// [`crate::Grammars::compile`].
    ///
    /// # Errors
    /// [`Failure`] if there is no answer; [`GrammarError`], which names what cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<Result<(), GrammarError>, Failure> {
        self.compiler.compile(grammar)
    }

    /// Whether a grammar is compiled already.
    pub fn has_compiled(&self, grammar: &Grammar) -> bool {
        self.compiler.has_compiled(grammar)
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.inner.board.status()
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        let unread = self.inner.hub.unread();
        let (unread_bytes, cut) = (unread.bytes() as u64, unread.cuts());
        Stats { unread_bytes, cut, ..self.inner.board.stats() }
    }

    /// The number of the process that it runs in, if it is not this one.
    pub fn process(&self) -> Option<u32> {
        self.inner.board.process()
    }

    /// Waits while its process is being started again: for callers who would otherwise ask it for
    /// something on a thread that others need.
    ///
    /// # Errors
    /// When that takes as long as a request may wait.
    pub async fn is_there(&self) -> Result<(), Failure> {
        self.inner.board.is_there(self.inner.queue_timeout).await
    }

    /// How long the current step has been running; `None` between steps.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.inner.board.stalled_for()
    }

    /// Takes no more requests, and waits two seconds at most until those it has are served and the engine has
    /// ended. If it has, [`CostWatch`] has all that was learned.
    pub async fn close(&self) {
        self.inner.close().await;
    }

    /// Requests that may wait or run at a time.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// Requests that count against the queue's limits.
    #[cfg(test)]
    pub(crate) fn places_taken(&self) -> usize {
        self.inner.capacity - self.inner.permits.available_permits()
    }

    /// Whether the queue has room for a request: for callers who prepare it at some cost first. It may
    /// be full when they submit it all the same.
    ///
    /// # Errors
    /// [`SubmitError::QueueFull`]
    pub fn has_room(&self) -> Result<(), SubmitError> {
        if self.inner.permits.available_permits() > 0 { Ok(()) } else { Err(self.inner.full()) }
    }

    /// Puts a request into the queue. Never waits. It counts against the queue's limits until its
    /// last token, or until the engine has dropped it, whoever reads the answer when.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is queued then.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation, SubmitError> {
        self.check(&request)?;
        let permits = [self.inner.permit()?, self.inner.token_permits(request.prompt.len())?];
        let (id, submitted) = (self.inner.next_id(), SubmitTime::now());
        let events = self.inner.hub.generation(id, permits)?;
        let generate =
            GenerateCommand { id, request, submitted, started: false, partial: Vec::new() };
        self.inner.send(Command::Generate(Box::new(generate)))?;
        Ok(Generation { events, elapsed: Duration::ZERO })
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), SubmitError> {
        let info = &self.inner.info;
        let tokens = request.prompt.len() + request.max_tokens as usize;
        if tokens > info.slot_tokens as usize {
            return Err(SubmitError::TooLong { tokens, limit: info.slot_tokens });
        }
        self.inner.check_tokens(&request.prompt)
    }
}

// === impl Embedder ===

impl Embedder {
    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// Its vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.inner.vocab
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.inner.board.status()
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        self.inner.board.stats()
    }

    /// The number of the process that it runs in, if it is not this one.
    pub fn process(&self) -> Option<u32> {
        self.inner.board.process()
    }

    /// Waits while its process is being started again: for callers who would otherwise ask it for
    /// something on a thread that others need.
    ///
    /// # Errors
    /// When that takes as long as a request may wait.
    pub async fn is_there(&self) -> Result<(), Failure> {
        self.inner.board.is_there(self.inner.queue_timeout).await
    }

    /// How long the current step has been running; `None` between steps.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.inner.board.stalled_for()
    }

    /// As [`Engine::close`]; no costs are learned here.
    pub async fn close(&self) {
        self.inner.close().await;
    }

    /// The most tokens that the inputs of one request may have together.
    pub fn max_request_tokens(&self) -> usize {
        self.inner.token_capacity
    }

    /// One vector of length [`ModelInfo::n_embd`] and Euclidean norm 1 for each input, within
    /// `timeout`. Dropping the future cancels what has not been computed.
    ///
    /// # Errors
    /// [`SubmitError`] if the request was not accepted, [`Failure`] if it failed later.
    pub async fn embed(
        &self,
        inputs: Vec<Vec<Token>>,
        timeout: Option<Duration>,
    ) -> Result<Result<Vec<Vec<f32>>, Failure>, SubmitError> {
        let limit = self.inner.info.slot_tokens;
        for input in &inputs {
            if input.len() > limit as usize {
                return Err(SubmitError::TooLong { tokens: input.len(), limit });
            }
            self.inner.check_tokens(input)?;
        }
        let (tokens, limit) = (inputs.iter().map(Vec::len).sum(), self.max_request_tokens());
        if tokens > limit {
            return Err(SubmitError::TooManyTokens { tokens, limit });
        }
        let permits = [self.inner.permit()?, self.inner.token_permits(tokens)?];
        let (id, submitted) = (self.inner.next_id(), SubmitTime::now());
        let answer = self.inner.hub.vectors(id, permits, self.inner.commands.clone())?;
        self.inner.send(Command::Embed(Box::new(EmbedCommand {
            id,
            inputs,
            submitted,
            started: false,
            timeout,
        })))?;
        Ok(answer.wait().await)
    }
}

// === impl Generation ===

impl Generation {
    /// The next event; `None` after every answer has finished. An engine that dies before that
    /// gives [`Event::Failed`] or `None`.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Generation::next`] for those who wait for several.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx).map(|stamped: Option<TimedEvent>| {
            let TimedEvent { after, event } = stamped?;
            // That one is nobody's own.
            self.elapsed = self.elapsed.max(after);
            Some(event)
        })
    }

    /// When the event returned last happened, since the request was submitted. It is the engine's
    /// own time: a reader that is late does not change it.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }
}

// === impl Inner ===

impl Inner {
    fn new(
        (name, queue_timeout): (String, Option<Duration>),
        announced: LoadReport,
        board: Arc<StatusBoard>,
        hub: Arc<ReportRouter>,
        closer: CloseOnDrop,
        thread: JoinHandle<()>,
    ) -> Self {
        let LoadReport { info, vocab, capacity, token_capacity, .. } = announced;
        let token_capacity = token_capacity.min(Semaphore::MAX_PERMITS);
        Self {
            name,
            queue_timeout,
            info,
            vocab,
            board,
            hub,
            permits: Arc::new(Semaphore::new(capacity)),
            capacity,
            tokens: Arc::new(Semaphore::new(token_capacity)),
            token_capacity,
            commands: closer.0.clone(),
            last_id: AtomicU64::new(0),
            closed: OnceLock::new(),
            closer: Some(closer),
            thread: Some(thread),
        }
    }

    async fn close(&self) {
        let end = *self.closed.get_or_init(Instant::now) + JOIN_TIMEOUT;
        drop(self.commands.send(Command::Close));
        drop(tokio::time::timeout_at(end.into(), self.board.ends()).await);
    }

    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit, SubmitError> {
        Arc::clone(&self.permits).try_acquire_owned().map_err(|_| self.full())
    }

    /// Permits for a prompt. One longer than all of them waits for none but takes them all.
    fn token_permits(&self, tokens: usize) -> Result<OwnedSemaphorePermit, SubmitError> {
        let wanted = u32::try_from(tokens.min(self.token_capacity)).unwrap_or(u32::MAX);
        Arc::clone(&self.tokens).try_acquire_many_owned(wanted).map_err(|_| {
            let (limit, backlog) = (self.token_capacity, self.board.backlog());
            SubmitError::QueueTokens { tokens, limit, backlog }
        })
    }

    fn full(&self) -> SubmitError {
        SubmitError::QueueFull { limit: self.capacity, backlog: self.board.backlog() }
    }

    /// Each command but `Cancel` holds permits, and there is one `Cancel` for each at most: that bounds
    /// the channel.
    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.send(command).map_err(|_| SubmitError::EngineGone)
    }

    fn check_tokens(&self, tokens: &[Token]) -> Result<(), SubmitError> {
        if tokens.is_empty() {
            return Err(SubmitError::Empty);
        }
        match tokens.iter().find(|&&t| t as usize >= self.vocab.len()) {
            Some(&token) => Err(SubmitError::NoSuchToken { token }),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closer = None;
        let thread = self.thread.take().filter(|t| t.thread().id() != thread::current().id());
        let Some(thread) = thread else { return };
        // The model must be freed before the process tears down the backend's statics; but a step
        // that hangs must not keep the process from ending.
        let end = *self.closed.get_or_init(Instant::now) + JOIN_TIMEOUT;
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        if !thread.is_finished() {
            tracing::error!(model = self.name, "the engine's thread does not end");
        } else if thread.join().is_err() {
            tracing::error!(model = self.name, "the engine's thread had panicked");
        }
    }
}

impl From<EngineEnded> for SubmitError {
    fn from(EngineEnded: EngineEnded) -> Self {
        Self::EngineGone
    }
}
