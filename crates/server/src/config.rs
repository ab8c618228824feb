//! The one configuration surface: defaults < file < environment < flags, validated before anything
//! is bound or loaded, all errors told at once.

mod devices;
mod layers;

use std::path::PathBuf;

use serde::Deserialize;

/// The longest name of a model, in bytes: it goes on a command line and into the names of threads.
const MAX_NAME: usize = 256;

pub use layers::{ConfigErrors, Layers, Origin};

/// Everything that can be configured. `config/forebay.toml` documents each field.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[limits]`
    pub limits: LimitSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[store]`
    pub store: StoreSettings,
    /// `[[model]]`, one entry each.
    pub models: Vec<ModelSettings>,
    /// The directory that `server.cache_dir` means; `None` if nothing is to be kept there.
    pub cache: Option<PathBuf>,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "documented in config/forebay.toml, which a test holds to be complete"
)]
pub struct ServerSettings {
    pub host: String,
    pub port: u16,
    pub strict: bool,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_body_bytes: usize,
    pub header_timeout_s: u64,
    pub body_timeout_s: u64,
    pub write_timeout_s: u64,
    pub keepalive_s: u64,
    pub drain_delay_s: u64,
    pub drain_timeout_s: u64,
    pub max_choices: u32,
    pub engine_processes: bool,
    pub cache_dir: PathBuf,
    pub cors_origins: Vec<String>,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "documented in config/forebay.toml, which a test holds to be complete"
)]
pub struct LimitSettings {
    pub max_requests: usize,
    pub memory_mib: usize,
    pub request_memory_mib: usize,
    pub text_kib: usize,
    pub history_kib: usize,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "documented in config/forebay.toml, which a test holds to be complete"
)]
pub struct AdminSettings {
    pub host: String,
    pub port: u16,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "documented in config/forebay.toml, which a test holds to be complete"
)]
pub struct LogSettings {
    pub level: String,
    pub format: LogFormat,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "documented in config/forebay.toml, which a test holds to be complete"
)]
pub struct StoreSettings {
    pub enabled: bool,
    pub path: PathBuf,
    pub max_mib: u32,
    pub max_age_hours: u32,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[[model]]`
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "documented in config/forebay.toml, which a test holds to be complete"
)]
pub struct ModelSettings {
    pub path: PathBuf,
    pub name: String,
    pub aliases: Vec<String>,
    pub kind: KindSetting,
    pub ctx_size: u32,
    pub parallel: u32,
    pub kv_layout: KvLayoutSetting,
    pub long_slot: bool,
    pub kv_host_mib: u32,
    pub batch_size: u32,
    pub ubatch_size: u32,
    pub itl_target_ms: u32,
    pub reproducible: bool,
    pub threads: u32,
    pub gpu_layers: GpuLayersSetting,
    pub gpu_margin_mib: u32,
    pub cpu_moe_layers: i32,
    pub split_mode: SplitSetting,
    pub tensor_split: TensorSplitSetting,
    pub main_gpu: u32,
    pub kv_type: KvTypeSetting,
    pub flash_attention: Switch,
    pub mmap: bool,
    pub speculate: bool,
    pub queue: usize,
    pub queue_tokens: usize,
    pub queue_timeout_s: u64,
    pub unread_mib: usize,
    pub memory_limit_mib: u32,
    pub pooling: PoolingSetting,
    pub matryoshka: bool,
    pub chat_template: PathBuf,
}

pub use devices::{GpuLayersSetting, KvTypeSetting, SplitSetting, Switch, TensorSplitSetting};

/// What to use a model for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KindSetting {
    /// What its file says.
    Auto,
    /// Text generation.
    Chat,
    /// Text to vectors.
    Embedding,
}

/// How sequences lie in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
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

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            strict: false,
            max_connections: 4096,
            max_connections_per_address: 0,
            max_body_bytes: 32 << 20,
            header_timeout_s: 10,
            body_timeout_s: 30,
            write_timeout_s: 30,
            keepalive_s: 10,
            drain_delay_s: 5,
            drain_timeout_s: 120,
            max_choices: 8,
            engine_processes: true,
            cache_dir: "auto".into(),
            cors_origins: Vec::new(),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_requests: 8192,
            memory_mib: 256,
            request_memory_mib: 128,
            text_kib: 2048,
            history_kib: 4096,
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: 0 }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { enabled: true, path: PathBuf::new(), max_mib: 256, max_age_hours: 720 }
    }
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            name: String::new(),
            aliases: Vec::new(),
            kind: KindSetting::Auto,
            ctx_size: 0,
            parallel: 4,
            kv_layout: KvLayoutSetting::Auto,
            long_slot: true,
            kv_host_mib: 1024,
            batch_size: 0,
            ubatch_size: 0,
            itl_target_ms: 0,
            reproducible: false,
            threads: 0,
            gpu_layers: GpuLayersSetting::default(),
            gpu_margin_mib: 1024,
            cpu_moe_layers: -1,
            split_mode: SplitSetting::Layer,
            tensor_split: TensorSplitSetting::default(),
            main_gpu: 0,
            kv_type: KvTypeSetting::F16,
            flash_attention: Switch::Auto,
            mmap: true,
            speculate: true,
            queue: 256,
            queue_tokens: 0,
            queue_timeout_s: 600,
            unread_mib: 64,
            memory_limit_mib: 0,
            pooling: PoolingSetting::Model,
            matryoshka: false,
            chat_template: PathBuf::new(),
        }
    }
}

