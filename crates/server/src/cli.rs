//! The command line.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Parser, Subcommand};
use forebay_engine::Source;
use tokio::sync::mpsc;
use toml::Value;
use tracing_subscriber::EnvFilter;

use crate::bench::BenchArgs;
use crate::config::{
    GpuLayersSetting, KvLayoutSetting, KvTypeSetting, Layers, LogFormat, ModelSettings, Origin,
    PoolingSetting, Settings, SplitSetting, Switch, TensorSplitSetting,
};
use crate::{Shutdown, hardware, serve};

/// Serves GGUF models behind the OpenAI API.
///
/// forebay serve --model smollm2.gguf
///
/// and any OpenAI client works at http://127.0.0.1:8080/v1. Chat and embedding models are told
/// apart by their files; give --model several times for several of them.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models over HTTP.
    Serve(ConfigArgs),
    /// Check the configuration and print what results from file, environment and flags.
    CheckConfig(ConfigArgs),
    /// List the configured models and the devices that can compute.
    Models(ConfigArgs),
    /// List the devices that can compute.
    Devices,
    /// Say what of a model would go where, before it is loaded.
    Fit(FitArgs),
    /// Ask the server of this configuration whether it can serve; the exit code says it.
    Healthcheck(ConfigArgs),
    /// Measure the engine's own limit, without HTTP.
    Bench(BenchArgs),
    /// Serve one model to the process that started this one, over the standard input.
    #[command(hide = true)]
    Engine {
        /// The model's own name.
        #[arg(long)]
        name: String,
        #[arg(long, default_value = "info")]
        log_level: String,
        #[arg(long, default_value = "text")]
        log_format: LogFormat,
    },
    /// Print the OpenAPI document as YAML.
    Openapi {
        /// Print tables of all request fields instead.
        #[arg(long)]
        markdown: bool,
    },
}

/// Flags win over the environment (FOREBAY_SERVER__PORT), which wins over the file.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; every setting is documented in config/forebay.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// GGUF file to serve, perhaps with a name to call it by. May be given several times.
    #[arg(short, long, value_name = "[NAME=]FILE")]
    model: Vec<String>,
    /// Further name for the (only) model: "gpt-4o", or "*" for any. May be given several times.
    #[arg(short, long, value_name = "NAME")]
    alias: Vec<String>,
    /// Address to listen on [default: 127.0.0.1].
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen on [default: 8080]; 0 for any free one.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Port of a second listener for health and metrics alone [default: none].
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// KV cache over all answers, in tokens [default: the model's context up to 4096, times
    /// parallel].
    #[arg(short = 'c', long, value_name = "TOKENS")]
    ctx_size: Option<u32>,
    /// Answers generated at the same time [default: 4].
    #[arg(long, visible_alias = "np", value_name = "N")]
    parallel: Option<u32>,
    /// How sequences lie in the KV cache [default: auto].
    #[arg(long, value_name = "LAYOUT")]
    kv_layout: Option<KvLayoutSetting>,
    /// Host memory for what the KV cache has no room for, in MiB [default: 1024].
    #[arg(long, value_name = "MIB")]
    kv_host_mib: Option<u32>,
    /// Tokens computed in one step.
    #[arg(short, long, value_name = "TOKENS")]
    batch_size: Option<u32>,
    /// Tokens that the backend computes at once.
    #[arg(long, value_name = "TOKENS")]
    ubatch_size: Option<u32>,
    /// CPU threads [default: all cores].
    #[arg(short, long, value_name = "N")]
    threads: Option<u32>,
    /// Layers to put on GPUs: a number, "all", or "auto" for as many as fit [default: auto].
    #[arg(long, visible_alias = "ngl", value_name = "N", allow_negative_numbers = true)]
    gpu_layers: Option<GpuLayersSetting>,
    /// How several GPUs share a model [default: layer].
    #[arg(long, value_name = "MODE")]
    split_mode: Option<SplitSetting>,
    /// The part of a model that each GPU gets, such as 3,1 [default: in proportion to free memory].
    #[arg(long, visible_alias = "ts", value_name = "PARTS")]
    tensor_split: Option<TensorSplitSetting>,
    /// The GPU that has all with split mode none [default: 0].
    #[arg(long, value_name = "N")]
    main_gpu: Option<u32>,
    /// Layers whose experts stay on the CPU; -1 for as few as fit [default: -1].
    #[arg(long, visible_alias = "n-cpu-moe", value_name = "N", allow_negative_numbers = true)]
    cpu_moe_layers: Option<i32>,
    /// How keys and values are stored [default: f16].
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvTypeSetting>,
    /// Whether attention is computed in blocks [default: auto].
    #[arg(long, visible_alias = "fa", value_name = "WHEN")]
    flash_attention: Option<Switch>,
    /// Requests that may wait; more get 429 at once [default: 256].
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// Use a text generation model for embeddings.
    #[arg(long, visible_alias = "embedding")]
    embeddings: bool,
    /// How token vectors become one.
    #[arg(long, value_name = "KIND")]
    pooling: Option<PoolingSetting>,
    /// Jinja chat template to use instead of the model's own.
    #[arg(long, visible_alias = "chat-template-file", value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// SQLite file to keep responses and conversations in [default: memory].
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Keep no responses and conversations.
    #[arg(long, conflicts_with = "store")]
    no_store: bool,
    /// Cache directory, of learned costs; "" for none [default: $XDG_CACHE_HOME/forebay or ~/.cache/forebay].
    #[arg(long, value_name = "DIRECTORY")]
    cache_dir: Option<String>,
    /// Refuse unknown request fields.
    #[arg(long)]
    strict: bool,
    /// Level or filter of the log [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// How log lines look [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

