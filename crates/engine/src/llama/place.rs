//! Where a model is put: what the plan (`fit.rs`) says, as llama.cpp wants to be told.

use std::ffi::CString;
use std::path::Path;

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::list_llama_ggml_backend_devices;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaSplitMode;

use super::gpus::{self, Gpu};
use super::{Header, Load, llama_id};
use crate::fit::{self, FitError, Plan, Room, Share, Wish};
use crate::host::Host;
use crate::layout::Arithmetic;
use crate::model::{KvType, ModelConfig, Split};
use crate::status::Progress;

/// The CPU threads that a model may use.
pub(super) fn threads(config: &ModelConfig) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    config.threads.unwrap_or_else(|| u32::try_from(cores).unwrap_or(1))
}

/// What all contexts have in common.
pub(super) fn context_params(config: &ModelConfig, threads: u32) -> LlamaContextParams {
    let threads = llama_id(threads);
    let attention = match config.flash_attention {
        None => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
        Some(true) => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        Some(false) => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    let kind = match config.kv_type {
        KvType::F32 => KvCacheType::F32,
        KvType::F16 => KvCacheType::F16,
        KvType::Bf16 => KvCacheType::BF16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q5_1 => KvCacheType::Q5_1,
        KvType::Q5_0 => KvCacheType::Q5_0,
        KvType::Q4_1 => KvCacheType::Q4_1,
        KvType::Q4_0 => KvCacheType::Q4_0,
    };
    LlamaContextParams::default()
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_flash_attention_policy(attention)
        .with_type_k(kind)
        .with_type_v(kind)
}

/// What would go where; `memory` stands for the GPUs that there are, in bytes each.
///
/// # Errors
/// [`FitError::Unreadable`] if it is no GGUF file, [`FitError::NoModel`] if its header is that of no model,
/// [`FitError::Devices`] if the settings are for other devices.
pub fn fit(path: &Path, config: &ModelConfig, memory: &[u64]) -> Result<String, FitError> {
    super::backend().ok_or_else(|| FitError::Unreadable(path.display().to_string()))?;
    let gpus = match memory {
        [] => super::gpus(),
        sizes => sizes.iter().enumerate().map(made_up).collect(),
    };
    Ok(Placed::among(gpus, path, config)?.explanation)
}

/// A GPU that nobody else uses.
fn made_up((index, &size): (usize, &u64)) -> Gpu {
    let room = Room { name: format!("GPU{index}"), free: size, total: size, part: size };
    Gpu { index, room, ..Gpu::default() }
}

/// A model's place.
pub(super) struct Placed {
    plan: Plan,
    /// Their numbers, in ggml's list.
    devices: Vec<usize>,
    needed: u64,
    explanation: String,
    /// What the model computes for each token.
    pub(super) arithmetic: Arithmetic,
    /// Bytes of a token's keys and values in all layers.
    pub(super) kv_bytes: u64,
}

impl Placed {
    /// The place of a file's model on this machine.
    ///
    /// # Errors
    /// If the file cannot be read, or the settings are for other devices.
    pub(super) fn of(path: &Path, config: &ModelConfig) -> Result<Self, String> {
        let shown = path.display();
        let unreadable = |e| format!("cannot read {shown}: {e}");
        // A pipe would be waited for without end.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(format!("{shown} is not a file"));
        }
        std::fs::File::open(path).map_err(unreadable)?;
        let placed = Self::among(super::gpus(), path, config).map_err(|why| why.to_string())?;
        if placed.devices.is_empty() && !config.gpu.tensor_split.is_empty() {
            tracing::warn!("tensor_split has no effect: there is no GPU");
        }
        if !placed.plan.shares.is_empty() {
            for line in placed.explanation.lines() {
                tracing::info!("{line}");
            }
        }
        Ok(placed)
    }

    /// The place of a file's model among these devices.
    fn among(gpus: Vec<Gpu>, path: &Path, config: &ModelConfig) -> Result<Self, FitError> {
        let header = Header::read(path)?;
        let no_model = |why| FitError::NoModel { file: path.display().to_string(), why };
        header.check().map_err(no_model)?;
        let gpus = gpus::chosen(gpus, &config.gpu).map_err(FitError::Devices)?;
        Ok(Self::on(&header, config, &gpus))
    }

    fn on(header: &Header, config: &ModelConfig, gpus: &[Gpu]) -> Self {
        let (rooms, devices): (Vec<Room>, _) =
            gpus.iter().map(|gpu| (gpu.room.clone(), gpu.index)).unzip();
        let weights = header.weights();
        let on_cpu = rooms.is_empty() || config.gpu.layers == fit::GpuLayers::Number(0);
        let running = header.running(config, on_cpu);
        let wish = Wish {
            layers: config.gpu.layers,
            cpu_experts: config.gpu.cpu_experts,
            margin: config.gpu.margin_bytes,
            spread: config.gpu.split == Split::Tensor,
        };
        let plan = fit::plan(&weights, running, &rooms, wish);
        let mut explanation = plan.explain(&weights, wish);
        let layers = weights.layers.len() as u64;
        let kv = running.kv_layer.saturating_mul(layers);
        explanation.push_str(&format!(
            "KV cache {}, compute {} on each device (estimated)\n",
            fit::size(kv),
            fit::size(running.compute)
        ));
        let needed = weights.total().saturating_add(kv).saturating_add(running.compute);
        let (arithmetic, kv_bytes) = (header.arithmetic(), header.kv_bytes(config.kv_type));
        Self { plan, devices, needed, explanation, arithmetic, kv_bytes }
    }

    /// Whether nothing is computed elsewhere than on the CPU.
    pub(super) fn on_cpu(&self) -> bool {
        self.plan.gpu_layers == 0
    }

    /// What it needs and what there is, for an error.
    pub(super) fn needs(&self) -> String {
        let devices = list_llama_ggml_backend_devices();
        let free = devices.iter().map(|device| {
            format!("{} has {} free", device.name, fit::size(device.memory_free as u64))
        });
        format!(
            "it needs about {} and {}; a smaller ctx_size, fewer gpu_layers or a smaller kv_type may fit",
            fit::size(self.needed),
            free.collect::<Vec<_>>().join(", ")
        )
    }

    /// Loads the model to its place.
    pub(super) fn load(
        &self,
        backend: &LlamaBackend,
        path: &Path,
        host: &Host,
    ) -> Result<LlamaModel, String> {
        let (shown, config) = (path.display(), &host.config);
        if let Some(Share { room, weights, kv, .. }) = self.plan.too_much() {
            let (name, total) = (&room.name, fit::size(room.total));
            let (weights, kv) = (fit::size(*weights), fit::size(*kv));
            return Err(format!(
                "{name} has {total} in all, and cannot hold {weights} of weights and {kv} of KV cache; {}",
                self.needs()
            ));
        }
        let split = match config.gpu.split {
            Split::None => LlamaSplitMode::None,
            Split::Layer => LlamaSplitMode::Layer,
            Split::Tensor => LlamaSplitMode::Tensor,
        };
        let experts = self.experts_pattern();
        let load = Load {
            devices: &self.devices,
            parts: &self.parts(),
            gpu_layers: llama_id(self.plan.gpu_layers),
            split: split.into(),
            mmap: config.mmap,
            on_cpu: experts.as_deref(),
        };
        let progress = |fraction| host.board.set_progress(Progress(fraction));
        load.run(backend, path, &progress).ok_or_else(|| {
            format!("llama.cpp cannot load {shown}, its log says why; {}", self.needs())
        })
    }

    /// The parts that the plan gives to devices, whatever is free by now.
    #[expect(clippy::cast_precision_loss, reason = "llama.cpp adds up 32-bit numbers")]
    fn parts(&self) -> Vec<f32> {
        self.plan.shares.iter().map(|share| share.room.part as f32).collect()
    }

    /// The names of the experts' tensors that stay on the CPU.
    fn experts_pattern(&self) -> Option<CString> {
        let layers: Vec<String> = (0..self.plan.cpu_experts).map(|n| n.to_string()).collect();
        let some = !layers.is_empty() && !self.on_cpu();
        let pattern =
            format!("blk\\.({})\\.ffn_(up|down|gate|gate_up)_(ch|)exps", layers.join("|"));
        some.then(|| CString::new(pattern).ok()).flatten()
    }
}
