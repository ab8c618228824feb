//! Which sequence gets how many tokens of the next step.
//!
//! [`Scheduler`] decides for generation: requests wait in a fair queue, are admitted to slots of
//! the KV cache, reuse what others computed, prefill in chunks and decode one token a step, all in
//! one batch. [`EmbeddingQueue`] decides
//! for embeddings: inputs of many requests are packed into one forward pass by token budget.
//!
//! The unit of both is the *step*: `plan` says what the next forward pass holds, the engine runs
//! it and reports back. A sequence is `known` tokens (prompt and generated) of which `computed`
//! are in the KV cache; a step moves `computed` towards `known`, and decoding is the case where
//! one token is missing. Tokens are numbers here, compared and nothing else.
//!
//! How much of a step prompts may take beside decode rows is decided by what steps cost, learned
//! from the times the engine reports, and a target for the time between two tokens.
//!
//! **Invariant:** no tokio, no clock, no randomness, no llama types. serde is for what crosses to an
//! engine's process, or is kept for the next one. Given the same
//! calls it makes the same decisions.

mod call_costs;
mod cost;
mod drafts;
mod embedding;
mod kv;
mod learned_costs;
mod queue;
mod step;
mod step_budget;

pub mod generation;

pub use cost::Load;
pub use embedding::{EmbeddingQueue, Item, JobId, Pass};
pub use generation::{Counts, Limits, Rejected, Request, RequestId, Scheduler, SeqId};
pub use kv::{KvLimits, KvOp, Reuse, Salt, SavedId, SlotId};
pub use learned_costs::{CallSample, LearnedCosts};
pub use queue::{Class, Principal};
pub use step::{CallKind, DecodeCall, Output, Step, Work};
pub use step_budget::{ItlTarget, Why};
