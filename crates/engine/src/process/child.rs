//! The child's side: one engine, driven over a socket.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::stdio::dup2_stdout;
use tokio::sync::mpsc;

use super::crash_record::CrashRecord;
use super::frames;
use super::messages::{Answer, FromChild, ModelDescription, Question, ToChild};
use crate::backend;
use crate::background_thread::run_in_background;
use crate::engine_thread::{EngineThread, LoadError, LoadReport};
use crate::grammar::{GrammarCompiler, GrammarError};
use crate::lock::lock;
use crate::message::Report;
use crate::report_sink::{Activity, ReportSink};
use crate::status::StatusBoard;
use crate::step_timeouts::StepTimeouts;
use crate::vocab::Vocab;

/// Interval between snapshots.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(100);
/// Minimum interval between frames of learned costs; one more is sent at an orderly end.
const COSTS_INTERVAL: Duration = Duration::from_secs(2);
/// Threads that answer questions, besides a background thread, and their stack: compiling a grammar takes up to 14 MB.
const THREADS: usize = 2;
const STACK: usize = 64 << 20;

/// Serves an engine over the socket on standard input, until its other end is closed or the engine has ended. The file
/// on standard output is the crash record.
///
/// # Errors
/// When standard input is no socket, or a message cannot be read.
pub fn serve() -> io::Result<()> {
    end_with_parent()?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let crash_record = CrashRecord::of(io::stdout().as_fd().try_clone_to_owned()?.into());
    // Libraries that print to standard output write to the log.
    dup2_stdout(io::stderr())?;
    let Some(ToChild::Load { config, seen }) = frames::read(&mut socket)? else { return Ok(()) };
    let name = format!("engine-{}", config.name);
    #[expect(clippy::disallowed_methods, reason = "the parent's permits bound it")]
    let (commands, inbox) = mpsc::unbounded_channel();
    let board = Arc::new(StatusBoard::new(StepTimeouts::new(config.step_limit, seen)));
    let out = Arc::new(ParentSocket {
        socket: Mutex::new(socket.try_clone()?),
        crash_record,
        computing: Mutex::default(),
        board: Arc::clone(&board),
        costs_sent: Mutex::default(),
    });
    let model = Arc::<OnceLock<Answerer>>::default();
    let on_loaded = {
        let (out, model) = (Arc::clone(&out), Arc::clone(&model));
        Box::new(move |report| report_loaded(&out, &model, report))
    };
    let engine = EngineThread {
        config: *config,
        board: Arc::clone(&board),
        out: Arc::clone(&out) as Arc<dyn ReportSink>,
        commands: commands.clone(),
        inbox,
        on_loaded,
        measure: None,
    };
    // The engine's end closes the socket, which ends the process.
    drop(backend::start(engine).map_err(|error| io::Error::other(error.0))?);
    let helpers = AnswerThreads::start(&name, &out, &board, &model)?;
    let sender = Arc::clone(&out);
    thread::Builder::new().name(format!("{name}/state")).spawn(move || send_snapshots(&sender))?;
    while let Some(message) = frames::read(&mut socket)? {
        match message {
            ToChild::Command(command) => drop(commands.send(command)),
            ToChild::Question { id, question, background } => helpers.ask(id, question, background),
            ToChild::Load { .. } => return Err(io::Error::other("a second model")),
        }
    }
    Ok(())
}

/// Ends this process with its parent. If the parent has ended already, the closed socket ends the process.
#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // If memory runs out, this process is the one to kill: it is restarted.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "500") {
        tracing::debug!(%error, "cannot set oom_score_adj");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// Answers questions about a loaded model.
struct Answerer {
    vocab: Vocab,
    compiler: Option<Arc<dyn GrammarCompiler>>,
}

/// The socket to the parent, and the crash record. Writing blocks until the parent reads.
struct ParentSocket {
    socket: Mutex<UnixStream>,
    crash_record: CrashRecord,
    computing: Mutex<ActiveRequests>,
    board: Arc<StatusBoard>,
    /// The version of the learned costs that were sent last.
    costs_sent: Mutex<u64>,
}

/// The requests that each activity computes, and a buffer to write them.
#[derive(Default)]
struct ActiveRequests {
    numbers: BTreeMap<Activity, Vec<u64>>,
    buffer: Vec<u8>,
}

impl ParentSocket {
    fn send(&self, message: &FromChild) {
        let mut socket = lock(&self.socket);
        if frames::write(&mut *socket, message).is_err() {
            // The parent has ended.
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }

    /// Sends learned costs if they have changed. Returns whether they have.
    fn send_costs(&self) -> bool {
        // Held while they are sent: an older version never follows a newer one.
        let mut sent = lock(&self.costs_sent);
        let (number, costs) = self.board.costs();
        let is_new = number != *sent;
        if is_new {
            self.send(&FromChild::Costs(Box::new(costs.as_ref().clone())));
            *sent = number;
        }
        is_new
    }
}

impl ReportSink for ParentSocket {
    fn report(&self, report: Report) {
        self.send(&FromChild::Report(report));
    }

