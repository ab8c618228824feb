//! Where a model is put: what the plan (`fit.rs`) says, as llama.cpp wants to be told.

use std::ffi::CString;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::{LlamaModelParams, LlamaSplitMode};
use llama_cpp_2::{LlamaBackendDevice, list_llama_ggml_backend_devices};

use super::{DEFAULT_BATCH, DEFAULT_UBATCH, Header, llama_id};
use crate::fit::{self, FitError, Layer, Plan, Room, Running, Weights, Wish};
use crate::host::Host;
use crate::layout::{self, Arithmetic, Facts};
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

/// Whether a device computes beside the CPU, with memory that counts.
fn is_gpu(device: &LlamaBackendDevice) -> bool {
    use llama_cpp_2::LlamaBackendDeviceType::{Accelerator, Cpu};
    !matches!(device.device_type, Cpu | Accelerator)
}

/// What would go where; `memory` stands for the GPUs that there are, in bytes each.
///
/// # Errors
/// If the file is none.
pub fn fit(path: &Path, config: &ModelConfig, memory: &[u64]) -> Result<String, FitError> {
    let header = super::backend().and_then(|_| Header::read(path));
    let header = header.ok_or_else(|| FitError(path.display().to_string()))?;
    let rooms = match memory {
        [] => rooms(config),
        sizes => {
            let room = |(n, &size): (usize, &u64)| Room {
                name: format!("GPU{n}"),
                free: size,
                total: size,
            };
            sizes.iter().enumerate().map(room).collect()
        }
    };
    Ok(Placed::on(&header, config, &rooms).explanation)
}

fn rooms(config: &ModelConfig) -> Vec<Room> {
    let devices = list_llama_ggml_backend_devices();
    let gpus = devices.into_iter().filter(is_gpu).map(|device| Room {
        name: device.name,
        free: device.memory_free as u64,
        total: device.memory_total as u64,
    });
    match config.gpu.split {
        Split::None => gpus.skip(config.gpu.main as usize).take(1).collect(),
        Split::Layer | Split::Row => gpus.collect(),
    }
}

/// A model's place.
pub(super) struct Placed {
    plan: Plan,
    needed: u64,
    explanation: String,
    /// What the model computes for each token.
    pub(super) arithmetic: Arithmetic,
}

impl Placed {
    /// The place of a file's model on this machine.
    pub(super) fn of(path: &Path, config: &ModelConfig) -> Self {
        let header = Header::read(path).unwrap_or_default();
        let placed = Self::on(&header, config, &rooms(config));
        if !placed.plan.shares.is_empty() {
            for line in placed.explanation.lines() {
                tracing::info!("{line}");
            }
        }
        placed
    }

