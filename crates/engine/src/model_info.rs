//! What a loaded model is, and the devices that it can be computed on.

use serde::{Deserialize, Serialize};

/// What a model is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Text generation.
    Chat,
    /// Text to vectors.
    Embedding,
}

impl Kind {
    /// The kind by a file's `pooling_type` and attention: a model that pools, or attends in both directions, is for
    /// embeddings.
    pub(crate) fn by(pooling: Option<u64>, is_causal: bool) -> Self {
        let pools = pooling.is_some_and(|pooling| pooling != 0);
        if pools || !is_causal { Self::Embedding } else { Self::Chat }
    }
}

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `llama`, `bert`, ...
    pub architecture: String,
    /// What the model is used for.
    pub kind: Kind,
    /// The longest sequence that it was trained on, in tokens.
    pub n_ctx_train: u32,
    /// The longest prompt and answer together, in tokens.
    pub slot_tokens: u32,
    /// The most sequences that run at once.
    pub slots: u32,
    /// Length of its embedding vectors.
    pub n_embd: u32,
    /// Number of weights.
    pub n_params: u64,
    /// Size of the weights in bytes.
    pub size_bytes: u64,
    /// The Jinja source of its chat template.
    pub chat_template: Option<String>,
    /// The input format of a reranker, which computes scores and not vectors; `None` for other models.
    pub ranking: Option<Ranking>,
    /// Short hash of the file's metadata, for `system_fingerprint`.
    pub fingerprint: String,
}

/// How a reranker's input is made of a query and a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranking {
    /// A text with `{query}` and `{document}`; `None`: one after the other, with the model's markers around both.
    pub template: Option<String>,
    /// Whether the marker after the query is doubled, as in RoBERTa's family.
    pub twice: bool,
}

/// A device that models can be computed on.
#[derive(Debug, Clone)]
pub struct Device {
    /// `CUDA0`, `CPU`, ...
    pub name: String,
    /// What it is.
    pub description: String,
    /// Memory in bytes.
    pub memory_total: usize,
    /// Memory that is free, in bytes.
    pub memory_free: usize,
}

impl ModelInfo {
    /// The most tokens that a request with a prompt of this length can generate.
    pub fn room_after(&self, prompt_tokens: u32) -> u32 {
        self.slot_tokens.saturating_sub(prompt_tokens)
    }
}
