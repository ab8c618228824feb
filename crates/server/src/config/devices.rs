//! Settings of where a model is put, and how.

use std::str::FromStr;

use forebay_engine::KvType;
use forebay_engine::fit::GpuLayers;
use serde::{Deserialize, Deserializer};

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

/// How several GPUs share a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SplitSetting {
    /// Each has some of the layers.
    Layer,
    /// Each has some rows of each matrix.
    Row,
    /// The main one has all.
    None,
}

/// Something that may be left to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they say it")]
pub enum Switch {
    Auto,
    On,
    Off,
}

/// How keys and values are stored, by ggml's names of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
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
