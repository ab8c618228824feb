//! Reads a GGUF file's header, and derives a model's sizes from it. The file is untrusted: its numbers may have any
//! value, so arithmetic with them saturates.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use llama_cpp_sys_2 as sys;

use super::{GgufEntry, integer_width, read_gguf};
use crate::layout::Arithmetic;
use crate::model_info::Kind;
use crate::placement::{FitError, Layer, Weights};

/// The most layers that llama.cpp takes: `LLAMA_MAX_LAYERS`.
pub(super) const MAX_LAYERS: usize = 512;
/// The most heads, and the widest ones, that are accepted unless the model is wider itself.
const MAX_OF_HEADS: u64 = 1 << 20;

/// The most files of a model that are accepted.
const MAX_FILES: u64 = 1000;

/// The header of a model's file; of several files that of the first one, with the tensors of all.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Names, and sizes in bytes.
    pub(super) tensors: Vec<(String, u64)>,
    /// Numbers by key; `true` is 1, an array's number is its largest one.
    pub(super) numbers: HashMap<String, u64>,
    /// Arrays by key, unless they are longer than [`MAX_LAYERS`].
    pub(super) arrays: HashMap<String, Vec<u64>>,
    pub(super) architecture: String,
    /// Tokens of the vocabulary.
    pub(super) n_vocab: u64,
}

/// The dimensions of a model. Layers and width are 0 if the header has none; the others are then llama.cpp's defaults,
/// and `heads` is at least 1.
pub(super) struct ModelShape {
    layers: u64,
    pub(super) width: u64,
    pub(super) heads: u64,
    /// The largest one if layers differ.
    pub(super) kv_heads: u64,
    /// Width of a head's key, and of its value.
    pub(super) keys: u64,
    pub(super) values: u64,
}

/// The tensors that llama.cpp counts as a model's input, which stays on the CPU; the first is the token embeddings.
const INPUT: [&str; 4] = [
    "token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
    "per_layer_token_embd.weight",
];

/// Architectures without an output matrix.
pub(super) const ENCODERS: [&str; 9] = [
    "bert",
    "jina-bert-v2",
    "jina-bert-v3",
    "nomic-bert",
    "nomic-bert-moe",
    "neo-bert",
    "eurobert",
    "modern-bert",
    "clef",
];

/// The layer of a tensor and the rest of its name. Encoder and decoder layers with the same index count as one layer.
pub(super) fn layer_of(tensor: &str) -> Option<(usize, &str)> {
    let name = tensor.strip_prefix("enc.").or_else(|| tensor.strip_prefix("dec."));
    let (layer, part) = name.unwrap_or(tensor).strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.parse().ok().filter(|&layer| layer < MAX_LAYERS)?;
    Some((layer, part))
}

/// Decodes integers or booleans of this GGUF type; `None` for a negative one.
pub(super) fn integers(
    kind: sys::gguf_type,
    bytes: &[u8],
) -> impl Iterator<Item = Option<u64>> + use<'_> {
    let signed = [sys::GGUF_TYPE_INT8, sys::GGUF_TYPE_INT16, sys::GGUF_TYPE_INT32];
    let is_signed = kind == sys::GGUF_TYPE_INT64 || signed.contains(&kind);
    let number = move |bytes: &[u8]| -> Option<u64> {
        let number = match *bytes {
            [a] => a.into(),
            [a, b] => u16::from_ne_bytes([a, b]).into(),
            [a, b, c, d] => u32::from_ne_bytes([a, b, c, d]).into(),
            _ => u64::from_ne_bytes(bytes.try_into().ok()?),
        };
        let is_negative = is_signed && number >> (8 * bytes.len() - 1) == 1;
        (!is_negative).then_some(number)
    };
    bytes.chunks_exact(integer_width(kind).unwrap_or(usize::MAX)).map(number)
}

/// Checks that a file can be read.
///
/// # Errors
/// Why it cannot.
fn readable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let unreadable = |e| format!("cannot read {shown}: {e}");
    // A pipe would be waited for without end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    std::fs::File::open(path).map(drop).map_err(unreadable)
}

/// The saturating product.
pub(super) fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1_u64, |all, &factor| all.saturating_mul(factor))
}

impl Header {
    /// Reads a file's header, and the tensors of the model's other files.
    ///
    /// # Errors
    /// [`FitError::Unreadable`] or [`FitError::NoModel`].
    pub(super) fn read(path: &Path) -> Result<Self, FitError> {
        let name = |path: &Path| path.display().to_string();
        let read = |path: &Path| {
            readable(path).map_err(FitError::Unreadable)?;
            let none = || {
                FitError::Unreadable(format!("{} is not a GGUF file that can be read", name(path)))
            };
            let (header, end) = Self::of_file(path).ok_or_else(none)?;
            let size = std::fs::metadata(path).map_or(u64::MAX, |file| file.len());
            if size < end {
                let why =
                    format!("it has {size} bytes, and its header wants {end}: it is cut short");
                return Err(FitError::NoModel { file: name(path), why });
            }
            Ok(header)
        };
        let mut header = read(path)?;
        let others = header.other_files(path);
        for other in others.map_err(|why| FitError::NoModel { file: name(path), why })? {
            header.tensors.extend(read(&other)?.tensors);
        }
        Ok(header)
    }

