//! Constraints on the answer: OpenAI's `response_format`, and the fields of vLLM and llama-server.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// `response_format`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema, for the type `json_schema`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// A named JSON Schema.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// Letters, digits, `_` and `-`, at most 64 of them.
    #[schema(max_length = 64)]
    pub name: String,
    /// Description; not shown to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema; without one any JSON object is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// `true` refuses a schema that cannot be enforced as a whole. Otherwise the response header
    /// `x-forebay-not-enforced` names the keywords that are not enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// vLLM's `structured_outputs`: one of its fields.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON Schema, as an object or as text.
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// A regular expression for the whole answer.
    pub regex: Option<String>,
    /// The answer is one of these texts.
    pub choice: Option<Vec<String>>,
    /// A grammar in Lark's notation, or in EBNF as llama.cpp writes it (`root ::= ...`).
    pub grammar: Option<String>,
    /// Any JSON object.
    pub json_object: Option<bool>,
}

/// The fields of vLLM and llama-server that constrain the output, as sent.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "documented where the request structs are declared")]
pub struct OutputConstraints<'a> {
    pub structured_outputs: Option<&'a StructuredOutputs>,
    pub guided_json: Option<&'a Value>,
    pub guided_regex: Option<&'a str>,
    pub guided_choice: Option<&'a [String]>,
    pub guided_grammar: Option<&'a str>,
    pub json_schema: Option<&'a Value>,
    pub grammar: Option<&'a str>,
}
