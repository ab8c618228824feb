//! What a schema's references name, within its document.

use std::collections::HashMap;

use serde_json::Value;

/// The places of a document that references can name.
#[derive(Debug)]
pub(super) struct References<'a> {
    root: &'a Value,
    /// By `$anchor` and `$id`, once a reference asks for one.
    named: Option<HashMap<&'a str, &'a Value>>,
}

impl<'a> References<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root, named: None }
    }

    /// The schema that a reference names; `None` for what lies outside of the document.
    pub(super) fn find(&mut self, reference: &str) -> Option<&'a Value> {
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
            return self.at(fragment);
        }
        let name = match fragment {
            Some(anchor) => anchor,
            None => reference.trim_end_matches('#'),
        };
        let root = self.root;
        self.named.get_or_insert_with(|| named(root)).get(name).copied()
    }

    /// What a JSON pointer names: as it stands, or with its percent-encoding undone.
    fn at(&self, pointer: &str) -> Option<&'a Value> {
        if pointer == "/" {
            // What the grammar compiler takes for the document.
            return Some(self.root);
        }
        self.root.pointer(pointer).or_else(|| self.root.pointer(&percent_decoded(pointer)?))
    }
}

/// Every schema that has a name of its own.
fn named(root: &Value) -> HashMap<&str, &Value> {
    let (mut found, mut todo) = (HashMap::new(), vec![root]);
    while let Some(value) = todo.pop() {
        match value {
            Value::Array(all) => todo.extend(all),
            Value::Object(map) => {
                for key in ["$anchor", "$dynamicAnchor", "$id", "id"] {
                    if let Some(name) = map.get(key).and_then(Value::as_str) {
                        let name = name.trim_start_matches('#').trim_end_matches('#');
                        found.entry(name).or_insert(value);
                    }
                }
                todo.extend(map.values());
            }
            _ => {}
        }
    }
    found
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = |at: usize| (*behind.get(at)? as char).to_digit(16);
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).ok()?);
                rest = &behind[2..];
            }
            _ => {
                out.push(*first);
                rest = behind;
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
        let mut references = References::new(&root);
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
}
