//! Decides what the next forward pass of a model computes: continuous batching as pure logic.
//!
//! **Invariant:** no clock, no threads, no randomness, no async and no llama.cpp types: the same calls
//! lead to the same decisions. serde is for what crosses to an engine's process or is kept on disk.
//!
#![doc = include_str!("../README.md")]

mod call_costs;
mod call_load;
mod cost_curve;
mod drafts;
mod embedding_queue;
mod fair_queue;
mod generation;
mod ids;
mod kv;
mod learned_costs;
mod request;
mod step;
mod step_budget;

pub use call_load::{CallLoad, CallSample};
pub use embedding_queue::{EmbeddingInput, EmbeddingQueue, EmbeddingRequestId, PassLimits};
pub use generation::{Counters, Scheduler, SchedulerLimits};
pub use ids::{HostCopyId, Principal, RequestId, Salt, SeqId, SlotId, Token};
pub use kv::{KvLimits, KvOp, Reuse};
pub use learned_costs::LearnedCosts;
pub use request::{Priority, Rejected, Request};
pub use step::{BudgetReason, CallKind, DecodeCall, Output, Step, TokenSpan};
pub use step_budget::ItlTarget;
