//! Decides the layout of a model's contexts and KV cache, both for plans, which are made from a header before a model
//! is loaded, and for the contexts made after.
//!
//! On a GPU a shared pool of cells costs little, and any sequence may use all of it. On a CPU the attention of each row
//! visits every cell in use. If that is much of a model's work, each sequence has an equal share of the cells there, and
//! a sequence that outgrows its share moves to a context of its own. Measurements: `docs/performance.md`.

use forebay_scheduler::KvLimits;

use crate::model_config::{KvLayout, ModelConfig};

/// Default context of a sequence: enough for most chats, with a KV cache that fits besides the model on a small
/// machine.
const DEFAULT_SLOT_TOKENS: u32 = 4096;
/// llama.cpp rounds a context up to a multiple of this many cells.
const CELL_ALIGNMENT: u32 = 256;
/// Distance between checkpoints of a prompt, in tokens. On a CPU a copy costs a hundredth of computing that many
/// tokens; a GPU computes faster than it copies to host memory.
const CHECKPOINT_EVERY: u32 = 512;
const CHECKPOINT_EVERY_ON_GPU: u32 = 2048;
/// llama.cpp's limit of sequences in a context.
const MAX_SEQUENCES: u32 = 256;

/// Block size of llama.cpp's CPU flash attention, in queries and in keys.
pub(crate) const ATTENTION_BLOCK: u32 = 64;
const DEFAULT_BATCH: u32 = 2048;
const DEFAULT_UBATCH: u32 = 512;
/// Default context of one embedding input.
const DEFAULT_EMBEDDING_TOKENS: u32 = 8192;
/// Inputs of one embedding pass.
pub(crate) const MAX_EMBEDDING_INPUTS: u32 = 64;
/// Tokens of one embedding pass on a CPU: with more, attention costs more per token; with fewer, matrix products are
/// inefficient. See docs/performance.md.
const DEFAULT_EMBEDDING_BATCH: u32 = 128;
/// The most parallel embedding passes on a CPU, each with an equal share of the threads.
const MAX_LANES: u32 = 8;

/// Cost of a multiplication in a decode row's attention on a CPU, relative to one in a matrix product of several
/// rows: 60 / 16 billion a second (AMD EPYC, 8 and 16 rows).
const ATTENDED: f64 = 4.0;
/// Cost of a multiplication that is skipped because its cell belongs to another sequence, likewise: 60 / 300 to 440.
const SKIPPED: f64 = 0.2;
/// How much longer decode rows may take with a shared cache than with a split one, if both are half full.
const TOLERANCE: f64 = 0.05;

/// Multiplications of a model's forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Arithmetic {
    /// With its weights, for each token.
    pub(crate) matrices: u64,
    /// Of its attention, for each token and each cell that the token attends to.
    pub(crate) attention: u64,
}

impl Arithmetic {
    /// How much longer a decode row that attends to `tokens` cells takes on a CPU if it skips `others` cells of other
    /// sequences, as a fraction (0.05 is 5 %). Infinite for a model without known arithmetic.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn slowed_by(self, others: u32, tokens: u32) -> f64 {
        let cell = self.attention as f64;
        let own = self.matrices as f64 + f64::from(tokens) * cell * ATTENDED;
        if own > 0.0 { f64::from(others) * cell * SKIPPED / own } else { f64::INFINITY }
    }
}

/// What a model keeps of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SequenceMemory {
    /// Keys and values of tokens, in some layers.
    pub(crate) keys_and_values: bool,
    /// A recurrent state, in some layers.
    pub(crate) state: bool,
    /// Whether some layers keep keys and values of a sliding window alone.
    pub(crate) window: bool,
}

impl SequenceMemory {
    /// Whether a sequence can be cut back to any length: what a recurrent state or a sliding window has passed cannot
    /// be brought back.
    pub(crate) fn rewinds(self) -> bool {
        !(self.state || self.window)
    }

