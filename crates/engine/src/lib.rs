//! llama.cpp behind a handle.
//!
//! One named thread owns each model and its context. A cheap cloneable handle ([`Engine`] for
//! generation, [`Embedder`] for embeddings) sends it plain-data commands and gets plain-data events
//! back; nothing of llama.cpp and nothing of HTTP crosses that line, so the thread may as well be in a
//! child process ([`process`]).
//!
//! The generation worker's loop is four words, and `worker.rs` reads that way: *receive* commands,
//! *plan* a step with the scheduler, *step* the model, *emit* what came of it.
//!
//! **Invariant:** knows neither HTTP nor OpenAI. Only `llama.rs` names `llama_cpp_2`. Requests
//! arrive validated: there are no defaults and no range checks here.

mod backend;
mod batch_sampler;
mod cost_benchmark;
mod deadlines;
mod detokenize;
mod grammar_recompiler;
mod logprobs;
mod prompt_lookup;
mod sampling;
mod sequence;
mod softmax;
mod stop_strings;

mod background_thread;
mod embed;
mod engine_thread;
mod events;
mod exit_cause;
mod failure;
mod grammar;
mod handle;
#[cfg(feature = "llama")]
mod layout;
mod loading;
mod lock;
#[cfg(feature = "llama")]
mod long_slot;
mod message;
mod model;
mod model_config;
mod model_info;
pub mod placement;
pub mod process;
mod queue_limits;
mod reasoning_budget;
mod report_router;
mod report_sink;
mod request;
mod request_table;
#[cfg(feature = "scripted")]
mod script;
#[cfg(any(feature = "llama", feature = "fuzzing", test))]
mod sequence_state;
mod status;
mod step_log;
mod step_timeouts;
mod step_times;
mod vocab;
mod worker;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "llama")]
mod llama;
#[cfg(feature = "scripted")]
pub mod scripted;

pub use background_thread::{engine_wait_time, run_in_background};
pub use cost_benchmark::{CostPlan, CostSample, CostTable, LogitsCost};
pub use engine_thread::{LoadError, live_threads};
pub use exit_cause::ExitCause;
pub use failure::Failure;
pub use forebay_scheduler::{
    CallSample, Counters, ItlTarget, LearnedCosts, Principal, Priority, Reuse, Salt, Token,
};
pub use grammar::{
    CompiledGrammar, Grammar, GrammarError, Grammars, MAX_EXPRESSION, MAX_SOURCE, check_source,
    reads_expression, some_text_matches, unicode_classes,
};
pub use handle::{Embedder, Engine, EngineHandle, Generation, ModelHandle};
pub use loading::{Loading, load, load_in_process, measure_costs};
pub use model_config::{GpuSettings, KvLayout, KvType, ModelConfig, Pooling, Source, SplitMode};
pub use model_info::{Device, Kind, ModelInfo, Ranking};
pub use queue_limits::SubmitError;
pub use reasoning_budget::ReasoningBudget;
pub use request::{
    AdmissionParams, Event, FinishReason, GenerateRequest, SamplingParams, StopRules, TokenLogprob,
    TopLogprob,
};
pub use status::{CostWatch, Progress, Stats, Status};
pub use step_times::{StepPart, StepTimes};
pub use vocab::{ParseSpecial, Tokenize, TokenizeError, Vocab};

#[cfg(feature = "llama")]
pub use llama::{
    devices::devices, never_initialise, placement::fit as explain_placement, system_info,
};

/// The devices that can compute; without a backend there are none.
#[cfg(not(feature = "llama"))]
pub fn devices() -> Vec<Device> {
    Vec::new()
}

/// What would go where; without a backend no file can be read.
///
/// # Errors
/// Always.
#[cfg(not(feature = "llama"))]
pub fn explain_placement(
    path: &std::path::Path,
    _config: &ModelConfig,
    _memory: &[u64],
) -> Result<String, placement::FitError> {
    Err(placement::FitError::Unreadable(path.display().to_string()))
}

/// What the backend was compiled for.
#[cfg(not(feature = "llama"))]
pub fn system_info() -> String {
    "built without llama.cpp".to_owned()
}
