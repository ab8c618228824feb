//! Loading a model onto a thread, and the handles that speak to it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::Token;
use crate::departures::Departures;
use crate::embed::{Answer, Clients, Contexts, EmbedJob, EmbedWorker};
use crate::events::{Receiver, Unread};
use crate::grammar::Grammars;
use crate::model::{Capacity, EmbeddingModel, Model, ModelConfig, ModelInfo, Source};
use crate::request::{Event, Failure, GenerateRequest, Stamped};
use crate::status::{Board, Progress, Stats, Status};
use crate::vocab::Vocab;
use crate::worker::{Submission, Worker};

/// Starts a thread that loads the model and then serves it.
///
/// # Errors
/// When the operating system cannot start a thread. Everything else is told by
/// [`Loading::finish`].
pub fn load(config: ModelConfig) -> Result<Loading, LoadError> {
    let board = Arc::new(Board::new());
    let (ready, loaded) = oneshot::channel();
    let host = Host { config, board: Arc::clone(&board), ready };
    let live = Live::new();
    let thread = thread::Builder::new()
        .name(format!("engine-{}", host.config.name))
        .spawn(move || {
            host.run();
            drop(live);
        })
        .map_err(|e| LoadError(format!("cannot start a thread: {e}")))?;
    Ok(Loading { board, loaded, thread })
}

