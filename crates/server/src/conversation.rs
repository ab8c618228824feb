//! A chat request in no dialect. Each dialect's `request.rs` builds one.

pub mod fields;
pub mod options;
pub mod tools;

use forebay_chat::Turn;

use self::fields::FieldNames;
use self::options::{PromptEnd, ReasoningOptions};
use crate::convert::grammar::OutputGrammar;
use crate::convert::sampling::GenerationParams;
use crate::convert::tools::Toolset;

/// A chat request in no dialect: what the model reads and what the reply has to be.
#[derive(Debug)]
pub struct Conversation {
    /// The turns so far, oldest first.
    pub turns: Vec<Turn>,
    /// How the prompt ends.
    pub prompt_end: PromptEnd,
    /// The tools that the model may call.
    pub tools: Toolset,
    /// The grammar of the reply's content, if it has one.
    pub format: Option<OutputGrammar>,
    /// How the model reasons.
    pub reasoning: ReasoningOptions,
    /// How tokens are sampled, and when generation stops.
    pub params: GenerationParams,
    /// Whether the reply is streamed.
    pub stream: bool,
    /// The names of its fields that errors show.
    pub names: &'static FieldNames,
}