    /// One file's, and where the last tensor ends, in bytes; `None` if it is no GGUF file.
    fn of_file(path: &Path) -> Option<(Self, u64)> {
        let (mut header, mut last) = (Self::default(), 0);
        read_gguf(path, &mut |entry| match entry {
            GgufEntry::Tensor { name, bytes, end } => {
                last = end.max(last);
                header.tensors.push((name, bytes));
            }
            GgufEntry::Value { key, kind, is_array, count, bytes, text } => {
                if is_array && key == "tokenizer.ggml.tokens" {
                    header.n_vocab = count as u64;
                }
                match text {
                    Some(text) if key == "general.architecture" => header.architecture = text,
                    _ if bytes.is_empty() => {}
                    _ => header.add_numbers(key, kind, bytes, is_array),
                }
            }
        })?;
        Some((header, last))
    }

    /// A number of the model's architecture, such as `block_count`.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.numbers.get(&format!("{}.{key}", self.architecture)).copied()
    }

    /// Records the numbers of a key, given as bytes of this GGUF type.
    pub(super) fn add_numbers(
        &mut self,
        key: String,
        kind: sys::gguf_type,
        bytes: &[u8],
        is_array: bool,
    ) {
        let largest = integers(kind, bytes).flatten().max();
        self.numbers.extend(largest.map(|number| (key.clone(), number)));
        if is_array && integers(kind, bytes).count() <= MAX_LAYERS {
            let all = integers(kind, bytes).map(Option::unwrap_or_default);
            self.arrays.insert(key, all.collect());
        }
    }

    /// A number of a layer, which the header has for each layer or once for all.
    pub(super) fn of_layer(&self, key: &str, layer: usize) -> Option<u64> {
        match self.arrays.get(&format!("{}.{key}", self.architecture)) {
            Some(each) => each.get(layer).copied(),
            None => self.number(key),
        }
    }

    /// Whether tokens attend only to those before them.
    pub(super) fn is_causal(&self) -> bool {
        self.number("attention.causal") != Some(0)
    }

    /// What the model is used for, unless configured.
    pub(super) fn kind(&self) -> Kind {
        Kind::by(self.number("pooling_type"), self.is_causal())
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
        if files > MAX_FILES {
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
        // llama.cpp wants these of every architecture, and computes with 32 bits and a sign.
        for key in ["block_count", "embedding_length", "context_length"] {
            match number(key) {
                0 => return Err(format!("its header says that {key} is 0, or does not say it")),
                value if value > i32::MAX.unsigned_abs().into() => {
                    return Err(format!("its header says that {key} is {value}"));
                }
                _ => {}
            }
        }
        if number("block_count") > MAX_LAYERS as u64 {
            return Err(format!("its header says that it has {} layers", number("block_count")));
        }
        // A recurrent model has none of this.
        let attention = [".attn_q", ".attn_k"];
        let attends = |(name, _): &(String, u64)| attention.iter().any(|part| name.contains(part));
        let ModelShape { width, heads, kv_heads, keys, values, .. } = ModelShape::of(self);
        let parts = [number("attention.head_count"), heads, kv_heads, keys, values];
        let sensible = parts.iter().all(|part| (1..=width.max(MAX_OF_HEADS)).contains(part));
        if self.tensors.iter().any(attends) && !sensible {
            return Err(format!(
                "its header's numbers of attention heads make no sense: {} heads, {kv_heads} of keys and \
                 values, {keys} and {values} wide",
                number("attention.head_count")
            ));
        }
        Ok(())
    }

    /// The sizes of the model's weights.
    pub(super) fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        let add = |size: &mut u64, bytes: u64| *size = size.saturating_add(bytes);
        for (name, bytes) in &self.tensors {
            match layer_of(name) {
                Some((layer, _)) => {
                    if weights.layers.len() <= layer {
                        weights.layers.resize(layer + 1, Layer::default());
                    }
                    add(&mut weights.layers[layer].all, *bytes);
                    if name.contains("exps.") {
                        add(&mut weights.layers[layer].experts, *bytes);
                    }
                }
                None if INPUT.contains(&name.as_str()) => add(&mut weights.input, *bytes),
                None => add(&mut weights.output, *bytes),
            }
        }
        // Layers for multi-token prediction are not loaded.
        let predicts =
            usize::try_from(self.number("nextn_predict_layers").unwrap_or(0)).unwrap_or(usize::MAX);
        let loaded = weights.layers.len().saturating_sub(predicts);
        weights.layers[loaded..].fill(Layer::default());
        // A tied output matrix is stored twice. Encoders have none.
        let has_output = !ENCODERS.contains(&self.architecture.as_str());
        if has_output && !self.tensors.iter().any(|(name, _)| name == "output.weight") {
            let tied = self.tensors.iter().find(|(name, _)| name == INPUT[0]);
            weights.tied = tied.map_or(0, |&(_, bytes)| bytes);
            add(&mut weights.output, weights.tied);
        }
        weights
    }

    /// Multiplications per token, estimated for a transformer with a gated feed-forward network. An error moves
    /// only models near the layout's threshold.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        let ModelShape { layers, width, heads, kv_heads, keys, values } = ModelShape::of(self);
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
}

impl ModelShape {
    pub(super) fn of(header: &Header) -> Self {
        let number = |key: &str| header.number(key).unwrap_or(0);
        let (width, heads) = (number("embedding_length"), number("attention.head_count").max(1));
        let keys = header.number("attention.key_length").unwrap_or(width / heads);
        Self {
            layers: number("block_count"),
            width,
            heads,
            kv_heads: header.number("attention.head_count_kv").unwrap_or(heads),
            keys,
            values: header.number("attention.value_length").unwrap_or(width / heads),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
