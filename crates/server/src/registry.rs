//! The models: which are configured, which are loaded, and their names.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_engine::{
    Embedder, Engine, EngineHandle, Failure, GpuSettings, ItlTarget, Kind, KvLayout, LearnedCosts,
    ModelConfig, ModelHandle, ModelInfo, Pooling, Source, SplitMode, Stats, Status, Vocab,
};

use futures_util::future::join_all;

use crate::config::{
    KindSetting, KvLayoutSetting, ModelSettings, PoolingSetting, SplitSetting, Switch,
};
use crate::convert::{ChatFormat, ChatView, EmbeddingView, ModelView};
use crate::error::ApiError;
use crate::metrics::{Metrics, ModelMetrics, ModelSnapshot};
use crate::pool::Pool;

/// The alias for every name that no other model has.
const ANY: &str = "*";

/// All configured models.
#[derive(Debug)]
pub struct Registry {
    models: Vec<ConfiguredModel>,
}

#[derive(Debug)]
struct ConfiguredModel {
    settings: ModelSettings,
    served: OnceLock<Arc<Served>>,
}

/// A loaded model.
#[derive(Debug)]
pub struct Served {
    /// Its own name.
    pub name: Arc<str>,
    /// When it was loaded, in seconds since the Unix epoch.
    pub created: u64,
    /// Its metrics.
    pub metrics: ModelMetrics,
    /// Whether its vectors may be cut.
    pub matryoshka: bool,
    pool: Option<Pool>,
    handle: Handle,
}

#[derive(Debug)]
enum Handle {
    Chat { engine: Engine, format: Option<Box<ChatFormat>> },
    Embedding(Embedder),
}

/// A model that cannot be loaded or used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("model {name:?}: {why}")]
pub struct CannotServe {
    name: String,
    why: String,
}

impl CannotServe {
    pub(crate) fn new(name: &str, why: String) -> Self {
        Self { name: name.to_owned(), why }
    }
}

impl Registry {
    /// The configured models, none of them loaded.
    pub fn new(models: &[ModelSettings]) -> Self {
        let model = |settings: &ModelSettings| ConfiguredModel {
            settings: settings.clone(),
            served: OnceLock::new(),
        };
        Self { models: models.iter().map(model).collect() }
    }

    /// Whether every model is loaded.
    pub fn is_loaded(&self) -> bool {
        self.models.iter().all(|e| e.served.get().is_some())
    }

    /// The loaded models.
    pub fn loaded(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.models.iter().filter_map(|e| e.served.get())
    }

    /// Closes all engines, and waits for them side by side, two seconds at most.
    pub(crate) async fn close(&self) {
        join_all(self.loaded().map(|served| served.close())).await;
    }

    /// All models by their own name, loaded or not.
    pub fn all(&self) -> impl Iterator<Item = (&str, Option<&Served>)> {
        self.models.iter().map(|e| (e.settings.name.as_str(), e.served.get().map(AsRef::as_ref)))
    }

    /// What gauges show of each model; `None` for one that is not loaded.
    pub fn snapshots(&self) -> impl Iterator<Item = (&str, Option<ModelSnapshot>)> {
        self.all().map(|(name, served)| (name, served.map(Served::snapshot)))
    }

    /// Every name that can be asked for, with its model. `*` is not a name.
    pub fn names(&self) -> impl Iterator<Item = (&str, &Arc<Served>)> {
        self.models.iter().flat_map(|entry| {
            let served = entry.served.get();
            let names = entry.settings.names().filter(|name| *name != ANY);
            names.filter_map(move |name| Some((name, served?)))
        })
    }

    /// The model called `name`.
    ///
    /// # Errors
    /// 404 if there is none, 503 if it is still being loaded.
    pub fn resolve(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        let called =
            |wanted: &str| self.models.iter().find(|e| e.settings.names().any(|n| n == wanted));
        let entry =
            called(name).or_else(|| called(ANY)).ok_or_else(|| ApiError::no_such_model(name))?;
        entry.served.get().cloned().ok_or_else(|| {
            ApiError::unavailable(
                "model_loading",
                "The model is still being loaded. Try again shortly.",
            )
        })
    }

    /// The model's name in an answer: the one asked for, unless only `*` matched it.
    pub fn answer_name(&self, asked: &str, served: &Served) -> String {
        let known = self.models.iter().any(|e| e.settings.names().any(|n| n == asked));
        if known { asked.to_owned() } else { served.name.to_string() }
    }

    /// The settings of every model, for loading them.
    pub fn settings(&self) -> impl Iterator<Item = &ModelSettings> {
        self.models.iter().map(|e| &e.settings)
    }

