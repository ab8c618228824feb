//! The handles that send requests to an engine.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::Token;
use crate::engine_thread::LoadReport;
use crate::events::Receiver;
use crate::failure::Failure;
use crate::grammar::{Grammar, GrammarCompiler, GrammarError};
use crate::message::{Command, EmbedCommand, GenerateCommand, SubmitTime};
use crate::model_info::ModelInfo;
use crate::queue_limits::{QueueLimits, SubmitError};
use crate::report_router::ReportRouter;
use crate::request::{Event, GenerateRequest, TimedEvent};
use crate::status::{Stats, Status, StatusBoard};
use crate::vocab::Vocab;

/// How long closing and dropping the last handle wait together for the thread to end.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The handle of a loaded model, by what the model does.
#[derive(Debug, Clone)]
pub enum ModelHandle {
    /// It generates text.
    Chat(Engine),
    /// It turns text into vectors.
    Embedding(Embedder),
}

/// What the handles of all models have in common. Cheap to clone; the engine ends with the last clone.
#[derive(Debug, Clone)]
pub struct EngineHandle(Arc<Shared>);

/// The handle of a generation model: an [`EngineHandle`] that takes requests for text.
#[derive(Debug, Clone)]
pub struct Engine {
    handle: EngineHandle,
    compiler: Arc<dyn GrammarCompiler>,
}

/// The handle of an embedding model: an [`EngineHandle`] that takes requests for vectors.
#[derive(Debug, Clone)]
pub struct Embedder {
    handle: EngineHandle,
}

/// A running request. Dropping it cancels the request: its sequences are gone within one step,
/// queued or running.
#[derive(Debug)]
pub struct Generation {
    events: Receiver,
    /// When the event returned last happened, since the request was submitted.
    elapsed: Duration,
}

/// Where an engine runs, and how it is reached.
pub(crate) struct EngineLink {
    pub(crate) name: String,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) router: Arc<ReportRouter>,
    pub(crate) closer: CloseOnDrop,
    pub(crate) thread: JoinHandle<()>,
}

struct Shared {
    name: String,
    queue_timeout: Option<Duration>,
    info: ModelInfo,
    vocab: Vocab,
    board: Arc<StatusBoard>,
    router: Arc<ReportRouter>,
    limits: QueueLimits,
    commands: mpsc::UnboundedSender<Command>,
    last_id: AtomicU64,
    /// When the engine was first asked to end.
    closed: OnceLock<Instant>,
    /// `None` only while dropping.
    closer: Option<CloseOnDrop>,
    thread: Option<JoinHandle<()>>,
}

/// Asks the engine to end when dropped.
#[derive(Debug)]
pub(crate) struct CloseOnDrop(pub(crate) mpsc::UnboundedSender<Command>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        // The engine may have ended already.
        drop(self.0.send(Command::Close));
    }
}

// === impl ModelHandle ===

impl ModelHandle {
    /// The handle of a loaded model.
    pub(crate) fn new(report: LoadReport, link: EngineLink) -> Self {
        let LoadReport { info, vocab, max_requests, max_tokens, compiler } = report;
        let EngineLink { name, queue_timeout, board, router, closer, thread } = link;
        let handle = EngineHandle(Arc::new(Shared {
            name,
            queue_timeout,
            info,
            vocab,
            board,
            router,
            limits: QueueLimits::new(max_requests, max_tokens),
            commands: closer.0.clone(),
            last_id: AtomicU64::new(0),
            closed: OnceLock::new(),
            closer: Some(closer),
            thread: Some(thread),
        }));
        match compiler {
            Some(compiler) => Self::Chat(Engine { handle, compiler }),
            None => Self::Embedding(Embedder { handle }),
        }
    }
}

impl Deref for ModelHandle {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        match self {
            Self::Chat(engine) => engine,
            Self::Embedding(embedder) => embedder,
        }
    }
}

// === impl EngineHandle ===

impl EngineHandle {
    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.0.info
    }

    /// The model's vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.0.vocab
    }

    /// Engine status.
    pub fn status(&self) -> Status {
        self.0.board.status()
    }

    /// Cumulative counters and current gauges.
    pub fn stats(&self) -> Stats {
        let unread = self.0.router.unread();
        let (unread_bytes, cut) = (unread.bytes() as u64, unread.cuts());
        Stats { unread_bytes, cut, ..self.0.board.stats() }
    }

    /// The id of the engine's process; `None` if it runs in this one.
    pub fn process_id(&self) -> Option<u32> {
        self.0.board.process_id()
    }

    /// Waits while the engine's process restarts. Before a call that asks the engine on a thread that others need.
    ///
    /// # Errors
    /// [`Failure::QueueTimeout`] if that takes as long as a request may wait.
    pub async fn wait_until_restarted(&self) -> Result<(), Failure> {
        self.0.board.wait_until_restarted(self.0.queue_timeout).await
    }

    /// How long the current step has been running; `None` between steps.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.0.board.stalled_for()
    }

    /// Takes no more requests, and waits at most two seconds until those it has are served and the engine has ended.
    /// If it has, [`crate::CostWatch`] has all that was learned.
    pub async fn close(&self) {
        let end = self.0.exit_deadline();
        drop(self.0.commands.send(Command::Close));
        drop(tokio::time::timeout_at(end.into(), self.0.board.ended()).await);
    }

    fn check_tokens(&self, tokens: &[Token]) -> Result<(), SubmitError> {
        if tokens.is_empty() {
            return Err(SubmitError::Empty);
        }
        match tokens.iter().find(|&&t| t as usize >= self.vocab().len()) {
            Some(&token) => Err(SubmitError::NoSuchToken { token }),
            None => Ok(()),
        }
    }
}

