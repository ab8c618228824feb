//! Estimates the memory of a model's contexts from its header: keys, values and recurrent states by layer, and compute
//! buffers, after what llama.cpp's `llama_kv_cache`, `llama_kv_cache_iswa` and `llama_memory_recurrent` allocate.

use super::header::{ENCODERS, Header, MAX_LAYERS, ModelShape, layer_of, product};
use crate::layout::{
    self, EmbeddingLayout, MAX_EMBEDDING_INPUTS, ModelFacts, SequenceMemory, batch_sizes,
};
use crate::model_config::{KvType, ModelConfig};
use crate::model_info::Kind;
use crate::placement::ContextMemory;

/// Architectures in which most layers attend to a window, if the file has one: how many layers there are for each that
/// attends to all tokens, unless the header says otherwise; 0 if it says so for each layer. Of llama.cpp's models the best
/// known ones. Others are planned as if all their layers attended to all tokens.
const WINDOWED: [(&str, u64); 16] = [
    ("afmoe", 4),
    ("cohere2", 4),
    ("exaone-moe", 4),
    ("exaone4", 4),
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("gemma4", 0),
    ("gpt-oss", 2),
    ("granite_swa", 0),
    ("maple", 0),
    ("mimo2", 0),
    ("olmo2", 4),
    ("plamo3", 8),
    ("spark2_5", 0),
    ("step35", 0),
];
/// Of exaone4 only models with this many layers have a window.
const EXAONE4_WITH_WINDOW: u64 = 64;
/// Architectures whose last layers share keys and values of others, as many as the header says.
const SHARES_KV: [&str; 2] = ["gemma3n", "gemma4"];
/// Architectures whose contexts have no memory, besides encoders: llama.cpp's `create_memory` returns none.
const WITHOUT_MEMORY: [&str; 6] =
    ["wavtokenizer-dec", "gemma-embedding", "dream", "llada", "llada-moe", "rnd1"];
/// Bytes of a number in states and compute buffers.
const F32: u64 = 4;
/// llama.cpp rounds the cells of a window up to a multiple of this.
const WINDOW_ALIGNMENT: u64 = 256;
/// Bytes added for smaller buffers: inputs, and what llama.cpp reserves besides the widest results.
const OTHER_RESULTS: u64 = 16 << 20;

/// The size of a context.
#[derive(Debug, Clone, Copy, Default)]
struct ContextSize {
    /// Tokens, in layers that attend to all.
    cells: u64,
    /// Tokens, in layers that attend to a window.
    window: u64,
    /// Sequences, each with a recurrent state.
    sequences: u64,
}

/// What a context stores for a layer.
#[derive(Debug, Clone, Copy, Default)]
struct LayerMemory {
    /// Keys and values of tokens.
    tokens: bool,
    /// A state of each sequence.
    state: bool,
}

impl Header {
    /// What the KV cache's layout depends on, as far as the header says it.
    pub(super) fn facts(&self, config: &ModelConfig, on_cpu: bool) -> ModelFacts {
        let layers = self.layer_memory();
        let memory = SequenceMemory {
            keys_and_values: layers.iter().any(|layer| layer.tokens),
            state: layers.iter().any(|layer| layer.state),
            window: self.window() > 0,
        };
        ModelFacts {
            n_ctx_train: self.context_length(),
            on_cpu,
            memory,
            kv_bytes: self.kv_bytes(config.kv_type),
            arithmetic: self.arithmetic(),
        }
    }

    /// Memory that contexts of this configuration take besides the weights, in bytes.
    pub(super) fn context_memory(&self, config: &ModelConfig, facts: &ModelFacts) -> ContextMemory {
        match config.kind.unwrap_or_else(|| self.kind()) {
            Kind::Chat => self.generation_memory(config, facts),
            Kind::Embedding => self.embedding_memory(config, facts.on_cpu),
        }
    }

    /// Bytes of a token's keys and values in all layers, at least 1.
    pub(super) fn kv_bytes(&self, kind: KvType) -> u64 {
        let size = ContextSize { cells: 1, window: 1, sequences: 0 };
        self.kv_of_layers(kind, size).into_iter().fold(0, u64::saturating_add).max(1)
    }

    fn generation_memory(&self, config: &ModelConfig, facts: &ModelFacts) -> ContextMemory {
        let kv = layout::kv_limits(config, facts);
        let rows = u64::from(batch_sizes(config).1);
        let (streams, in_one) = if kv.shares { (1, kv.slots) } else { (kv.slots, 1) };
        let cells = u64::from(kv.cells);
        let window = product(&[self.window(), in_one.into()]).saturating_add(rows);
        let window = window.min(cells / u64::from(streams).max(1));
        let window = window.checked_next_multiple_of(WINDOW_ALIGNMENT).unwrap_or(u64::MAX);
        let window = product(&[window, streams.into()]);
        let size = ContextSize { cells, window, sequences: kv.slots.into() };
        // The widest results: logits of a step, or the feed-forward network's beside a few others.
        let widest = self.n_vocab.max(self.network_results());
        let attended =
            if facts.memory.keys_and_values { cells / u64::from(streams).max(1) } else { 0 };
        let attended = product(&[attended, self.results_of_cell(config)]);
        ContextMemory {
            kv: self.kv_of_layers(config.kv_type, size),
            kv_is_known: self.kv_is_known(),
            compute: compute_bytes(rows, widest.saturating_add(attended)),
        }
    }

