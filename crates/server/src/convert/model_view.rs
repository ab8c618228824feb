//! What converting needs of a model: plain views, which the registry's entry makes.

use std::sync::Arc;

use forebay_chat::{ChatTemplate, ReasoningFormat, SpecialTokens, TemplateError, ToolCallFormat};
use forebay_engine::{ModelInfo, Token, Vocab};

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

/// A loaded chat template, with the control tokens that delimit parts of replies.
#[derive(Debug)]
pub struct ChatFormat {
    template: ChatTemplate,
    /// Those that delimit reasoning.
    reasoning_tokens: Arc<[Token]>,
    /// Those that delimit reasoning or tool calls.
    delimiter_tokens: Arc<[Token]>,
}

impl ChatFormat {
    /// Loads the template with this source for a vocabulary, which takes milliseconds.
    ///
    /// # Errors
    /// When the template is not valid.
    pub fn load(source: &str, vocab: &Vocab) -> Result<Self, TemplateError> {
        let ends = vocab.end_of_generation().iter();
        let ends = ends.filter_map(|&end| std::str::from_utf8(vocab.piece(end)).ok());
        let tokens = SpecialTokens {
            bos: vocab.bos_text(),
            eos: vocab.eos_text(),
            control: vocab.controls().map(|(_, name)| name).collect(),
            ends: ends.filter(|end| !end.is_empty()).collect(),
        };
        let template = ChatTemplate::new(source, &tokens)?;
        let features = template.features();
        let mut delimiters: Vec<String> =
            features.reasoning.iter().flat_map(ReasoningFormat::delimiters).collect();
        let reasoning_tokens = control_tokens_in(&delimiters, vocab);
        delimiters.extend(features.tool_calls.delimiters().into_iter().map(str::to_owned));
        let delimiter_tokens = control_tokens_in(&delimiters, vocab);
        Ok(Self { template, reasoning_tokens, delimiter_tokens })
    }

    /// The template.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Whether the template has a control for the amount of reasoning.
    pub fn has_effort_control(&self) -> bool {
        self.template.features().has_reasoning_control()
    }

    /// The control tokens that delimit reasoning, and tool calls if `with_calls`: they have to show in a reply's text.
    pub fn delimiter_tokens(&self, with_calls: bool) -> Arc<[Token]> {
        Arc::clone(if with_calls { &self.delimiter_tokens } else { &self.reasoning_tokens })
    }
}

impl<'a> ChatView<'a> {
    /// How the model calls tools.
    pub fn calls(self) -> &'a ToolCallFormat {
        &self.format.template.features().tool_calls
    }
}

/// The control tokens whose names are in these texts.
fn control_tokens_in(texts: &[String], vocab: &Vocab) -> Arc<[Token]> {
    let is_in = |name: &str| texts.iter().any(|text| text.contains(name));
    vocab.controls().filter(|(_, name)| is_in(name)).map(|(token, _)| token).collect()
}