impl Settings {
    /// Reads every layer's values.
    ///
    /// # Errors
    /// All that is wrong, with where it came from.
    pub fn resolve(mut layers: Layers) -> Result<Self, ConfigErrors> {
        let mut settings = Self::default();
        settings.server.read(&mut layers);
        settings.cache = settings.server.cache(&layers);
        settings.limits.read(&mut layers);
        layers.take("admin.host", &mut settings.admin.host);
        layers.take("admin.port", &mut settings.admin.port);
        settings.log.read(&mut layers);
        settings.store.read(&mut layers);
        for index in 0..layers.model_count() {
            let mut model = ModelSettings::default();
            model.read(&mut layers, index);
            settings.models.push(model);
        }
        settings.check_names(&mut layers);
        settings.check_memory(&mut layers);
        layers.finish()?;
        Ok(settings)
    }

    /// A limit that nobody would keep is refused.
    fn check_memory(&self, layers: &mut Layers) {
        let kept = self.server.engine_processes && cfg!(target_os = "linux");
        for (index, model) in self.models.iter().enumerate() {
            if model.memory_limit_mib > 0 && !kept {
                let why = "needs server.engine_processes, and Linux";
                layers.error(format!("model.{index}.memory_limit_mib: {why}"));
            }
        }
    }

    /// Every name must lead to one model.
    fn check_names(&self, layers: &mut Layers) {
        let mut seen: Vec<&str> = Vec::new();
        for name in self.models.iter().flat_map(ModelSettings::names) {
            if name.len() > MAX_NAME || name.chars().any(char::is_control) {
                let name: String = name.chars().take(50).collect();
                layers.error(format!(
                    "a model's name has at most {MAX_NAME} bytes and no control characters: {name:?}"
                ));
            }
            if seen.contains(&name) {
                layers.error(format!("two models are called \"{name}\""));
            }
            seen.push(name);
        }
    }
}

impl ServerSettings {
    fn read(&mut self, layers: &mut Layers) {
        layers.take("server.host", &mut self.host);
        layers.take("server.port", &mut self.port);
        layers.take("server.strict", &mut self.strict);
        layers.take_in("server.max_connections", &mut self.max_connections, 1, 1_000_000);
        let per_address = &mut self.max_connections_per_address;
        layers.take_in("server.max_connections_per_address", per_address, 0, 1_000_000);
        layers.take_in("server.max_body_bytes", &mut self.max_body_bytes, 1024, 1 << 30);
        layers.take_in("server.header_timeout_s", &mut self.header_timeout_s, 1, 3600);
        layers.take_in("server.body_timeout_s", &mut self.body_timeout_s, 1, 3600);
        layers.take_in("server.write_timeout_s", &mut self.write_timeout_s, 1, 3600);
        layers.take_in("server.keepalive_s", &mut self.keepalive_s, 1, 3600);
        layers.take_in("server.drain_delay_s", &mut self.drain_delay_s, 0, 3600);
        layers.take_in("server.drain_timeout_s", &mut self.drain_timeout_s, 0, 86_400);
        layers.take_in("server.max_choices", &mut self.max_choices, 1, 128);
        layers.take("server.engine_processes", &mut self.engine_processes);
        layers.take("server.cache_dir", &mut self.cache_dir);
        layers.take("server.cors_origins", &mut self.cors_origins);
        for origin in &self.cors_origins {
            if origin.parse::<axum::http::HeaderValue>().is_err() {
                layers.error(format!("server.cors_origins: {origin:?} is not an origin"));
            }
        }
    }

    /// The directory for what can be measured again.
    fn cache(&self, layers: &Layers) -> Option<PathBuf> {
        if self.cache_dir.as_os_str() == "auto" {
            return layers.user_cache();
        }
        Some(self.cache_dir.clone()).filter(|path| !path.as_os_str().is_empty())
    }
}

impl LimitSettings {
    fn read(&mut self, layers: &mut Layers) {
        layers.take_in("limits.max_requests", &mut self.max_requests, 1, 1_000_000);
        layers.take_in("limits.memory_mib", &mut self.memory_mib, 8, 1 << 20);
        layers.take_in("limits.request_memory_mib", &mut self.request_memory_mib, 1, 1 << 20);
        layers.take_in("limits.text_kib", &mut self.text_kib, 1, 1 << 20);
        layers.take_in("limits.history_kib", &mut self.history_kib, 1, 1 << 20);
    }
}

