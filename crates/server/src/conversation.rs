//! Conversations: what a request asks, in no dialect. Each dialect's `request.rs` builds one, with the names that
//! its fields have for clients.

use forebay_chat::Turn;
use serde_json::{Map, Value};

use crate::convert::grammar::Wanted;
use crate::convert::sampling::{Recipe, StopNames};
use crate::convert::tools::Toolset;
use crate::reply::ToolKind;

/// What a request asks.
#[derive(Debug)]
pub struct Conversation {
    /// The conversation so far, oldest first.
    pub turns: Vec<Turn>,
    /// How the prompt ends.
    pub prompt_end: PromptEnd,
    /// What the model may call.
    pub tools: Toolset,
    /// What the reply's content has to be.
    pub format: Option<Wanted>,
    /// How the model is to reason.
    pub reasoning: Reasoning,
    /// How to choose tokens, and when to end.
    pub recipe: Recipe,
    /// Whether the reply is streamed.
    pub stream: bool,
    /// What errors call the request's fields.
    pub names: &'static FieldNames,
}

/// How a prompt ends.
#[derive(Debug, Clone, Copy)]
pub struct PromptEnd {
    /// The assistant's turn is opened.
    pub add_generation_prompt: bool,
    /// The last turn is left open.
    pub continue_final_message: bool,
}

/// How the model is to reason.
#[derive(Debug, Clone, Default)]
pub struct Reasoning {
    /// How much, in OpenAI's words, for templates that have a control for it.
    pub effort: Option<String>,
    /// The most tokens of reasoning; `None` or below 0 for no bound.
    pub budget: Option<i64>,
    /// Variables for the template.
    pub variables: Map<String, Value>,
}

/// What a dialect calls the fields of a conversation.
#[derive(Debug)]
pub struct FieldNames {
    /// The conversation.
    pub conversation: &'static str,
    /// Strings that end the reply.
    pub stop: StopNames,
    /// What the content has to be.
    pub format: &'static str,
    /// The name of its schema.
    pub schema_name: &'static str,
    /// Its schema.
    pub schema: &'static str,
    /// How much to reason.
    pub effort: &'static str,
    /// The bound on tokens of reasoning.
    pub reasoning_budget: &'static str,
    /// The tools that may be called, in a choice of some of them.
    pub allowed_tools: &'static str,
}

impl Default for PromptEnd {
    fn default() -> Self {
        Self { add_generation_prompt: true, continue_final_message: false }
    }
}

/// A tool that a request defines.
#[derive(Debug, Clone)]
pub struct ToolDefinition {
    /// Where the request has it.
    pub path: ToolPath,
    /// What it takes.
    pub kind: ToolKind,
    /// Its name.
    pub name: String,
    /// What it does; shown to the model.
    pub description: Option<String>,
    /// Of a function: a JSON Schema of its arguments. Of a custom tool: what its text may be.
    pub input: Option<Value>,
    /// Whether its arguments have to be valid even if the model calls it on its own.
    pub strict: bool,
}

/// Where a request has a tool.
#[derive(Debug, Clone)]
pub struct ToolPath {
    /// The tool, such as `tools[2]`.
    pub tool: String,
    /// What its name is called in it.
    pub name: &'static str,
    /// What its schema or format is called in it.
    pub input: &'static str,
}

/// What of the tools the reply has to call.
#[derive(Debug, Clone, Default)]
pub enum ToolChoice {
    /// What the model likes.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// At least one.
    Required,
    /// This one.
    Tool(ToolReference),
    /// Some of these, and at least one if that is required.
    Allowed {
        /// Those that may be called.
        tools: Vec<ToolReference>,
        /// Whether at least one has to be.
        required: bool,
    },
}

/// A tool by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolReference {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub kind: ToolKind,
}

impl ToolPath {
    /// The path of the tool's name.
    pub fn of_name(&self) -> String {
        format!("{}.{}", self.tool, self.name)
    }

    /// The path of its schema or format.
    pub fn of_input(&self) -> String {
        format!("{}.{}", self.tool, self.input)
    }
}
