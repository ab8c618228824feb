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
