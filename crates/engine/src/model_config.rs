//! What to load, and how.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_scheduler::{ItlTarget, LearnedCosts};
use serde::{Deserialize, Serialize};

use crate::model_info::Kind;
use crate::placement::GpuLayers;

/// What to load and how. Validated: every number is in range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The model's own name; also names its thread.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// What to use it for; `None` lets the file decide.
    pub kind: Option<Kind>,
    /// KV cells over all sequences, in tokens; `None` for a default that fits the model.
    pub ctx_size: Option<u32>,
    /// Whether sequences share cells; `None` for what suits the device and the model.
    pub kv_layout: Option<KvLayout>,
    /// Whether a request that outgrows its part of a split KV cache goes on in one of its own.
    pub long_slot: bool,
    /// Host memory for what the KV cache has no room for, in bytes.
    pub kv_host_bytes: u64,
    /// Sequences that run together.
    pub parallel: u32,
    /// Tokens of one step; `None` for a default that fits the kind.
    pub batch_size: Option<u32>,
    /// Tokens that the backend computes at once; `None` for a default that fits the kind.
    pub ubatch_size: Option<u32>,
    /// The longest that a step should take in which some sequences decode and prompts are computed too.
    pub itl_target: ItlTarget,
    /// Whether a request that runs alone has the same answer whatever was in the cache before.
    pub reproducible: bool,
    /// CPU threads; `None` for all cores.
    pub threads: Option<u32>,
    /// What to put on GPUs.
    pub gpu: GpuSettings,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Whether attention is computed without storing all its weights; `None` where that is possible.
    pub flash_attention: Option<bool>,
    /// Whether to map the file into memory instead of reading it.
    pub mmap: bool,
    /// How an embedding model's token vectors become one; `None` for the model's own way.
    pub pooling: Option<Pooling>,
    /// Whether to guess tokens from what the text so far repeats.
    pub speculate: bool,
    /// Requests that may wait.
    pub queue: usize,
    /// Prompt tokens that may wait or run over all requests; `None` for 16 times the KV cache, and
    /// [`ModelConfig::EMBEDDING_QUEUE_TOKENS`] for embedding models.
    pub queue_tokens: Option<usize>,
    /// The longest that a request may wait.
    pub queue_timeout: Option<Duration>,
    /// Bytes of events that may wait to be read, over all requests.
    pub unread_bytes: usize,
    /// Memory that its process may take, where it has one of its own, in bytes: what is mapped from the
    /// file or is on a GPU does not count.
    pub memory_limit: Option<u64>,
    /// How long a step may take in any case until it counts as hung, unless it was predicted to take long.
    pub step_limit: Duration,
    /// Costs learned earlier for this model, machine and settings; empty if unknown.
    pub costs: LearnedCosts,
}

impl ModelConfig {
    /// Tokens that may wait or run over all requests of an embedding model: eight requests of 2,048
    /// inputs with 256 tokens each.
    pub const EMBEDDING_QUEUE_TOKENS: usize = 1 << 22;
    /// A step that takes longer is seldom one that computes.
    pub const STEP_LIMIT: Duration = Duration::from_secs(60);

    /// A model of which nothing is known but where it comes from.
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
    /// How many layers.
    pub layers: GpuLayers,
    /// Layers whose experts stay on the CPU, from the first one; `None` for as few as fit.
    pub cpu_experts: Option<u32>,
    /// What to leave free on each, in bytes.
    pub margin_bytes: u64,
    /// How several of them share a model.
    pub split: SplitMode,
    /// Each one's part of a model, beside the others' parts; empty for parts in proportion to free memory.
    pub tensor_split: Vec<u64>,
    /// The one that has all with [`SplitMode::None`].
    pub main: u32,
}

/// How several GPUs share a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SplitMode {
    /// Each has some of the layers.
    #[default]
    Layer,
    /// Each has a part of every layer, and all compute it together.
    Tensor,
    /// One has all.
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
    /// Bytes of so many numbers, or the largest number; a block of quantised ones holds 32 and their scale.
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

/// How sequences lie in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvLayout {
    /// All in one pool: any of them may have all of it, and equal beginnings are there once. Each
    /// row's attention goes over the cells of all.
    Shared,
    /// Each in an equal part of its own, which its rows' attention goes over alone.
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
    /// Its file; `None` if it is a script.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Gguf(path) => Some(path),
            #[cfg(feature = "scripted")]
            Self::Scripted(_) => None,
        }
    }
}
