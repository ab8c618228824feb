//! The thread that loads a model and then runs its worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use crate::compiler::Compiler;
use crate::costs::Measure;
use crate::embed::{Clients, Contexts, EmbedWorker};
use crate::grammar::{Grammar, GrammarError, Grammars};
use crate::hub::Outbox;
use crate::message::Command;
use crate::model::{Capacity, EmbeddingModel, Model, ModelConfig, ModelInfo, Source};
use crate::process::Remote;
use crate::request::Failure;
use crate::status::{Board, Status};
use crate::vocab::Vocab;
use crate::worker::{Ports, Worker};

/// A model that could not be loaded, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// What is told of a model once it is loaded.
#[derive(Debug)]
pub(crate) struct Announcement {
    pub(crate) info: ModelInfo,
    pub(crate) vocab: Vocab,
    /// Requests that may wait or run at a time.
    pub(crate) capacity: usize,
    /// Tokens of their prompts or inputs.
    pub(crate) token_capacity: usize,
    /// Of a generation model.
    pub(crate) compiles: Option<Compiles>,
}

/// Where a model's grammars are compiled.
#[derive(Debug, Clone)]
pub(crate) enum Compiles {
    Here(Arc<Grammars>),
    There(Remote),
}

/// Told once of a loaded model, or why there is none; returns whether anybody wants it.
pub(crate) type Announce = Box<dyn FnOnce(Result<Announcement, LoadError>) -> bool + Send>;

/// A model on its way to a thread: a backend loads it there, then calls one of the `serve` functions.
pub(crate) struct Host {
    pub(crate) config: ModelConfig,
    pub(crate) board: Arc<Board>,
    pub(crate) out: Arc<dyn Outbox>,
    /// Where commands come from, and how the worker sends itself some.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) announce: Announce,
    /// Whether to measure the model instead of serving it.
    pub(crate) measure: Option<Measure>,
}

/// How many engine threads run. While there are any, the process must not tear down the statics of
/// llama.cpp's backends.
pub fn live_threads() -> usize {
    LIVE.load(Ordering::Acquire)
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

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

impl Compiles {
    /// Compiles a grammar.
    pub(crate) fn compile(&self, grammar: &Grammar) -> Result<Result<(), GrammarError>, Failure> {
        match self {
            Self::Here(grammars) => Ok(grammars.compile(grammar).map(drop)),
            Self::There(remote) => remote.compile(grammar),
        }
    }

    /// Whether a grammar was compiled.
    pub(crate) fn has_compiled(&self, grammar: &Grammar) -> bool {
        match self {
            Self::Here(grammars) => grammars.compiled(grammar).is_some(),
            Self::There(remote) => remote.has_compiled(grammar),
        }
    }
}

impl Host {
    /// Starts the thread.
    pub(crate) fn start(self) -> Result<JoinHandle<()>, LoadError> {
        let live = Live::new();
        let builder = thread::Builder::new().name(format!("engine-{}", self.config.name));
        let run = move || {
            self.run();
            drop(live);
        };
        builder.spawn(run).map_err(|e| LoadError(format!("cannot start a thread: {e}")))
    }

    fn run(self) {
        let guard = EndOnDrop(Arc::clone(&self.board), Arc::clone(&self.out));
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
        (self.announce)(Err(LoadError(why.into())));
    }

    /// Serves a generation model until it is told to end.
    pub(crate) fn serve_generation(
        self,
        info: ModelInfo,
        vocab: Vocab,
        limits: Capacity,
        model: impl Model,
    ) {
        if let Some(measure) = self.measure {
            return measure.run(model, &limits, vocab.len());
        }
        let capacity = self.config.queue + info.slots as usize;
        let token_capacity = self.config.queue_tokens.unwrap_or(limits.kv.cells as usize * 16);
        let Self { config, board, out, commands, inbox, announce, .. } = self;
        let grammars = Arc::new(Grammars::new(vocab.clone()));
        let compiler =
            Compiler::new(Arc::clone(&grammars), commands, Arc::clone(&out), Arc::clone(&board));
        let ports = Ports { board, out, compiler };
        let worker = Worker::new(model, vocab.clone(), &config, limits, ports);
        worker.board().set_status(Status::Ready);
        let compiles = Some(Compiles::Here(grammars));
        if announce(Ok(Announcement { info, vocab, capacity, token_capacity, compiles })) {
            worker.run(inbox);
        }
    }

    /// Serves an embedding model until it is told to end.
    pub(crate) fn serve_embedding<M: EmbeddingModel + Send>(
        self,
        info: ModelInfo,
        vocab: Vocab,
        contexts: Contexts<M>,
    ) {
        let capacity = self.config.queue + info.slots as usize;
        let token_capacity =
            self.config.queue_tokens.unwrap_or(ModelConfig::EMBEDDING_QUEUE_TOKENS);
        let Self { config, board, out, inbox, announce, .. } = self;
        board.set_status(Status::Ready);
        let clients = Clients { inbox, queue_timeout: config.queue_timeout, out };
        let (directions, compiles) = (info.ranking.is_none(), None);
        if announce(Ok(Announcement { info, vocab, capacity, token_capacity, compiles })) {
            EmbedWorker::serve(contexts, clients, directions, board);
        }
    }
}

/// Marks the engine as failed and ends what is open however its thread ends, a panic included.
pub(crate) struct EndOnDrop(pub(crate) Arc<Board>, pub(crate) Arc<dyn Outbox>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.set_status(Status::Failed);
        self.1.ended();
    }
}
