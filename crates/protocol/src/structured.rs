//! What an answer has to be: OpenAI's `response_format`, and the fields that vLLM and llama-server
//! have for the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `response_format`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema, where that is the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// A named JSON Schema.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// Letters, digits, `_` and `-`, at most 64 of them.
    #[schema(max_length = 64)]
    pub name: String,
    /// What it is for. Not shown to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema; without one any JSON object will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// With `true` a schema that cannot be enforced as a whole is refused; else what can be is, and the
    /// response's header `x-forebay-not-enforced` names the other keywords.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// vLLM's `structured_outputs`: one of these.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON Schema, as an object or as text.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// A regular expression for the whole answer.
    pub regex: Option<String>,
    /// The answer is one of these.
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark's notation, or in EBNF as llama.cpp writes it (`root ::= ...`).
    pub grammar: Option<String>,
    /// Any JSON object.
    pub json_object: Option<bool>,
}

/// The fields that vLLM and llama-server have for what the answer has to be, as sent.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "documented where the request structs are declared")]
pub struct Shape<'a> {
    pub structured_outputs: Option<&'a StructuredOutputs>,
    pub guided_json: Option<&'a Value>,
    pub guided_regex: Option<&'a str>,
    pub guided_choice: Option<&'a [String]>,
    pub guided_grammar: Option<&'a str>,
    pub json_schema: Option<&'a Value>,
    pub grammar: Option<&'a str>,
}
