//! Plans which device holds which layers of a model: arithmetic over sizes, without llama.cpp.
//!
//! llama.cpp puts the last `n_gpu_layers` layers on the GPUs and divides them in proportion to `tensor_split`, by default
//! each GPU's free memory; the output matrix after the layers counts as one more. The same is computed here before
//! anything is loaded. Of a mixture of experts, the experts of the first layers may stay on the CPU: they are most of
//! the bytes and little of the work.

use std::fmt::Write as _;

/// The most GPUs for a model: llama.cpp reads this many entries of `tensor_split`.
pub const MAX_GPUS: usize = 16;

/// The sizes of a model's weights, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights {
    /// Each layer's.
    pub layers: Vec<Layer>,
    /// The token embeddings before the layers. They stay on the CPU.
    pub input: u64,
    /// The output matrix after the layers.
    pub output: u64,
    /// How much of that is the token embeddings again (tied): stored twice only if it is on a GPU.
    pub tied: u64,
}

/// A layer's sizes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layer {
    /// All weights.
    pub all: u64,
    /// Those of the experts.
    pub experts: u64,
}

impl Weights {
    /// All weights, tied ones once.
    pub fn total(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.all);
        sum(layers.chain([self.input, self.output.saturating_sub(self.tied)]))
    }
}

impl ContextMemory {
    /// Keys and values of all layers.
    pub fn kv_total(&self) -> u64 {
        sum(self.kv.iter().copied())
    }
}

/// The saturating sum: a header may claim any size.
fn sum(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

/// What contexts need besides the weights, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContextMemory {
    /// Keys, values and recurrent states of each layer; 0 for layers that are not listed.
    pub kv: Vec<u64>,
    /// Whether `kv` is exact, and not only an estimate.
    pub kv_is_known: bool,
    /// Compute buffers, on each device.
    pub compute: u64,
}

/// A device's memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// `CUDA0`, ...
    pub name: String,
    /// Free memory.
    pub free: u64,
    /// Total memory; 0 if the driver does not report it.
    pub total: u64,
    /// Its part of a model relative to the other devices' parts: the free memory, unless configured.
    pub part: u64,
}

/// How many layers to put on GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum GpuLayers {
    /// As many as fit.
    #[default]
    Auto,
    /// All, and the output matrix.
    All,
    /// This many, the last ones.
    Number(u32),
}

/// The settings of a plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PlanOptions {
    /// How many layers to put on GPUs.
    pub layers: GpuLayers,
    /// Layers whose experts stay on the CPU, from the first one; `None` for as few as fit.
    pub cpu_experts: Option<u32>,
    /// Memory to leave free on each device, in bytes.
    pub margin: u64,
    /// Whether every layer is divided over all devices (tensor mode); else each device has some of the layers.
    pub divides_layers: bool,
}

/// Which device holds what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Layers on GPUs; one more than the model has where the output matrix goes there too.
    pub gpu_layers: u32,
    /// Layers whose experts stay on the CPU, from the first one.
    pub cpu_experts: u32,
    /// What each device holds.
    pub shares: Vec<Share>,
    /// Host memory, keys and values included, in bytes.
    pub host: u64,
    /// Whether every device has room for its share and the margin.
    pub fits: bool,
    /// Whether the sizes of keys and values are exact.
    pub kv_is_known: bool,
}

/// What one device holds, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The device.
    pub device: DeviceMemory,
    /// Layers on it.
    pub layers: u32,
    /// Weights.
    pub weights: u64,
    /// Keys and values.
    pub kv: u64,
    /// Compute buffers.
    pub compute: u64,
}

impl Share {
    /// All that the device holds.
    pub fn total(&self) -> u64 {
        sum([self.weights, self.kv, self.compute])
    }

    /// Whether the device holds nothing of the model.
    fn is_unused(&self) -> bool {
        self.weights == 0 && self.kv == 0
    }

    fn add(&mut self, weights: u64, kv: u64, layers: u32) {
        self.weights = self.weights.saturating_add(weights);
        self.kv = self.kv.saturating_add(kv);
        self.layers += layers;
    }

    /// Whether the device has room for its share and `margin` bytes more.
    fn fits(&self, margin: u64) -> bool {
        self.total().checked_add(margin).is_some_and(|needed| needed <= self.device.free)
    }
}

