//! How the workers run a model: the two traits that a backend implements, and what they exchange.

use std::time::Duration;

use forebay_scheduler::{HostCopyId, KvLimits, KvOp, SlotId};

use crate::Token;

/// Capacity of a generation model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) kv: KvLimits,
    /// Tokens of one step.
    pub(crate) batch_tokens: u32,
    /// Block size of attention in tokens: fewer tokens of one sequence cost more each. 1 if that makes no difference.
    pub(crate) block: u32,
}

/// One token of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) token: Token,
    /// Position in its sequence, from 0.
    pub(crate) pos: u32,
    pub(crate) slot: u32,
    /// Whether its logits will be read.
    pub(crate) logits: bool,
}

/// A step failed. The content of its slots is undefined.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StepError(pub(crate) String);

/// A generation model. Implemented by llama.cpp's contexts, and by the scripted model of tests.
pub(crate) trait GenerationModel {
    /// Prepares a slot; called before each step for each slot in it. An error concerns that slot alone.
    fn open(&mut self, _slot: SlotId) -> Result<(), StepError> {
        Ok(())
    }
    /// Computes one step; `calls` are the numbers of rows of its decode calls. Returns the time of each call.
    fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError>;
    /// The logits of row `index` of the last step, one for each vocabulary entry.
    fn logits(&self, index: usize) -> &[f32];
    /// Changes the content of slots.
    fn change(&mut self, op: KvOp) -> Result<(), StepError>;
    /// Size of a copy in the host tier; `None` if there is none.
    fn copy_bytes(&self, copy: HostCopyId) -> Option<u64>;
}

/// An embedding model's context.
pub(crate) trait EmbeddingModel {
    /// One vector of length `n_embd` for each input.
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError>;
}
