//! Loads a model by a plan (`crate::placement`): the plan's inputs from llama.cpp, its result as llama.cpp's parameters.

use std::ffi::CString;
use std::path::Path;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaSplitMode;
use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};

use super::devices::{self, GpuDevice};
use super::header::Header;
use super::{Load, error_log, llama_id};
use crate::engine_thread::EngineThread;
use crate::layout::ModelFacts;
use crate::model_config::{ModelConfig, SplitMode};
use crate::placement::{self, DeviceMemory, FitError, Plan, PlanOptions, Share};
use crate::status::Progress;

/// What llama.cpp and its backends log when an allocation fails.
const OUT_OF_MEMORY: [&str; 6] = [
    "failed to allocate",
    "unable to allocate",
    "cannot allocate",
    "insufficient memory",
    "out of memory",
    "OutOfDeviceMemory",
];

/// Explains which device would hold what; `memory` replaces the GPUs of this machine, in bytes each.
///
/// # Errors
/// [`FitError::Unreadable`] if it is no GGUF file, [`FitError::NoModel`] if its header is that of no model,
/// [`FitError::Devices`] if the settings do not fit the devices.
pub fn fit(path: &Path, config: &ModelConfig, memory: &[u64]) -> Result<String, FitError> {
    let none = || FitError::Unreadable("llama.cpp could not be initialised".to_owned());
    super::backend().ok_or_else(none)?;
    let gpus = match memory {
        [] => devices::gpus(),
        sizes => sizes.iter().enumerate().map(hypothetical_gpu).collect(),
    };
    Ok(Placement::among(gpus, path, config)?.explanation)
}

/// A hypothetical GPU, all of it free.
fn hypothetical_gpu((index, &size): (usize, &u64)) -> GpuDevice {
    let memory = DeviceMemory { name: format!("GPU{index}"), free: size, total: size, part: size };
    GpuDevice { index, memory, ..GpuDevice::default() }
}

/// A model's plan, and what loading and errors need of it.
pub(super) struct Placement {
    plan: Plan,
    /// Bytes in host memory, compute buffers included if the CPU computes the whole model.
    host: u64,
    /// The devices' indices in ggml's list.
    devices: Vec<usize>,
    /// Bytes on all devices and in host memory.
    needed: u64,
    explanation: String,
    /// What the KV cache's layout depends on, by the header.
    pub(super) facts: ModelFacts,
}

impl Placement {
    /// The placement of a file's model on this machine.
    ///
    /// # Errors
    /// If the file cannot be read, or the settings do not fit the devices.
    pub(super) fn of(path: &Path, config: &ModelConfig) -> Result<Self, String> {
        let placement =
            Self::among(devices::gpus(), path, config).map_err(|why| why.to_string())?;
        if placement.devices.is_empty() {
            for setting in devices::without_effect(&config.gpu) {
                tracing::warn!("{setting} has no effect: there is no GPU");
            }
        }
        if !placement.plan.shares.is_empty() {
            for line in placement.explanation.lines() {
                tracing::info!("{line}");
            }
        }
        Ok(placement)
    }

    /// The placement of a file's model on these devices.
    fn among(gpus: Vec<GpuDevice>, path: &Path, config: &ModelConfig) -> Result<Self, FitError> {
        let header = Header::read(path)?;
        let no_model = |why| FitError::NoModel { file: path.display().to_string(), why };
        header.check().and_then(|()| header.check_window()).map_err(no_model)?;
        if config.gpu.split == SplitMode::Tensor && !gpus.is_empty() {
            devices::check_tensor_mode(&header.architecture, config).map_err(FitError::Devices)?;
        }
        let gpus = devices::chosen(gpus, &config.gpu).map_err(FitError::Devices)?;
        Ok(Self::on(&header, config, &gpus))
    }