/// Plans which device holds what. Without devices everything stays on the CPU.
pub fn plan(
    weights: &Weights,
    context: &ContextMemory,
    devices: &[DeviceMemory],
    options: PlanOptions,
) -> Plan {
    let layers = u32::try_from(weights.layers.len()).unwrap_or(u32::MAX);
    let all = if devices.is_empty() { 0 } else { layers + 1 };
    let place = |gpu_layers: u32, cpu_experts: u32| {
        Planner { weights, context, devices, options }.place(gpu_layers, cpu_experts)
    };
    let experts = options.cpu_experts.unwrap_or(0).min(layers);
    match options.layers {
        GpuLayers::All => place(all, experts),
        GpuLayers::Number(number) => place(number.min(all), experts),
        GpuLayers::Auto => {
            let has_experts = weights.layers.iter().any(|layer| layer.experts > 0);
            let by_experts = match options.cpu_experts {
                None if has_experts => 0..=layers,
                _ => experts..=experts,
            };
            let moved = by_experts.map(|experts| (all, experts));
            let most = if has_experts && options.cpu_experts.is_none() { layers } else { experts };
            let fewer = (0..all).rev().map(|number| (number, most));
            let fitting = moved.chain(fewer).map(|(number, experts)| place(number, experts));
            fitting.into_iter().find(|plan| plan.fits).unwrap_or_else(|| place(0, 0))
        }
    }
}

struct Planner<'p> {
    weights: &'p Weights,
    context: &'p ContextMemory,
    devices: &'p [DeviceMemory],
    options: PlanOptions,
}

impl Planner<'_> {
    fn place(&self, gpu_layers: u32, cpu_experts: u32) -> Plan {
        let Self { weights, context, devices, options } = self;
        let empty = |device: &DeviceMemory| {
            let compute = if gpu_layers > 0 { context.compute } else { 0 };
            Share { device: device.clone(), layers: 0, weights: 0, kv: 0, compute }
        };
        let mut shares: Vec<Share> = devices.iter().map(empty).collect();
        let count = weights.layers.len();
        // The first layer on a GPU; the output matrix comes after the last one.
        let first = (count + 1).saturating_sub(gpu_layers as usize);
        let parts: u128 = devices.iter().map(|device| u128::from(device.part)).sum();
        let mut host = weights.input;
        for index in 0..=count {
            let layer = weights.layers.get(index);
            let kv = context.kv.get(index).filter(|_| layer.is_some()).copied().unwrap_or(0);
            let tied = if layer.is_none() { weights.tied } else { 0 };
            let mut bytes = layer.map_or(weights.output, |layer| layer.all);
            if index < first || parts == 0 {
                host = sum([host, bytes.saturating_sub(tied), kv]);
                continue;
            }
            if let Some(layer) = layer.filter(|_| index < cpu_experts as usize) {
                host = host.saturating_add(layer.experts);
                bytes = bytes.saturating_sub(layer.experts);
            }
            let number = u32::from(layer.is_some());
            if options.divides_layers {
                // A tied output matrix is whole on each device.
                let (bytes, kv) = (self.divide(bytes.saturating_sub(tied)), self.divide(kv));
                for ((share, bytes), kv) in shares.iter_mut().zip(bytes).zip(kv) {
                    share.add(bytes.saturating_add(tied), kv, number);
                }
                continue;
            }
            // As llama.cpp does: the first device whose cumulative part reaches this layer.
            let at = (index - first) as u128 * parts;
            let mut end = 0;
            let device = devices.iter().position(|device| {
                end += u128::from(device.part);
                at < end * u128::from(gpu_layers)
            });
            shares[device.unwrap_or(devices.len() - 1)].add(bytes, kv, number);
        }
        let fits = shares.iter().all(|share| share.is_unused() || share.fits(options.margin));
        let kv_is_known = context.kv_is_known;
        Plan { gpu_layers, cpu_experts, shares, host, fits, kv_is_known }
    }

    /// Divides bytes of a layer over the devices by their parts.
    fn divide(&self, bytes: u64) -> Vec<u64> {
        let mut parts: u128 = self.devices.iter().map(|device| u128::from(device.part)).sum();
        let mut left = bytes;
        let part = |device: &DeviceMemory| {
            // The last device gets what rounding leaves.
            let own = u128::from(left) * u128::from(device.part) / parts.max(1);
            let own = u64::try_from(own).unwrap_or(left);
            (left, parts) = (left - own, parts - u128::from(device.part));
            own
        };
        self.devices.iter().map(part).collect()
    }
}

