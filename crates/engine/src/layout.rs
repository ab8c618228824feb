//! How the KV cache is laid out: the one place where that is decided.
//!
//! A CPU's attention goes over every cell in use for each row, its own or not, so there each
//! sequence has a part of its own, and what outgrows its part gets a context of its own; on a GPU one pool costs little, and any sequence may have all of
//! it. The table behind this is in `docs/performance.md`, "KV layout".

use forebay_scheduler::KvLimits;

use crate::model::{KvLayout, ModelConfig};

/// Context for each sequence when nobody says otherwise: enough for most chats, and a KV cache
/// that fits beside the model on a small machine.
const DEFAULT_SLOT_TOKENS: u32 = 4096;
/// llama.cpp rounds a context up to this many cells.
const CELL_ALIGNMENT: u32 = 256;
/// How far apart checkpoints of a prompt are, in tokens: on a CPU a copy costs a hundredth of what computing
/// so many tokens does. A GPU computes in less time than a copy takes to host memory.
const CHECKPOINT_EVERY: u32 = 512;
const CHECKPOINT_EVERY_ON_GPU: u32 = 2048;
/// llama.cpp's own limit of sequences in a context.
const MAX_SEQUENCES: u32 = 256;

/// What the layout depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Longest sequence the model was trained on, in tokens.
    pub(crate) n_ctx_train: u32,
    pub(crate) on_cpu: bool,
    /// Whether a sequence can be cut back to any length.
    pub(crate) rewinds: bool,
    /// Whether what a slot holds can be copied to host memory and back into any slot.
    pub(crate) saves: bool,
    /// Bytes of a token's keys and values.
    pub(crate) kv_bytes: u64,
}

/// The layout of a model's KV cache.
pub(crate) fn of(config: &ModelConfig, facts: &Facts) -> KvLimits {
    let Facts { n_ctx_train, on_cpu, rewinds, saves, kv_bytes } = *facts;
    let parallel = config.parallel;
    let suits = if on_cpu && parallel > 1 { KvLayout::Split } else { KvLayout::Shared };
    let shares = config.kv_layout.unwrap_or(suits) == KvLayout::Shared;
    let each = n_ctx_train.min(DEFAULT_SLOT_TOKENS);
    let total = config.ctx_size.unwrap_or_else(|| each.saturating_mul(parallel));
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
        // Cells of others cost attention time; host memory costs none.
        parked_tokens: if shares && on_cpu { cells / 8 } else { cells },
        saved_tokens: u32::try_from(saved).unwrap_or(u32::MAX),
        saved_bytes: if rewinds { 0 } else { saved_bytes },
        checkpoint_every: if on_cpu { CHECKPOINT_EVERY } else { CHECKPOINT_EVERY_ON_GPU },
    }
}