/// How many engine threads run. While there are any, the process must not tear down the statics of
/// llama.cpp's backends.
pub fn live_threads() -> usize {
    LIVE.load(Ordering::Acquire)
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// How long dropping the last handle waits for the thread to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counts a thread while it runs, or panics.
struct Live;

impl Live {
    fn new() -> Self {
        LIVE.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A model that is being loaded.
#[derive(Debug)]
pub struct Loading {
    board: Arc<Board>,
    loaded: oneshot::Receiver<Result<Parts, LoadError>>,
    thread: JoinHandle<()>,
}

/// A model that could not be loaded, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// A model that is ready to serve.
#[derive(Debug, Clone)]
pub enum Loaded {
    /// It generates text.
    Chat(Engine),
    /// It turns text into vectors.
    Embedding(Embedder),
}

/// The handle of a generation model. Cheap to clone; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner<Submission>>,
    unread: Arc<Unread>,
    grammars: Arc<Grammars>,
}

/// The handle of an embedding model. Cheap to clone; the thread ends with the last clone.
#[derive(Debug, Clone)]
pub struct Embedder {
    inner: Arc<Inner<EmbedJob>>,
    departures: Arc<Departures>,
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

struct Inner<C> {
    info: ModelInfo,
    vocab: Vocab,
    board: Arc<Board>,
    permits: Arc<Semaphore>,
    capacity: usize,
    tokens: Arc<Semaphore>,
    token_capacity: usize,
    /// `None` only while dropping: closing it tells the thread to end.
    commands: Option<mpsc::Sender<C>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread hands over once the model is loaded.
#[derive(Debug)]
struct Parts {
    info: ModelInfo,
    vocab: Vocab,
    capacity: usize,
    token_capacity: usize,
    commands: Commands,
}

#[derive(Debug)]
enum Commands {
    Generate(mpsc::Sender<Submission>, Arc<Unread>),
    Embed(mpsc::Sender<EmbedJob>, Arc<Departures>),
}

/// The thread's side: a backend loads the model, then calls one of the `serve` functions.
pub(crate) struct Host {
    pub(crate) config: ModelConfig,
    pub(crate) board: Arc<Board>,
    ready: oneshot::Sender<Result<Parts, LoadError>>,
}

// === impl Loading ===

impl Loading {
    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.board.progress()
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
    pub async fn finish(self) -> Result<Loaded, LoadError> {
        let died = || LoadError("the thread ended while it loaded the model".to_owned());
        let parts = self.loaded.await.map_err(|_| died())??;
        Ok(parts.into_handle(self.board, self.thread))
    }
}

impl Parts {
    fn into_handle(self, board: Arc<Board>, thread: JoinHandle<()>) -> Loaded {
        let Self { info, vocab, capacity, token_capacity, commands } = self;
        let bounds = (capacity, token_capacity);
        match commands {
            Commands::Generate(commands, unread) => Loaded::Chat(Engine {
                unread,
                grammars: Arc::new(Grammars::new(vocab.clone())),
                inner: Arc::new(Inner::new(info, vocab, board, bounds, commands, thread)),
            }),
            Commands::Embed(commands, departures) => Loaded::Embedding(Embedder {
                departures,
                inner: Arc::new(Inner::new(info, vocab, board, bounds, commands, thread)),
            }),
        }
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

    /// Its grammars.
    pub fn grammars(&self) -> &Grammars {
        &self.grammars
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.inner.board.status()
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        let (unread_bytes, cut) = (self.unread.bytes() as u64, self.unread.cuts());
        Stats { unread_bytes, cut, ..self.inner.board.stats() }
    }

    /// How long the current step has been running; `None` between steps.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.inner.board.stalled_for()
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
        let (sender, events) = self.unread.channel(Some(permits));
        self.inner.send(Submission { request, events: sender, submitted: Instant::now() })?;
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

    /// How long the current step has been running; `None` between steps.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.inner.board.stalled_for()
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
        let (reply, answer) = oneshot::channel();
        let answer = Answer::new(answer, Arc::clone(&self.departures));
        self.inner.send(EmbedJob::new(answer.id(), inputs, reply, timeout).holding(permits))?;
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
        self.events.poll_recv(cx).map(|stamped: Option<Stamped>| {
            let Stamped { after, event } = stamped?;
            self.elapsed = after;
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

impl<C> Inner<C> {
    fn new(
        info: ModelInfo,
        vocab: Vocab,
        board: Arc<Board>,
        (capacity, token_capacity): (usize, usize),
        commands: mpsc::Sender<C>,
        thread: JoinHandle<()>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(capacity));
        let token_capacity = token_capacity.min(Semaphore::MAX_PERMITS);
        let tokens = Arc::new(Semaphore::new(token_capacity));
        let (commands, thread) = (Some(commands), Some(thread));
        Self { info, vocab, board, permits, capacity, tokens, token_capacity, commands, thread }
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

    fn send(&self, command: C) -> Result<(), SubmitError> {
        let sender = self.commands.as_ref().ok_or(SubmitError::EngineGone)?;
        sender.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => self.full(),
            mpsc::error::TrySendError::Closed(_) => SubmitError::EngineGone,
        })
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

impl<C> fmt::Debug for Inner<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<C> Drop for Inner<C> {
    fn drop(&mut self) {
        self.commands = None;
        let thread = self.thread.take().filter(|t| t.thread().id() != thread::current().id());
        let Some(thread) = thread else { return };
        // The model must be freed before the process tears down the backend's statics; but a step
        // that hangs must not keep the process from ending.
        let end = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
        if !thread.is_finished() {
            tracing::error!(model = %self.info.architecture, "the engine's thread does not end");
        } else if thread.join().is_err() {
            tracing::error!(model = %self.info.architecture, "the engine's thread had panicked");
        }
    }
}

// === impl Host ===

impl Host {
    fn run(self) {
        let guard = FailedOnDrop(Arc::clone(&self.board));
        match self.config.source.clone() {
            #[cfg(feature = "llama")]
            Source::Gguf(path) => crate::llama::run(&path, self),
            #[cfg(not(feature = "llama"))]
            Source::Gguf(_) => self.fail("this build has no llama.cpp backend"),
            #[cfg(feature = "scripted")]
            Source::Scripted(script) => crate::scripted::run(script, self),
        }
        drop(guard);
    }

    /// Tells that the model cannot be loaded.
    pub(crate) fn fail(self, why: impl Into<String>) {
        // Nobody may be waiting any more; then there is nobody to tell.
        drop(self.ready.send(Err(LoadError(why.into()))));
    }

    /// Serves a generation model until the last handle is gone.
    pub(crate) fn serve_generation(
        self,
        info: ModelInfo,
        vocab: Vocab,
        limits: Capacity,
        model: impl Model,
    ) {
        let capacity = self.config.queue + info.slots as usize;
        let token_capacity = self.config.queue_tokens.unwrap_or(limits.kv.cells as usize * 16);
        let (sender, inbox) = mpsc::channel(channel_room(capacity));
        let unread = Arc::new(Unread::new(self.config.unread_bytes));
        let worker = Worker::new(
            model,
            vocab.clone(),
            &self.config,
            limits,
            self.board,
            Arc::clone(&unread),
        );
        worker.board().set_status(Status::Ready);
        let commands = Commands::Generate(sender, unread);
        if self.ready.send(Ok(Parts { info, vocab, capacity, token_capacity, commands })).is_ok() {
            worker.run(inbox);
        }
    }

    /// Serves an embedding model until the last handle is gone.
    pub(crate) fn serve_embedding<M: EmbeddingModel + Send>(
        self,
        info: ModelInfo,
        vocab: Vocab,
        contexts: Contexts<M>,
    ) {
        let capacity = self.config.queue + info.slots as usize;
        let (sender, inbox) = mpsc::channel(channel_room(capacity));
        self.board.set_status(Status::Ready);
        let departures = Arc::new(Departures::default());
        let commands = Commands::Embed(sender, Arc::clone(&departures));
        let token_capacity =
            self.config.queue_tokens.unwrap_or(ModelConfig::EMBEDDING_QUEUE_TOKENS);
        let queue_timeout = self.config.queue_timeout;
        let clients = Clients { inbox, departures, queue_timeout };
        let directions = info.ranking.is_none();
        if self.ready.send(Ok(Parts { info, vocab, capacity, token_capacity, commands })).is_ok() {
            EmbedWorker::serve(contexts, clients, directions, self.board);
        }
    }
}

/// Room of a command channel: each command holds a permit until the thread has done with it or
/// dropped it, so there are never more.
fn channel_room(capacity: usize) -> usize {
    capacity.max(1)
}

/// Marks the engine as failed however its thread ends, a panic included.
struct FailedOnDrop(Arc<Board>);

impl Drop for FailedOnDrop {
    fn drop(&mut self) {
        self.0.set_status(Status::Failed);
    }
}
