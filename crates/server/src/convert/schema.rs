//! JSON Schema as clients send it, to what the engine's grammar compiler reads.

use forebay_engine::Grammar;
use serde_json::{Map, Value, json};

use super::grammar::spelling;

/// How deep a schema may be nested.
const MAX_DEPTH: usize = 64;

/// The grammar of a schema, or why there is none.
pub(super) fn grammar(schema: Value) -> Result<Grammar, String> {
    Ok(Grammar::JsonSchema(spelled(enforceable(schema)?).to_string()))
}

/// The schema with our spelling.
pub(super) fn spelled(mut schema: Value) -> Value {
    // The client's own, if any, goes: it could turn enforcing off.
    schema["x-guidance"] = Value::Object(spelling());
    schema
}

/// The same schema as far as the compiler would not read it as it is meant.
pub(super) fn enforceable(schema: Value) -> Result<Value, String> {
    let mut schema = match schema {
        Value::Object(_) => schema,
        Value::Bool(true) => json!({}),
        Value::Bool(false) => return Err("nothing is valid by it".to_owned()),
        _ => return Err("a schema is an object".to_owned()),
    };
    let root = schema.clone();
    rewrite(&mut schema, &root, 0)?;
    Ok(schema)
}

/// Rewrites every schema below.
fn rewrite(value: &mut Value, root: &Value, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    }
    match value {
        Value::Array(all) => all.iter_mut().try_for_each(|v| rewrite(v, root, depth + 1)),
        Value::Object(map) => {
            for (key, below) in map.iter_mut() {
                // What these hold is data, not schemas.
                if !matches!(key.as_str(), "enum" | "const" | "default" | "examples") {
                    rewrite(below, root, depth + 1)?;
                }
            }
            // That no name comes twice cannot be enforced, so names are not to be counted.
            let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
            if map.get("minProperties").and_then(Value::as_u64) > Some(required.max(1)) {
                let why =
                    "'minProperties' of more than one is only possible where as many are required";
                return Err(why.to_owned());
            }
            *map = one_of(std::mem::take(map), root)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `oneOf` says that exactly one schema matches. Where no two of them can, that is `anyOf`, which
/// can be enforced; else it cannot be.
fn one_of(mut schema: Map<String, Value>, root: &Value) -> Result<Map<String, Value>, String> {
    // A property may have that name, with a schema: only an array is the keyword.
    let Some(Value::Array(options)) = schema.get("oneOf") else { return Ok(schema) };
    let disjoint = options.iter().enumerate().all(|(i, a)| {
        options.iter().skip(i + 1).all(|b| are_disjoint(resolve(a, root), resolve(b, root)))
    });
    if !disjoint || schema.contains_key("anyOf") {
        return Err("'oneOf' is only possible where no two of its schemas can match the same \
                    value, such as by a property with different 'const' values"
            .to_owned());
    }
    if let Some(options) = schema.remove("oneOf") {
        schema.insert("anyOf".to_owned(), options);
    }
    Ok(schema)
}

/// What a schema is that may be a reference within the document.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// Whether nothing can be valid by both: their types differ, or their values, or those of a property
/// that both require.
fn are_disjoint(a: &Value, b: &Value) -> bool {
    let values = |schema: &Value| -> Option<Vec<Value>> {
        schema
            .get("const")
            .map(|v| vec![v.clone()])
            .or_else(|| schema.get("enum").and_then(Value::as_array).cloned())
    };
    if let (Some(a), Some(b)) = (values(a), values(b)) {
        return a.iter().all(|value| !b.contains(value));
    }
    if let (Some(a), Some(b)) = (types(a), types(b)) {
        let same = |x: &str, y: &str| {
            x == y || matches!((x, y), ("integer", "number") | ("number", "integer"))
        };
        if !a.iter().any(|x| b.iter().any(|y| same(x, y))) {
            return true;
        }
    }
    let required = |schema: &Value, name: &str| {
        let all = schema.get("required").and_then(Value::as_array);
        all.is_some_and(|all| all.iter().any(|n| n == name))
    };
    let properties = |schema: &Value| schema.get("properties").and_then(Value::as_object).cloned();
    // Where one is no object they differ by type, which was seen.
    let (Some(of_a), Some(of_b)) = (properties(a), properties(b)) else { return false };
    let objects = [a, b].iter().all(|s| s.get("type") == Some(&json!("object")));
    objects
        && of_a.iter().any(|(name, below)| {
            let other = of_b.get(name).filter(|_| required(a, name) && required(b, name));
            other.is_some_and(|other| are_disjoint(below, other))
        })
}

fn types(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(all) => all.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(schema: Value) -> Result<Value, String> {
        grammar(schema).map(|grammar| match grammar {
            Grammar::JsonSchema(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_spelling_is_ours() {
        let schema = source(json!({"type": "object", "x-guidance": {"lenient": true}})).unwrap();
        assert_eq!(schema["x-guidance"]["lenient"], false);
        assert!(source(json!(false)).is_err() && source(json!(7)).is_err());
        assert!(source(json!(true)).is_ok());
    }

    #[test]
    fn one_of_that_cannot_overlap_is_any_of() {
        let kind = |name: &str| {
            json!({"type": "object", "required": ["kind"],
                   "properties": {"kind": {"const": name}, "one_of": {"type": "string"}}})
        };
        let by_reference = json!({
            "$defs": {"A": kind("a"), "B": kind("b")},
            "properties": {"x": {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}},
        });
        let schema = source(by_reference).unwrap();
        assert_eq!(schema["properties"]["x"]["anyOf"].as_array().unwrap().len(), 2);
        assert!(
            source(json!({"oneOf": [{"type": "string"}, {"type": ["null", "boolean"]}]})).is_ok()
        );
        for overlapping in [
            json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
            json!({"oneOf": [kind("a"), kind("a")]}),
            json!({"oneOf": [{"type": "object"}, kind("a")]}),
            json!({"items": {"oneOf": [{}, {"type": "string"}]}}),
        ] {
            assert!(source(overlapping.clone()).unwrap_err().contains("oneOf"), "{overlapping}");
        }
        assert!(source(json!({"minProperties": 2})).unwrap_err().contains("minProperties"));
        assert!(source(json!({"minProperties": 2, "required": ["a", "b"]})).is_ok());
        let property = json!({"properties": {"oneOf": {"type": "string"}}});
        assert!(source(property).is_ok(), "a property may be called that");
        let data = json!({"enum": [{"oneOf": [1, 2]}]});
        assert_eq!(source(data.clone()).unwrap()["enum"], data["enum"]);
    }
}