    /// Puts a loaded model into service, with threads of its own for its requests if it needs them.
    ///
    /// # Errors
    /// [`CannotServe`] when its chat template cannot be used.
    pub(crate) async fn install(
        &self,
        index: usize,
        loaded: ModelHandle,
        pool: Option<Pool>,
        metrics: &Metrics,
    ) -> Result<(), CannotServe> {
        let entry = &self.models[index];
        let settings = &entry.settings;
        let own = settings.clone();
        // A template is rendered many times to learn its features: not on the runtime's threads.
        let handle = tokio::task::spawn_blocking(move || Handle::new(&own, loaded)).await;
        let handle = handle.unwrap_or_else(|error| Err(error.to_string()));
        let handle = handle.map_err(|why| CannotServe::new(&settings.name, why))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let served = Served {
            name: settings.name.as_str().into(),
            created: now.as_secs(),
            metrics: metrics.model(&settings.name),
            matryoshka: settings.matryoshka,
            pool,
            handle,
        };
        entry.served.get_or_init(|| Arc::new(served));
        Ok(())
    }
}

impl Handle {
    fn engine(&self) -> &EngineHandle {
        match self {
            Self::Chat { engine, .. } => engine,
            Self::Embedding(embedder) => embedder,
        }
    }

    fn new(settings: &ModelSettings, loaded: ModelHandle) -> Result<Self, String> {
        let engine = match loaded {
            ModelHandle::Embedding(embedder) => return Ok(Self::Embedding(embedder)),
            ModelHandle::Chat(engine) => engine,
        };
        let file = &settings.chat_template;
        let source = if file.as_os_str().is_empty() {
            engine.info().chat_template.clone()
        } else {
            let text = std::fs::read_to_string(file)
                .map_err(|e| format!("cannot read the chat template {}: {e}", file.display()))?;
            Some(text)
        };
        let format = source
            .map(|source| ChatFormat::load(&source, engine.vocab()))
            .transpose()
            .map_err(|e| format!("{e}; --chat-template FILE replaces it"))?;
        Ok(Self::Chat { engine, format: format.map(Box::new) })
    }
}

impl Served {
    /// The engine, if the model generates text.
    ///
    /// # Errors
    /// 400 if it does not.
    pub fn engine(&self) -> Result<&Engine, ApiError> {
        match &self.handle {
            Handle::Chat { engine, .. } => Ok(engine),
            Handle::Embedding(_) => {
                Err(self.wrong_kind("an embedding model: it cannot generate text"))
            }
        }
    }

    /// The chat template and the spelling of tool calls.
    ///
    /// # Errors
    /// 400 if the model has no template.
    pub fn chat_format(&self) -> Result<&ChatFormat, ApiError> {
        match &self.handle {
            Handle::Chat { format: Some(format), .. } => Ok(format),
            Handle::Chat { format: None, .. } => Err(self.wrong_kind(
                "a model without a chat template: use /v1/completions, or start the server with \
                 --chat-template FILE",
            )),
            Handle::Embedding(_) => Err(self.wrong_kind("an embedding model: it cannot chat")),
        }
    }

