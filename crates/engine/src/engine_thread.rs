//! The thread of an engine: it loads a model, then runs its worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use tokio::sync::mpsc;

use crate::cost_benchmark::CostMeasurement;
use crate::embed::{EmbedWorker, EmbeddingChannels, EmbeddingContexts};
use crate::grammar::{GrammarCompiler, Grammars};
use crate::grammar_recompiler::GrammarRecompiler;
use crate::message::Command;
use crate::model::{Capacity, EmbeddingModel, GenerationModel};
use crate::model_config::ModelConfig;
use crate::model_info::ModelInfo;
use crate::report_sink::ReportSink;
use crate::status::{Status, StatusBoard};
use crate::vocab::Vocab;
use crate::worker::{Worker, WorkerPorts};

/// A model that could not be loaded, and why.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// A loaded model, for those who make its handle.
#[derive(Debug)]
pub(crate) struct LoadReport {
    pub(crate) info: ModelInfo,
    pub(crate) vocab: Vocab,
    /// Requests that may wait or run at a time.
    pub(crate) max_requests: usize,
    /// Tokens of their prompts or inputs.
    pub(crate) max_tokens: usize,
    /// Compiles grammars; `None` for embedding models.
    pub(crate) compiler: Option<Arc<dyn GrammarCompiler>>,
}

/// Called once, when the model is loaded or cannot be; returns whether to serve it.
pub(crate) type OnLoaded = Box<dyn FnOnce(Result<LoadReport, LoadError>) -> bool + Send>;

/// What an engine's thread owns: a backend loads the model there, then calls one of the `serve` functions.
pub(crate) struct EngineThread {
    pub(crate) config: ModelConfig,
    pub(crate) board: Arc<StatusBoard>,
    pub(crate) out: Arc<dyn ReportSink>,
    /// The other end of `inbox`, for commands that the worker sends itself.
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) on_loaded: OnLoaded,
    /// Measures the model instead of serving it.
    pub(crate) measure: Option<CostMeasurement>,
}

/// Engine threads that run. While there are any, the process must not tear down the statics of llama.cpp's backends.
pub fn live_threads() -> usize {
    LIVE.load(Ordering::Acquire)
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread until it ends or panics.
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

impl EngineThread {
    /// Starts the thread, which does `run`.
    pub(crate) fn start(
        self,
        run: impl FnOnce(Self) + Send + 'static,
    ) -> Result<JoinHandle<()>, LoadError> {
        let live = Live::new();
        let builder = thread::Builder::new().name(format!("engine-{}", self.config.name));
        let run = move || {
            let guard = EngineEndGuard(Arc::clone(&self.board), Arc::clone(&self.out));
            run(self);
            drop(guard);
            drop(live);
        };
        builder.spawn(run).map_err(|e| LoadError(format!("cannot start a thread: {e}")))
    }

    /// Reports that the model cannot be loaded.
    pub(crate) fn fail(self, why: impl Into<String>) {
        (self.on_loaded)(Err(LoadError(why.into())));
    }

    /// Serves a generation model until it is closed.
    pub(crate) fn serve_generation(
        self,
        info: ModelInfo,
        vocab: Vocab,
        limits: Capacity,
        model: impl GenerationModel,
    ) {
        if let Some(measure) = self.measure {
            return measure.run(model, &limits, vocab.len());
        }
        let max_requests = self.config.queue + info.slots as usize;
        let max_tokens = self.config.queue_tokens.unwrap_or(limits.kv.cells as usize * 16);
        let Self { config, board, out, commands, inbox, on_loaded, .. } = self;
        let grammars = Arc::new(Grammars::new(vocab.clone()));
        let recompiler = GrammarRecompiler::new(
            Arc::clone(&grammars),
            commands,
            Arc::clone(&out),
            Arc::clone(&board),
        );
        let ports = WorkerPorts { board, out, grammars: recompiler };
        let worker = Worker::new(model, vocab.clone(), &config, limits, ports);
        worker.board().set_status(Status::Ready);
        let compiler = Some(grammars as Arc<dyn GrammarCompiler>);
        if on_loaded(Ok(LoadReport { info, vocab, max_requests, max_tokens, compiler })) {
            worker.run(inbox);
        }
    }

    /// Serves an embedding model until it is closed.
    pub(crate) fn serve_embedding<M: EmbeddingModel + Send>(
        self,
        info: ModelInfo,
        vocab: Vocab,
        contexts: EmbeddingContexts<M>,
    ) {
        let max_requests = self.config.queue + info.slots as usize;
        let max_tokens = self.config.queue_tokens.unwrap_or(ModelConfig::EMBEDDING_QUEUE_TOKENS);
        let Self { config, board, out, inbox, on_loaded, .. } = self;
        board.set_status(Status::Ready);
        let channels = EmbeddingChannels { inbox, queue_timeout: config.queue_timeout, out };
        let (normalise, compiler) = (info.ranking.is_none(), None);
        if on_loaded(Ok(LoadReport { info, vocab, max_requests, max_tokens, compiler })) {
            EmbedWorker::serve(contexts, channels, normalise, board);
        }
    }
}

/// Marks the engine as failed and fails open requests when its thread ends for any reason, a panic included.
pub(crate) struct EngineEndGuard(pub(crate) Arc<StatusBoard>, pub(crate) Arc<dyn ReportSink>);

impl Drop for EngineEndGuard {
    fn drop(&mut self) {
        self.0.set_status(Status::Failed);
        self.1.ended();
    }
}
