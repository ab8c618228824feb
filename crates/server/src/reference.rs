//! docs/api.md: every field of every endpoint, made from the types that read them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use forebay_protocol::fields::{self, FieldRule, TableRow};
use serde_json::{Value, json};

/// What stands above the tables.
const HEAD: &str = "\
# The API, field by field

Made by `forebay openapi --markdown` from the types that read requests; a test holds it to them. How it is
called from SDKs is in [README.md](../README.md), the answers' shapes are in [openapi.yaml](../openapi.yaml).

**Honoured** fields do what the table says. What is outside their limits is a 400 that names the field in
`param`, with one of these codes:

| `code` | What is wrong |
|---|---|
| `missing_required_parameter` | It has to be there. |
| `invalid_type` | It is of another JSON type. |
| `invalid_value` | It is not among the values that there are. |
| `integer_below_min_value`, `integer_above_max_value`, `decimal_below_min_value`, `decimal_above_max_value` | It is outside its limits. |
| `empty_array`, `array_above_max_length`, `string_above_max_length` | It is too short or too long. |
| `context_length_exceeded` | The prompt is longer than what one request can hold. |
| `max_tokens_per_request` | Inputs to embed or rerank have more tokens together than may wait (`queue_tokens`). |
| `unsupported_value` | The field is known, this value cannot be honoured. |
| `unsupported_parameter` | The field is known and refused, as the tables say. |
| `unknown_parameter` | Unknown field; only with `strict`, else it is named in the debug log. |

**Accepted** fields cannot change the answer: identifiers, hints for caches and billing. **Refused** fields
would, and are not there: 400 `unsupported_parameter`, unless their value asks for nothing.

Other statuses: 404 `model_not_found`, `not_found`, `unknown_url`; 405 `method_not_allowed`; 408 a body that is
too slow, or `response_not_read`: an answer that was dropped because nobody read it; 413 one that is too large, or
`request_too_complex`: it would take too much memory; 415 one that is not JSON; 429 `queue_full`, `queue_timeout`,
`server_busy` (with `retry-after`); 503 while loading or draining; 504 `timeout` (`x-request-timeout`). All limits
are in [operations.md](operations.md).

**Schemas** (`response_format`, `text.format`, `output_config.format`, tools, `guided_json`) are enforced while the
answer is generated. An object that names properties has no others, unless its schema says so by
`additionalProperties` or `unevaluatedProperties`; where several schemas describe an object together (`allOf`, `$ref`
with siblings, `anyOf` beside `properties`) it has the properties that any of them names. One that names none is open.
A schema with `properties` (or `items`) and no `type` describes an object (an array). Numbers have at most 20 digits,
17 behind the point and 3 in an exponent, unless the schema's bounds need more; fractions of seconds at most 9.
With `strict: true` a schema that cannot be enforced as a whole is a 400 that names the keyword; `guided_json`,
`structured_outputs` and `json_schema`, which have no such field, are as strict. Otherwise what can be enforced is,
an answer may violate the rest, and the response's header `x-forebay-not-enforced` names those keywords, separated by
commas: `oneOf` (where two of its schemas may match the same value), `not`, `if`, `format` (an unknown one),
`uniqueItems` (of more than five values), `pattern` (look-around), `contains`, `propertyNames`, `minProperties`,
`$ref` (outside of the schema) and others of JSON Schema.
If a model's template writes a call's arguments one by one, a value whose schema allows only strings is read as a
string. Any other value is read as JSON (or a literal of Python) if it is one, else as a string, unless the template
marks its type. Which arguments there are is found behind `$ref` and in `allOf`; `anyOf` and `oneOf` are alternatives,
32 at most. Of such a call these are not enforced about all arguments together: `enum`, `const`, `not`, `propertyNames`,
`minProperties`, `maxProperties`, and `patternProperties` beside `properties`, of which there may be 16; with `strict`
they are a 400, else named in the header. The same goes for the formats `ipv6` and `uri` where only the schema says that
a value is a string, for `pattern` and `format` beside a list of strings, for a `pattern` with an anchor that stands at
no end of it, for more than three that have to match together, for a `minLength` above 4,096, and for listed values, expressions and names of arguments that hold what ends them in the template's
spelling, or would be read with other white space. Arguments that the schema does not name have names of 1 to 64
letters, digits, `_`, `.` and `-`.
";

/// The fields that no type carries, by path.
const TABLES: &[(&str, &[TableRow])] = &[
    ("/v1/chat/completions", fields::CHAT),
    ("/v1/completions", fields::COMPLETION),
    ("/v1/responses", fields::RESPONSES),
    ("/v1/messages", fields::MESSAGES),
    ("/v1/embeddings", fields::EMBEDDING),
    ("/v1/rerank", fields::EMBEDDING),
];

/// Values that may ask for nothing.
fn harmless() -> [Value; 8] {
    [
        json!(false),
        json!(0),
        json!(""),
        json!([]),
        json!("none"),
        json!("auto"),
        json!(["text"]),
        json!("medium"),
    ]
}

