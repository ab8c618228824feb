//! Runs GGUF models on llama.cpp, behind handles that send requests and yield events.
//!
//! [`load`] reads a model on a thread of this process, [`load_in_process`] in a child process that is restarted when it
//! dies. Both return a [`Loading`], whose [`finish`](Loading::finish) yields a [`ModelHandle`]: an [`Engine`] generates
//! text, an [`Embedder`] computes vectors. Handles are cheap to clone, and the engine ends with the last one.
//!
//! ```no_run
//! use forebay_engine::{
//!     Event, GenerateRequest, ModelConfig, ModelHandle, ParseSpecial, SamplingParams, Source, load,
//! };
//!
//! async fn tell_a_story() -> Result<String, Box<dyn std::error::Error>> {
//!     let config = ModelConfig::new("tiny", Source::Gguf("models/tiny.gguf".into()));
//!     let ModelHandle::Chat(engine) = load(config)?.finish().await? else {
//!         return Err("this is an embedding model".into());
//!     };
//!     let prompt = engine.vocab().tokenize("Once upon a time", ParseSpecial::No)?;
//!     let request = GenerateRequest::plain(prompt, 64, SamplingParams::plain(0.8, 1));
//!     let mut generation = engine.generate(request)?;
//!     let mut story = String::new();
//!     while let Some(event) = generation.next().await {
//!         match event {
//!             Event::Delta { text, .. } => story.push_str(&text),
//!             Event::Failed(failure) => return Err(failure.into()),
//!             _ => {}
//!         }
//!     }
//!     Ok(story)
//! }
//! ```
//!
//! # From a request to its events
//!
//! 1. A handle (`handle.rs`) takes permits from the queue's limits (`queue_limits.rs`), or refuses with a
//!    [`SubmitError`]; it then sends a command (`message.rs`).
//! 2. A worker (`worker.rs`) on the engine's thread (`engine_thread.rs`) repeats four phases: *receive* commands, *plan*
//!    a step with `forebay_scheduler`, *step* the model, *emit* what was sampled. `embed.rs` does the same for vectors.
//! 3. A backend computes the step: `llama.rs` and its folder, or `scripted.rs` in tests; `backend.rs` chooses.
//! 4. Tokens are sampled (`batch_sampler.rs`, `sampling.rs`) and become text (`sequence.rs`, `detokenize.rs`,
//!    `stop_strings.rs`). Reports go to a `ReportSink`: in this process to `report_router.rs`, which passes them to the
//!    requests' event channels (`events.rs`); in a child over a socket to its parent ([`process`]).
//!
//! # Invariants
//!
//! - The crate knows neither HTTP nor any API's dialect. Requests arrive validated: only the
//!   number and the ids of their tokens are checked here.
//! - Only `llama.rs` and its folder name llama.cpp, and only that file has unsafe code.
//! - Plain data crosses between handles and workers, so that a worker may run in another process.
//! - Submitting and reporting never block; permits and `events.rs` bound what waits.

mod backend;
mod background_thread;
mod batch_sampler;
mod cost_benchmark;
mod deadlines;
mod detokenize;
mod embed;
mod engine_thread;
mod events;
mod exit_cause;
mod failure;
mod grammar;
mod grammar_recompiler;
mod handle;
#[cfg(feature = "llama")]
mod layout;
mod loading;
mod lock;
mod logprobs;
#[cfg(feature = "llama")]
mod long_slot;
mod message;
mod model;
mod model_config;
mod model_info;
pub mod placement;
pub mod process;
mod prompt_lookup;
mod queue_limits;
mod reasoning_budget;
mod report_router;
mod report_sink;
mod request;
mod request_table;
mod sampling;
#[cfg(feature = "scripted")]
mod script;
mod sequence;
#[cfg(any(feature = "llama", feature = "fuzzing", test))]
mod sequence_state;
mod softmax;
mod status;
mod step_log;
mod step_timeouts;
mod step_times;
mod stop_strings;
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

/// Explains which device would hold what; without a backend no file can be read.
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

/// The backend's compiled features.
#[cfg(not(feature = "llama"))]
pub fn system_info() -> String {
    "built without llama.cpp".to_owned()
}