    fn embedding_memory(&self, config: &ModelConfig, on_cpu: bool) -> ContextMemory {
        let EmbeddingLayout { wide, lanes, budget, .. } =
            EmbeddingLayout::of(config, self.context_length(), on_cpu);
        let narrow = if lanes > 1 { u64::from(lanes) * u64::from(budget) } else { 0 };
        let cells = u64::from(wide).saturating_add(narrow);
        let contexts = if lanes > 1 { 1 + u64::from(lanes) } else { 1 };
        let sequences = contexts * u64::from(MAX_EMBEDDING_INPUTS);
        let size = ContextSize { cells, window: cells, sequences };
        let kv = self.kv_of_layers(config.kv_type, size);
        let attended = self.network_results().saturating_add(wide.into());
        // Contexts side by side round their sizes.
        ContextMemory { kv, kv_is_known: false, compute: compute_bytes(cells, attended) }
    }

    /// Numbers for a cell and a token that attends to it: the mask, and without flash attention every head's scores.
    fn results_of_cell(&self, config: &ModelConfig) -> u64 {
        match config.flash_attention {
            Some(false) => ModelShape::of(self).heads.saturating_add(1),
            _ => 1,
        }
    }

    fn context_length(&self) -> u32 {
        u32::try_from(self.number("context_length").unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Length of the sliding window in tokens; 0 if there is none.
    fn window(&self) -> u64 {
        self.number("attention.sliding_window").unwrap_or(0)
    }

    /// Intermediate numbers of a layer, per token.
    fn network_results(&self) -> u64 {
        let network = self.number("feed_forward_length").unwrap_or(0).saturating_mul(2);
        network.saturating_add(ModelShape::of(self).width.saturating_mul(4))
    }

    /// What a context stores for each layer.
    fn layer_memory(&self) -> Vec<LayerMemory> {
        let architecture = self.architecture.as_str();
        if ENCODERS.contains(&architecture) || WITHOUT_MEMORY.contains(&architecture) {
            return Vec::new();
        }
        let mut fused = Vec::new();
        let mut keeps: Vec<LayerMemory> = Vec::new();
        for (layer, part) in self.tensors.iter().filter_map(|(name, _)| layer_of(name)) {
            if keeps.len() <= layer {
                keeps.resize(layer + 1, LayerMemory::default());
                fused.resize(layer + 1, false);
            }
            let starts = |parts: &[&str]| parts.iter().any(|start| part.starts_with(start));
            keeps[layer].tokens |= starts(&["attn_k.", "attn_k_b.", "attn_kv"]);
            keeps[layer].state |= starts(&["ssm_", "time_mix_", "shortconv."]);
            fused[layer] |= starts(&["attn_qkv."]);
        }
        // A recurrent layer may have a matrix of that name as well.
        for (index, (layer, fused)) in keeps.iter_mut().zip(fused).enumerate() {
            layer.state |= fused && self.is_recurrent_by_number(index);
            layer.tokens |= fused && !layer.state;
        }
        let reuses = SHARES_KV.contains(&self.architecture.as_str());
        // The last layers may share keys and values of others, or be for multi-token prediction, which is not done here.
        let number =
            |key: &str| usize::try_from(self.number(key).unwrap_or(0)).unwrap_or(usize::MAX);
        let reused = if reuses { number("attention.shared_kv_layers") } else { 0 };
        let own = keeps.len().saturating_sub(reused);
        let own = own.min(keeps.len().saturating_sub(number("nextn_predict_layers")));
        keeps[own..].fill(LayerMemory::default());
        keeps
    }

    /// Whether a layer attends to a window; `None` if that is not known.
    fn attends_to_window(&self, layer: usize) -> Option<bool> {
        let Some((name, usual)) = WINDOWED.iter().find(|(name, _)| *name == self.architecture)
        else {
            return (self.window() == 0).then_some(false);
        };
        let layers = self.number("block_count").unwrap_or(0);
        if self.window() == 0 || (*name == "exaone4" && layers != EXAONE4_WITH_WINDOW) {
            return Some(false);
        }
        let pattern = "attention.sliding_window_pattern";
        if self.arrays.contains_key(&format!("{name}.{pattern}")) {
            return Some(self.of_layer(pattern, layer).is_some_and(|windowed| windowed > 0));
        }
        let period = Some(*usual).filter(|usual| *usual > 0)?;
        let period = self.number(pattern).unwrap_or(period);
        Some(period == 0 || layer as u64 % period < period - 1)
    }

    /// Checks that some layer attends to a window if the model has one: else llama.cpp aborts.
    ///
    /// # Errors
    /// Why it does not run.
    pub(super) fn check_window(&self) -> Result<(), String> {
        let is_known = WINDOWED.iter().any(|(name, _)| *name == self.architecture);
        let layers = usize::try_from(self.number("block_count").unwrap_or(0)).unwrap_or(0);
        let all = |layer| self.attends_to_window(layer) == Some(false);
        let ignored = self.architecture == "exaone4";
        if is_known && !ignored && self.window() > 0 && (0..layers.min(MAX_LAYERS)).all(all) {
            return Err("its header has a window that no layer attends to".to_owned());
        }
        Ok(())
    }

    /// Whether [`Self::kv_of_layers`] is exact. Not covered are the second cache of an indexer, other widths in layers with
    /// a window, and layers for multi-token prediction.
    fn kv_is_known(&self) -> bool {
        let differs =
            |key: &String| key.contains(".attention.indexer.") || key.ends_with("_length_swa");
        let predicts = self.number("nextn_predict_layers").is_some_and(|layers| layers > 0);
        self.attends_to_window(0).is_some() && !predicts && !self.numbers.keys().any(differs)
    }

    /// Whether a layer is recurrent by the header's numbers instead of its tensors.
    fn is_recurrent_by_number(&self, layer: usize) -> bool {
        let listed =
            self.arrays.contains_key(&format!("{}.attention.recurrent_layers", self.architecture));
        let interval =
            self.number("full_attention_interval").filter(|&interval| interval > 0 && !listed);
        match interval {
            Some(interval) => !(layer as u64 + 1).is_multiple_of(interval),
            None => listed && self.of_layer("attention.recurrent_layers", layer) == Some(1),
        }
    }

    /// Bytes that a context of this size stores for each layer.
    fn kv_of_layers(&self, kind: KvType, size: ContextSize) -> Vec<u64> {
        let ModelShape { kv_heads, keys, values, .. } = ModelShape::of(self);
        // Latent attention stores no values: they are computed from what it stores as keys.
        let is_latent = self.number("attention.key_length_mla").is_some_and(|length| length > 0);
        let head = keys.saturating_add(if is_latent { 0 } else { values });
        let state = product(&[size.sequences, self.state_numbers(), F32]);
        let of_layer = |(layer, keeps): (usize, LayerMemory)| {
            let cells = match self.attends_to_window(layer) {
                Some(true) => size.window,
                _ => size.cells,
            };
            let heads = self.of_layer("attention.head_count_kv", layer).unwrap_or(kv_heads);
            let tokens = kind.bytes(product(&[cells, heads, head]));
            let tokens = if keeps.tokens { tokens } else { 0 };
            tokens.saturating_add(if keeps.state { state } else { 0 })
        };
        self.layer_memory().into_iter().enumerate().map(of_layer).collect()
    }

    /// Numbers of a sequence's state in a recurrent layer: llama.cpp's `n_embd_r` and `n_embd_s`, by the family
    /// whose keys the file has.
    fn state_numbers(&self) -> u64 {
        let number = |key: &str| self.number(key).unwrap_or(0);
        let families = [
            ("wkv.head_size", Self::rwkv_state as fn(&Self) -> u64),
            ("shortconv.l_cache", Self::short_convolution_state),
            ("kda.head_dim", Self::delta_attention_state),
        ];
        if self.architecture == "minimax-01" {
            return self.linear_attention_state();
        }
        let family = families.into_iter().find(|(key, _)| number(key) > 0);
        family.map_or_else(|| self.ssm_state(), |(_, state)| state(self))
    }

    fn rwkv_state(&self) -> u64 {
        let shifts = self.number("token_shift_count").unwrap_or(2);
        let head = self.number("wkv.head_size").unwrap_or(0);
        product(&[ModelShape::of(self).width, head.saturating_add(shifts)])
    }

    fn short_convolution_state(&self) -> u64 {
        let past = self.number("shortconv.l_cache").unwrap_or(0).saturating_sub(1);
        product(&[ModelShape::of(self).width, past])
    }

    fn delta_attention_state(&self) -> u64 {
        let number = |key: &str| self.number(key).unwrap_or(0);
        let (heads, head) = (number("attention.head_count"), number("kda.head_dim"));
        let past = number("ssm.conv_kernel").saturating_sub(1).saturating_mul(3);
        product(&[heads, head, head.saturating_add(past)])
    }

    fn linear_attention_state(&self) -> u64 {
        let ModelShape { heads, keys, .. } = ModelShape::of(self);
        product(&[heads, keys, keys])
    }

    fn ssm_state(&self) -> u64 {
        let number = |key: &str| self.number(key).unwrap_or(0);
        let (inner, state) = (number("ssm.inner_size"), number("ssm.state_size"));
        let past = number("ssm.conv_kernel").saturating_sub(1);
        let groups = product(&[2, number("ssm.group_count"), state]);
        product(&[past, inner.saturating_add(groups)]).saturating_add(product(&[state, inner]))
    }
}

/// Bytes of compute buffers with so many numbers per row.
fn compute_bytes(rows: u64, numbers: u64) -> u64 {
    product(&[rows, numbers, F32]).saturating_add(OTHER_RESULTS)
}

#[cfg(test)]
mod tests;
