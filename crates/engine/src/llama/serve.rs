//! Loading a GGUF file and serving it on the engine's thread.

use std::path::Path;
use std::sync::Arc;

use super::loaded_model::LoadedModel;
use super::metadata::{Metadata, vocab};
use super::placement::Placement;
use super::{embedding, generation};
use crate::engine_thread::EngineThread;
use crate::model_info::Kind;

/// Loads a GGUF file on this thread and serves it until the last handle is gone.
pub(crate) fn run(path: &Path, engine: EngineThread) {
    let Some(backend) = super::backend() else {
        return engine.fail("llama.cpp could not be initialised");
    };
    let loaded = Placement::of(path, &engine.config)
        .and_then(|placement| Ok((placement.load(backend, path, &engine)?, placement)));
    let (model, placement) = match loaded {
        Ok((model, placement)) => (Arc::new(model), placement),
        Err(why) => return engine.fail(why),
    };
    let metadata = Metadata::read(&model);
    let kind = engine.config.kind.unwrap_or_else(|| metadata.kind());
    let loaded = LoadedModel { backend, model: &model, metadata: &metadata, placement: &placement };
    let result = match kind {
        Kind::Chat => generation::serve(&loaded, vocab(&model), engine),
        Kind::Embedding => embedding::serve(&loaded, vocab(&model), engine),
    };
    if let Err(failed) = result {
        let (engine, why) = *failed;
        engine.fail(why);
    }
}
