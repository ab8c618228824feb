//! What a GGUF file's header says of a model, and what follows from that. Anybody may have written the file:
//! its numbers are of any size, so whatever is made of them saturates.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use llama_cpp_sys_2 as sys;

use super::{DEFAULT_BATCH, DEFAULT_UBATCH};
use crate::fit::{Layer, Running, Weights};
use crate::layout::{self, Arithmetic, Facts};
use crate::model::{KvType, ModelConfig};

/// The most layers that are believed of a file.
const MOST_LAYERS: usize = 4096;
/// The most heads, and the widest ones, that are believed of a file whose model is not wider itself.
const MOST_OF_HEADS: u64 = 1 << 20;

/// The most files that are believed of a model.
const MOST_FILES: u64 = 1000;

/// What a model's file says of it in its header; of several files the first one, with all their tensors.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Names, and sizes in bytes.
    pub(super) tensors: Vec<(String, u64)>,
    /// Numbers by key; the largest one of an array, which has one for each layer.
    pub(super) numbers: HashMap<String, u64>,
    pub(super) architecture: String,
    /// Tokens of the vocabulary.
    pub(super) n_vocab: u64,
}

/// The numbers of a file's header that most estimates need. Layers and width are 0 if it does not give them; the
/// others are then what llama.cpp takes for them, and `heads` at least 1.
pub(super) struct Shape {
    layers: u64,
    width: u64,
    heads: u64,
    /// Where it differs between layers, as many as there can be.
    kv_heads: u64,
    /// Numbers of a head's key, and of its value.
    keys: u64,
    values: u64,
}

/// Bytes of an integer of this GGUF type; `None` if the type is another one.
pub(super) fn integer_width(kind: sys::gguf_type) -> Option<usize> {
    match kind {
        sys::GGUF_TYPE_UINT8 | sys::GGUF_TYPE_INT8 => Some(1),
        sys::GGUF_TYPE_UINT16 | sys::GGUF_TYPE_INT16 => Some(2),
        sys::GGUF_TYPE_UINT32 | sys::GGUF_TYPE_INT32 => Some(4),
        sys::GGUF_TYPE_UINT64 | sys::GGUF_TYPE_INT64 => Some(8),
        _ => None,
    }
}

/// The largest of integers of this GGUF type, as they lie in memory; `None` if none is 0 or more.
pub(super) fn largest_integer(kind: sys::gguf_type, bytes: &[u8]) -> Option<u64> {
    let signed = [sys::GGUF_TYPE_INT8, sys::GGUF_TYPE_INT16, sys::GGUF_TYPE_INT32];
    let is_signed = kind == sys::GGUF_TYPE_INT64 || signed.contains(&kind);
    let number = |bytes: &[u8]| -> Option<u64> {
        let number = match *bytes {
            [a] => a.into(),
            [a, b] => u16::from_ne_bytes([a, b]).into(),
            [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
            _ => u64::from_ne_bytes(bytes.try_into().ok()?),
        };
        let is_negative = is_signed && number >> (8 * bytes.len() - 1) == 1;
        (!is_negative).then_some(number)
    };
    bytes.chunks_exact(integer_width(kind)?).filter_map(number).max()
}

/// Their product, or the largest number.
fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1_u64, |all, &factor| all.saturating_mul(factor))
}

