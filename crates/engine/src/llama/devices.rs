//! The devices that llama.cpp lists: those that a model is put on besides the CPU, and each one's share of a model.

use crate::placement::{DeviceMemory, MAX_GPUS};
use llama_cpp_2::list_llama_ggml_backend_devices;

use crate::model_config::{GpuSettings, ModelConfig, SplitMode};
use crate::model_info::Device;

/// A GPU as ggml lists it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct GpuDevice {
    /// Its index in ggml's list.
    pub(super) index: usize,
    /// Its name and memory.
    pub(super) memory: DeviceMemory,
    /// ggml's backend for it: `CUDA`, `Vulkan`.
    pub(super) backend: String,
    /// The hardware's address, if the backend reports it: two backends may list the same device.
    pub(super) id: Option<String>,
    /// Whether it uses host memory.
    pub(super) integrated: bool,
}

/// Architectures without tensor mode in llama.cpp: `llm_arch_supports_sm_tensor`, of the version in Cargo.toml.
const WITHOUT_TENSOR_MODE: [&str; 30] = [
    "grok",
    "mpt",
    "plamo2",
    "minicpm3",
    "gemma3n",
    "mamba",
    "mamba2",
    "jamba",
    "falcon-h1",
    "olmo2",
    "olmoe",
    "deepseek2",
    "deepseek32",
    "hy_v4",
    "dots3note",
    "glm-dsa",
    "bitnet",
    "t5",
    "nemotron_h",
    "nemotron_h_moe",
    "granitehybrid",
    "minimax-01",
    "minimax-m2",
    "minimax-m3",
    "mistral4",
    "kimi-linear",
    "bailingmoe3",
    "kimi-k3",
    "glm5-next",
    "qwen3tts",
];

/// The devices that llama.cpp can compute on.
pub fn devices() -> Vec<Device> {
    if super::backend().is_none() {
        return Vec::new();
    }
    list_llama_ggml_backend_devices()
        .into_iter()
        .map(|d| Device {
            name: d.name,
            description: d.description,
            memory_total: d.memory_total,
            memory_free: d.memory_free,
        })
        .collect()
}

/// The GPUs that a model may be put on.
pub(super) fn gpus() -> Vec<GpuDevice> {
    use llama_cpp_2::LlamaBackendDeviceType as Type;
    let listed = list_llama_ggml_backend_devices().into_iter();
    let beside =
        listed.filter(|device| matches!(device.device_type, Type::Gpu | Type::IntegratedGpu));
    let all = beside.map(|device| {
        let (free, total) = (device.memory_free as u64, device.memory_total as u64);
        GpuDevice {
            index: device.index,
            memory: DeviceMemory { name: device.name, free, total, part: free },
            backend: device.backend,
            id: super::device_id(device.index),
            integrated: device.device_type == Type::IntegratedGpu,
        }
    });
    usable(all.collect())
}

/// The devices to use, by llama.cpp's own default: each once, by the first backend that lists it; integrated ones, of
/// one backend, only if there are no others.
pub(super) fn usable(all: Vec<GpuDevice>) -> Vec<GpuDevice> {
    let (integrated, own): (Vec<GpuDevice>, Vec<GpuDevice>) =
        all.into_iter().partition(|gpu| gpu.integrated);
    let backend = integrated.first().map(|gpu| gpu.backend.clone());
    let of_one = integrated.into_iter().filter(|gpu| Some(&gpu.backend) == backend.as_ref());
    let candidates = if own.is_empty() { of_one.collect() } else { own };
    let mut once: Vec<GpuDevice> = Vec::new();
    for gpu in candidates {
        if once.len() == MAX_GPUS {
            tracing::warn!(name = gpu.memory.name, "more than {MAX_GPUS} GPUs: it is not used");
        } else if gpu.id.is_none() || once.iter().all(|before| before.id != gpu.id) {
            once.push(gpu);
        }
    }
    once
}

