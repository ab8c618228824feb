//! Chooses the backend of a model: llama.cpp for a GGUF file, the scripted model for a script.

use std::thread::JoinHandle;

use crate::engine_thread::{EngineThread, LoadError};
use crate::model_config::Source;

/// Starts the thread that loads a model and serves it.
///
/// # Errors
/// When the operating system cannot start a thread.
pub(crate) fn start(engine: EngineThread) -> Result<JoinHandle<()>, LoadError> {
    engine.start(run)
}

fn run(engine: EngineThread) {
    match engine.config.source.clone() {
        #[cfg(feature = "llama")]
        Source::Gguf(path) => crate::llama::serve::run(&path, engine),
        #[cfg(not(feature = "llama"))]
        Source::Gguf(_) => engine.fail("this build has no llama.cpp backend"),
        #[cfg(feature = "scripted")]
        Source::Scripted(script) => crate::scripted::run(script, engine),
    }
}