impl Header {
    /// A number of the model's architecture, such as `block_count`.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(&format!("{}.{key}", self.architecture)).copied()
    }

    /// Paths of the model's other files, given its first one at `path`; empty if it has one file.
    ///
    /// # Errors
    /// If the count is too large, this is not the first file, or its name has another form.
    pub(super) fn other_files(&self, path: &Path) -> Result<Vec<PathBuf>, String> {
        let number = |key: &str| self.numbers.get(key).copied().unwrap_or(0);
        let (files, this) = (number("split.count"), number("split.no"));
        if files < 2 {
            return Ok(Vec::new());
        }
        if files > MOST_FILES {
            return Err(format!("its header says that the model has {files} files"));
        }
        if this != 0 {
            let this = this.saturating_add(1);
            return Err(format!("it is number {this} of {files} files; the first is to be named"));
        }
        // As llama.cpp names them.
        let name = |n: u64| format!("-{n:05}-of-{files:05}.gguf");
        let own = path.file_name().and_then(|own| own.to_str()).unwrap_or_default();
        let Some(prefix) = own.strip_suffix(&name(1)) else {
            return Err(format!(
                "it is the first of {files} files, so its name has to end with {}",
                name(1)
            ));
        };
        Ok((2..=files).map(|n| path.with_file_name(format!("{prefix}{}", name(n)))).collect())
    }

    /// Checks that this can be the header of a model that runs.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.architecture.is_empty() {
            return Err("its header names no architecture".to_owned());
        }
        if self.tensors.iter().all(|&(_, bytes)| bytes == 0) {
            return Err("it has no weights".to_owned());
        }
        let number = |key: &str| self.number(key).unwrap_or(0);
        // llama.cpp wants these of every architecture, and reads 32 bits.
        for key in ["block_count", "embedding_length", "context_length"] {
            match number(key) {
                0 => return Err(format!("its header says that {key} is 0, or does not say it")),
                value if value > u32::MAX.into() => {
                    return Err(format!("its header says that {key} is {value}"));
                }
                _ => {}
            }
        }
        if number("block_count") > MOST_LAYERS as u64 {
            return Err(format!("its header says that it has {} layers", number("block_count")));
        }
        // A recurrent model has none of this.
        let attention = [".attn_q", ".attn_k"];
        let attends = |(name, _): &(String, u64)| attention.iter().any(|part| name.contains(part));
        let Shape { width, heads, kv_heads, keys, values, .. } = Shape::of(self);
        let parts = [number("attention.head_count"), heads, kv_heads, keys, values];
        let sensible = parts.iter().all(|part| (1..=width.max(MOST_OF_HEADS)).contains(part));
        if self.tensors.iter().any(attends) && !sensible {
            return Err(format!(
                "its header's numbers of attention heads make no sense: {} heads, {kv_heads} of keys and \
                 values, {keys} and {values} wide",
                number("attention.head_count")
            ));
        }
        Ok(())
    }

    /// The sizes of a file's parts.
    pub(super) fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        let add = |size: &mut u64, bytes: u64| *size = size.saturating_add(bytes);
        for (name, bytes) in &self.tensors {
            let layer =
                name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
            let layer = layer.filter(|&layer: &usize| layer < MOST_LAYERS);
            match layer {
                Some(layer) => {
                    if weights.layers.len() <= layer {
                        weights.layers.resize(layer + 1, Layer::default());
                    }
                    add(&mut weights.layers[layer].all, *bytes);
                    if name.contains("exps.") {
                        add(&mut weights.layers[layer].experts, *bytes);
                    }
                }
                None if name.starts_with("token_embd") => add(&mut weights.input, *bytes),
                None => add(&mut weights.output, *bytes),
            }
        }
        // Embeddings that are the output matrix too are there twice.
        if !self.tensors.iter().any(|(name, _)| name == "output.weight") {
            weights.tied = weights.input;
            add(&mut weights.output, weights.input);
        }
        weights
    }

    /// Multiplications per token, estimated for a transformer with a gated feed-forward network. An error moves
    /// only models near the layout's threshold.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        let Shape { layers, width, heads, kv_heads, keys, values } = Shape::of(self);
        let of = |key: &str| self.number(key).filter(|&number| number > 0);
        let dense = of("feed_forward_length").unwrap_or(0);
        let network = match of("expert_used_count") {
            Some(used) => of("expert_feed_forward_length").unwrap_or(dense).saturating_mul(used),
            None => dense,
        };
        let attention = product(&[layers, heads, keys.saturating_add(values)]);
        let projections =
            product(&[layers, width, heads.saturating_add(kv_heads), keys.saturating_add(values)]);
        let network = product(&[3, layers, width, network]);
        let output = product(&[width, self.n_vocab]);
        let matrices = projections.saturating_add(network).saturating_add(output);
        Arithmetic { matrices, attention }
    }

    /// Memory that running takes beside the weights, estimated, in bytes: `forebay fit` and the log of a load
    /// print both parts.
    pub(super) fn running(&self, config: &ModelConfig, on_cpu: bool) -> Running {
        let shape = Shape::of(self);
        let number = |key: &str| self.number(key).unwrap_or(0);
        let n_ctx_train = u32::try_from(number("context_length")).unwrap_or(u32::MAX);
        let arithmetic = self.arithmetic();
        let facts =
            Facts { n_ctx_train, on_cpu, rewinds: true, saves: true, kv_bytes: 1, arithmetic };
        let cells = u64::from(layout::of(config, &facts).cells);
        let batch = config.batch_size.unwrap_or(DEFAULT_BATCH);
        let rows = u64::from(config.ubatch_size.unwrap_or(DEFAULT_UBATCH).min(batch));
        // The widest results: logits of a step, or the feed-forward network's beside a few others.
        let network = number("feed_forward_length").saturating_mul(2);
        let widest = self.n_vocab.max(network.saturating_add(shape.width.saturating_mul(4)));
        let results = product(&[rows, widest.saturating_add(cells), 4]);
        let kv_layer = config.kv_type.bytes(product(&[cells, shape.kv_numbers()]));
        Running { kv_layer, compute: results.saturating_add(16 << 20) }
    }

    /// Bytes of a token's keys and values in all layers.
    pub(super) fn kv_bytes(&self, kind: KvType) -> u64 {
        let shape = Shape::of(self);
        kind.bytes(product(&[shape.layers, shape.kv_numbers()])).max(1)
    }
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

    /// Numbers of a token's keys and values in one layer.
    fn kv_numbers(&self) -> u64 {
        self.kv_heads.saturating_mul(self.keys.saturating_add(self.values))
    }
}

#[cfg(test)]
mod tests;
