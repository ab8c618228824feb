//! Values by dotted key, each with its origin; later layers replace earlier ones.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Value;

use super::setting::Setting;

/// Where a setting's value came from, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingOrigin {
    /// The configuration file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A command-line flag.
    Flag(&'static str),
}

/// A value before it has the setting's type.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerValue {
    /// Of the configuration file.
    Toml(Value),
    /// Of the environment: `8080`, `true` and `["a"]` are TOML; anything else is a string.
    Text(String),
    /// Of a flag: a string, or TOML if the setting is no string.
    Argument(String),
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

/// The values of all layers. A model's keys are `model.0.path`; a key such as `model.ctx_size`
/// from the environment or a flag counts for every model.
#[derive(Debug, Default)]
pub struct Layers {
    values: BTreeMap<String, (LayerValue, SettingOrigin)>,
    errors: Vec<String>,
    known: Vec<String>,
    models: usize,
    /// `XDG_CACHE_HOME` and `HOME`, as far as they are absolute paths.
    cache_home: Option<PathBuf>,
    home: Option<PathBuf>,
}

/// The environment's prefix, and the variable that lists models.
const PREFIX: &str = "FOREBAY_";
const MODEL_LIST: &str = "FOREBAY_MODEL";

impl Layers {
    /// Adds the configuration file.
    pub fn file(&mut self, path: &Path) {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return self.error(format!("cannot read {shown}: {error}")),
        };
        self.toml(&text, &shown);
    }

    /// Adds the text of a configuration file called `shown`.
    pub fn toml(&mut self, text: &str, shown: &str) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return self.error(format!("{shown}: {error}")),
        };
        for (section, value) in table {
            match (section.as_str(), value) {
                ("model", Value::Array(models)) => {
                    for model in models {
                        let prefix = format!("model.{}", self.models);
                        self.models += 1;
                        self.section(&prefix, model, shown);
                    }
                }
                ("model", _) => {
                    self.error(format!(
                        "{shown}: models are written as [[model]], with two brackets"
                    ));
                }
                (_, value) => self.section(&section, value, shown),
            }
        }
    }

    fn section(&mut self, prefix: &str, value: Value, shown: &str) {
        let Value::Table(table) = value else {
            return self.error(format!("{shown}: {prefix} is outside of any section"));
        };
        for (key, value) in table {
            let origin = SettingOrigin::File(shown.to_owned());
            self.set(&format!("{prefix}.{key}"), LayerValue::Toml(value), origin);
        }
    }

    /// Adds environment variables: `FOREBAY_SERVER__PORT` is `server.port`, `FOREBAY_MODEL` is a
    /// comma-separated list as for `--model`, `FOREBAY_MODEL__CTX_SIZE` counts for every model.
    pub fn environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let mut rest = Vec::new();
        for (name, text) in variables {
            let folder = |text| Some(PathBuf::from(text)).filter(|path| path.is_absolute());
            if name == "XDG_CACHE_HOME" {
                self.cache_home = folder(text);
            } else if name == "HOME" {
                self.home = folder(text);
            } else if !name.starts_with(PREFIX) {
                continue;
            } else if name == MODEL_LIST {
                let models: Vec<String> = text.split(',').map(str::to_owned).collect();
                self.model_list(&models, &SettingOrigin::Environment(name));
            } else if !from_kubernetes(&name) {
                rest.push((name, text));
            }
        }
        for (name, text) in rest {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            self.set(&key, LayerValue::Text(text), SettingOrigin::Environment(name));
        }
    }

    /// Replaces the models by a list of `FILE` or `NAME=FILE`.
    pub fn model_list(&mut self, models: &[String], origin: &SettingOrigin) {
        self.values.retain(|key, _| !key.starts_with("model."));
        self.models = models.len();
        for (index, model) in models.iter().enumerate() {
            let (name, path) = match model.split_once('=') {
                Some((name, path)) => (Some(name), path),
                None => (None, model.as_str()),
            };
            let mut set = |key: &str, text: &str| {
                self.set(
                    &format!("model.{index}.{key}"),
                    LayerValue::Toml(Value::String(text.to_owned())),
                    origin.clone(),
                );
            };
            set("path", path);
            if let Some(name) = name {
                set("name", name);
            }
        }
    }

    /// Sets one value.
    pub fn set(&mut self, key: &str, value: LayerValue, origin: SettingOrigin) {
        let for_all = key.strip_prefix("model.").filter(|rest| !rest.contains('.'));
        match for_all {
            Some(name) => {
                if self.models == 0 {
                    self.error(format!("{origin}: there is no model to apply it to"));
                }
                for index in 0..self.models {
                    let key = format!("model.{index}.{name}");
                    self.values.insert(key, (value.clone(), origin.clone()));
                }
            }
            None => {
                self.values.insert(key.to_owned(), (value, origin));
            }
        }
    }

    /// The folder for this program in the user's cache, as the XDG Base Directory Specification has it;
    /// `None` if the environment names no such folder.
    pub fn user_cache(&self) -> Option<PathBuf> {
        let home = self.home.as_ref().map(|home| home.join(".cache"));
        self.cache_home.clone().or(home).map(|cache| cache.join("forebay"))
    }

    /// Number of models.
    pub fn model_count(&self) -> usize {
        self.models
    }

    /// Adds an error.
    pub fn error(&mut self, message: String) {
        self.errors.push(message);
    }

    /// Reads a setting into `target` if some layer has it.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        section: &str,
        setting: &Setting<T>,
        target: &mut T,
    ) {
        let key = format!("{section}.{}", setting.name);
        if let Some((value, origin)) = self.values.remove(&key) {
            let value = value.read().and_then(|value| setting.accepts(&value).map(|()| value));
            match value {
                Ok(value) => *target = value,
                Err(why) => self.error(format!("{key} ({origin}): {why}")),
            }
        }
        self.known.push(key);
    }

    /// Ends reading: keys that are still there are unknown.
    ///
    /// # Errors
    /// All that was wrong.
    pub fn finish(mut self) -> Result<(), ConfigErrors> {
        for (key, (_, origin)) in std::mem::take(&mut self.values) {
            let hint = self.nearest(&key).map(|near| format!("; did you mean {near}?"));
            self.errors
                .push(format!("{key} ({origin}): no such setting{}", hint.unwrap_or_default()));
        }
        if self.errors.is_empty() { Ok(()) } else { Err(ConfigErrors(self.errors)) }
    }

    fn nearest(&self, key: &str) -> Option<&str> {
        let known = self.known.iter();
        let scored = known.map(|known| (strsim::levenshtein(known, key), known.as_str()));
        scored.min().filter(|(distance, _)| *distance <= 3).map(|(_, known)| known)
    }
}