/// What is asked about.
#[derive(Debug, Args)]
struct FitArgs {
    /// Memory of a GPU in GiB, instead of those that there are. May be given several times.
    #[arg(long, value_name = "GIB")]
    gpu: Vec<f64>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// As asked.
    Good,
    /// Something failed while running.
    Failed,
    /// The command line or the configuration is wrong (`EX_USAGE`).
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Good => Self::SUCCESS,
            Exit::Failed => Self::FAILURE,
            Exit::Usage => Self::from(64),
        }
    }
}

/// Runs the program with its arguments and environment.
pub fn run(
    arguments: impl Iterator<Item = OsString>,
    variables: impl Iterator<Item = (String, String)>,
) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to the caller. A closed pipe is nobody's.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Good };
        }
    };
    match cli.command {
        Command::Serve(args) => with_settings(&args, variables, run_server),
        Command::CheckConfig(args) => {
            with_settings(&args, variables, |settings| show(&describe(&settings)))
        }
        Command::Models(args) => {
            with_settings(&args, variables, |settings| show(&hardware::list(&settings)))
        }
        Command::Devices => show(&hardware::devices()),
        Command::Fit(args) => {
            let fit = |settings: Settings| match hardware::fit(&settings, &args.gpu) {
                Ok(text) => show(&text),
                Err(why) => complain(&why),
            };
            with_settings(&args.config, variables, fit)
        }
        Command::Healthcheck(args) => {
            let check = |settings: Settings| match crate::healthcheck::run(&settings) {
                Ok(()) => Exit::Good,
                Err(why) => complain(&why),
            };
            with_settings(&args, variables, check)
        }
        Command::Bench(args) => match crate::bench::run(&args) {
            Ok(report) => show(&report),
            Err(error) => complain(&error),
        },
        Command::Engine { name, log_level, log_format } => {
            run_engine(&name, &log_level, log_format)
        }
        Command::Openapi { markdown: true } => show(&crate::reference()),
        Command::Openapi { markdown: false } => match crate::openapi().to_yaml() {
            Ok(yaml) => show(&yaml),
            Err(error) => complain(&error.to_string()),
        },
    }
}

fn show(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Good,
        Err(_) => Exit::Failed,
    }
}

fn complain(text: &str) -> Exit {
    // Nothing is left to complain to when this fails.
    drop(writeln!(io::stderr(), "error: {text}"));
    Exit::Failed
}

fn with_settings(
    args: &ConfigArgs,
    variables: impl Iterator<Item = (String, String)>,
    then: impl FnOnce(Settings) -> Exit,
) -> Exit {
    match Settings::resolve(args.layers(variables)) {
        Ok(settings) => then(settings),
        Err(errors) => {
            for error in errors.0 {
                complain(&error);
            }
            Exit::Usage
        }
    }
}

