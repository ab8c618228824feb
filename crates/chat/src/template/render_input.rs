//! Turns and tools as the JSON that templates read, with every text of a user guarded.

use serde_json::json;

use super::tojson::dumps;
use crate::guard::Guard;
use crate::turn::Turn;

/// A turn as an OpenAI message. `arguments_as_text` writes calls' arguments as JSON text.
pub(super) fn message(turn: &Turn, arguments_as_text: bool, guard: Guard<'_>) -> serde_json::Value {
    let mut message = json!({"role": turn.role, "content": guard.protect(&turn.content)});
    if let Some(reasoning) = &turn.reasoning {
        // gpt-oss's templates read the second name; transformers passes both.
        for name in ["reasoning_content", "thinking"] {
            message[name] = guard.protect(reasoning).into();
        }
    }
    if let Some(name) = &turn.name {
        message["name"] = guard.protect(name).into();
    }
    if let Some(id) = &turn.call_id {
        message["tool_call_id"] = guard.protect(id).into();
    }
    if !turn.calls.is_empty() {
        let calls = turn.calls.iter().map(|call| {
            let arguments = protected(&call.arguments, guard);
            let arguments = match arguments_as_text && arguments.is_object() {
                true => dumps(&arguments).into(),
                false => arguments,
            };
            let function = json!({"name": guard.protect(&call.name), "arguments": arguments});
            json!({"id": guard.protect(&call.id), "type": "function", "function": function})
        });
        message["tool_calls"] = calls.collect();
    }
    message
}

/// Appends all texts in a value, names of members included.
pub(super) fn collect_strings<'v>(value: &'v serde_json::Value, out: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::String(text) => out.push(text),
        serde_json::Value::Array(all) => all.iter().for_each(|v| collect_strings(v, out)),
        serde_json::Value::Object(map) => {
            for (key, below) in map {
                out.push(key);
                collect_strings(below, out);
            }
        }
        _ => {}
    }
}

/// A copy of a value with every text in it guarded.
fn protected(value: &serde_json::Value, guard: Guard<'_>) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) => guard.protect(text).into(),
        serde_json::Value::Array(all) => all.iter().map(|v| protected(v, guard)).collect(),
        serde_json::Value::Object(map) => {
            let pairs = map.iter().map(|(k, v)| (guard.protect(k), protected(v, guard)));
            serde_json::Value::Object(pairs.collect())
        }
        other => other.clone(),
    }
}

/// A copy of a tool with every text in it guarded, except for the words that templates compare with their own: keywords
/// of JSON Schema and of OpenAI's objects, and types. SmolLM2 has a control token `<filename>`, Qwen
/// `<|object_ref_start|>`: a guarded `name` or `object` would not be recognised.
pub(super) fn tool(value: &serde_json::Value, guard: Guard<'_>) -> serde_json::Value {
    tool_part(value, guard, false)
}

/// A part of a tool. `is_by_name` if its members have names that a user chose.
fn tool_part(value: &serde_json::Value, guard: Guard<'_>, is_by_name: bool) -> serde_json::Value {
    let serde_json::Value::Object(map) = value else { return protected(value, guard) };
    let member = |(key, value): (&String, &serde_json::Value)| {
        if is_by_name {
            return (guard.protect(key), tool_part(value, guard, false));
        }
        let value = match (key.as_str(), value) {
            ("type", serde_json::Value::String(kind)) if is_word(kind) => value.clone(),
            ("properties" | "patternProperties" | "$defs" | "definitions", _) => {
                tool_part(value, guard, true)
            }
            (_, serde_json::Value::Array(all)) => {
                all.iter().map(|value| tool_part(value, guard, false)).collect()
            }
            _ => tool_part(value, guard, false),
        };
        let key = if is_word(key) { key.clone() } else { guard.protect(key) };
        (key, value)
    };
    serde_json::Value::Object(map.iter().map(member).collect())
}

/// Whether a text is a word that templates may compare with their own.
pub(super) fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
}
