//! Loading a model, onto a thread of this process or in one of its own.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::backend;
use crate::cost_benchmark::{CostMeasurement, CostPlan, CostTable};
use crate::engine_thread::{EngineThread, LoadError, LoadReport};
use crate::handle::{CloseOnDrop, EngineLink, ModelHandle};
use crate::model_config::ModelConfig;
use crate::process::{Launcher, SupervisorSetup};
use crate::report_router::EngineChannel;
use crate::report_sink::ReportSink;
use crate::status::{CostWatch, Progress, StatusBoard};
use crate::step_timeouts::StepTimeouts;

/// A model that is being loaded.
pub struct Loading {
    link: EngineLink,
    loaded: oneshot::Receiver<Result<LoadReport, LoadError>>,
}

/// Starts a thread that loads the model and then serves it.
///
/// # Errors
/// When the operating system cannot start a thread. All other errors come from [`Loading::finish`].
pub fn load(config: ModelConfig) -> Result<Loading, LoadError> {
    let (name, queue_timeout) = (config.name.clone(), config.queue_timeout);
    let board = new_board(&config);
    let (ready, loaded) = oneshot::channel();
    let EngineChannel { commands, inbox, router } = EngineChannel::new(config.unread_bytes);
    let engine = EngineThread {
        config,
        board: Arc::clone(&board),
        out: Arc::clone(&router) as Arc<dyn ReportSink>,
        commands: commands.clone(),
        inbox,
        on_loaded: Box::new(move |report| ready.send(report).is_ok()),
        measure: None,
    };
    let thread = backend::start(engine)?;
    let closer = CloseOnDrop(commands);
    let link = EngineLink { name, queue_timeout, board, router, closer, thread };
    Ok(Loading { link, loaded })
}

/// Starts a process that loads the model and then serves it, and that is restarted when it dies.
/// Tokenising and compiling grammars then wait for that process: not for an async reactor's thread.
///
/// # Errors
/// When the operating system cannot start a thread. All other errors come from [`Loading::finish`].
pub fn load_in_process(config: ModelConfig, launcher: Launcher) -> Result<Loading, LoadError> {
    let (name, queue_timeout) = (config.name.clone(), config.queue_timeout);
    let board = new_board(&config);
    let (ready, loaded) = oneshot::channel();
    let EngineChannel { commands, inbox, router } = EngineChannel::new(config.unread_bytes);
    let supervisor = SupervisorSetup {
        config,
        launcher,
        board: Arc::clone(&board),
        router: Arc::clone(&router),
        inbox,
        on_loaded: Some(Box::new(move |report| ready.send(report).is_ok())),
    };
    let thread = supervisor.start()?;
    let closer = CloseOnDrop(commands);
    let link = EngineLink { name, queue_timeout, board, router, closer, thread };
    Ok(Loading { link, loaded })
}

/// Loads a generation model and measures what its decode calls cost. Takes minutes.
///
/// # Errors
/// When the model cannot be loaded, or a call fails.
pub fn measure_costs(config: ModelConfig, plan: CostPlan) -> Result<CostTable, LoadError> {
    let (reply, measured) = std::sync::mpsc::sync_channel(1);
    let (failed, why) = std::sync::mpsc::sync_channel(1);
    let board = new_board(&config);
    let EngineChannel { commands, inbox, router } = EngineChannel::new(config.unread_bytes);
    let engine = EngineThread {
        config,
        board,
        out: router,
        commands,
        inbox,
        on_loaded: Box::new(move |report| {
            drop(failed.send(report.err()));
            false
        }),
        measure: Some(CostMeasurement { plan, reply }),
    };
    let thread = backend::start(engine)?;
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

fn new_board(config: &ModelConfig) -> Arc<StatusBoard> {
    Arc::new(StatusBoard::new(StepTimeouts::new(config.step_limit, Vec::new())))
}

impl Loading {
    /// How far loading has come.
    pub fn progress(&self) -> Progress {
        self.link.board.progress()
    }

    /// What the engine will learn of costs.
    pub fn costs(&self) -> CostWatch {
        CostWatch(Arc::clone(&self.link.board))
    }

    /// A function that returns how far loading has come, for another task.
    pub fn watch(&self) -> impl Fn() -> Progress + Send + Sync + 'static {
        let board = Arc::clone(&self.link.board);
        move || board.progress()
    }

    /// Waits until the model can serve.
    ///
    /// # Errors
    /// [`LoadError`] if it never will.
    pub async fn finish(self) -> Result<ModelHandle, LoadError> {
        let died = || LoadError("the thread ended while it loaded the model".to_owned());
        let report = self.loaded.await.map_err(|_| died())??;
        Ok(ModelHandle::new(report, self.link))
    }
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").field("model", &self.link.name).finish_non_exhaustive()
    }
}
