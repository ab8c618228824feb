//! What a handler learns about its request, for the request's log line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::registry::Served;

/// What is known of a request. Shared with the handler through the request's extensions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Mutex<Facts>>);

/// The facts of a [`Record`], as they are logged.
#[derive(Debug, Default)]
pub struct Facts {
    /// The model.
    pub model: Option<Arc<Served>>,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Tokens of all prompts.
    pub prompt_tokens: u32,
    /// Of these, tokens that the prefix cache had.
    pub cached_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Time to the first token.
    pub ttft: Option<Duration>,
    /// Why the last answer ended.
    pub finish_reason: Option<&'static str>,
    /// What is logged of an error.
    pub error: Option<String>,
}

impl Record {
    /// Changes the facts.
    pub fn update(&self, f: impl FnOnce(&mut Facts)) {
        // Plain data: a panic leaves nothing half done.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the facts, for the log line.
    pub fn take(&self) -> Facts {
        let mut taken = Facts::default();
        self.update(|facts| std::mem::swap(facts, &mut taken));
        taken
    }
}
