//! A model that llama.cpp has loaded, with what is known of it.

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;

use super::metadata::Metadata;
use super::placement::Placement;
use crate::engine_thread::EngineThread;

/// A model that was loaded, and what is known of it.
pub(super) struct LoadedModel<'m> {
    pub(super) backend: &'m LlamaBackend,
    pub(super) model: &'m LlamaModel,
    pub(super) metadata: &'m Metadata,
    pub(super) placement: &'m Placement,
}

/// An error after loading comes with the host to report it through.
pub(super) type Served = Result<(), Box<(EngineThread, String)>>;
