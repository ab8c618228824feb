//! The table of a model's settings, and checks of several of them together.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::devices::{GpuLayersSetting, KvTypeSetting, SplitSetting, Switch, TensorSplitSetting};
use super::layers::Layers;
use super::table::settings;

settings! {
    /// One section for each model; as many as you like, chat and embedding models side by side.
    "model" ModelSettings {
        /// The GGUF file.
        path: PathBuf = PathBuf::new(), example("models/my-model.gguf".into());
        /// What clients call the model; without a name, the file's name without ".gguf".
        name: String = String::new(), example("my-model".to_owned());
        /// Further name for the model: "gpt-4o", or "*" for every name that no other model has.
        aliases: Vec<String> = Vec::new(), list("-a --alias <NAME>"), example(vec!["gpt-4o".to_owned()]);
        /// What to use the model for: "chat", "embedding", or "auto": as in its file.
        kind: KindSetting = KindSetting::Auto,
            switch("--embeddings --embedding", "embedding", "Use a text generation model for embeddings");
        /// KV cache over all answers, in tokens; 0 for the model's context up to 4096, times `parallel`.
        ctx_size: u32 = 0, range(0..=1 << 24), flag("-c --ctx-size <TOKENS>");
        /// Answers generated at the same time.
        parallel: u32 = 4, range(1..=256), flag("--parallel --np <N>");
        /// How sequences lie in the KV cache: "auto", "shared" or "split".
        /// "shared": all answers in one pool, so that each may use all of it (up to the model's context) and
        /// common prefixes are stored once. "split": each in an equal part of its own, so that on a CPU
        /// attention does not go over the cells of others. "auto": split on a CPU where that would take more
        /// than 5 % of a decode row's time (small models, many or long answers) or with reproducible, else
        /// shared.
        kv_layout: KvLayoutSetting = KvLayoutSetting::Auto, choice("--kv-layout <LAYOUT>");
        /// With "split": compute a request that is too long for its part in a context as large as all parts.
        /// One such request runs at a time. The memory is allocated when it is first needed.
        long_slot: bool = true;
        /// Host memory for prompts and answers that the KV cache has no room for, in MiB; 0 for none.
        /// Models with a sliding window or a recurrent state need it to reuse anything but the whole of what a
        /// slot holds: their checkpoints are here.
        kv_host_mib: u32 = 1024, range(0..=1 << 24), flag("--kv-host-mib <MIB>");
        /// Tokens computed in one step; 0 for what fits the kind of model.
        batch_size: u32 = 0, range(0..=1 << 16), flag("-b --batch-size <TOKENS>");
        /// Tokens that the backend computes at once; 0 for what fits the kind of model.
        ubatch_size: u32 = 0, range(0..=1 << 16), flag("--ubatch-size <TOKENS>");
        /// The mean time between two tokens of an answer while other requests' prompts are computed, in milliseconds.
        /// It is kept unless decoding alone takes longer. Less is smoother; more lets prompts through faster.
        /// 0: no target; it is about 150, and up to 450 or more if smaller chunks of prompts would cost more.
        itl_target_ms: u32 = 0, range(0..=60_000);
        /// Give a request that runs alone the same answer, bit for bit, whatever was in the cache before.
        /// On a CPU with kv_layout "split". Prompts are then computed and reused in blocks of 64, and the last
        /// 64 to 127 tokens (of a prompt under 128 all) always computed; on a GPU it changes nothing. Otherwise
        /// the whole common prefix is reused, and texts may diverge where two tokens are nearly tied.
        reproducible: bool = false;
        /// CPU threads; 0 for all cores.
        threads: u32 = 0, range(0..=4096), flag("-t --threads <N>");
        /// Layers to put on GPUs: a number, "all", or "auto" for as many as fit with their part of the KV cache.
        /// `forebay fit` prints what that would be.
        gpu_layers: GpuLayersSetting = GpuLayersSetting::default(), flag("--gpu-layers --ngl <N>");
        /// What to leave free on each GPU with "auto", in MiB.
        gpu_margin_mib: u32 = 1024, range(0..=1 << 24);
        /// Layers whose experts stay on the CPU, from the first one; -1 for as few as fit.
        /// For mixtures of experts. As few as fit are found with gpu_layers "auto".
        cpu_moe_layers: i32 = -1, range(-1..=100_000), flag("--cpu-moe-layers --n-cpu-moe <N>");
        /// How several GPUs share a model: "layer", "tensor" or "none".
        /// "layer": each has some of the layers, in proportion to its free memory. "tensor": each has a part of
        /// every layer, and all compute it together, in equal parts (llama.cpp calls it experimental, has it for
        /// some architectures alone, and may abort if a model's heads do not divide evenly). "none": the main
        /// one has all.
        split_mode: SplitSetting = SplitSetting::Layer, choice("--split-mode <MODE>");
        /// The part of a model that each GPU gets, such as [3, 1] or "3,1"; 0 leaves one out.
        /// None: in proportion to free memory.
        tensor_split: TensorSplitSetting = TensorSplitSetting::default(),
            flag("--tensor-split --ts <PARTS>");
        /// With split_mode "none": which of the GPUs in use holds the whole model, from 0.
        /// With another mode it has to be 0.
        main_gpu: u32 = 0, range(0..=255), flag("--main-gpu <N>");
        /// How keys and values are stored.
        /// "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1" or "q4_0".
        kv_type: KvTypeSetting = KvTypeSetting::F16, choice("--kv-type <TYPE>");
        /// Compute attention in blocks, without storing all its weights: "on", "off", or "auto".
        /// "auto": if the device can. Quantised values in the KV cache need it.
        flash_attention: Switch = Switch::Auto, choice("--flash-attention --fa <WHEN>");
        /// Map the file into memory instead of reading it.
        mmap: bool = true;
        /// Draft tokens from what an answer repeats of its prompt or itself, if that saves time.
        /// It changes no text.
        speculate: bool = true;
        /// Requests that may wait; more get 429 at once.
        queue: usize = 256, range(0..=100_000), flag("--queue <N>");
        /// Prompt tokens that may wait or run, over all requests; 0 for 16 times the KV cache.
        /// Embeddings and reranking: tokens of all inputs, and the most that one request may have; 0 for 4194304.
        queue_tokens: usize = 0, range(0..=1 << 32);
        /// The longest that a request may wait, in seconds; 0 for no limit.
        queue_timeout_s: u64 = 600, range(0..=86_400);
        /// Memory for text and log probabilities that clients have not read yet, over all requests, in MiB.
        /// Beyond that the answers that finished first are dropped; their streams end with an error. The more
        /// answers run at a time, and the more log probabilities they have, the more this should be.
        unread_mib: usize = 64, range(1..=1 << 20);
        /// Memory of the model's process, in MiB, without what is mapped from the file or is on a GPU; 0 for no limit.
        /// A process that takes more is started again. Only on Linux, and not without engine_processes.
        memory_limit_mib: u32 = 0, range(0..=1 << 24);
        /// Embeddings: how token vectors become one: "mean", "cls", "last", or "model": the model's own way.
        pooling: PoolingSetting = PoolingSetting::Model, choice("--pooling <KIND>");
        /// Embeddings: the model was trained so that its vectors may be cut; allows `dimensions`.
        matryoshka: bool = false;
        /// File with a Jinja chat template to use instead of the model's own.
        chat_template: PathBuf = PathBuf::new(), file("--chat-template --chat-template-file <FILE>");
    }
}

