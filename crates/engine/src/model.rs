//! How the workers run a model: the two traits that a backend implements, and what they exchange.

use std::time::Duration;

use forebay_scheduler::{HostCopyId, KvLimits, KvOp, SlotId};

use crate::Token;

/// What a generation model can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) kv: KvLimits,
    /// Tokens of one step.
    pub(crate) batch_tokens: u32,
    /// Tokens that attention takes at once; fewer of one sequence cost more each. 1 where that is
    /// not so.
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

/// A step could not be computed. What the slots in it hold is undefined.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StepError(pub(crate) String);

/// A generation model on its own thread. The one seam with two implementations: llama.cpp, and
/// the script that tests use.
pub(crate) trait GenerationModel {
    /// Makes sure that a slot can be used; called before each step for each slot in it. An error
    /// concerns that slot alone.
    fn open(&mut self, _slot: SlotId) -> Result<(), StepError> {
        Ok(())
    }
    /// Computes one step, in calls of so many rows each. Returns how long each call took.
    fn step(&mut self, rows: &[Row], calls: &[usize]) -> Result<Vec<Duration>, StepError>;
    /// The logits of row `index` of the last step, one for each vocabulary entry.
    fn logits(&self, index: usize) -> &[f32];
    /// Changes what slots hold.
    fn change(&mut self, op: KvOp) -> Result<(), StepError>;
    /// What a copy in host memory takes; `None` where there is none.
    fn copy_bytes(&self, copy: HostCopyId) -> Option<u64>;
}

/// An embedding model on its own thread.
pub(crate) trait EmbeddingModel {
    /// One vector of length `n_embd` for each input.
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, StepError>;
}