    fn on(header: &Header, config: &ModelConfig, gpus: &[GpuDevice]) -> Self {
        let (devices, indices): (Vec<DeviceMemory>, _) =
            gpus.iter().map(|gpu| (gpu.memory.clone(), gpu.index)).unzip();
        let weights = header.weights();
        let on_cpu = devices.is_empty() || config.gpu.layers == placement::GpuLayers::Number(0);
        let facts = header.facts(config, on_cpu);
        let context = header.context_memory(config, &facts);
        let options = PlanOptions {
            layers: config.gpu.layers,
            cpu_experts: config.gpu.cpu_experts,
            margin: config.gpu.margin_bytes,
            divides_layers: config.gpu.split == SplitMode::Tensor,
        };
        let plan = placement::plan(&weights, &context, &devices, options);
        let mut explanation = plan.explain(&weights, options);
        let kv = context.kv_total();
        explanation.push_str(&format!(
            "KV cache {}, compute {} on each device (estimated)\n",
            placement::format_bytes(kv),
            placement::format_bytes(context.compute)
        ));
        let held = plan.shares.iter().map(Share::total);
        let on_host = if plan.gpu_layers == 0 { context.compute } else { 0 };
        let host = plan.host.saturating_add(on_host);
        let needed = held.fold(host, u64::saturating_add);
        Self { plan, host, devices: indices, needed, explanation, facts }
    }

    /// Whether the CPU computes everything.
    pub(super) fn on_cpu(&self) -> bool {
        self.plan.gpu_layers == 0
    }

    /// An error message: what failed, what llama.cpp logged, and, if memory may be the reason, how much is needed and free.
    pub(super) fn explained(&self, failed: &str) -> String {
        let reason = error_log::joined();
        let mut text = failed.to_owned();
        if !reason.is_empty() {
            text = format!("{text}: {reason}");
        }
        if OUT_OF_MEMORY.iter().any(|phrase| reason.contains(phrase)) || !self.has_room() {
            text = format!("{text}; {}", self.needs());
        }
        text
    }

    /// Whether the GPUs had room for their shares when the plan was made, and the host has room for its share now.
    fn has_room(&self) -> bool {
        let devices = list_llama_ggml_backend_devices().into_iter();
        let mut host = devices.filter(|device| device.device_type == LlamaBackendDeviceType::Cpu);
        let free = host.next().map_or(u64::MAX, |device| device.memory_free as u64);
        let on_gpus = self.plan.shares.iter().all(|share| share.total() <= share.device.free);
        (on_gpus || self.on_cpu()) && self.host <= free
    }

    /// The memory that is needed and free, for an error message.
    fn needs(&self) -> String {
        let devices = list_llama_ggml_backend_devices();
        let free = devices.iter().map(|device| {
            format!(
                "{} has {} free",
                device.name,
                placement::format_bytes(device.memory_free as u64)
            )
        });
        format!(
            "it needs about {} and {}; a smaller ctx_size, fewer gpu_layers or a smaller kv_type may fit",
            placement::format_bytes(self.needed),
            free.collect::<Vec<_>>().join(", ")
        )
    }

    /// Loads the model as planned.
    pub(super) fn load(
        &self,
        backend: &LlamaBackend,
        path: &Path,
        engine: &EngineThread,
    ) -> Result<LlamaModel, String> {
        let (shown, config) = (path.display(), &engine.config);
        if let Some(Share { device, weights, kv, .. }) = self.plan.first_overcommitted() {
            let (name, total) = (&device.name, placement::format_bytes(device.total));
            let (weights, kv) = (placement::format_bytes(*weights), placement::format_bytes(*kv));
            return Err(format!(
                "{name} has {total} in all, and cannot hold {weights} of weights and {kv} of KV cache; {}",
                self.needs()
            ));
        }
        let split = match config.gpu.split {
            SplitMode::None => LlamaSplitMode::None,
            SplitMode::Tensor if !self.devices.is_empty() => LlamaSplitMode::Tensor,
            SplitMode::Layer | SplitMode::Tensor => LlamaSplitMode::Layer,
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
        let progress = |fraction| engine.board.set_progress(Progress(fraction));
        error_log::clear();
        let loaded = load.run(backend, path, &progress);
        loaded.ok_or_else(|| self.explained(&format!("llama.cpp cannot load {shown}")))
    }

    /// The devices' parts by the plan, even if their free memory has changed.
    #[expect(clippy::cast_precision_loss, reason = "llama.cpp adds up 32-bit numbers")]
    fn parts(&self) -> Vec<f32> {
        self.plan.shares.iter().map(|share| share.device.part as f32).collect()
    }

    /// A regular expression for the experts' tensors that stay on the CPU.
    fn experts_pattern(&self) -> Option<CString> {
        let layers: Vec<String> = (0..self.plan.cpu_experts).map(|n| n.to_string()).collect();
        let some = !layers.is_empty() && !self.on_cpu();
        let pattern =
            format!("blk\\.({})\\.ffn_(up|down|gate|gate_up)_(ch|)exps", layers.join("|"));
        some.then(|| CString::new(pattern).ok()).flatten()
    }
}
