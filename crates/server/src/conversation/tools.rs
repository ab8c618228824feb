//! Tools and tool choices of a request, in no dialect.

use serde_json::Value;

/// What a tool takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolKind {
    /// JSON arguments, as text.
    Function,
    /// A text, which comes as a whole.
    Custom,
}

/// A tool that a request defines.
#[derive(Debug, Clone)]
pub struct ToolDefinition {
    /// Where it is in the request.
    pub path: ToolPath,
    /// Its name.
    pub name: String,
    /// Its description, which the model reads.
    pub description: Option<String>,
    /// What it takes.
    pub input: ToolInput,
}

/// What a defined tool takes.
#[derive(Debug, Clone)]
pub enum ToolInput {
    /// A function's JSON arguments.
    Arguments {
        /// Their JSON Schema; without one a function has none.
        schema: Option<Value>,
        /// Whether they have to be valid even if the model calls the function on its own.
        strict: bool,
    },
    /// A custom tool's text.
    Text {
        /// Its format as sent; any text without one.
        format: Option<Value>,
    },
}

/// Where a tool is in a request.
#[derive(Debug, Clone)]
pub struct ToolPath {
    /// The tool, such as `tools[2]`.
    pub tool: String,
    /// The path of its name within it.
    pub name: &'static str,
    /// The path of its schema or format within it.
    pub input: &'static str,
}

/// Which tools a reply may or has to call.
#[derive(Debug, Clone, Default)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None.
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
    /// The path of the tool's name in the request.
    pub fn of_name(&self) -> String {
        format!("{}.{}", self.tool, self.name)
    }

    /// The path of its schema or format in the request.
    pub fn of_input(&self) -> String {
        format!("{}.{}", self.tool, self.input)
    }
}