/// What to use a model for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KindSetting {
    /// As in its file.
    Auto,
    /// Text generation.
    Chat,
    /// Text to vectors.
    Embedding,
}

/// How sequences lie in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KvLayoutSetting {
    /// What suits the device and the number of sequences.
    Auto,
    /// All in one pool.
    Shared,
    /// Each in an equal part of its own.
    Split,
}

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PoolingSetting {
    /// The model's own way.
    Model,
    /// Their mean.
    Mean,
    /// The first one.
    Cls,
    /// The last one.
    Last,
}

impl ModelSettings {
    /// Names the model after its file if it has no name, and removes aliases that add nothing.
    pub(super) fn complete_names(&mut self) {
        if self.name.is_empty() {
            let stem = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            self.name = stem.unwrap_or_default();
        }
        let mut seen = HashSet::from([self.name.clone()]);
        self.aliases.retain(|alias| seen.insert(alias.clone()));
    }

    /// Reports settings that contradict each other. Keys begin with `section`.
    pub(super) fn check(&self, layers: &mut Layers, section: &str) {
        let parts = !self.tensor_split.parts().is_empty();
        let without_attention_blocks = self.flash_attention == Switch::Off;
        let wrong = [
            (self.path.as_os_str().is_empty(), "path: which GGUF file?"),
            (
                parts && self.split_mode == SplitSetting::None,
                "tensor_split: split_mode \"none\" gives all to main_gpu",
            ),
            (
                parts && self.split_mode == SplitSetting::Tensor,
                "tensor_split: split_mode \"tensor\" gives all GPUs equal parts",
            ),
            (
                self.main_gpu != 0 && self.split_mode != SplitSetting::None,
                "main_gpu: it counts with split_mode \"none\" alone",
            ),
            (
                without_attention_blocks && self.split_mode == SplitSetting::Tensor,
                "split_mode: \"tensor\" needs flash_attention",
            ),
            (
                without_attention_blocks && self.kv_type.is_quantised(),
                "kv_type: quantised types need flash_attention",
            ),
        ];
        for (_, why) in wrong.into_iter().filter(|(is_wrong, _)| *is_wrong) {
            layers.error(format!("{section}.{why}"));
        }
    }

    /// The names that requests may use: its own, then the aliases. `*` stands for any.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}
