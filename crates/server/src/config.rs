//! The settings: defaults < file < environment < flags, validated before a socket is bound or a model is loaded;
//! all errors are reported at once.
//!
//! `config/server.rs` and `config/model.rs` hold the tables. An entry there makes the field, its default, its key in the file, its
//! environment variable, its flags, its check and its documentation in `config/forebay.toml`.

mod devices;
mod example;
mod flags;
mod layers;
mod model;
mod sections;
mod server;
mod setting;
mod table;

use std::path::PathBuf;

pub use devices::{GpuLayersSetting, KvTypeSetting, SplitSetting, Switch, TensorSplitSetting};
pub use example::example_file;
pub(crate) use flags::ConfigArgs;
pub use layers::{ConfigErrors, LayerValue, Layers, SettingOrigin};
pub use model::{KindSetting, KvLayoutSetting, ModelSettings, PoolingSetting};
pub use server::{
    AdminSettings, LimitSettings, LogFormat, LogSettings, ServerSettings, StoreSettings,
};

/// The longest name of a model, in bytes: it goes on a command line and into the names of threads.
const MAX_NAME: usize = 256;

/// Everything that can be configured.
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
    /// The directory that `server.cache_dir` means; `None` without a cache.
    pub cache: Option<PathBuf>,
}

impl Settings {
    /// Merges the layers and checks the result.
    ///
    /// # Errors
    /// All that is wrong, with where it came from.
    pub fn resolve(mut layers: Layers) -> Result<Self, ConfigErrors> {
        let mut settings = Self::default();
        settings.server.read(&mut layers, "server");
        settings.cache = settings.server.cache(&layers);
        settings.limits.read(&mut layers, "limits");
        settings.admin.read(&mut layers, "admin");
        settings.log.read(&mut layers, "log");
        settings.store.read(&mut layers, "store");
        for index in 0..layers.model_count() {
            let section = format!("model.{index}");
            let mut model = ModelSettings::default();
            model.read(&mut layers, &section);
            model.check(&mut layers, &section);
            model.complete_names();
            settings.models.push(model);
        }
        settings.check_names(&mut layers);
        settings.check_memory(&mut layers);
        layers.finish()?;
        Ok(settings)
    }

    /// Refuses a memory limit that would not be enforced.
    fn check_memory(&self, layers: &mut Layers) {
        let enforced = self.server.engine_processes && cfg!(target_os = "linux");
        for (index, model) in self.models.iter().enumerate() {
            if model.memory_limit_mib > 0 && !enforced {
                let why = "needs server.engine_processes, and Linux";
                layers.error(format!("model.{index}.memory_limit_mib: {why}"));
            }
        }
    }

    /// Refuses names that are too long, cannot be printed, or name two models.
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
    /// The directory that `cache_dir` means; `None` without a cache.
    fn cache(&self, layers: &Layers) -> Option<PathBuf> {
        if self.cache_dir.as_os_str() == "auto" {
            return layers.user_cache();
        }
        Some(self.cache_dir.clone()).filter(|path| !path.as_os_str().is_empty())
    }
}

#[cfg(test)]
mod tests;