impl Plan {
    /// The first device whose total memory is less than its weights and exactly known keys and values. Some drivers fail
    /// only when they write to memory that they had granted, and by then the machine has none.
    pub fn first_overcommitted(&self) -> Option<&Share> {
        self.shares.iter().find(|share| {
            let kv = if self.kv_is_known { share.kv } else { 0 };
            share.device.total > 0 && share.weights.saturating_add(kv) > share.device.total
        })
    }

    /// The arithmetic as text, a line for each device.
    pub fn explain(&self, weights: &Weights, options: PlanOptions) -> String {
        let mut out = String::new();
        let layers = weights.layers.len();
        let number = (self.gpu_layers as usize).min(layers);
        let output = if self.gpu_layers as usize > layers { " and the output matrix" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "model {}: {number} of {layers} layers{output} on GPUs",
            format_bytes(weights.total())
        );
        if self.cpu_experts > 0 {
            let _ = writeln!(out, "experts of the first {} layers on the CPU", self.cpu_experts);
        }
        for share in &self.shares {
            let verdict = match share.fits(options.margin) {
                _ if share.is_unused() => "unused",
                true => "fits",
                false => "DOES NOT FIT",
            };
            let _ = writeln!(
                out,
                "{}: weights {} + KV cache {} + compute {} = {} of {} free ({} in all), margin {}: {verdict}",
                share.device.name,
                format_bytes(share.weights),
                format_bytes(share.kv),
                format_bytes(share.compute),
                format_bytes(share.total()),
                format_bytes(share.device.free),
                format_bytes(share.device.total),
                format_bytes(options.margin),
            );
        }
        let _ = writeln!(out, "host memory: {}", format_bytes(self.host));
        out
    }
}

