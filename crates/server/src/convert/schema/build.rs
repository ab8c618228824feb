//! Small schemas and other JSON objects, built member by member.

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