    /// What converting text requests needs, with the longest text to tokenise in bytes.
    pub(crate) fn view(&self, max_text_bytes: usize) -> ModelView<'_> {
        ModelView { vocab: self.vocab(), info: self.info(), max_text_bytes }
    }

    /// What converting chat requests needs, with the longest text to tokenise in bytes.
    ///
    /// # Errors
    /// 400 if the model has no template.
    pub(crate) fn chat_view(&self, max_text_bytes: usize) -> Result<ChatView<'_>, ApiError> {
        Ok(ChatView { model: self.view(max_text_bytes), format: self.chat_format()? })
    }

    /// What converting embedding and rerank requests needs.
    ///
    /// # Errors
    /// 400 if the model makes no vectors.
    pub(crate) fn embedding_view(&self) -> Result<EmbeddingView<'_>, ApiError> {
        let embedder = self.embedder()?;
        Ok(EmbeddingView {
            name: &self.name,
            vocab: embedder.vocab(),
            info: embedder.info(),
            is_matryoshka: self.matryoshka,
            max_request_tokens: embedder.max_request_tokens(),
        })
    }

    /// The embedder, if the model makes vectors.
    ///
    /// # Errors
    /// 400 if it does not.
    pub fn embedder(&self) -> Result<&Embedder, ApiError> {
        match &self.handle {
            Handle::Embedding(embedder) => Ok(embedder),
            Handle::Chat { .. } => Err(self.wrong_kind(
                "a text generation model: it does not embed unless the server is configured so \
                 (kind = \"embedding\")",
            )),
        }
    }

    fn wrong_kind(&self, what: &str) -> ApiError {
        ApiError::invalid("model", "invalid_value", format!("The model `{}` is {what}.", self.name))
    }

    /// What was read from the model's file, and its sizes.
    pub fn info(&self) -> &ModelInfo {
        self.handle.engine().info()
    }

    /// Its vocabulary.
    pub fn vocab(&self) -> &Vocab {
        self.handle.engine().vocab()
    }

    fn snapshot(&self) -> ModelSnapshot {
        ModelSnapshot {
            slots: self.info().slots,
            stats: self.stats(),
            stalled_for: self.stalled_for(),
            process: self.process(),
        }
    }

    /// Its engine's counters.
    pub fn stats(&self) -> Stats {
        self.handle.engine().stats()
    }

    /// Its engine's status.
    pub fn status(&self) -> Status {
        self.handle.engine().status()
    }

    /// The id of its engine's process, if it has one of its own.
    pub fn process(&self) -> Option<u32> {
        self.handle.engine().process_id()
    }

    async fn close(&self) {
        self.handle.engine().close().await;
    }

    /// Threads for jobs that ask its engine, if that is a process of its own: while that process does not
    /// answer, only its own requests wait.
    pub(crate) fn pool(&self) -> Option<&Pool> {
        self.pool.as_ref()
    }

    /// Waits while its engine is being started again.
    ///
    /// # Errors
    /// 429 when that takes as long as a request may wait.
    pub(crate) async fn is_there(&self) -> Result<(), Failure> {
        self.handle.engine().wait_until_restarted().await
    }

    /// How long its engine's current step has been running.
    pub fn stalled_for(&self) -> Option<Duration> {
        self.handle.engine().stalled_for()
    }
}

/// The engine's configuration for a model.
pub(crate) fn model_config(settings: &ModelSettings, source: Source) -> ModelConfig {
    let unless_zero = |value: u32| (value != 0).then_some(value);
    ModelConfig {
        name: settings.name.clone(),
        source,
        kind: match settings.kind {
            KindSetting::Auto => None,
            KindSetting::Chat => Some(Kind::Chat),
            KindSetting::Embedding => Some(Kind::Embedding),
        },
        ctx_size: unless_zero(settings.ctx_size),
        parallel: settings.parallel,
        kv_layout: match settings.kv_layout {
            KvLayoutSetting::Auto => None,
            KvLayoutSetting::Shared => Some(KvLayout::Shared),
            KvLayoutSetting::Split => Some(KvLayout::Split),
        },
        long_slot: settings.long_slot,
        kv_host_bytes: u64::from(settings.kv_host_mib) << 20,
        batch_size: unless_zero(settings.batch_size),
        ubatch_size: unless_zero(settings.ubatch_size),
        itl_target: unless_zero(settings.itl_target_ms).map_or(ItlTarget::DEFAULT, |target| {
            ItlTarget::Held(Duration::from_millis(u64::from(target)))
        }),
        reproducible: settings.reproducible,
        threads: unless_zero(settings.threads),
        gpu: GpuSettings {
            layers: settings.gpu_layers.0,
            cpu_experts: u32::try_from(settings.cpu_moe_layers).ok(),
            margin_bytes: u64::from(settings.gpu_margin_mib) << 20,
            split: match settings.split_mode {
                SplitSetting::Layer => SplitMode::Layer,
                SplitSetting::Tensor => SplitMode::Tensor,
                SplitSetting::None => SplitMode::None,
            },
            tensor_split: settings.tensor_split.parts().to_vec(),
            main: settings.main_gpu,
        },
        kv_type: settings.kv_type.into(),
        flash_attention: match settings.flash_attention {
            Switch::Auto => None,
            Switch::On => Some(true),
            Switch::Off => Some(false),
        },
        mmap: settings.mmap,
        pooling: match settings.pooling {
            PoolingSetting::Model => None,
            PoolingSetting::Mean => Some(Pooling::Mean),
            PoolingSetting::Cls => Some(Pooling::Cls),
            PoolingSetting::Last => Some(Pooling::Last),
        },
        speculate: settings.speculate,
        queue: settings.queue,
        queue_tokens: (settings.queue_tokens != 0).then_some(settings.queue_tokens),
        queue_timeout: (settings.queue_timeout_s != 0)
            .then(|| Duration::from_secs(settings.queue_timeout_s)),
        unread_bytes: settings.unread_mib << 20,
        memory_limit: Some(u64::from(settings.memory_limit_mib) << 20).filter(|&limit| limit > 0),
        step_limit: ModelConfig::STEP_LIMIT,
        costs: LearnedCosts::default(),
    }
}
