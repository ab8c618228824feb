//! The schemas that references name within their document, and what holds schemas in a schema. The rewriter of schemas and
//! the parser of arguments both ask here, so that a reference means the same to both.

use std::cell::OnceCell;
use std::collections::HashMap;

use serde_json::{Map, Value};

/// Keywords that name another schema for the same value.
const REFERENCE_KEYWORDS: &[&str] = &["$ref", "$dynamicRef", "$recursiveRef"];

/// A version of [JSON Schema](https://json-schema.org/specification), as far as keywords differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Draft {
    /// draft-04
    Draft4,
    /// draft-06
    Draft6,
    /// draft-07
    Draft7,
    /// 2019-09
    Draft201909,
    /// 2020-12, and documents without a version.
    Draft202012,
}

impl Draft {
    /// The version that a document's `$schema` names.
    pub fn of(root: &Value) -> Self {
        let name = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
        match name.trim_end_matches('#') {
            "http://json-schema.org/draft-04/schema" => Self::Draft4,
            "http://json-schema.org/draft-06/schema" => Self::Draft6,
            "http://json-schema.org/draft-07/schema" => Self::Draft7,
            "https://json-schema.org/draft/2019-09/schema" => Self::Draft201909,
            _ => Self::Draft202012,
        }
    }

    /// Whether keywords beside a reference are ignored.
    pub fn references_stand_alone(self) -> bool {
        self <= Self::Draft7
    }
}

/// Finds the schemas that references name in a document. Finding one takes time linear in the reference's length; the
/// first reference to an anchor, linear in the document's.
#[derive(Debug)]
pub struct References<'a> {
    root: &'a Value,
    draft: Draft,
    /// Schemas by `$anchor` and `$id`; made for the first reference that needs it.
    named: OnceCell<HashMap<&'a str, &'a Value>>,
}

impl<'a> References<'a> {
    /// For references within this document.
    pub fn new(root: &'a Value) -> Self {
        Self { root, draft: Draft::of(root), named: OnceCell::new() }
    }

    /// The document's version of JSON Schema.
    pub fn draft(&self) -> Draft {
        self.draft
    }

    /// The references of a schema, and whether the keywords beside them are ignored.
    pub(crate) fn applying(
        &self,
        schema: &'a Map<String, Value>,
    ) -> (impl Iterator<Item = &'a str> + use<'a>, bool) {
        let text = |key: &str| schema.get(key).and_then(Value::as_str);
        let alone = self.draft.references_stand_alone() && text("$ref").is_some();
        let keys = if alone { &REFERENCE_KEYWORDS[..1] } else { REFERENCE_KEYWORDS };
        (keys.iter().filter_map(|key| schema.get(*key)?.as_str()), alone)
    }

    /// The schema that a reference names; `None` if it is not in the document.
    pub fn find(&self, reference: &str) -> Option<&'a Value> {
        let own = ["$id", "id"].into_iter().find_map(|key| self.root.get(key)?.as_str());
        let fragment = match reference.split_once('#') {
            None if Some(reference) == own => Some(""),
            Some(("", fragment)) => Some(fragment),
            Some((base, fragment)) => {
                own.is_some_and(|own| own.trim_end_matches('#') == base).then_some(fragment)
            }
            None => None,
        };
        if let Some(fragment) = fragment
            && (fragment.is_empty() || fragment.starts_with('/'))
        {
            return self.pointed(fragment);
        }
        let name = match fragment {
            Some(anchor) => anchor,
            None => reference.trim_end_matches('#'),
        };
        let root = self.root;
        self.named.get_or_init(|| named(root)).get(name).copied()
    }

    /// The schema that a JSON pointer names, as it stands or percent-decoded.
    fn pointed(&self, pointer: &str) -> Option<&'a Value> {
        if pointer == "/" {
            // The grammar compiler takes this for the document.
            return Some(self.root);
        }
        self.root.pointer(pointer).or_else(|| self.root.pointer(&percent_decoded(pointer)?))
    }
}

/// All schemas with a name, by that name.
fn named(root: &Value) -> HashMap<&str, &Value> {
    let mut found = HashMap::new();
    for value in schemas_in(root) {
        for key in ["$anchor", "$dynamicAnchor", "$id", "id"] {
            if let Some(name) = value.get(key).and_then(Value::as_str) {
                let name = name.trim_start_matches('#').trim_end_matches('#');
                found.entry(name).or_insert(value);
            }
        }
    }
    found
}

/// Keywords whose values are data, even if they look like schemas.
pub(crate) const DATA_KEYWORDS: [&str; 5] = ["const", "enum", "default", "example", "examples"];
/// Keywords that hold schemas by names that are not keywords.
pub(crate) const BY_NAME_KEYWORDS: [&str; 6] =
    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];

/// A schema and all schemas in it, also under unknown keywords.
pub(crate) fn schemas_in(root: &Value) -> impl Iterator<Item = &Value> {
    // Each with whether its members are names rather than keywords.
    let mut todo = vec![(root, false)];
    std::iter::from_fn(move || {
        while let Some((value, is_by_name)) = todo.pop() {
            match value {
                Value::Array(all) => todo.extend(all.iter().map(|one| (one, false))),
                Value::Object(map) if is_by_name => {
                    todo.extend(map.values().map(|one| (one, false)));
                }
                Value::Object(map) => {
                    let below =
                        map.iter().filter(|(key, _)| !DATA_KEYWORDS.contains(&key.as_str()));
                    todo.extend(
                        below.map(|(key, one)| (one, BY_NAME_KEYWORDS.contains(&key.as_str()))),
                    );
                    return Some(value);
                }
                _ => {}
            }
        }
        None
    })
}

/// Whether a schema matches every value: `true` or `{}`.
pub fn is_any(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

/// Whether a schema matches no value: `false`.
pub(crate) fn is_none(schema: &Value) -> bool {
    *schema == Value::Bool(false)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |at: usize| (*after.get(at)? as char).to_digit(16);
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).ok()?);
                rest = &after[2..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_within_the_document_are_found() {
        let root = json!({
            "$id": "https://a.example/s.json", "$defs": {
                "a/b": {"const": 1}, "c d": {"const": 2}, "e": {"$anchor": "here", "const": 3},
                "f": {"$id": "other.json", "const": 4}},
            "definitions": {"g": {"id": "#old", "const": 5}},
        });
        let references = References::new(&root);
        for (reference, value) in [
            ("#/$defs/a~1b", 1),
            ("#/$defs/c%20d", 2),
            ("#here", 3),
            ("https://a.example/s.json#/$defs/e", 3),
            ("other.json", 4),
            ("#old", 5),
        ] {
            assert_eq!(references.find(reference).unwrap()["const"], value, "{reference}");
        }
        for reference in ["#", "#/", "https://a.example/s.json", "https://a.example/s.json#"] {
            assert_eq!(references.find(reference), Some(&root), "{reference}");
        }
        for reference in ["#/$defs/none", "#none", "https://b.example/", "", "#/%f", "#/%ff"] {
            assert_eq!(references.find(reference), None, "{reference}");
        }
    }

    #[test]
    fn data_that_looks_like_a_schema_is_none() {
        let root = json!({"$defs": {"const": {"$anchor": "here", "type": "null"}},
            "properties": {"a": {"const": {"$anchor": "there"}, "enum": [{"$anchor": "there"}]},
                "enum": {"$anchor": "property"}}});
        let references = References::new(&root);
        assert_eq!(references.find("#here").unwrap()["type"], "null");
        assert!(references.find("#property").is_some());
        assert_eq!(references.find("#there"), None);
    }
}
