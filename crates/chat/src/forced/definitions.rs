//! The definitions of a tool's schema, and what of them one of its arguments needs.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::MAX_GRAMMAR_BYTES;
use crate::references::schemas_in;

/// The most bytes of definitions that are copied into the rules of all tools.
pub(super) const MOST_REPEATED: usize = MAX_GRAMMAR_BYTES / 4 * 3;
/// The most bytes of a tool's definitions that searches may visit which do not end with a copy.
const MOST_SEARCHED: usize = 8 * MOST_REPEATED;

/// The definitions of a tool's schema.
pub(super) struct Definitions<'t> {
    pub(super) root: &'t Value,
    /// Each with its length, and with the definitions that it refers to; `None` if that is something else.
    all: HashMap<&'t str, (usize, Option<Vec<&'t str>>)>,
    /// Bytes that searches visited which did not end with a copy.
    searched: usize,
}

impl<'t> Definitions<'t> {
    pub(super) fn of(root: &'t Value) -> Self {
        let all = root.get("$defs").and_then(Value::as_object).into_iter().flatten();
        let all = all.map(|(name, schema)| {
            (name.as_str(), (name.len() + schema.to_string().len(), referred(schema)))
        });
        Self { root, all: all.collect(), searched: 0 }
    }

    /// Those that a schema needs, and their length in bytes; `None` where some are not there, or they do not fit
    /// with the `before` bytes that were copied so far.
    pub(super) fn needed(
        &mut self,
        schema: &Value,
        before: usize,
    ) -> Option<(Map<String, Value>, usize)> {
        let mut visited = 0;
        let found = self.search(schema, before, &mut visited);
        self.searched += if found.is_none() { visited } else { 0 };
        found
    }

    fn search(
        &self,
        schema: &Value,
        before: usize,
        visited: &mut usize,
    ) -> Option<(Map<String, Value>, usize)> {
        let mut todo = referred(schema)?;
        let mut seen = HashSet::new();
        let mut needed = Map::new();
        let definitions = self.root.get("$defs");
        while let Some(name) = todo.pop() {
            if !seen.insert(name) {
                continue;
            }
            let (len, names) = self.all.get(name)?;
            *visited += len;
            let fits = before + *visited <= MOST_REPEATED && self.searched <= MOST_SEARCHED;
            todo.extend(names.as_ref().filter(|_| fits)?);
            if let Some(schema) = definitions.and_then(|all| all.get(name)) {
                needed.insert(name.to_owned(), schema.clone());
            }
        }
        Some((needed, *visited))
    }
}

/// The definitions that a schema refers to; `None` if it refers to something else.
fn referred(schema: &Value) -> Option<Vec<&str>> {
    let names = schemas_in(schema).filter_map(|one| one.get("$ref")?.as_str());
    names.map(|name| name.strip_prefix("#/$defs/")).collect()
}

/// About how many bytes a schema takes as JSON; it is not looked at beyond `most`.
pub(super) fn length(schema: &Value, most: usize) -> usize {
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
        assert_eq!(referred(&schema), Some(vec!["a"]));
        assert_eq!(referred(&json!({"items": {"$ref": "other"}})), None);
    }
}