impl ConfigArgs {
    /// File, environment and flags, in this order.
    fn layers(&self, variables: impl Iterator<Item = (String, String)>) -> Layers {
        let mut layers = Layers::default();
        if let Some(path) = &self.config {
            layers.file(path);
        }
        layers.environment(variables);
        if !self.model.is_empty() {
            layers.model_list(&self.model, &Origin::Flag("--model"));
        }
        if !self.alias.is_empty() && layers.model_count() > 1 {
            layers.error(
                "--alias needs a single model; several get theirs in the configuration file"
                    .to_owned(),
            );
        }
        for (flag, key, value) in self.values() {
            if let Some(value) = value {
                layers.set(key, value, Origin::Flag(flag));
            }
        }
        layers
    }

    fn values(&self) -> [(&'static str, &'static str, Option<Value>); 29] {
        let text = |text: &String| Value::String(text.clone());
        let path = |path: &PathBuf| Value::String(path.to_string_lossy().into_owned());
        let number = |n: u32| Value::Integer(n.into());
        let word = |n: GpuLayersSetting| Value::String(n.to_string());
        let aliases =
            (!self.alias.is_empty()).then(|| self.alias.iter().map(text).collect::<Vec<_>>());
        [
            ("--host", "server.host", self.host.as_ref().map(text)),
            ("--port", "server.port", self.port.map(|p| number(p.into()))),
            ("--admin-port", "admin.port", self.admin_port.map(|p| number(p.into()))),
            ("--strict", "server.strict", self.strict.then_some(Value::Boolean(true))),
            ("--cache-dir", "server.cache_dir", self.cache_dir.as_ref().map(text)),
            ("--store", "store.path", self.store.as_ref().map(path)),
            ("--no-store", "store.enabled", self.no_store.then_some(Value::Boolean(false))),
            ("--log-level", "log.level", self.log_level.as_ref().map(text)),
            ("--log-format", "log.format", self.log_format.map(choice)),
            ("--alias", "model.aliases", aliases.map(Value::Array)),
            ("--ctx-size", "model.ctx_size", self.ctx_size.map(number)),
            ("--parallel", "model.parallel", self.parallel.map(number)),
            ("--kv-layout", "model.kv_layout", self.kv_layout.map(choice)),
            ("--kv-host-mib", "model.kv_host_mib", self.kv_host_mib.map(number)),
            ("--batch-size", "model.batch_size", self.batch_size.map(number)),
            ("--ubatch-size", "model.ubatch_size", self.ubatch_size.map(number)),
            ("--threads", "model.threads", self.threads.map(number)),
            ("--gpu-layers", "model.gpu_layers", self.gpu_layers.map(word)),
            ("--split-mode", "model.split_mode", self.split_mode.map(choice)),
            (
                "--tensor-split",
                "model.tensor_split",
                self.tensor_split.as_ref().map(|parts| Value::String(parts.to_string())),
            ),
            ("--main-gpu", "model.main_gpu", self.main_gpu.map(number)),
            (
                "--cpu-moe-layers",
                "model.cpu_moe_layers",
                self.cpu_moe_layers.map(|n| Value::Integer(n.into())),
            ),
            ("--kv-type", "model.kv_type", self.kv_type.map(choice)),
            ("--flash-attention", "model.flash_attention", self.flash_attention.map(choice)),
            ("--queue", "model.queue", self.queue.map(number)),
            (
                "--embeddings",
                "model.kind",
                self.embeddings.then(|| Value::String("embedding".to_owned())),
            ),
            ("--pooling", "model.pooling", self.pooling.map(choice)),
            ("--chat-template", "model.chat_template", self.chat_template.as_ref().map(path)),
            ("--model", "model.path", None),
        ]
    }
}

/// A choice by its name.
fn choice<T: std::fmt::Debug>(choice: T) -> Value {
    Value::String(format!("{choice:?}").to_lowercase())
}

/// Bytes of stack for the runtime's threads: short conversations are rendered there, and what a model
/// file's template nests is freed recursively.
const STACK: usize = 16 << 20;