    /// Whether what a slot holds can be copied to host memory and back into any slot. In a state of all three llama.cpp
    /// does not report where one of them begins.
    fn saves(self) -> bool {
        !(self.keys_and_values && self.state && self.window)
    }
}

/// What the layout depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ModelFacts {
    /// Longest sequence the model was trained on, in tokens.
    pub(crate) n_ctx_train: u32,
    pub(crate) on_cpu: bool,
    pub(crate) memory: SequenceMemory,
    /// Bytes of a token's keys and values.
    pub(crate) kv_bytes: u64,
    pub(crate) arithmetic: Arithmetic,
}

/// The most tokens of a decode call, and of a micro-batch that a device computes at once, for generation.
pub(crate) fn batch_sizes(config: &ModelConfig) -> (u32, u32) {
    let batch = config.batch_size.unwrap_or(DEFAULT_BATCH).max(config.parallel + 1);
    (batch, config.ubatch_size.unwrap_or(DEFAULT_UBATCH).min(batch))
}

/// The layout of a generation model's KV cache.
pub(crate) fn kv_limits(config: &ModelConfig, facts: &ModelFacts) -> KvLimits {
    let ModelFacts { n_ctx_train, on_cpu, memory, kv_bytes, arithmetic } = *facts;
    let (rewinds, saves) = (memory.rewinds(), memory.saves());
    // Rounding up must not overflow.
    let n_ctx_train = n_ctx_train.min(1 << 30);
    let parallel = config.parallel;
    let each = n_ctx_train.min(DEFAULT_SLOT_TOKENS);
    let total = config.ctx_size.unwrap_or_else(|| each.saturating_mul(parallel));
    let half = total / parallel / 2;
    let slowed = arithmetic.slowed_by(half.saturating_mul(parallel - 1), half);
    // Only with a share of its own a sequence's results do not depend on other sequences.
    let splits = on_cpu && parallel > 1 && (config.reproducible || slowed > TOLERANCE);
    let suits = if splits { KvLayout::Split } else { KvLayout::Shared };
    let shares = config.kv_layout.unwrap_or(suits) == KvLayout::Shared;
    let cells = if shares {
        total.next_multiple_of(CELL_ALIGNMENT)
    } else {
        (total / parallel).next_multiple_of(CELL_ALIGNMENT) * parallel
    };
    let slot_tokens = if shares { cells } else { cells / parallel };
    let most = MAX_SEQUENCES.max(parallel);
    let slots = match (shares, rewinds) {
        (false, _) => parallel,
        (true, true) => (parallel * 4).clamp(16, most),
        // A recurrent state takes its memory for each slot, whether used or not.
        (true, false) => (parallel * 2).min(most),
    };
    let slot_tokens = slot_tokens.min(n_ctx_train.max(CELL_ALIGNMENT));
    let whole = cells.min(n_ctx_train.next_multiple_of(CELL_ALIGNMENT));
    let long_tokens = if config.long_slot && whole > slot_tokens { whole } else { 0 };
    let saved_bytes = if saves { config.kv_host_bytes } else { 0 };
    let saved = if rewinds { saved_bytes / kv_bytes.max(1) } else { 0 };
    KvLimits {
        slots,
        cells,
        slot_tokens,
        long_tokens: if shares { 0 } else { long_tokens.min(n_ctx_train) },
        shares,
        rewinds,
        // Skipping parked cells costs time; cells in the host tier cost none.
        parked_tokens: if shares && on_cpu { cells / 8 } else { cells },
        saved_tokens: u32::try_from(saved).unwrap_or(u32::MAX),
        saved_bytes: if rewinds { 0 } else { saved_bytes },
        checkpoint_every: if on_cpu { CHECKPOINT_EVERY } else { CHECKPOINT_EVERY_ON_GPU },
    }
}

