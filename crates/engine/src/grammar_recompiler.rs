//! Finds the compiled grammar of a request. It was compiled when the request was checked; if it was evicted since then,
//! it is compiled again on a thread of its own, and the request is sent to the worker again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio::sync::mpsc;

use crate::grammar::{CompiledGrammar, GrammarError, Grammars};
use crate::lock::lock;
use crate::message::{Command, GenerateCommand};
use crate::report_sink::{Activity, ReportSink};
use crate::status::StatusBoard;

/// Stack of the thread that compiles: what is accepted takes up to 14 MB.
const STACK: usize = 64 << 20;

/// Finds and recompiles the grammars of one engine's requests.
pub(crate) struct GrammarRecompiler {
    grammars: Arc<Grammars>,
    commands: mpsc::UnboundedSender<Command>,
    out: Arc<dyn ReportSink>,
    board: Arc<StatusBoard>,
    queue: Option<std::sync::mpsc::Sender<Box<GenerateCommand>>>,
    waiting: Arc<Mutex<HashMap<u64, PendingCompile>>>,
    /// Requests cancelled after their grammar was compiled.
    cancelled: HashSet<u64>,
}

/// The result for a request that waits for its grammar, once there is one.
type PendingCompile = Option<Result<CompiledGrammar, GrammarError>>;

/// The result of looking for a request's grammar.
pub(crate) enum GrammarLookup {
    /// The request has its grammar, or needs none.
    Ready(Box<GenerateCommand>, Option<CompiledGrammar>),
    /// The request is sent again with its grammar, unless it was cancelled.
    Pending,
    /// The grammar cannot be compiled.
    Failed(Box<GenerateCommand>),
}

impl GrammarRecompiler {
    /// Requests whose grammar was compiled are sent to `commands`.
    pub(crate) fn new(
        grammars: Arc<Grammars>,
        commands: mpsc::UnboundedSender<Command>,
        out: Arc<dyn ReportSink>,
        board: Arc<StatusBoard>,
    ) -> Self {
        let (waiting, cancelled) = (Arc::default(), HashSet::new());
        Self { grammars, commands, out, board, queue: None, waiting, cancelled }
    }

    /// Finds a request's grammar.
    pub(crate) fn find(&mut self, generate: Box<GenerateCommand>) -> GrammarLookup {
        let Some(grammar) = &generate.request.grammar else {
            return GrammarLookup::Ready(generate, None);
        };
        if self.cancelled.remove(&generate.id) {
            return GrammarLookup::Pending;
        }
        let waiting = lock(&self.waiting).remove(&generate.id).flatten();
        let compiled = match waiting {
            Some(Err(_)) => return GrammarLookup::Failed(generate),
            Some(Ok(compiled)) => Some(compiled),
            None => self.grammars.compiled(grammar),
        };
        match compiled {
            Some(compiled) => GrammarLookup::Ready(generate, Some(compiled)),
            None => self.compile(generate),
        }
    }

    /// Removes a request that waits for its grammar. Returns whether there was one.
    pub(crate) fn forget(&mut self, id: u64) -> bool {
        match lock(&self.waiting).remove(&id) {
            None => false,
            Some(None) => true,
            Some(Some(_)) => self.cancelled.insert(id),
        }
    }

    fn compile(&mut self, generate: Box<GenerateCommand>) -> GrammarLookup {
        lock(&self.waiting).insert(generate.id, None);
        let queue = match self.queue.take() {
            Some(queue) => queue,
            None => match self.start() {
                Ok(queue) => queue,
                Err(error) => {
                    tracing::error!(%error, "a thread for grammars cannot be started");
                    return GrammarLookup::Failed(generate);
                }
            },
        };
        let sent = queue.send(generate);
        self.queue = Some(queue);
        match sent {
            Ok(()) => GrammarLookup::Pending,
            Err(refused) => GrammarLookup::Failed(refused.0),
        }
    }

    fn start(&self) -> std::io::Result<std::sync::mpsc::Sender<Box<GenerateCommand>>> {
        let (queue, requests) = std::sync::mpsc::channel::<Box<GenerateCommand>>();
        let (grammars, commands) = (Arc::clone(&self.grammars), self.commands.clone());
        let (waiting, out) = (Arc::clone(&self.waiting), Arc::clone(&self.out));
        let board = Arc::clone(&self.board);
        let run = move || {
            for generate in requests {
                let Some(grammar) = &generate.request.grammar else { continue };
                // The request may have been cancelled.
                if !lock(&waiting).contains_key(&generate.id) {
                    continue;
                }
                let compile = || grammars.compile(grammar);
                let compiled =
                    board.run_activity(&*out, Activity::Compile, generate.id, false, compile);
                match lock(&waiting).get_mut(&generate.id) {
                    Some(entry) => *entry = Some(compiled),
                    None => continue,
                }
                if commands.send(Command::Generate(generate)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("grammars".to_owned()).stack_size(STACK).spawn(run)?;
        Ok(queue)
    }
}
