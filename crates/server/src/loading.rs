//! Loading all models, with progress for people and for logs.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forebay_engine::process::Launcher;
use forebay_engine::{ModelHandle, Progress, Source, load, load_in_process};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::config::{LogSettings, ModelSettings, Settings};
use crate::kept_costs::KeptCosts;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::registry::{CannotServe, Registry, model_config};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);
/// Without a terminal, progress is logged this often.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What loading needs.
#[derive(Debug)]
pub(crate) struct ModelLoader<'a> {
    /// The models.
    pub(crate) registry: &'a Registry,
    /// Where their metrics are.
    pub(crate) metrics: &'a Metrics,
    /// How engines are started in processes of their own, if they are.
    pub(crate) launcher: Option<&'a Launcher>,
    /// The files of learned costs, if there are any.
    pub(crate) kept_costs: Option<&'a KeptCosts>,
    /// Requests in progress at a time.
    pub(crate) max_requests: usize,
}

impl ModelLoader<'_> {
    /// Loads every model with its learned costs and puts it into service.
    ///
    /// # Errors
    /// [`CannotServe`] for the first model that fails.
    pub(crate) async fn load_all(
        &self,
        source: impl Fn(&ModelSettings) -> Source,
    ) -> Result<(), CannotServe> {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut loadings = Vec::new();
        for settings in self.registry.settings() {
            let mut config = model_config(settings, source(settings));
            let kept = match self.kept_costs {
                Some(kept_costs) => kept_costs.read(&config).await,
                None => None,
            };
            let kept = kept.map(|kept| {
                config.costs = kept.costs;
                kept.file
            });
            // A script is for tests, which mind where it runs.
            let launcher = self.launcher.filter(|_| matches!(config.source, Source::Gguf(_)));
            let cannot = |why: String| CannotServe::new(&settings.name, why);
            let loading = match launcher {
                Some(launcher) => load_in_process(config, launcher.clone()),
                None => load(config),
            };
            let loading = loading.map_err(|e| cannot(e.to_string()))?;
            if let (Some(kept_costs), Some(file)) = (self.kept_costs, kept) {
                kept_costs.watch(file, loading.costs());
            }
            // All requests that waited for a process to be started again run at once.
            let pool = launcher.map(|_| Pool::new(cores, self.max_requests)).transpose();
            let pool = pool.map_err(|e| cannot(e.to_string()))?;
            loadings.push((settings.name.clone(), loading, pool, Instant::now()));
        }
        for (index, (name, loading, pool, started)) in loadings.into_iter().enumerate() {
            let progress = loading.watch();
            let shown = show_progress(bars.as_ref(), &name, progress);
            let loaded = tokio::select! {
                loaded = loading.finish() => loaded,
                never = shown => match never {},
            };
            let loaded = loaded.map_err(|e| CannotServe::new(&name, e.to_string()))?;
            log_loaded(&name, &loaded, started.elapsed());
            self.registry.install(index, loaded, pool, self.metrics).await?;
        }
        Ok(())
    }
}

/// How to start this program as an engine; `None` if engines are threads of this process.
pub(crate) fn launcher(settings: &Settings) -> Option<Launcher> {
    if !settings.server.engine_processes {
        return None;
    }
    // Not by its path: both ends must be of one version, and the file may have been replaced by another.
    #[cfg(target_os = "linux")]
    let program = PathBuf::from("/proc/self/exe");
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe().ok()?;
    let LogSettings { level, format } = &settings.log;
    let format = clap::ValueEnum::to_possible_value(format)?.get_name().to_owned();
    let arguments = ["engine", "--log-level", level, "--log-format", &format];
    let arguments = arguments.map(Into::into).to_vec();
    Some(Launcher { program, arguments, silence: Launcher::SILENCE })
}

/// Shows progress until dropped.
async fn show_progress(
    bars: Option<&MultiProgress>,
    name: &str,
    progress: impl Fn() -> Progress,
) -> std::convert::Infallible {
    match bars {
        Some(bars) => {
            let bar = bars.add(ProgressBar::new(100));
            if let Ok(style) =
                ProgressStyle::with_template("loading {msg:20} {bar:30} {percent}% {elapsed}")
            {
                bar.set_style(style);
            }
            bar.set_message(name.to_owned());
            let _clear = ClearOnDrop(bar.clone());
            loop {
                bar.set_position(percent(progress()));
                tokio::time::sleep(TICK).await;
            }
        }
        None => loop {
            tokio::time::sleep(LOG_INTERVAL).await;
            tracing::info!(model = name, percent = percent(progress()), "loading");
        },
    }
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
fn percent(progress: Progress) -> u64 {
    (progress.0.clamp(0.0, 1.0) * 100.0) as u64
}

/// Logs what was loaded.
fn log_loaded(name: &str, loaded: &ModelHandle, took: Duration) {
    let info = loaded.info();
    tracing::info!(
        model = name,
        kind = ?info.kind,
        architecture = info.architecture,
        parameters = info.n_params,
        bytes = info.size_bytes,
        context = info.slot_tokens,
        slots = info.slots,
        seconds = took.as_secs_f32(),
        "loaded"
    );
}