fn run_server(settings: Settings) -> Exit {
    start_log(&settings.log.level, settings.log.format, false);
    if settings.models.is_empty() {
        complain(
            "no model: give --model FILE.gguf, or a configuration file with a [[model]] section",
        );
        return Exit::Usage;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().thread_stack_size(STACK).build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.to_string()),
    };
    let signals = match crate::shutdown::signals(&settings.server) {
        Ok(signals) => Arc::new(Mutex::new(signals)),
        Err(error) => return complain(&error.to_string()),
    };
    let exit = runtime.block_on(async {
        let address = (settings.server.host.clone(), settings.server.port);
        let listener = match tokio::net::TcpListener::bind(&address).await {
            Ok(listener) => listener,
            Err(error) => {
                return complain(&format!("cannot listen on {}:{}: {error}", address.0, address.1));
            }
        };
        let at: Option<SocketAddr> = listener.local_addr().ok();
        tracing::info!(address = ?at, "listening");
        let source = |model: &ModelSettings| Source::Gguf(model.path.clone());
        match serve(settings, listener, source, move || next(Arc::clone(&signals))).await {
            Ok(()) => Exit::Good,
            Err(error) => complain(&error.to_string()),
        }
    });
    crate::shutdown::finish(runtime, u8::from(exit != Exit::Good));
    exit
}

/// Waits for the next signal that asks the process to end.
async fn next(signals: Arc<Mutex<mpsc::Receiver<Shutdown>>>) -> Shutdown {
    let next = poll_fn(|cx| signals.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(cx));
    // The thread that receives signals does not end.
    next.await.unwrap_or(Shutdown::Now)
}

/// What a child does: llama.cpp's statics are in use when it ends, so it ends without their destructors.
fn run_engine(name: &str, log_level: &str, log_format: LogFormat) -> Exit {
    start_log(log_level, log_format, true);
    tracing::debug!(name, system = forebay_engine::system_info(), "llama.cpp");
    if let Err(error) = crate::shutdown::leave_signals_to_parent() {
        return complain(&error.to_string());
    }
    let served = forebay_engine::process::serve();
    if let Err(error) = &served {
        complain(&error.to_string());
    }
    signal_hook::low_level::exit(i32::from(served.is_err()))
}

/// `threads`: whether lines name their thread, as an engine's do beside those of others.
fn start_log(level: &str, format: LogFormat, threads: bool) {
    // llama.cpp tells a lot: whoever wants to read it names it, as `llama-cpp-2=info`.
    let filter = match level.contains("llama") {
        true => level.to_owned(),
        false => format!("{level},llama_cpp_2=warn,llama-cpp-2=warn"),
    };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_thread_names(threads)
        .with_ansi(io::stderr().is_terminal());
    let installed = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = installed {
        complain(&format!("no log: {error}"));
    }
}

/// The settings as they count, one line each.
fn describe(settings: &Settings) -> String {
    let Settings { server, limits, admin, log, store, cache, .. } = settings;
    let mut out = format!("{server:#?}\n{limits:#?}\n{admin:#?}\n{log:#?}\n{store:#?}\n");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "cache directory: {cache:?}");
    for model in &settings.models {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{model:#?}");
    }
    out
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn no_flag_means_two_things() {
        // clap checks this only in debug builds, and tests are release builds.
        for command in Cli::command().get_subcommands() {
            let mut seen = Vec::new();
            for arg in command.get_arguments() {
                let long = arg.get_long().map(str::to_owned);
                let short = arg.get_short().map(String::from);
                let aliases = arg.get_visible_aliases().unwrap_or_default();
                let names =
                    long.into_iter().chain(short).chain(aliases.into_iter().map(str::to_owned));
                for name in names {
                    assert!(!seen.contains(&name), "{name} twice in {}", command.get_name());
                    seen.push(name);
                }
            }
        }
    }

    #[test]
    fn flags_win_and_name_themselves_in_errors() {
        let settings = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Serve(args) = cli.command else { panic!() };
            let variables = [("FOREBAY_SERVER__PORT", "1"), ("PATH", "x")];
            let variables = variables.map(|(k, v)| (k.to_owned(), v.to_owned()));
            Settings::resolve(args.layers(variables.into_iter())).map_err(|e| e.0)
        };
        let good = settings(
            "forebay serve --model a=x.gguf --port 2 --parallel 8 --alias * --pooling cls",
        )
        .unwrap();
        assert_eq!((good.server.port, good.models[0].parallel), (2, 8));
        assert_eq!(good.models[0].names().collect::<Vec<_>>(), ["a", "*"]);
        assert_eq!(settings("forebay serve").unwrap().server.port, 1);
        let errors = settings("forebay serve --ctx-size 5").unwrap_err();
        assert_eq!(errors, ["--ctx-size: there is no model to apply it to"]);
    }
}
