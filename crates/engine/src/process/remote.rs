//! A child's tokenizer and grammar compiler, as the parent's threads use them: they ask and wait. Not for
//! an async reactor's thread.

use std::num::NonZeroUsize;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::mpsc::UnboundedSender;

use super::{Answer, Question};
use crate::Token;
use crate::grammar::{Grammar, GrammarError};
use crate::patience::is_patient;
use crate::vocab::{ParseSpecial, Tokenize};

/// Grammars of which is known that they can be compiled. A child that has forgotten one compiles it
/// again.
const KNOWN: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A question on its way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) question: Question,
    /// Whether it may take long, so as to hold up nobody.
    pub(super) patient: bool,
    pub(super) reply: SyncSender<Answer>,
}

/// Asks a child. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    questions: UnboundedSender<Asked>,
    known: Arc<Mutex<LruCache<Grammar, ()>>>,
}

impl Remote {
    pub(super) fn new(questions: UnboundedSender<Asked>) -> Self {
        Self { questions, known: Arc::new(Mutex::new(LruCache::new(KNOWN))) }
    }

    /// Compiles a grammar there.
    pub(crate) fn compile(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        let Some(Answer::Compiled(compiled)) = self.ask(Question::Compile(grammar.clone())) else {
            return Err(GrammarError::no_engine());
        };
        compiled?;
        self.known().put(grammar.clone(), ());
        Ok(())
    }

    /// Whether a grammar was compiled there.
    pub(crate) fn has_compiled(&self, grammar: &Grammar) -> bool {
        self.known().get(grammar).is_some()
    }

    /// The answer; `None` where there is no engine any more.
    fn ask(&self, question: Question) -> Option<Answer> {
        let (reply, answer) = sync_channel(1);
        self.questions.send(Asked { question, patient: is_patient(), reply }).ok()?;
        answer.recv().ok()
    }

    fn known(&self) -> MutexGuard<'_, LruCache<Grammar, ()>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tokenize for Remote {
    /// No tokens where there is no engine any more: nothing can be done with any.
    fn tokenize(&self, text: &str, special: ParseSpecial) -> Vec<Token> {
        match self.ask(Question::Tokenise(text.to_owned(), special)) {
            Some(Answer::Tokens(tokens)) => tokens,
            Some(Answer::Compiled(_)) | None => Vec::new(),
        }
    }
}