    fn computing(&self, activity: Activity, ids: &mut dyn Iterator<Item = u64>) {
        let mut computing = lock(&self.computing);
        let ActiveRequests { numbers, buffer } = &mut *computing;
        let own = numbers.entry(activity).or_default();
        own.clear();
        own.extend(ids);
        self.crash_record.write(&mut numbers.values().flatten().copied(), buffer);
    }

    fn ending(&self) {
        self.send_costs();
    }

    /// Closes the socket: the main thread and the parent see the end of the stream.
    fn ended(&self) {
        let socket = lock(&self.socket);
        drop(socket.shutdown(std::net::Shutdown::Both));
    }
}

/// Reports a loaded model to the parent, or why it cannot be loaded.
fn report_loaded(
    out: &ParentSocket,
    model: &OnceLock<Answerer>,
    report: Result<LoadReport, LoadError>,
) -> bool {
    let LoadReport { info, vocab, max_requests, max_tokens, compiler } = match report {
        Ok(report) => report,
        Err(LoadError(why)) => {
            out.send(&FromChild::LoadFailed(why));
            return false;
        }
    };
    let generates = compiler.is_some();
    let table = vocab.table().as_ref().clone();
    let (max_requests, max_tokens) = (max_requests as u64, max_tokens as u64);
    let _ = model.set(Answerer { vocab, compiler });
    let description = ModelDescription { info, table, max_requests, max_tokens, generates };
    out.send(&FromChild::Loaded(Box::new(description)));
    true
}

/// Sends snapshots, progress and learned costs, without end.
fn send_snapshots(out: &ParentSocket) -> ! {
    let board = &out.board;
    let (mut last, mut sent) = (Instant::now(), None::<Instant>);
    loop {
        // While the whole process was stopped no step could progress.
        board.extend_limits(last.elapsed().saturating_sub(SNAPSHOT_INTERVAL * 10));
        last = Instant::now();
        if board.status() == crate::Status::Loading {
            out.send(&FromChild::Progress(board.progress()));
        }
        out.send(&FromChild::Snapshot(Box::new(board.snapshot())));
        if sent.is_none_or(|sent| sent.elapsed() > COSTS_INTERVAL) && out.send_costs() {
            sent = Some(Instant::now());
        }
        thread::sleep(SNAPSHOT_INTERVAL);
    }
}

/// Threads that answer questions.
struct AnswerThreads {
    foreground: std::sync::mpsc::Sender<(u64, Question)>,
    background: std::sync::mpsc::Sender<(u64, Question)>,
}

impl AnswerThreads {
    fn start(
        name: &str,
        out: &Arc<ParentSocket>,
        board: &Arc<StatusBoard>,
        model: &Arc<OnceLock<Answerer>>,
    ) -> io::Result<Self> {
        let start = |threads: Range<usize>, background| {
            let (sender, questions) = std::sync::mpsc::channel::<(u64, Question)>();
            let questions = Arc::new(Mutex::new(questions));
            for number in threads {
                let (out, model) = (Arc::clone(out), Arc::clone(model));
                let board = Arc::clone(board);
                let questions = Arc::clone(&questions);
                let next = move || lock(&questions).recv();
                let run = move || {
                    if background {
                        run_in_background();
                    }
                    while let Ok((id, question)) = next() {
                        let begin = Instant::now();
                        // No question comes before the model is loaded. After a panic the question would have no
                        // answer, so the process ends and the parent finds which question it was.
                        let answer = AssertUnwindSafe(|| model.get().map(|m| m.answer(question)));
                        let answer =
                            || catch_unwind(answer).unwrap_or_else(|_| std::process::abort());
                        let answer = board.run_activity(
                            &*out,
                            Activity::Answer(number),
                            id,
                            background,
                            answer,
                        );
                        let took = begin.elapsed();
                        let message = answer.map(|answer| FromChild::Answer { id, answer, took });
                        message.iter().for_each(|message| out.send(message));
                    }
                };
                let builder = thread::Builder::new().name(format!("{name}/helper-{number}"));
                builder.stack_size(STACK).spawn(run)?;
            }
            io::Result::Ok(sender)
        };
        Ok(Self {
            foreground: start(0..THREADS, false)?,
            background: start(THREADS..THREADS + 1, true)?,
        })
    }

    fn ask(&self, id: u64, question: Question, background: bool) {
        let helpers = if background { &self.background } else { &self.foreground };
        // The threads end with the process.
        drop(helpers.send((id, question)));
    }
}

impl Answerer {
    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Tokenise(texts, special) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                // The tokeniser of this process does not fail.
                Answer::Tokens(self.vocab.tokenize_all(&texts, special).unwrap_or_default())
            }
            Question::Compile(grammar) => {
                let none = || Ok(Err(GrammarError::no_engine()));
                let compiled = self.compiler.as_ref().map_or_else(none, |c| c.compile(&grammar));
                Answer::Compiled(compiled.unwrap_or_else(|_| Err(GrammarError::no_engine())))
            }
        }
    }
}
