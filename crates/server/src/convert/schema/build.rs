//! Schemas of our own, built keyword by keyword.

use serde_json::{Map, Value};

/// The members of an object, in order.
pub(in crate::convert) fn members<const N: usize>(
    members: [(&str, Value); N],
) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// An object of these members, in order.
pub(in crate::convert) fn object<const N: usize>(of: [(&str, Value); N]) -> Value {
    Value::Object(members(of))
}

/// The schema of any object.
pub(in crate::convert) fn any_object() -> Value {
    object([("type", "object".into())])
}

/// The schema of any string.
pub(in crate::convert) fn any_string() -> Value {
    object([("type", "string".into())])
}

/// The schema of strings that match a regular expression.
pub(in crate::convert) fn string_matching(pattern: String) -> Value {
    object([("type", "string".into()), ("pattern", pattern.into())])
}

/// The schema of objects without a property.
pub(super) fn without_property(name: &str) -> Map<String, Value> {
    members([("properties", object([(name, false.into())]))])
}

/// The schema of values that match one of these.
pub(super) fn one_matches(options: Vec<Value>) -> Map<String, Value> {
    members([("anyOf", options.into())])
}

/// Sets a keyword.
pub(super) fn set(schema: &mut Map<String, Value>, keyword: &str, value: impl Into<Value>) {
    schema.insert(keyword.to_owned(), value.into());
}

/// Adds a schema that has to match as well.
pub(super) fn push_all_of(schema: &mut Map<String, Value>, member: Value) {
    match schema.entry("allOf").or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(members) => members.push(member),
        other => *other = vec![member].into(),
    }
}

/// Adds schemas of which one has to match.
pub(super) fn push_any_of(schema: &mut Map<String, Value>, options: Value) {
    match schema.contains_key("anyOf") {
        true => push_all_of(schema, object([("anyOf", options)])),
        false => set(schema, "anyOf", options),
    }
}
