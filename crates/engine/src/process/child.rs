//! The child's side: one engine, asked and answered over a socket.

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

/// How often the parent hears of the engine's state.
const EVERY: Duration = Duration::from_millis(100);
/// Minimum interval between frames of learned costs; one more is sent at an orderly end.
const COSTS_EVERY: Duration = Duration::from_secs(2);
/// Threads that answer questions at once, besides one that answers them when nobody else wants the
/// core, and their stack: a grammar that is compiled takes up to 14 MB.
const THREADS: usize = 2;
const STACK: usize = 64 << 20;

/// Serves an engine over the socket that is the standard input, with a file on the standard output that
/// tells the parent what is being computed, until its other end is closed or the
/// engine has ended.
///
/// # Errors
/// When there is no such socket, or what comes from it makes no sense.
pub fn serve() -> io::Result<()> {
    end_with_parent()?;
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let crash_record = CrashRecord::of(io::stdout().as_fd().try_clone_to_owned()?.into());
    // What a library prints is for the log.
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
    let announce = {
        let (out, model) = (Arc::clone(&out), Arc::clone(&model));
        Box::new(move |announced| announce(&out, &model, announced))
    };
    let host = EngineThread {
        config: *config,
        board: Arc::clone(&board),
        out: Arc::clone(&out) as Arc<dyn ReportSink>,
        commands: commands.clone(),
        inbox,
        on_loaded: announce,
        measure: None,
    };
    // It ends the process when it ends.
    drop(backend::start(host).map_err(|error| io::Error::other(error.0))?);
    let helpers = AnswerThreads::start(&name, &out, &board, &model)?;
    let teller = Arc::clone(&out);
    thread::Builder::new().name(format!("{name}/state")).spawn(move || tell(&teller))?;
    while let Some(message) = frames::read(&mut socket)? {
        match message {
            ToChild::Command(command) => drop(commands.send(command)),
            ToChild::Question { id, question, patient } => helpers.ask(id, question, patient),
            ToChild::Load { .. } => return Err(io::Error::other("a second model")),
        }
    }
    Ok(())
}

/// Sees to it that the parent's end is this process's; should the parent be gone already, the socket
/// tells.
#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Where memory runs out this process is the one to end: it is started again.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "500") {
        tracing::debug!(%error, "the out-of-memory killer treats this process like any other");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

/// What of a loaded model is needed besides its worker.
struct Answerer {
    vocab: Vocab,
    compiler: Option<Arc<dyn GrammarCompiler>>,
}

/// The socket to the parent, and the black box. Writing waits until the parent reads.
struct ParentSocket {
    socket: Mutex<UnixStream>,
    crash_record: CrashRecord,
    computing: Mutex<ActiveRequests>,
    board: Arc<StatusBoard>,
    /// The number of the learned costs that were sent last.
    costs_sent: Mutex<u64>,
}

/// What is computed by each thread, and room to write that.
#[derive(Default)]
struct ActiveRequests {
    numbers: BTreeMap<Activity, Vec<u64>>,
    buffer: Vec<u8>,
}

impl ParentSocket {
    fn send(&self, message: &FromChild) {
        let mut socket = lock(&self.socket);
        if frames::write(&mut *socket, message).is_err() {
            // Nobody is there any more.
            drop(socket.shutdown(std::net::Shutdown::Both));
        }
    }

    /// Sends what was learned of costs, if that is new; returns whether it was.
    fn send_costs(&self) -> bool {
        // Held while they are sent: what was learned earlier never comes later.
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

    fn computing(&self, by: Activity, ids: &mut dyn Iterator<Item = u64>) {
        let mut computing = lock(&self.computing);
        let ActiveRequests { numbers, buffer } = &mut *computing;
        let own = numbers.entry(by).or_default();
        own.clear();
        own.extend(ids);
        self.crash_record.write(&mut numbers.values().flatten().copied(), buffer);
    }

    fn ending(&self) {
        self.send_costs();
    }

    /// The main thread sees the end of the stream, and so does the parent.
    fn ended(&self) {
        let socket = lock(&self.socket);
        drop(socket.shutdown(std::net::Shutdown::Both));
    }
}

/// Tells the parent of a loaded model, or why there is none.
fn announce(
    out: &ParentSocket,
    model: &OnceLock<Answerer>,
    announced: Result<LoadReport, LoadError>,
) -> bool {
    let LoadReport { info, vocab, max_requests, max_tokens, compiler } = match announced {
        Ok(announcement) => announcement,
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

/// Tells the engine's state for ever.
fn tell(out: &ParentSocket) {
    let board = &out.board;
    let (mut told, mut sent) = (Instant::now(), None::<Instant>);
    loop {
        // While all of this process was stopped no step could get on.
        board.extend_limits(told.elapsed().saturating_sub(EVERY * 10));
        told = Instant::now();
        if board.status() == crate::Status::Loading {
            out.send(&FromChild::Progress(board.progress()));
        }
        out.send(&FromChild::Snapshot(Box::new(board.snapshot())));
        if sent.is_none_or(|sent| sent.elapsed() > COSTS_EVERY) && out.send_costs() {
            sent = Some(Instant::now());
        }
        thread::sleep(EVERY);
    }
}

/// Threads that answer questions.
struct AnswerThreads {
    prompt: std::sync::mpsc::Sender<(u64, Question)>,
    patient: std::sync::mpsc::Sender<(u64, Question)>,
}

impl AnswerThreads {
    fn start(
        name: &str,
        out: &Arc<ParentSocket>,
        board: &Arc<StatusBoard>,
        model: &Arc<OnceLock<Answerer>>,
    ) -> io::Result<Self> {
        let start = |threads: Range<usize>, patient| {
            let (sender, questions) = std::sync::mpsc::channel::<(u64, Question)>();
            let questions = Arc::new(Mutex::new(questions));
            for number in threads {
                let (out, model) = (Arc::clone(out), Arc::clone(model));
                let board = Arc::clone(board);
                let questions = Arc::clone(&questions);
                let next = move || lock(&questions).recv();
                let run = move || {
                    if patient {
                        run_in_background();
                    }
                    while let Ok((id, question)) = next() {
                        let begin = Instant::now();
                        // None comes before the model is loaded. A panic would leave who asked without an
                        // answer: the parent finds out whose question it was.
                        let answer = AssertUnwindSafe(|| model.get().map(|m| m.answer(question)));
                        let answer =
                            || catch_unwind(answer).unwrap_or_else(|_| std::process::abort());
                        let answer = board.run_activity(
                            &*out,
                            Activity::Answer(number),
                            id,
                            patient,
                            answer,
                        );
                        let took = begin.elapsed();
                        let says = answer.map(|answer| FromChild::Answer { id, answer, took });
                        says.iter().for_each(|says| out.send(says));
                    }
                };
                let builder = thread::Builder::new().name(format!("{name}/helper-{number}"));
                builder.stack_size(STACK).spawn(run)?;
            }
            io::Result::Ok(sender)
        };
        Ok(Self { prompt: start(0..THREADS, false)?, patient: start(THREADS..THREADS + 1, true)? })
    }

    fn ask(&self, id: u64, question: Question, patient: bool) {
        let helpers = if patient { &self.patient } else { &self.prompt };
        // The threads end with the process.
        drop(helpers.send((id, question)));
    }
}

impl Answerer {
    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Tokenise(texts, special) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                // The tokeniser is here: it answers.
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