/// Checks that a model can run in tensor mode.
///
/// # Errors
/// Why it cannot.
pub(super) fn check_tensor_mode(architecture: &str, config: &ModelConfig) -> Result<(), String> {
    if config.flash_attention == Some(false) {
        return Err("split_mode \"tensor\" needs flash_attention".to_owned());
    }
    if WITHOUT_TENSOR_MODE.contains(&architecture) {
        return Err(format!("llama.cpp has no split_mode \"tensor\" for {architecture} models"));
    }
    Ok(())
}

/// The settings that have no effect without a GPU.
pub(super) fn without_effect(settings: &GpuSettings) -> Vec<&'static str> {
    let set = [
        ("tensor_split", !settings.tensor_split.is_empty()),
        ("split_mode", settings.split != SplitMode::Layer),
        ("main_gpu", settings.main != 0),
    ];
    set.into_iter().filter_map(|(name, is_set)| is_set.then_some(name)).collect()
}

/// The devices that a model is put on, with each one's part.
///
/// # Errors
/// If the settings do not fit the devices.
pub(super) fn chosen(
    mut gpus: Vec<GpuDevice>,
    settings: &GpuSettings,
) -> Result<Vec<GpuDevice>, String> {
    let names = |gpus: &[GpuDevice]| {
        let names: Vec<&str> = gpus.iter().map(|gpu| gpu.memory.name.as_str()).collect();
        names.join(", ")
    };
    if gpus.is_empty() {
        return Ok(gpus);
    }
    let count = gpus.len();
    if settings.split == SplitMode::None {
        let main = settings.main as usize;
        if main >= count {
            return Err(format!(
                "main_gpu is {main}, but the GPUs are 0 to {}: {}",
                count - 1,
                names(&gpus)
            ));
        }
        return Ok(vec![gpus.swap_remove(main)]);
    }
    if settings.split == SplitMode::Tensor {
        // With uneven parts this version of llama.cpp writes out of bounds.
        gpus.iter_mut().for_each(|gpu| gpu.memory.part = 1);
        return Ok(gpus);
    }
    if settings.tensor_split.is_empty() {
        if gpus.iter().all(|gpu| gpu.memory.part == 0) {
            // No device has free memory, or no driver reports it.
            gpus.iter_mut().for_each(|gpu| gpu.memory.part = 1);
        }
        return Ok(gpus);
    }
    if settings.tensor_split.len() != count {
        let given = settings.tensor_split.len();
        return Err(format!(
            "tensor_split has {given} parts, but the GPUs are {count}: {}; 0 leaves one out",
            names(&gpus)
        ));
    }
    for (gpu, &part) in gpus.iter_mut().zip(&settings.tensor_split) {
        gpu.memory.part = part;
    }
    gpus.retain(|gpu| gpu.memory.part > 0);
    Ok(gpus)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_config::Source;

    fn gpu(index: usize, backend: &str, id: Option<&str>) -> GpuDevice {
        let memory =
            DeviceMemory { name: format!("{backend}{index}"), free: 10, total: 20, part: 10 };
        GpuDevice {
            index,
            memory,
            backend: backend.to_owned(),
            id: id.map(str::to_owned),
            ..GpuDevice::default()
        }
    }

    fn numbers(gpus: &[GpuDevice]) -> Vec<usize> {
        gpus.iter().map(|gpu| gpu.index).collect()
    }

    #[test]
    fn a_device_that_two_backends_list_is_used_once() {
        let all = vec![
            gpu(0, "CUDA", Some("01:00")),
            gpu(1, "CUDA", Some("02:00")),
            gpu(2, "Vulkan", Some("01:00")),
            gpu(3, "Vulkan", None),
            gpu(4, "Vulkan", None),
        ];
        assert_eq!(numbers(&usable(all)), [0, 1, 3, 4]);
    }

    #[test]
    fn of_very_many_the_first_are_used() {
        let all = (0..20).map(|n| gpu(n, "CUDA", None)).collect();
        assert_eq!(numbers(&usable(all)), (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn integrated_devices_are_for_where_there_are_no_others() {
        let integrated =
            |index, backend| GpuDevice { integrated: true, ..gpu(index, backend, None) };
        let alone = vec![integrated(1, "Vulkan"), integrated(2, "SYCL"), integrated(3, "Vulkan")];
        assert_eq!(numbers(&usable(alone.clone())), [1, 3]);
        let beside = [alone, vec![gpu(0, "CUDA", None)]].concat();
        assert_eq!(numbers(&usable(beside)), [0]);
        let many = (0..20).map(|index| integrated(index, "Vulkan")).collect();
        assert_eq!(usable(many).len(), 16);
        assert!(usable(Vec::new()).is_empty());
    }

    #[test]
    fn where_nothing_is_free_all_get_the_same() {
        let full = |index| {
            let mut gpu = gpu(index, "CUDA", None);
            (gpu.memory.free, gpu.memory.part) = (0, 0);
            gpu
        };
        let parts = |gpus| {
            let gpus = chosen(gpus, &GpuSettings::default()).unwrap();
            gpus.iter().map(|gpu| gpu.memory.part).collect::<Vec<_>>()
        };
        assert_eq!(parts(vec![full(0), full(1)]), [1, 1]);
        assert_eq!(parts(vec![full(0), gpu(1, "CUDA", None)]), [0, 10]);
    }

    #[test]
    fn what_cannot_be_spread_is_named() {
        let config = |flash_attention| ModelConfig {
            flash_attention,
            ..ModelConfig::new("m", Source::Gguf("m".into()))
        };
        assert_eq!(check_tensor_mode("llama", &config(None)), Ok(()));
        assert_eq!(check_tensor_mode("llama", &config(Some(true))), Ok(()));
        let off = check_tensor_mode("llama", &config(Some(false))).unwrap_err();
        assert_eq!(off, "split_mode \"tensor\" needs flash_attention");
        let mamba = check_tensor_mode("mamba", &config(None)).unwrap_err();
        assert_eq!(mamba, "llama.cpp has no split_mode \"tensor\" for mamba models");
    }

    #[test]
    fn settings_for_gpus_are_named_where_there_are_none() {
        assert!(without_effect(&GpuSettings::default()).is_empty());
        let settings = GpuSettings { split: SplitMode::None, main: 1, ..GpuSettings::default() };
        assert_eq!(without_effect(&settings), ["split_mode", "main_gpu"]);
    }

    #[test]
    fn parts_are_given_to_devices_in_their_order() {
        let gpus = || (0..3).map(|n| gpu(n, "CUDA", None)).collect::<Vec<_>>();
        let with = |tensor_split: &[u64]| {
            let tensor_split = tensor_split.to_vec();
            chosen(gpus(), &GpuSettings { tensor_split, ..GpuSettings::default() })
        };
        let parts =
            |gpus: Vec<GpuDevice>| gpus.iter().map(|gpu| gpu.memory.part).collect::<Vec<_>>();
        assert_eq!(parts(with(&[]).unwrap()), [10, 10, 10]);
        assert_eq!(parts(with(&[3, 2, 1]).unwrap()), [3, 2, 1]);
        assert_eq!(numbers(&with(&[3, 0, 1]).unwrap()), [0, 2]);
        assert_eq!(
            with(&[3, 1]).unwrap_err(),
            "tensor_split has 2 parts, but the GPUs are 3: CUDA0, CUDA1, CUDA2; 0 leaves one out"
        );
        // Without GPUs the CPU computes.
        let settings = GpuSettings { tensor_split: vec![3, 1], ..GpuSettings::default() };
        assert!(chosen(Vec::new(), &settings).unwrap().is_empty());
    }

    #[test]
    fn the_main_one_alone() {
        let gpus = || (0..2).map(|n| gpu(n, "CUDA", None)).collect::<Vec<_>>();
        let with = |main| {
            chosen(gpus(), &GpuSettings { main, split: SplitMode::None, ..GpuSettings::default() })
        };
        assert_eq!(numbers(&with(1).unwrap()), [1]);
        assert_eq!(with(2).unwrap_err(), "main_gpu is 2, but the GPUs are 0 to 1: CUDA0, CUDA1");
    }
}
