//! The command line.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Parser, Subcommand};
use forebay_engine::Source;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::bench::BenchArgs;
use crate::config::{ConfigArgs, LogFormat, ModelSettings, Settings};
use crate::hardware;
use crate::lifecycle::Shutdown;
use crate::serve::serve;

/// Serves GGUF models behind the OpenAI API.
///
/// forebay serve --model smollm2.gguf
///
/// and any OpenAI client works at http://127.0.0.1:8080/v1. Chat and embedding models are
/// distinguished by their files; give --model several times for several of them.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Serve models over HTTP.
    Serve(ConfigArgs),
    /// Check the configuration and print what results from file, environment and flags.
    CheckConfig(ConfigArgs),
    /// List the configured models and the devices that can compute.
    Models(ConfigArgs),
    /// List the devices that can compute.
    Devices,
    /// Print which parts of a model would go on which device, before it is loaded.
    Fit(FitArgs),
    /// Ask the server of this configuration whether it can serve; the exit code is the answer.
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

/// The configuration, and GPUs to plan for.
#[derive(Debug, Args)]
struct FitArgs {
    /// Memory of a GPU in GiB, instead of those that there are. May be given several times.
    #[arg(long, value_name = "GIB")]
    gpu: Vec<f64>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The process's exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success.
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
            // Help and version are errors to clap, but not to the caller. A closed pipe is no error.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage } else { Exit::Good };
        }
    };
    match cli.command {
        CliCommand::Serve(args) => with_settings(&args, variables, run_server),
        CliCommand::CheckConfig(args) => {
            with_settings(&args, variables, |settings| print(&describe(&settings)))
        }
        CliCommand::Models(args) => {
            with_settings(&args, variables, |settings| print(&hardware::list(&settings)))
        }
        CliCommand::Devices => print(&hardware::devices()),
        CliCommand::Fit(args) => {
            let fit = |settings: Settings| match hardware::fit(&settings, &args.gpu) {
                Ok(text) => print(&text),
                Err(why) => print_error(&why),
            };
            with_settings(&args.config, variables, fit)
        }
        CliCommand::Healthcheck(args) => {
            let check = |settings: Settings| match crate::healthcheck::run(&settings) {
                Ok(()) => Exit::Good,
                Err(why) => print_error(&why),
            };
            with_settings(&args, variables, check)
        }
        CliCommand::Bench(args) => match crate::bench::run(&args) {
            Ok(report) => print(&report),
            Err(error) => print_error(&error),
        },
        CliCommand::Engine { name, log_level, log_format } => {
            run_engine(&name, &log_level, log_format)
        }
        CliCommand::Openapi { markdown: true } => print(&crate::app::reference()),
        CliCommand::Openapi { markdown: false } => match crate::app::openapi().to_yaml() {
            Ok(yaml) => print(&yaml),
            Err(error) => print_error(&error.to_string()),
        },
    }
}

fn print(text: &str) -> Exit {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Good,
        Err(_) => Exit::Failed,
    }
}

fn print_error(text: &str) -> Exit {
    // There is nowhere to report an error of this.
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
                print_error(&error);
            }
            Exit::Usage
        }
    }
}

/// Bytes of stack for the runtime's threads: short conversations are rendered there, and what a model
/// file's template nests is freed recursively.
const STACK: usize = 16 << 20;

fn run_server(settings: Settings) -> Exit {
    start_log(&settings.log.level, settings.log.format, false);
    if settings.models.is_empty() {
        print_error(
            "no model: give --model FILE.gguf, or a configuration file with a [[model]] section",
        );
        return Exit::Usage;
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().thread_stack_size(STACK).build() {
        Ok(runtime) => runtime,
        Err(error) => return print_error(&error.to_string()),
    };
    let signals = match crate::shutdown::signals(&settings.server) {
        Ok(signals) => Arc::new(Mutex::new(signals)),
        Err(error) => return print_error(&error.to_string()),
    };
    let exit = runtime.block_on(async {
        let address = (settings.server.host.clone(), settings.server.port);
        let listener = match tokio::net::TcpListener::bind(&address).await {
            Ok(listener) => listener,
            Err(error) => {
                return print_error(&format!(
                    "cannot listen on {}:{}: {error}",
                    address.0, address.1
                ));
            }
        };
        let at: Option<SocketAddr> = listener.local_addr().ok();
        tracing::info!(address = ?at, "listening");
        let source = |model: &ModelSettings| Source::Gguf(model.path.clone());
        match serve(settings, listener, source, move || next_signal(Arc::clone(&signals))).await {
            Ok(()) => Exit::Good,
            Err(error) => print_error(&error.to_string()),
        }
    });
    crate::shutdown::finish(runtime, u8::from(exit != Exit::Good));
    exit
}

/// Waits for the next signal that asks the process to end.
async fn next_signal(signals: Arc<Mutex<mpsc::Receiver<Shutdown>>>) -> Shutdown {
    let next = poll_fn(|cx| signals.lock().unwrap_or_else(PoisonError::into_inner).poll_recv(cx));
    // The thread that receives signals does not end.
    next.await.unwrap_or(Shutdown::Now)
}

/// Runs an engine for the parent process. llama.cpp's statics are in use at its end, so it exits without
/// their destructors.
fn run_engine(name: &str, log_level: &str, log_format: LogFormat) -> Exit {
    start_log(log_level, log_format, true);
    tracing::debug!(name, system = forebay_engine::system_info(), "llama.cpp");
    if let Err(error) = crate::shutdown::leave_signals_to_parent() {
        return print_error(&error.to_string());
    }
    let served = forebay_engine::process::serve();
    if let Err(error) = &served {
        print_error(&error.to_string());
    }
    signal_hook::low_level::exit(i32::from(served.is_err()))
}

/// `threads`: whether lines name their thread, as an engine's do beside those of others.
fn start_log(level: &str, format: LogFormat, threads: bool) {
    // llama.cpp logs a lot, so only a filter that names it, such as `llama-cpp-2=info`, shows it.
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
        print_error(&format!("logging cannot be started: {error}"));
    }
}

/// The resulting settings, one line each.
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
            let CliCommand::Serve(args) = cli.command else { panic!() };
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
