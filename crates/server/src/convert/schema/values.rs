//! JSON values: what copying them costs, which are equal, and which need escapes by number.

use serde_json::{Map, Value};

/// The cost of copying a value, in steps: its parts, and the bytes of its strings. It recurses: values that clients
/// send are at most 128 levels deep.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::Array(all) => 1 + all.iter().map(size).sum::<usize>(),
        Value::Object(map) => {
            1 + map.iter().map(|(name, value)| name.len() / 64 + size(value)).sum::<usize>()
        }
        Value::String(text) => 1 + text.len() / 64,
        _ => 1,
    }
}

/// Whether two values are equal as JSON Schema has it: 1 and 1.0 are.
pub(super) fn are_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| are_equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| are_equal(a, b)))
        }
        _ => a == b,
    }
}

/// Whether a value that a rewritten schema lists has a control character without a short escape.
pub(super) fn lists_controls(schema: &Map<String, Value>) -> bool {
    let has = |text: &str| {
        text.chars().any(|c| c < ' ' && !matches!(c, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r'))
    };
    let lists = |key: &str| matches!(key, "enum" | "const");
    let mut todo: Vec<_> = schema.iter().map(|(key, value)| (value, lists(key))).collect();
    let mut found = false;
    while let Some((value, is_listed)) = todo.pop() {
        match value {
            Value::String(text) => found |= is_listed && has(text),
            Value::Array(all) => todo.extend(all.iter().map(|below| (below, is_listed))),
            Value::Object(map) => todo.extend(map.iter().map(|(key, below)| {
                found |= is_listed && has(key);
                (below, is_listed || lists(key))
            })),
            _ => {}
        }
    }
    found
}
