//! A grammar as a request names it, and who compiles it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// A grammar that an answer follows. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Grammar {
    /// JSON that is valid by this JSON Schema.
    JsonSchema(Arc<str>),
    /// A text that this regular expression matches as a whole (without look-around).
    Regex(Arc<str>),
    /// A text by this grammar, in Lark's notation as llguidance reads it.
    Lark(Arc<str>),
}

/// Why a grammar cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(pub(super) String);

/// Compiles a model's grammars, in this process or by asking the one that runs the model.
pub(crate) trait GrammarCompiler: fmt::Debug + Send + Sync {
    /// Compiles a grammar, or finds it compiled. It can take a second: not for an async reactor's thread.
    ///
    /// # Errors
    /// [`Failure`] if the other process does not answer; [`GrammarError`], which names what cannot be
    /// enforced.
    fn compile(&self, grammar: &Grammar) -> Result<Result<(), GrammarError>, Failure>;

    /// Whether a grammar is known to be compiled. Does not wait.
    fn has_compiled(&self, grammar: &Grammar) -> bool;
}

impl Grammar {
    /// The source text.
    pub(crate) fn source(&self) -> &str {
        let (Self::JsonSchema(source) | Self::Regex(source) | Self::Lark(source)) = self;
        source
    }
}

impl GrammarError {
    /// The engine that would compile it has stopped.
    pub(crate) fn no_engine() -> Self {
        Self("the model's engine has stopped".to_owned())
    }
}
