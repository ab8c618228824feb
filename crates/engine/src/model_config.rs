//! Which model to load, and how.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_scheduler::{ItlTarget, LearnedCosts};
use serde::{Deserialize, Serialize};

use crate::model_info::Kind;
use crate::placement::GpuLayers;

/// The configuration of an engine. Validated: every number is in range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The model's name; also names its thread.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// What to use it for; `None`: by its file.
    pub kind: Option<Kind>,
    /// KV cells over all sequences, in tokens; `None`: a default that fits the model.
    pub ctx_size: Option<u32>,
    /// Whether sequences share cells; `None`: by device and model.
    pub kv_layout: Option<KvLayout>,
    /// Whether a request that outgrows its share of a split KV cache continues in a context of its own.
    pub long_slot: bool,
    /// Size of the host tier, in bytes.
    pub kv_host_bytes: u64,
    /// Sequences that run together.
    pub parallel: u32,
    /// The most tokens of one step; `None`: a default by kind.
    pub batch_size: Option<u32>,
    /// Tokens of a micro-batch; `None`: a default by kind.
    pub ubatch_size: Option<u32>,
    /// Target time of a step with both decode and prefill.
    pub itl_target: ItlTarget,
    /// Whether a request that runs alone gets the same answer for any prior content of the cache.
    pub reproducible: bool,
    /// CPU threads; `None`: all cores.
    pub threads: Option<u32>,
    /// What to put on GPUs.
    pub gpu: GpuSettings,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Whether to use flash attention; `None`: if possible.
    pub flash_attention: Option<bool>,
    /// Whether to map the file into memory instead of reading it.
    pub mmap: bool,
    /// How an embedding model's token vectors become one; `None`: by the model.
    pub pooling: Option<Pooling>,
    /// Whether to draft tokens by prompt lookup.
    pub speculate: bool,
    /// The most queued requests.
    pub queue: usize,
    /// The most prompt tokens over all queued and running requests; `None`: 16 times the KV cache, or
    /// [`ModelConfig::EMBEDDING_QUEUE_TOKENS`] for embedding models.
    pub queue_tokens: Option<usize>,
    /// The longest that a request may wait in the queue.
    pub queue_timeout: Option<Duration>,
    /// The most bytes of unread events over all requests.
    pub unread_bytes: usize,
    /// Memory limit of the engine's own process, in bytes, without pages mapped from the file and without GPU memory.
    pub memory_limit: Option<u64>,
    /// The shortest timeout of a step; steps that are predicted to take long have longer ones.
    pub step_limit: Duration,
    /// Costs learned earlier for this model, machine and settings; empty if unknown.
    pub costs: LearnedCosts,
}

impl ModelConfig {
    /// Tokens that may wait or run over all requests of an embedding model: eight requests of 2,048
    /// inputs with 256 tokens each.
    pub const EMBEDDING_QUEUE_TOKENS: usize = 1 << 22;
    /// Default of [`ModelConfig::step_limit`].
    pub const STEP_LIMIT: Duration = Duration::from_secs(60);

    /// The default configuration of a model.
    pub fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source,
            kind: None,
            ctx_size: None,
            kv_layout: None,
            long_slot: true,
            kv_host_bytes: 0,
            parallel: 4,
            batch_size: None,
            ubatch_size: None,
            itl_target: ItlTarget::DEFAULT,
            reproducible: false,
            threads: None,
            gpu: GpuSettings::default(),
            kv_type: KvType::default(),
            flash_attention: None,
            mmap: true,
            pooling: None,
            speculate: true,
            queue: 256,
            queue_tokens: None,
            queue_timeout: None,
            unread_bytes: 64 << 20,
            memory_limit: None,
            step_limit: Self::STEP_LIMIT,
            costs: LearnedCosts::default(),
        }
    }

    /// CPU threads that compute the model.
    #[cfg(feature = "llama")]
    pub(crate) fn thread_count(&self) -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1))
    }
}

/// What to put on GPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSettings {
    /// How many layers to put on GPUs.
    pub layers: GpuLayers,
    /// Layers whose experts stay on the CPU, from the first one; `None`: as few as necessary.
    pub cpu_experts: Option<u32>,
    /// Memory to leave free on each GPU, in bytes.
    pub margin_bytes: u64,
    /// How several GPUs share a model.
    pub split: SplitMode,
    /// Each GPU's part of a model, relative to the others'; empty: in proportion to free memory.
    pub tensor_split: Vec<u64>,
    /// The GPU that holds the whole model with [`SplitMode::None`].
    pub main: u32,
}

/// How several GPUs share a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SplitMode {
    /// Each GPU holds some of the layers.
    #[default]
    Layer,
    /// Every layer is divided over all GPUs, which compute it together.
    Tensor,
    /// One GPU holds the whole model.
    None,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "ggml's names of its types")]
pub enum KvType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
}

impl KvType {
    /// Bytes of so many numbers, saturating; a block of quantised numbers has 32 and their scale.
    pub(crate) fn bytes(self, numbers: u64) -> u64 {
        let block = match self {
            Self::F32 => 128,
            Self::F16 | Self::Bf16 => 64,
            Self::Q8_0 => 34,
            Self::Q5_1 => 24,
            Self::Q5_0 => 22,
            Self::Q4_1 => 20,
            Self::Q4_0 => 18,
        };
        u64::try_from(u128::from(numbers) * block / 32).unwrap_or(u64::MAX)
    }
}

/// How sequences use the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvLayout {
    /// One pool: any sequence may use all cells, and common prefixes are stored once. The attention of each row visits
    /// the cells of all sequences.
    Shared,
    /// An equal share of the cells for each sequence, which alone its rows' attention visits.
    Split,
}

/// How token vectors become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    Last,
}

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Source {
    /// A GGUF file.
    Gguf(PathBuf),
    /// A script, for fault and timing tests.
    #[cfg(feature = "scripted")]
    Scripted(crate::script::Script),
}

impl Source {
    /// The model's file; `None` for a script.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Gguf(path) => Some(path),
            #[cfg(feature = "scripted")]
            Self::Scripted(_) => None,
        }
    }
}
