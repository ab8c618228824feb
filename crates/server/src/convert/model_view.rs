//! What converting needs of a model: plain views, which the registry's entry makes.

use std::sync::OnceLock;

use forebay_chat::{ChatTemplate, Dialect};
use forebay_engine::{ModelInfo, Vocab};

/// A model that generates text.
#[derive(Debug, Clone, Copy)]
pub struct ModelView<'a> {
    /// The vocabulary.
    pub vocab: &'a Vocab,
    /// What was loaded: sizes of the context and the vectors.
    pub info: &'a ModelInfo,
    /// The longest text to tokenise, in bytes.
    pub max_text_bytes: usize,
}

/// A model that generates text and has a chat template.
#[derive(Debug, Clone, Copy)]
pub struct ChatView<'a> {
    /// The model.
    pub model: ModelView<'a>,
    /// How it spells conversations and tool calls.
    pub format: &'a ChatFormat,
}

/// A model that makes vectors, or ranks.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingView<'a> {
    /// The name that messages show.
    pub name: &'a str,
    /// The vocabulary.
    pub vocab: &'a Vocab,
    /// What was loaded: sizes of the context and the vectors.
    pub info: &'a ModelInfo,
    /// Whether its vectors may be cut.
    pub is_matryoshka: bool,
    /// The most tokens of a request's inputs together.
    pub max_request_tokens: usize,
}

/// A chat template and the spelling of tool calls that is learned from it.
#[derive(Debug)]
pub struct ChatFormat {
    template: ChatTemplate,
    calls: OnceLock<Box<Dialect>>,
}

impl ChatFormat {
    /// By a template; how it spells calls is learned on first use.
    pub fn new(template: ChatTemplate) -> Self {
        Self { template, calls: OnceLock::new() }
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Whether the template has a control for the amount of reasoning.
    pub fn has_effort_control(&self) -> bool {
        self.template.asks_for("reasoning_effort") || self.template.asks_for("enable_thinking")
    }

    /// How the model calls tools, learned on first use, which takes milliseconds.
    pub fn calls(&self, vocab: &Vocab) -> &Dialect {
        self.calls.get_or_init(|| {
            let ends = vocab.end_of_generation().iter();
            let ends = ends.filter_map(|&end| std::str::from_utf8(vocab.piece(end)).ok());
            let ends: Vec<&str> = ends.filter(|end| !end.is_empty()).collect();
            Box::new(Dialect::learn(&self.template, &ends))
        })
    }
}

impl<'a> ChatView<'a> {
    /// How the model calls tools.
    pub fn calls(self) -> &'a Dialect {
        self.format.calls(self.model.vocab)
    }
}
