//! A child's tokeniser and grammar compiler, for the parent's threads: each call is a question to the child and waits
//! for the answer. Not for an async reactor's thread.

use std::num::NonZeroUsize;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::mpsc::UnboundedSender;

use super::messages::{Answer, Question};
use crate::Token;
use crate::background_thread::{is_background, record_engine_wait};
use crate::failure::Failure;
use crate::grammar::{Grammar, GrammarCompiler, GrammarError};
use crate::lock::lock;
use crate::vocab::{ParseSpecial, Tokenize};

/// The most grammars that are recorded as compiled, and the longest of them in bytes: longer ones are asked for each
/// time. A child that has evicted a grammar compiles it again.
const KNOWN: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const LONGEST_KNOWN: usize = 32 << 10;

/// A question and the channel for its answer.
#[derive(Debug)]
pub(super) struct PendingQuestion {
    pub(super) question: Question,
    /// Whether a background thread is to answer it.
    pub(super) background: bool,
    pub(super) reply: SyncSender<Reply>,
}

/// An answer, and the time that the child took for it.
pub(super) type Reply = Result<(Answer, Duration), Failure>;

/// Sends questions to the current child. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ChildClient {
    questions: UnboundedSender<PendingQuestion>,
    known: Arc<Mutex<LruCache<Grammar, ()>>>,
}

impl ChildClient {
    pub(super) fn new(questions: UnboundedSender<PendingQuestion>) -> Self {
        Self { questions, known: Arc::new(Mutex::new(LruCache::new(KNOWN))) }
    }

    fn ask(&self, question: Question) -> Result<Answer, Failure> {
        let (reply, answer) = sync_channel(1);
        let asked = PendingQuestion { question, background: is_background(), reply };
        self.questions.send(asked).map_err(|_| Failure::EngineGone)?;
        let begin = Instant::now();
        let (answer, took) = answer.recv().unwrap_or(Err(Failure::EngineGone))?;
        record_engine_wait(begin.elapsed().saturating_sub(took));
        Ok(answer)
    }

    fn known(&self) -> MutexGuard<'_, LruCache<Grammar, ()>> {
        lock(&self.known)
    }
}

impl Tokenize for ChildClient {
    fn tokenize(&self, texts: &[&str], special: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure> {
        let owned = texts.iter().map(|&text| text.to_owned()).collect();
        match self.ask(Question::Tokenise(owned, special))? {
            Answer::Tokens(tokens) if tokens.len() == texts.len() => Ok(tokens),
            Answer::Tokens(_) | Answer::Compiled(_) => Err(Failure::EngineGone),
        }
    }
}

impl GrammarCompiler for ChildClient {
    fn compile(&self, grammar: &Grammar) -> Result<Result<(), GrammarError>, Failure> {
        let Answer::Compiled(compiled) = self.ask(Question::Compile(grammar.clone()))? else {
            return Err(Failure::EngineGone);
        };
        if compiled.is_ok() && grammar.source().len() <= LONGEST_KNOWN {
            self.known().put(grammar.clone(), ());
        }
        Ok(compiled)
    }

    fn has_compiled(&self, grammar: &Grammar) -> bool {
        grammar.source().len() <= LONGEST_KNOWN && self.known().get(grammar).is_some()
    }
}