/// Kubernetes describes a service called `forebay` to every container in variables of these names.
fn from_kubernetes(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or(name);
    let described = |prefix: &str| {
        rest.strip_prefix(prefix).is_some_and(|end| end.is_empty() || end.starts_with('_'))
    };
    ["SERVICE_HOST", "SERVICE_PORT", "PORT"].into_iter().any(described)
}

impl LayerValue {
    /// # Errors
    /// Why the value is not a `T`.
    fn read<T: DeserializeOwned>(self) -> Result<T, String> {
        // A name such as `7` is TOML too, and a number is no string: the second reading counts if the
        // first has another type.
        let (first, second) = match self {
            Self::Toml(value) => (value, None),
            Self::Text(text) => (toml_value(&text), Some(Value::String(text))),
            Self::Argument(text) => {
                let value = toml_value(&text);
                match Value::String(text).try_into::<T>() {
                    Ok(text) => return Ok(text),
                    Err(_) => (value, None),
                }
            }
        };
        first.try_into::<T>().or_else(|error| {
            let as_string = second.and_then(|text| text.try_into().ok());
            as_string.ok_or_else(|| error.to_string().trim().to_owned())
        })
    }
}

/// A text as the TOML value that it is, or as a string.
fn toml_value(text: &str) -> Value {
    let parsed = format!("v = {text}").parse::<toml::Table>().ok();
    let only = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("v"));
    only.unwrap_or_else(|| Value::String(text.to_owned()))
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) | Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}
