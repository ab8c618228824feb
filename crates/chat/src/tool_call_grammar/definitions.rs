//! The definitions of a tool's schema, and those that one of its arguments needs.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::target::MAX_GRAMMAR_BYTES;
use crate::schema::references::schemas_in;

/// Bytes of definitions that are copied into the rules of all tools, at most.
pub(super) const MAX_COPIED: usize = MAX_GRAMMAR_BYTES / 4 * 3;
/// Bytes of a tool's definitions that searches without a result may visit, at most.
const MAX_SEARCHED: usize = 8 * MAX_COPIED;

/// The definitions of a tool's schema.
pub(super) struct Definitions<'t> {
    pub(super) root: &'t Value,
    /// Each with its length in bytes, and the definitions that it refers to; `None` if it refers to something else.
    all: HashMap<&'t str, (usize, Option<Vec<&'t str>>)>,
    /// Bytes that searches without a result visited.
    searched: usize,
}

impl<'t> Definitions<'t> {
    pub(super) fn of(root: &'t Value) -> Self {
        let all = root.get("$defs").and_then(Value::as_object).into_iter().flatten();
        let all = all.map(|(name, schema)| {
            (name.as_str(), (name.len() + schema.to_string().len(), referenced_definitions(schema)))
        });
        Self { root, all: all.collect(), searched: 0 }
    }

    /// The definitions that a schema needs, and their length in bytes; `None` if some do not exist, or if they exceed
    /// [`MAX_COPIED`] together with the `copied` bytes so far.
    pub(super) fn needed(
        &mut self,
        schema: &Value,
        copied: usize,
    ) -> Option<(Map<String, Value>, usize)> {
        let mut visited = 0;
        let found = self.search(schema, copied, &mut visited);
        self.searched += if found.is_none() { visited } else { 0 };
        found
    }

    fn search(
        &self,
        schema: &Value,
        copied: usize,
        visited: &mut usize,
    ) -> Option<(Map<String, Value>, usize)> {
        let mut todo = referenced_definitions(schema)?;
        let mut seen = HashSet::new();
        let mut needed = Map::new();
        let definitions = self.root.get("$defs");
        while let Some(name) = todo.pop() {
            if !seen.insert(name) {
                continue;
            }
            let (len, names) = self.all.get(name)?;
            *visited += len;
            let fits = copied + *visited <= MAX_COPIED && self.searched <= MAX_SEARCHED;
            todo.extend(names.as_ref().filter(|_| fits)?);
            if let Some(schema) = definitions.and_then(|all| all.get(name)) {
                needed.insert(name.to_owned(), schema.clone());
            }
        }
        Some((needed, *visited))
    }
}

/// The definitions that a schema refers to; `None` if it refers to something else.
fn referenced_definitions(schema: &Value) -> Option<Vec<&str>> {
    let names = schemas_in(schema).filter_map(|one| one.get("$ref")?.as_str());
    names.map(|name| name.strip_prefix("#/$defs/")).collect()
}

/// Estimates the bytes of a schema as JSON, up to `most`.
pub(super) fn estimated_bytes(schema: &Value, most: usize) -> usize {
    let (mut bytes, mut todo) = (0, vec![schema]);
    while let Some(value) = todo.pop().filter(|_| bytes <= most) {
        bytes += 4;
        match value {
            Value::String(text) => bytes += text.len(),
            Value::Array(all) => todo.extend(all),
            Value::Object(map) => {
                bytes += map.keys().map(String::len).sum::<usize>();
                todo.extend(map.values());
            }
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_in_values_are_data() {
        let schema = json!({"properties": {"const": {"$ref": "#/$defs/a"}, "b": {"const": {"$ref": "other"}},
            "c": {"enum": [{"$ref": "#/$defs/z"}], "default": {"$ref": "#/$defs/z"}}}});
        assert_eq!(referenced_definitions(&schema), Some(vec!["a"]));
        assert_eq!(referenced_definitions(&json!({"items": {"$ref": "other"}})), None);
    }
}