/// Why a file has no plan.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The file cannot be read, and why.
    #[error("{0}")]
    Unreadable(String),
    /// The settings do not fit the devices or the model.
    #[error("{0}")]
    Devices(String),
    /// It is a GGUF file, but not a complete model that can run.
    #[error("{file} is not a model: {why}")]
    NoModel {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Formats bytes in MiB or GiB.
pub fn format_bytes(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    /// The shape of Llama 3.1 8B in Q4_K_M: 4.6 GiB.
    fn dense() -> Weights {
        let layer = Layer { all: 125 << 20, experts: 0 };
        Weights { layers: vec![layer; 32], input: 282 << 20, output: 411 << 20, tied: 0 }
    }

    fn mixture() -> Weights {
        let layer = Layer { all: GIB, experts: GIB * 9 / 10 };
        Weights { layers: vec![layer; 32], input: GIB / 2, output: GIB / 2, tied: 0 }
    }

    fn devices(free: &[u64]) -> Vec<DeviceMemory> {
        let room = |(n, &free): (usize, &u64)| DeviceMemory {
            name: format!("G{n}"),
            free,
            total: free,
            part: free,
        };
        free.iter().enumerate().map(room).collect()
    }

    const KV_LAYER: u64 = 64 << 20;

    fn context() -> ContextMemory {
        ContextMemory { kv: vec![KV_LAYER; 32], kv_is_known: true, compute: 300 << 20 }
    }

    fn auto(weights: &Weights, free: &[u64]) -> Plan {
        let options = PlanOptions { margin: GIB, ..PlanOptions::default() };
        let plan = plan(weights, &context(), &devices(free), options);
        let placed: u64 = plan.shares.iter().map(|share| share.weights + share.kv).sum();
        let layers = weights.layers.len() as u64;
        assert_eq!(placed + plan.host, weights.total() + layers * KV_LAYER);
        plan
    }

    #[test]
    fn all_of_it_goes_where_it_fits() {
        let plan = auto(&dense(), &[24 * GIB]);
        assert_eq!((plan.gpu_layers, plan.cpu_experts, plan.fits), (33, 0, true));
        assert_eq!(plan.host, dense().input);
        assert_eq!(plan.shares[0].layers, 32);
        let text = plan.explain(&dense(), PlanOptions { margin: GIB, ..PlanOptions::default() });
        assert!(text.contains("32 of 32 layers and the output matrix on GPUs"), "{text}");
        assert!(
            text.contains("G0: weights 4.31 GiB + KV cache 2.00 GiB + compute 300 MiB"),
            "{text}"
        );
    }

    #[test]
    fn as_many_layers_as_fit_and_none_more() {
        let plan = auto(&dense(), &[4 * GIB]);
        assert!(plan.fits && (1..33).contains(&plan.gpu_layers), "{plan:?}");
        let options = |layers| PlanOptions {
            layers: GpuLayers::Number(layers),
            margin: GIB,
            ..PlanOptions::default()
        };
        let more =
            super::plan(&dense(), &context(), &devices(&[4 * GIB]), options(plan.gpu_layers + 1));
        assert!(!more.fits);
        assert_eq!(auto(&dense(), &[GIB]).gpu_layers, 0);
        assert_eq!(auto(&dense(), &[]).gpu_layers, 0);
    }

    #[test]
    fn what_a_device_cannot_hold_at_all_is_too_much() {
        let options = PlanOptions { layers: GpuLayers::All, ..PlanOptions::default() };
        let all = |free: &[u64]| super::plan(&dense(), &context(), &devices(free), options);
        let full = |total| DeviceMemory { name: "G0".to_owned(), free: GIB, total, part: GIB };
        let of = |total| super::plan(&dense(), &context(), &[full(total)], options);
        assert_eq!(all(&[24 * GIB]).first_overcommitted(), None);
        assert_eq!(of(8 * GIB).first_overcommitted(), None, "others may leave");
        assert_eq!(of(0).first_overcommitted(), None, "the driver does not say");
        assert_eq!(of(5 * GIB).first_overcommitted().map(|share| share.layers), Some(32));
        assert_eq!(all(&[4 * GIB, 24 * GIB]).first_overcommitted(), None);
        assert_eq!(all(&[]).first_overcommitted(), None);
        let about = |total| Plan { kv_is_known: false, ..of(total) };
        assert_eq!(about(5 * GIB).first_overcommitted(), None, "the KV cache may be smaller");
        assert!(about(4 * GIB).first_overcommitted().is_some(), "the weights are not");
    }

    #[test]
    fn devices_share_in_proportion_to_what_is_free() {
        let plan = auto(&dense(), &[24 * GIB, 12 * GIB]);
        assert_eq!(plan.gpu_layers, 33);
        let layers: Vec<u32> = plan.shares.iter().map(|share| share.layers).collect();
        assert_eq!(layers, [22, 10]);
        // One of them is nearly full: what it has room for decides.
        let uneven = auto(&dense(), &[8 * GIB, GIB * 6 / 5]);
        assert!(uneven.gpu_layers < 33);
    }

    #[test]
    fn a_full_device_does_not_keep_others_from_being_used() {
        for full in [0, GIB / 8] {
            let plan = auto(&dense(), &[24 * GIB, full]);
            assert_eq!((plan.gpu_layers, plan.shares[0].layers), (33, 32), "{plan:?}");
            let text = plan.explain(&dense(), PlanOptions::default());
            assert!(text.contains("G1") && text.contains(": unused"), "{text}");
        }
    }

    #[test]
    fn devices_get_the_parts_that_they_are_given() {
        let mut devices = devices(&[24 * GIB, 24 * GIB]);
        (devices[0].part, devices[1].part) = (3_000_000, 1_000_000);
        let options = PlanOptions { layers: GpuLayers::All, ..PlanOptions::default() };
        let plan = super::plan(&dense(), &context(), &devices, options);
        let layers: Vec<u32> = plan.shares.iter().map(|share| share.layers).collect();
        assert_eq!(layers, [25, 7], "and the output matrix");
        assert_eq!(plan.shares[1].weights, 7 * (125 << 20) + (411 << 20));
    }

    #[test]
    fn layers_are_spread_over_all_devices() {
        let options =
            PlanOptions { layers: GpuLayers::All, divides_layers: true, ..PlanOptions::default() };
        let plan = super::plan(&dense(), &context(), &devices(&[24 * GIB, 8 * GIB]), options);
        let [large, small] = &plan.shares[..] else { panic!("{plan:?}") };
        assert_eq!((large.layers, small.layers), (32, 32));
        assert!(large.weights.abs_diff(3 * small.weights) < 200, "{plan:?}");
        assert_eq!(large.kv, 3 * small.kv);
        assert_eq!(plan.host, dense().input);
        let tied = Weights { tied: GIB / 4, ..dense() };
        let both = super::plan(&tied, &context(), &devices(&[24 * GIB, 24 * GIB]), options);
        let weights: u64 = both.shares.iter().map(|share| share.weights).sum();
        assert_eq!(weights, 32 * (125 << 20) + (411 << 20) + GIB / 4, "whole on both");
    }

    #[test]
    fn experts_stay_behind_before_layers_do() {
        let plan = auto(&mixture(), &[24 * GIB]);
        assert_eq!(plan.gpu_layers, 33);
        assert!(plan.fits && plan.cpu_experts > 0, "{plan:?}");
        let options = PlanOptions {
            cpu_experts: Some(plan.cpu_experts - 1),
            layers: GpuLayers::All,
            margin: GIB,
            divides_layers: false,
        };
        assert!(!super::plan(&mixture(), &context(), &devices(&[24 * GIB]), options).fits);
        // Not even without experts.
        let small = auto(&mixture(), &[4 * GIB]);
        assert!(small.fits && small.gpu_layers < 33 && small.cpu_experts == 32, "{small:?}");
    }

    /// Numbers of all sizes.
    pub(crate) fn any_number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0_u32..64).prop_map(|(number, shift)| number >> shift)
    }

    proptest! {
        /// Builds for tests do not check for overflow: what wraps is smaller than it should be.
        #[test]
        fn whatever_the_sizes_are_none_is_lost(
            layers in vec((any_number(), any_number()), 0..6),
            (input, output) in (any_number(), any_number()),
            ties: bool,
            (compute, margin, kv_is_known) in (any_number(), any_number(), any::<bool>()),
            kv in vec(any_number(), 0..8),
            free in vec(any_number(), 0..3),
            number in proptest::option::of(0_u32..8),
            divides_layers: bool,
        ) {
            let layer = |&(all, part): &(u64, u64)| Layer { all, experts: part.min(all) };
            let layers: Vec<Layer> = layers.iter().map(layer).collect();
            let tied = if ties { input.min(output) } else { 0 };
            let weights = Weights { layers, input, output, tied };
            let options = PlanOptions {
                layers: number.map_or(GpuLayers::Auto, GpuLayers::Number),
                margin,
                divides_layers,
                ..PlanOptions::default()
            };
            let context = ContextMemory { kv, kv_is_known, compute };
            let plan = super::plan(&weights, &context, &devices(&free), options);
            let sum = |sizes: &[u64]| sizes.iter().map(|&size| u128::from(size)).sum::<u128>();
            let all: Vec<u64> = weights.layers.iter().map(|layer| layer.all).collect();
            let needed = sum(&all) + sum(&[input, output - tied])
                + context.kv.iter().zip(&all).map(|(&kv, _)| u128::from(kv)).sum::<u128>();
            let held: Vec<u64> =
                plan.shares.iter().flat_map(|share| [share.weights, share.kv]).collect();
            let most = held.iter().chain([&plan.host]).any(|&size| size == u64::MAX);
            let held = sum(&held) + u128::from(plan.host);
            let twice = (0..=free.len()).map(|times| needed + times as u128 * u128::from(tied));
            prop_assert!(most || twice.into_iter().any(|needed| held == needed), "{plan:?}");
            for share in &plan.shares {
                let total = sum(&[share.weights, share.kv, share.compute]);
                prop_assert_eq!(u128::from(share.total()), total.min(u64::MAX.into()));
                let fits = share.is_unused() || total + u128::from(margin) <= share.device.free.into();
                prop_assert!(fits || !plan.fits, "{:?}", plan);
            }
            let total = sum(&all) + sum(&[input, output - tied]);
            prop_assert_eq!(u128::from(weights.total()), total.min(u64::MAX.into()));
            plan.explain(&weights, options);
            plan.first_overcommitted();
        }
    }
}