impl Deref for Engine {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.handle
    }
}

impl Deref for Embedder {
    type Target = EngineHandle;

    fn deref(&self) -> &EngineHandle {
        &self.handle
    }
}

// === impl Engine ===

impl Engine {
    fn shared(&self) -> &Shared {
        &self.handle.0
    }

    /// Compiles a grammar for the requests that will name it. Not for an async reactor's thread: see
    /// [`crate::Grammars::compile`].
    ///
    /// # Errors
    /// [`Failure`] if the engine does not answer; [`GrammarError`], which names what cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<Result<(), GrammarError>, Failure> {
        self.compiler.compile(grammar)
    }

    /// Whether a grammar is compiled already.
    pub fn has_compiled(&self, grammar: &Grammar) -> bool {
        self.compiler.has_compiled(grammar)
    }

    /// Requests that may wait or run at a time.
    pub fn max_requests(&self) -> usize {
        self.shared().limits.max_requests()
    }

    /// Requests that count against the queue's limits.
    #[cfg(test)]
    pub(crate) fn requests_in_use(&self) -> usize {
        self.shared().limits.requests_in_use()
    }

    /// Checks whether the queue has room for a request, before it is prepared at some cost. The queue may be full when
    /// the request is submitted all the same.
    ///
    /// # Errors
    /// [`SubmitError::QueueFull`]
    pub fn has_room(&self) -> Result<(), SubmitError> {
        let Shared { limits, board, .. } = self.shared();
        if limits.has_room() { Ok(()) } else { Err(limits.full(board.backlog())) }
    }

    /// Puts a request into the queue. Never waits. The request counts against the queue's limits until its
    /// last token, or until the engine has dropped it, no matter when the answer is read.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing is queued then.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation, SubmitError> {
        self.check(&request)?;
        let shared = self.shared();
        let permits = shared.limits.acquire(request.prompt.len(), shared.board.backlog())?;
        let (id, submitted) = (shared.next_id(), SubmitTime::now());
        let events = shared.router.register_generation(id, permits)?;
        let generate =
            GenerateCommand { id, request, submitted, started: false, partial: Vec::new() };
        shared.send(Command::Generate(Box::new(generate)))?;
        Ok(Generation { events, elapsed: Duration::ZERO })
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), SubmitError> {
        let limit = self.info().slot_tokens;
        let tokens = request.prompt.len() + request.max_tokens as usize;
        if tokens > limit as usize {
            return Err(SubmitError::TooLong { tokens, limit });
        }
        self.check_tokens(&request.prompt)
    }
}

// === impl Embedder ===

impl Embedder {
    /// The most tokens that the inputs of one request may have together.
    pub fn max_request_tokens(&self) -> usize {
        self.handle.0.limits.max_tokens()
    }

    /// Computes one vector of length [`ModelInfo::n_embd`] and Euclidean norm 1 for each input, within
    /// `timeout`. Dropping the future cancels what has not been computed.
    ///
    /// # Errors
    /// [`SubmitError`] if the request was not accepted, [`Failure`] if it failed later.
    pub async fn embed(
        &self,
        inputs: Vec<Vec<Token>>,
        timeout: Option<Duration>,
    ) -> Result<Result<Vec<Vec<f32>>, Failure>, SubmitError> {
        let limit = self.info().slot_tokens;
        for input in &inputs {
            if input.len() > limit as usize {
                return Err(SubmitError::TooLong { tokens: input.len(), limit });
            }
            self.check_tokens(input)?;
        }
        let (tokens, limit) = (inputs.iter().map(Vec::len).sum(), self.max_request_tokens());
        if tokens > limit {
            return Err(SubmitError::TooManyTokens { tokens, limit });
        }
        let shared = &self.handle.0;
        let permits = shared.limits.acquire(tokens, shared.board.backlog())?;
        let (id, submitted) = (shared.next_id(), SubmitTime::now());
        let vectors = shared.router.register_embedding(id, permits, shared.commands.clone())?;
        let embed = EmbedCommand { id, inputs, submitted, started: false, timeout };
        shared.send(Command::Embed(Box::new(embed)))?;
        Ok(vectors.wait().await)
    }
}

// === impl Generation ===

impl Generation {
    /// The next event; `None` after every answer has finished. An engine that dies before that
    /// ends with [`Event::Failed`] or `None`.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Generation::next`] for callers that poll several.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx).map(|timed: Option<TimedEvent>| {
            let TimedEvent { after, event } = timed?;
            // An event that the engine did not cause has no time of its own.
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

// === impl Shared ===

impl Shared {
    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// When the engine has to have ended, counted from the first call.
    fn exit_deadline(&self) -> Instant {
        *self.closed.get_or_init(Instant::now) + JOIN_TIMEOUT
    }

    /// Each command but `Cancel` holds permits, and there is at most one `Cancel` for each: that bounds
    /// the channel.
    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.commands.send(command).map_err(|_| SubmitError::EngineGone)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.closer = None;
        let thread = self.thread.take().filter(|t| t.thread().id() != thread::current().id());
        let Some(thread) = thread else { return };
        // The model must be freed before the process tears down the backend's statics; but a step
        // that hangs must not keep the process from ending.
        let end = self.exit_deadline();
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
