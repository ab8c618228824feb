//! Settings of where a model is put, and how.

use std::str::FromStr;

use forebay_engine::KvType;
use forebay_engine::placement::GpuLayers;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of layers, `all`, or `auto`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuLayersSetting(pub GpuLayers);

impl FromStr for GpuLayersSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse::<u32>()) {
            ("auto", _) => Ok(Self(GpuLayers::Auto)),
            // `-1` is what llama.cpp calls all.
            ("all" | "-1", _) => Ok(Self(GpuLayers::All)),
            (_, Ok(number)) => Ok(Self(GpuLayers::Number(number))),
            _ => Err(format!("{text:?} is neither a number, \"all\" nor \"auto\"")),
        }
    }
}

impl std::fmt::Display for GpuLayersSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            GpuLayers::Auto => f.write_str("auto"),
            GpuLayers::All => f.write_str("all"),
            GpuLayers::Number(number) => write!(f, "{number}"),
        }
    }
}

impl<'de> Deserialize<'de> for GpuLayersSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(i64),
            Text(String),
        }
        let text = match Either::deserialize(deserializer)? {
            Either::Number(number) => number.to_string(),
            Either::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for GpuLayersSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How several GPUs share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SplitSetting {
    /// Each has some of the layers.
    Layer,
    /// Each has a part of every layer, and all compute it together.
    Tensor,
    /// The main one has all.
    None,
}

/// The part of a model that each GPU gets, beside the others' parts: `[3, 1]`, or `3,1` as llama.cpp has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorSplitSetting(Vec<u64>);

impl TensorSplitSetting {
    /// The most parts.
    const MOST: usize = forebay_engine::placement::MAX_GPUS;
    /// The largest part.
    const LARGEST: f64 = 1e6;
    /// What a part of 1 counts.
    const ONE: f64 = 1e6;

    fn new(given: &[f64]) -> Result<Self, String> {
        if given.len() > Self::MOST {
            return Err(format!(
                "{} parts, but there are {} GPUs at most",
                given.len(),
                Self::MOST
            ));
        }
        if let Some(part) = given.iter().find(|part| !(0.0..=Self::LARGEST).contains(*part)) {
            return Err(format!("{part} is not between 0 and {}", Self::LARGEST));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "up to 10^12")]
        let parts: Vec<u64> = given.iter().map(|part| (part * Self::ONE).round() as u64).collect();
        if let Some(part) =
            given.iter().zip(&parts).find(|&(&given, &part)| given > 0.0 && part == 0)
        {
            return Err(format!("{} is less than {}; 0 leaves a GPU out", part.0, 1.0 / Self::ONE));
        }
        if !parts.is_empty() && parts.iter().all(|&part| part == 0) {
            return Err("some GPU has to get a part".to_owned());
        }
        Ok(Self(parts))
    }

    /// The parts, of any unit; none if they are to follow free memory.
    pub fn parts(&self) -> &[u64] {
        &self.0
    }
}

impl FromStr for TensorSplitSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let number = |part: &str| part.trim().parse().map_err(|_| format!("{part:?} is no number"));
        Self::new(&text.split(',').map(number).collect::<Result<Vec<f64>, String>>()?)
    }
}

impl Serialize for TensorSplitSetting {
    #[expect(clippy::cast_precision_loss, reason = "up to 10^12")]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|&part| part as f64 / Self::ONE))
    }
}

impl<'de> Deserialize<'de> for TensorSplitSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a list of numbers, such as [3, 1], or \"3,1\"")]
        enum Any {
            List(Vec<f64>),
            Number(f64),
            Text(String),
        }
        let setting = match Any::deserialize(deserializer)? {
            Any::List(parts) => Self::new(&parts),
            Any::Number(part) => Self::new(&[part]),
            Any::Text(text) => text.parse(),
        };
        setting.map_err(serde::de::Error::custom)
    }
}

/// Something that may be left to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Switch {
    Auto,
    On,
    Off,
}

/// How keys and values are stored, by ggml's names of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "snake_case")]
#[expect(missing_docs, reason = "ggml's names")]
pub enum KvTypeSetting {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
}

impl KvTypeSetting {
    /// Whether numbers are stored in blocks of a few bits each.
    pub fn is_quantised(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }
}

impl From<KvTypeSetting> for KvType {
    fn from(setting: KvTypeSetting) -> Self {
        match setting {
            KvTypeSetting::F32 => Self::F32,
            KvTypeSetting::F16 => Self::F16,
            KvTypeSetting::Bf16 => Self::Bf16,
            KvTypeSetting::Q8_0 => Self::Q8_0,
            KvTypeSetting::Q5_1 => Self::Q5_1,
            KvTypeSetting::Q5_0 => Self::Q5_0,
            KvTypeSetting::Q4_1 => Self::Q4_1,
            KvTypeSetting::Q4_0 => Self::Q4_0,
        }
    }
}
