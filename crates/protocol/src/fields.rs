//! Rules for the fields that a client may send and no struct carries.
//!
//! Each endpoint has one table of [`FieldRule`]s. A field that is in no table is unknown: accepted and
//! named in a debug log, or refused when the server runs strictly.

use serde_json::Value;

/// How a documented field that Forebay does not act on is treated.
#[derive(Debug, Clone, Copy)]
pub enum FieldRule {
    /// Accepted: it cannot change the answer (an identifier, a cache or billing hint).
    Hint,
    /// Refused by name, unless the value asks for nothing: acting on it is not possible.
    Refused {
        /// Whether this value asks for nothing beyond the default behaviour.
        unless: fn(&Value) -> bool,
        /// The end of the sentence "X is not supported: ...".
        why: &'static str,
    },
}

/// One row of a table: the field's name and its rule.
pub type TableRow = (&'static str, FieldRule);

fn never(_: &Value) -> bool {
    false
}

fn is_false(v: &Value) -> bool {
    v == &Value::Bool(false)
}

fn is_empty(v: &Value) -> bool {
    v.as_array().is_some_and(Vec::is_empty) || v.as_str().is_some_and(str::is_empty)
}

fn is_medium(v: &Value) -> bool {
    v == "medium"
}

fn is_none_choice(v: &Value) -> bool {
    v.as_str().is_some_and(|s| s == "none" || s == "auto")
}

fn is_text_only(v: &Value) -> bool {
    v.as_array().is_some_and(|a| a.iter().all(|m| m == "text"))
}

const fn refused(unless: fn(&Value) -> bool, why: &'static str) -> FieldRule {
    FieldRule::Refused { unless, why }
}

/// `POST /v1/chat/completions`.
pub const CHAT: &[TableRow] = &[
    ("user", FieldRule::Hint),
    ("safety_identifier", FieldRule::Hint),
    ("prompt_cache_key", FieldRule::Hint),
    ("prompt_cache_retention", FieldRule::Hint),
    ("prompt_cache_options", FieldRule::Hint),
    ("prediction", FieldRule::Hint),
    ("store", refused(is_false, "answers are not stored on this server")),
    ("functions", refused(is_empty, "use `tools`")),
    ("function_call", refused(is_none_choice, "use `tool_choice`")),
    ("verbosity", refused(is_medium, "no model served here has a verbosity control")),
    ("modalities", refused(is_text_only, "only [\"text\"] is")),
    ("audio", refused(never, "audio output is not available")),
    ("web_search_options", refused(never, "this server has no web search")),
    ("moderation", refused(never, "this server has no moderation model")),
    ("best_of", refused(never, "it belongs to /v1/completions")),
    ("chat_template", refused(never, "the template comes from the model or the operator")),
];

/// `POST /v1/responses`.
pub const RESPONSES: &[TableRow] = &[
    ("user", FieldRule::Hint),
    ("safety_identifier", FieldRule::Hint),
    ("prompt_cache_key", FieldRule::Hint),
    ("prompt_cache_retention", FieldRule::Hint),
    ("prompt_cache_options", FieldRule::Hint),
    ("client_metadata", FieldRule::Hint),
    ("service_tier", FieldRule::Hint),
    ("stream_options", FieldRule::Hint),
    ("max_tool_calls", FieldRule::Hint),
    ("prompt", refused(never, "this server has no prompt templates")),
    ("moderation", refused(never, "this server has no moderation model")),
    ("context_management", refused(is_empty, "nothing is compacted on this server")),
];

/// `POST /v1/messages`.
pub const MESSAGES: &[TableRow] = &[
    ("metadata", FieldRule::Hint),
    ("service_tier", FieldRule::Hint),
    ("cache_control", FieldRule::Hint),
    ("diagnostics", FieldRule::Hint),
    ("speed", FieldRule::Hint),
    ("inference_geo", FieldRule::Hint),
    ("context_management", FieldRule::Hint),
    ("container", refused(never, "this server has no containers")),
    ("mcp_servers", refused(is_empty, "this server calls no other servers")),
];

/// `POST /v1/completions`.
pub const COMPLETION: &[TableRow] =
    &[("user", FieldRule::Hint), ("suffix", refused(is_empty, "infilling is not implemented"))];

/// `POST /v1/embeddings`.
pub const EMBEDDING: &[TableRow] = &[
    ("user", FieldRule::Hint),
    ("truncate_prompt_tokens", refused(never, "use `truncate: true`, which cuts at the limit")),
    ("input_type", refused(never, "put the model's own prefix in front of the text")),
];

/// `POST /v1/tokenize` and `POST /v1/detokenize`.
pub const TOKENIZE: &[TableRow] = &[];

/// The rule for `name` in `table`, if it has one.
pub fn lookup(table: &[TableRow], name: &str) -> Option<FieldRule> {
    table.iter().find(|(row, _)| *row == name).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(name: &str, value: &Value, refused: bool) {
        let rule = lookup(CHAT, name).expect(name);
        let got = match rule {
            FieldRule::Hint => false,
            FieldRule::Refused { unless, .. } => !unless(value),
        };
        assert_eq!(got, refused, "{name}: {value}");
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        check("functions", &json!([]), false);
        check("function_call", &json!("none"), false);
        check("modalities", &json!(["text"]), false);
        check("store", &json!(false), false);
        check("user", &json!("u-1"), false);
    }

    #[test]
    fn values_that_ask_for_something_are_refused() {
        check("functions", &json!([{"name": "f"}]), true);
        check("function_call", &json!({"name": "f"}), true);
        check("modalities", &json!(["text", "audio"]), true);
        check("store", &json!(true), true);
    }

    #[test]
    fn no_table_names_a_field_twice() {
        for table in [CHAT, COMPLETION, EMBEDDING, TOKENIZE] {
            for (i, (name, _)) in table.iter().enumerate() {
                assert!(table[..i].iter().all(|(other, _)| other != name), "{name} twice");
            }
        }
    }
}