    fn on(header: &Header, config: &ModelConfig, rooms: &[Room]) -> Self {
        let weights = weights(header);
        let on_cpu = rooms.is_empty() || config.gpu.layers == fit::GpuLayers::Number(0);
        let running = running(header, config, on_cpu);
        let wish = Wish {
            layers: config.gpu.layers,
            cpu_experts: config.gpu.cpu_experts,
            margin: config.gpu.margin_bytes,
        };
        let plan = fit::plan(&weights, running, rooms, wish);
        let mut explanation = plan.explain(&weights, wish);
        let layers = weights.layers.len() as u64;
        let kv = running.kv_layer * layers;
        explanation.push_str(&format!(
            "KV cache {}, compute {} on each device (estimated)\n",
            fit::size(kv),
            fit::size(running.compute)
        ));
        let needed = weights.total() + kv + running.compute;
        Self { plan, needed, explanation, arithmetic: arithmetic(header) }
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
        std::fs::File::open(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
        let board = Arc::clone(&host.board);
        let split = match config.gpu.split {
            Split::None => LlamaSplitMode::None,
            Split::Layer => LlamaSplitMode::Layer,
            Split::Row => LlamaSplitMode::Row,
        };
        let params = LlamaModelParams::default()
            .with_use_mmap(config.mmap)
            .with_n_gpu_layers(self.plan.gpu_layers)
            .with_split_mode(split)
            .with_main_gpu(llama_id(config.gpu.main))
            .with_progress_callback(move |fraction| {
                board.set_progress(Progress(fraction));
                true
            });
        let mut params = Box::pin(params);
        // It has to outlive the loading.
        let pattern = self.experts_pattern();
        if let Some(pattern) = &pattern {
            params.as_mut().add_cpu_buft_override(pattern);
        }
        let params: Pin<&LlamaModelParams> = params.as_ref();
        LlamaModel::load_from_file(backend, path, params.get_ref()).map_err(|_| {
            format!("llama.cpp cannot load {shown}, its log says why; {}", self.needs())
        })
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

/// The most layers that are believed of a file.
const MOST_LAYERS: usize = 4096;

/// The sizes of a file's parts.
fn weights(header: &Header) -> Weights {
    let mut weights = Weights::default();
    for (name, bytes) in &header.tensors {
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let layer = layer.filter(|&layer: &usize| layer < MOST_LAYERS);
        match layer {
            Some(layer) => {
                if weights.layers.len() <= layer {
                    weights.layers.resize(layer + 1, Layer::default());
                }
                weights.layers[layer].all += bytes;
                if name.contains("exps.") {
                    weights.layers[layer].experts += bytes;
                }
            }
            None if name.starts_with("token_embd") => weights.input += bytes,
            None => weights.output += bytes,
        }
    }
    // Embeddings that are the output matrix too are there twice.
    if !header.tensors.iter().any(|(name, _)| name == "output.weight") {
        weights.tied = weights.input;
        weights.output += weights.input;
    }
    weights
}

/// Multiplications per token, estimated for a transformer with a gated feed-forward network. An error moves
/// only models near the layout's threshold.
fn arithmetic(header: &Header) -> Arithmetic {
    let Shape { layers, width, heads, kv_heads, keys, values } = Shape::of(header);
    let of = |key: &str| header.number(key).filter(|&number| number > 0);
    let dense = of("feed_forward_length").unwrap_or(0);
    let network = match of("expert_used_count") {
        Some(used) => of("expert_feed_forward_length").unwrap_or(dense).saturating_mul(used),
        None => dense,
    };
    let product = |factors: &[u64]| factors.iter().fold(1_u64, |all, &f| all.saturating_mul(f));
    let attention = product(&[layers, heads, keys.saturating_add(values)]);
    let projections =
        product(&[layers, width, heads.saturating_add(kv_heads), keys.saturating_add(values)]);
    let network = product(&[3, layers, width, network]);
    let output = product(&[width, header.n_vocab]);
    Arithmetic { matrices: projections.saturating_add(network).saturating_add(output), attention }
}

/// The numbers of a file's header that most estimates need; 0 if it does not give them.
struct Shape {
    layers: u64,
    width: u64,
    heads: u64,
    /// Where it differs between layers, as many as there can be.
    kv_heads: u64,
    /// Numbers of a head's key, and of its value.
    keys: u64,
    values: u64,
}

impl Shape {
    fn of(header: &Header) -> Self {
        let number = |key: &str| header.number(key).unwrap_or(0);
        let (width, heads) = (number("embedding_length"), number("attention.head_count").max(1));
        let keys = header.number("attention.key_length").unwrap_or(width / heads);
        Self {
            layers: number("block_count"),
            width,
            heads,
            kv_heads: header.number("attention.head_count_kv").unwrap_or(heads),
            keys,
            values: header.number("attention.value_length").unwrap_or(keys),
        }
    }
}

/// What running needs, estimated: `forebay fit` and the log of a load tell both.
fn running(header: &Header, config: &ModelConfig, on_cpu: bool) -> Running {
    let Shape { width, kv_heads, keys, values, .. } = Shape::of(header);
    let number = |key: &str| header.number(key).unwrap_or(0);
    let n_ctx_train = u32::try_from(number("context_length")).unwrap_or(u32::MAX);
    let arithmetic = arithmetic(header);
    let facts = Facts { n_ctx_train, on_cpu, rewinds: true, saves: true, kv_bytes: 1, arithmetic };
    let cells = u64::from(layout::of(config, &facts).cells);
    let batch = config.batch_size.unwrap_or(DEFAULT_BATCH);
    let rows = u64::from(config.ubatch_size.unwrap_or(DEFAULT_UBATCH).min(batch));
    // The widest results: logits of a step, or the feed-forward network's beside a few others.
    let widest = header.n_vocab.max(number("feed_forward_length") * 2 + width * 4);
    let compute = rows * widest * 4 + rows * cells * 4 + (16 << 20);
    Running { kv_layer: config.kv_type.bytes(cells * kv_heads * (keys + values)), compute }
}