impl LogSettings {
    fn read(&mut self, layers: &mut Layers) {
        layers.take("log.level", &mut self.level);
        layers.take("log.format", &mut self.format);
        if self.level.parse::<tracing_subscriber::EnvFilter>().is_err() {
            layers.error(format!(
                "log.level: {:?} is neither a level nor a filter such as \"info,forebay_engine=debug\"",
                self.level
            ));
        }
    }
}

impl StoreSettings {
    fn read(&mut self, layers: &mut Layers) {
        layers.take("store.enabled", &mut self.enabled);
        layers.take("store.path", &mut self.path);
        layers.take_in("store.max_mib", &mut self.max_mib, 1, 1 << 20);
        layers.take_in("store.max_age_hours", &mut self.max_age_hours, 1, 876_000);
    }
}

impl ModelSettings {
    fn read(&mut self, layers: &mut Layers, index: usize) {
        let key = |name: &str| format!("model.{index}.{name}");
        layers.take(&key("path"), &mut self.path);
        layers.take(&key("name"), &mut self.name);
        layers.take(&key("aliases"), &mut self.aliases);
        layers.take(&key("kind"), &mut self.kind);
        layers.take_in(&key("ctx_size"), &mut self.ctx_size, 0, 1 << 24);
        layers.take_in(&key("parallel"), &mut self.parallel, 1, 256);
        layers.take(&key("kv_layout"), &mut self.kv_layout);
        layers.take(&key("long_slot"), &mut self.long_slot);
        layers.take_in(&key("kv_host_mib"), &mut self.kv_host_mib, 0, 1 << 24);
        layers.take_in(&key("batch_size"), &mut self.batch_size, 0, 1 << 16);
        layers.take_in(&key("ubatch_size"), &mut self.ubatch_size, 0, 1 << 16);
        layers.take_in(&key("itl_target_ms"), &mut self.itl_target_ms, 0, 60_000);
        layers.take(&key("reproducible"), &mut self.reproducible);
        layers.take_in(&key("threads"), &mut self.threads, 0, 4096);
        layers.take(&key("gpu_layers"), &mut self.gpu_layers);
        layers.take_in(&key("gpu_margin_mib"), &mut self.gpu_margin_mib, 0, 1 << 24);
        layers.take_in(&key("cpu_moe_layers"), &mut self.cpu_moe_layers, -1, 100_000);
        layers.take(&key("split_mode"), &mut self.split_mode);
        layers.take(&key("tensor_split"), &mut self.tensor_split);
        let parts = !self.tensor_split.parts().is_empty();
        match self.split_mode {
            SplitSetting::None if parts => {
                layers.error(key("tensor_split: split_mode \"none\" gives all to main_gpu"));
            }
            SplitSetting::Tensor if parts => {
                layers.error(key("tensor_split: split_mode \"tensor\" gives all GPUs equal parts"));
            }
            _ => {}
        }
        layers.take_in(&key("main_gpu"), &mut self.main_gpu, 0, 255);
        if self.main_gpu != 0 && self.split_mode != SplitSetting::None {
            layers.error(key("main_gpu: it counts with split_mode \"none\" alone"));
        }
        layers.take(&key("kv_type"), &mut self.kv_type);
        layers.take(&key("flash_attention"), &mut self.flash_attention);
        if self.flash_attention == Switch::Off {
            if self.split_mode == SplitSetting::Tensor {
                layers.error(key("split_mode: \"tensor\" needs flash_attention"));
            }
            if self.kv_type.is_quantised() {
                layers.error(key("kv_type: quantised types need flash_attention"));
            }
        }
        layers.take(&key("mmap"), &mut self.mmap);
        layers.take(&key("speculate"), &mut self.speculate);
        layers.take_in(&key("queue"), &mut self.queue, 0, 100_000);
        layers.take_in(&key("queue_tokens"), &mut self.queue_tokens, 0, 1 << 32);
        layers.take_in(&key("queue_timeout_s"), &mut self.queue_timeout_s, 0, 86_400);
        layers.take_in(&key("unread_mib"), &mut self.unread_mib, 1, 1 << 20);
        layers.take_in(&key("memory_limit_mib"), &mut self.memory_limit_mib, 0, 1 << 24);
        layers.take(&key("pooling"), &mut self.pooling);
        layers.take(&key("matryoshka"), &mut self.matryoshka);
        layers.take(&key("chat_template"), &mut self.chat_template);
        if self.path.as_os_str().is_empty() {
            layers.error(format!("model.{index}.path: which GGUF file?"));
        }
        if self.name.is_empty() {
            let stem = self.path.file_stem().map(|s| s.to_string_lossy().into_owned());
            self.name = stem.unwrap_or_default();
        }
        // An alias that is the model's own name, or is given twice, asks for nothing new.
        let mut seen = std::collections::HashSet::from([self.name.clone()]);
        self.aliases.retain(|alias| seen.insert(alias.clone()));
    }

    /// The names that requests may use: its own, then the aliases. `*` stands for any.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests;
