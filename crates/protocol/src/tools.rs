//! Tools, tool choice and tool calls.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// One entry of `tools`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Tool {
    /// `function` or `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function, for the type `function`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<Function>,
    /// The custom tool, for the type `custom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<Custom>,
}

/// A function that the model may call with JSON arguments.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Function {
    /// Letters, digits, `_` and `-`, at most 64 of them.
    #[schema(max_length = 64)]
    pub name: String,
    /// Description; shown to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// JSON Schema of the arguments; without one the function has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments are valid by the schema even in calls that the model chooses itself. In calls
    /// that `tool_choice` demands they are, as far as the schema can be enforced. `true` refuses a schema
    /// that cannot be enforced as a whole. Otherwise the response header `x-forebay-not-enforced` names
    /// the keywords that are not enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// A tool that takes text.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct Custom {
    /// Letters, digits, `_` and `-`, at most 64 of them.
    #[schema(max_length = 64)]
    pub name: String,
    /// Description; shown to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Format of the text; only `{"type": "text"}` is supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub format: Option<Value>,
}

/// `tool_choice`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One tool, or some of them.
    Named(NamedChoice),
}

/// A `tool_choice` that names tools.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct NamedChoice {
    /// `function`, `custom` or `allowed_tools`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The function to call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<ToolName>,
    /// The custom tool to call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<ToolName>,
    /// The tools that may be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<AllowedTools>,
}

/// A tool by its name.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ToolName {
    /// The name.
    pub name: String,
}

/// A selection of tools.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct AllowedTools {
    /// `auto` or `required`.
    pub mode: String,
    /// Entries like `{"type": "function", "function": {"name": "x"}}`.
    #[schema(no_recursion)]
    pub tools: Vec<NamedChoice>,
}

/// A tool call, in an answer or in the conversation so far.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Id that the tool's result refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function` or `custom`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The function and its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionCall>,
    /// The custom tool and its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomCall>,
}

/// A function with arguments.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct FunctionCall {
    /// The function's name.
    #[serde(default)]
    pub name: String,
    /// JSON as text. (In a request it may be an object as well.)
    #[serde(default)]
    #[schema(value_type = String)]
    pub arguments: Value,
}

/// A custom tool with its text.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct CustomCall {
    /// The tool's name.
    #[serde(default)]
    pub name: String,
    /// The text.
    #[serde(default)]
    pub input: String,
}

/// What a chunk adds to a tool call. Keys are omitted rather than null: SDK helpers concatenate the
/// values.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ToolCallDelta {
    /// Index of the call.
    pub index: u32,
    /// In the call's first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In the call's first chunk only.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The function's name in the first chunk, and text to append to its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDelta>,
    /// The custom tool's name in the first chunk, and text to append to its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomDelta>,
}

/// What a chunk adds to a function call.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct FunctionDelta {
    /// In the call's first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text to append.
    pub arguments: String,
}

/// What a chunk adds to a custom tool's call.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct CustomDelta {
    /// In the call's first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Text to append.
    pub input: String,
}
