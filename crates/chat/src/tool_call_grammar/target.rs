//! The input of grammars of calls: tools, and the vocabulary and compiler that a grammar is written for.

use std::fmt;

use serde_json::Value;

/// The longest grammar, in bytes: at most what the engine compiles (`MAX_SOURCE` in its `grammar/limits.rs`; a test of
/// the server compares them).
pub const MAX_GRAMMAR_BYTES: usize = 256 << 10;

/// A tool whose calls a grammar enforces.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolShape<'t> {
    /// Its name.
    pub name: &'t str,
    /// The JSON Schema of its arguments, an object, that is enforced. Its references name its own `$defs`.
    pub schema: Value,
    /// The schema as the client sent it, by which the parser reads arguments.
    pub sent: &'t Value,
    /// Whether a keyword that cannot be enforced is an error.
    pub strict: bool,
}

/// A tool's schema cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforceable {
    /// The tool's index.
    pub tool: usize,
    /// The reason, to follow "cannot be enforced:".
    pub why: String,
}

/// The answer to whether there is a text that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Satisfiability {
    /// There is one.
    Yes,
    /// There is none.
    No,
    /// Searching was too much work.
    Unknown,
}

impl From<Option<bool>> for Satisfiability {
    fn from(is_satisfiable: Option<bool>) -> Self {
        match is_satisfiable {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Unknown,
        }
    }
}

/// Whether there is a text that as a whole matches all of the first regular expressions and none of the second.
pub type TextSearch<'t> = dyn Fn(&[&str], &[&str]) -> Satisfiability + 't;

/// The vocabulary and the compiler that a grammar is written for.
#[derive(Clone, Copy)]
pub struct GrammarTarget<'t> {
    /// The id and the length in bytes of the control token that a text starts with.
    pub control: &'t dyn Fn(&str) -> Option<(u32, usize)>,
    /// A schema as llguidance reads it.
    pub json: &'t dyn Fn(&Value) -> Value,
    /// Searches texts that match regular expressions.
    pub search: &'t TextSearch<'t>,
}

impl fmt::Debug for GrammarTarget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarTarget").finish_non_exhaustive()
    }
}