/// The whole text.
pub(crate) fn markdown(api: &utoipa::openapi::OpenApi) -> String {
    let api = serde_json::to_value(api).unwrap_or_default();
    let (mut out, mut types) = (HEAD.to_owned(), Types::default());
    for (path, operations) in api["paths"].as_object().into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            self::operation(&mut out, &mut types, path, method, operation, &api);
        }
    }
    out.push_str("\n## Objects in requests\n");
    // Each may name others.
    while let Some(name) = types.next() {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n### {name}\n\n{}\n", paragraph(&schema(&api, &name)["description"]));
        body(&mut out, &mut types, &schema(&api, &name));
    }
    out
}

/// Names of types that are documented or queued.
#[derive(Default)]
struct Types {
    waiting: Vec<String>,
    known: BTreeSet<String>,
}

impl Types {
    fn next(&mut self) -> Option<String> {
        (!self.waiting.is_empty()).then(|| self.waiting.remove(0))
    }

    fn link(&mut self, name: &str) -> String {
        if self.known.insert(name.to_owned()) {
            self.waiting.push(name.to_owned());
        }
        format!("[{name}](#{})", name.to_lowercase())
    }
}

fn operation(
    out: &mut String,
    types: &mut Types,
    path: &str,
    method: &str,
    operation: &Value,
    api: &Value,
) {
    let _ = write!(out, "\n## {} {path}\n\n", method.to_uppercase());
    let summary = operation["summary"].as_str().unwrap_or_default();
    let _ = writeln!(out, "{summary}. {}", paragraph(&operation["description"]));
    let queries = operation["parameters"].as_array().into_iter().flatten();
    let mut queries = queries.filter(|parameter| parameter["in"] == "query").peekable();
    if queries.peek().is_some() {
        out.push_str("\n| In the query | Type | |\n|---|---|---|\n");
        for query in queries {
            let kind = kind(types, &query["schema"]);
            let name = query["name"].as_str().unwrap_or_default();
            let _ = writeln!(out, "| `{name}` | {kind} | {} |", cell(&query["description"]));
        }
    }
    let request = &operation["requestBody"]["content"]["application/json"]["schema"];
    let Some(name) = reference(request) else { return };
    body(out, types, &schema(api, name));
    let table = TABLES.iter().find(|(at, _)| *at == path).map_or(&[][..], |(_, rows)| rows);
    if !table.is_empty() {
        out.push_str("\n| Not acted on | |\n|---|---|\n");
    }
    for (name, rule) in table {
        let what = match rule {
            FieldRule::Hint => "accepted".to_owned(),
            FieldRule::Refused { unless, why } => {
                let passes = harmless().into_iter().filter(unless);
                let passes: Vec<String> = passes.map(|value| format!("`{value}`")).collect();
                let except = if passes.is_empty() {
                    String::new()
                } else {
                    format!(" (but for {})", passes.join(", "))
                };
                format!("refused{except}: {why}")
            }
        };
        let _ = writeln!(out, "| `{name}` | {what} |");
    }
}

/// The fields of an object, or the shapes that a value may have.
fn body(out: &mut String, types: &mut Types, schema: &Value) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object() else {
        let _ = writeln!(out, "\n{}", kind(types, schema));
        return;
    };
    out.push_str("\n| Honoured | Type | |\n|---|---|---|\n");
    for (name, property) in properties {
        let needed = if required.contains(&name.as_str()) { " **(required)**" } else { "" };
        let described = std::iter::once(property).chain(shapes(property));
        let text = described.map(|shape| cell(&shape["description"])).find(|text| !text.is_empty());
        let kind = kind(types, property);
        let text = text.unwrap_or_default();
        let _ = writeln!(out, "| `{name}`{needed} | {kind} | {text} |");
    }
}

/// A type and its limits in words.
fn kind(types: &mut Types, schema: &Value) -> String {
    if let Some(name) = reference(schema) {
        return types.link(name);
    }
    let own = shapes(schema).filter(|shape| shape["type"] != "null");
    let own: Vec<String> = own.map(|shape| kind(types, shape)).collect();
    if !own.is_empty() {
        return own.join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    let names = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().into_iter().collect::<Vec<_>>(),
    };
    let names = names.into_iter().filter(|name| *name != "null").map(|name| match name {
        "array" => format!("array of {}", kind(types, &schema["items"])),
        name => name.to_owned(),
    });
    let names: Vec<String> = names.collect();
    let names = if names.is_empty() { "anything".to_owned() } else { names.join(" or ") };
    format!("{names}{}", limits(schema))
}

fn limits(schema: &Value) -> String {
    let pair = |low: &str, high: &str, unit: &str| match (&schema[low], &schema[high]) {
        (Value::Null, Value::Null) => None,
        (low, Value::Null) => Some(format!(", at least {low}{unit}")),
        (Value::Null, high) => Some(format!(", at most {high}{unit}")),
        (low, high) => Some(format!(", {low} to {high}{unit}")),
    };
    let all = [
        pair("minimum", "maximum", ""),
        pair("exclusiveMinimum", "exclusiveMaximum", ", these not included"),
        pair("minItems", "maxItems", " items"),
        pair("minLength", "maxLength", " characters"),
    ];
    all.into_iter().flatten().collect()
}

fn shapes(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|key| schema[key].as_array()).flatten()
}

fn reference(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

fn schema(api: &Value, name: &str) -> Value {
    api["components"]["schemas"][name].clone()
}

fn paragraph(text: &Value) -> String {
    text.as_str().unwrap_or_default().trim().to_owned()
}

fn cell(text: &Value) -> String {
    text.as_str()
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}