/// Sizes of an embedding model's contexts, in tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EmbeddingLayout {
    /// The longest input.
    pub(crate) slot_tokens: u32,
    /// Tokens of a pass on a lane.
    pub(crate) budget: u32,
    /// Tokens of a pass in the wide context: an input is pooled whole, so the longest one must fit.
    pub(crate) wide: u32,
    /// Parallel passes; if more than one, each has a context of its own.
    pub(crate) lanes: u32,
}

impl EmbeddingLayout {
    /// The layout of a model with this longest sequence, in tokens.
    pub(crate) fn of(config: &ModelConfig, n_ctx_train: u32, on_cpu: bool) -> Self {
        let slot_tokens = n_ctx_train.min(config.ctx_size.unwrap_or(DEFAULT_EMBEDDING_TOKENS));
        let default = if on_cpu { DEFAULT_EMBEDDING_BATCH } else { DEFAULT_BATCH };
        let budget = config.batch_size.unwrap_or(default);
        let lanes = if on_cpu { config.thread_count().min(MAX_LANES) } else { 1 };
        Self { slot_tokens, budget, wide: budget.max(slot_tokens), lanes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_config::Source;

    /// Whether a model on a CPU has a shared pool.
    fn shares(config: &ModelConfig, arithmetic: Arithmetic) -> bool {
        limits(config, arithmetic).shares
    }

    fn limits(config: &ModelConfig, arithmetic: Arithmetic) -> KvLimits {
        let memory = SequenceMemory { keys_and_values: true, state: false, window: false };
        let facts =
            ModelFacts { n_ctx_train: 32_768, on_cpu: true, memory, kv_bytes: 1, arithmetic };
        kv_limits(config, &facts)
    }

    fn config(parallel: u32, each: u32) -> ModelConfig {
        let mut config = ModelConfig::new("m", Source::Gguf("m".into()));
        (config.parallel, config.ctx_size) = (parallel, Some(parallel * each));
        config
    }

    const SMOLLM2_135M: Arithmetic = Arithmetic { matrices: 134_000_000, attention: 34_560 };
    const QWEN2_500M: Arithmetic = Arithmetic { matrices: 494_000_000, attention: 43_008 };
    const LLAMA_1B: Arithmetic = Arithmetic { matrices: 1_236_000_000, attention: 65_536 };
    const LLAMA_8B: Arithmetic = Arithmetic { matrices: 7_500_000_000, attention: 262_144 };

    #[test]
    fn models_that_are_mostly_attention_split_the_cache() {
        assert!(!shares(&config(16, 2048), SMOLLM2_135M));
        assert!(!shares(&config(4, 2048), SMOLLM2_135M));
        assert!(!shares(&config(8, 2048), QWEN2_500M));
        assert!(shares(&config(4, 2048), LLAMA_1B));
        assert!(shares(&config(4, 4096), LLAMA_8B));
        // With many long sequences what is skipped is much as well.
        assert!(!shares(&config(32, 8192), LLAMA_8B));
    }

    #[test]
    fn parked_cells_are_few_where_rows_skip_them() {
        let parked = |config, arithmetic| limits(&config, arithmetic).parked_tokens;
        assert_eq!(parked(config(1, 32_768), SMOLLM2_135M), 4096, "a pool for one");
        assert_eq!(parked(config(4, 2048), LLAMA_1B), 1024, "shared");
        assert_eq!(parked(config(16, 2048), SMOLLM2_135M), 16 * 2048, "split");
    }

    #[test]
    fn what_is_set_is_kept() {
        let set = |layout| ModelConfig { kv_layout: layout, ..config(8, 2048) };
        assert!(shares(&set(Some(KvLayout::Shared)), SMOLLM2_135M));
        assert!(shares(&set(None), LLAMA_8B));
        assert!(!shares(&set(Some(KvLayout::Split)), LLAMA_8B));
        assert!(!shares(&ModelConfig { reproducible: true, ..set(None) }, LLAMA_8B));
        // A header without dimensions.
        assert!(!shares(&set(None), Arithmetic::default()));
        assert!(shares(&config(1, 2048), Arithmetic::default()));
    }
}
