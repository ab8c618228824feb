//! JSON Schema as clients send it, to what the engine's grammar compiler reads.

mod disjoint;

use forebay_engine::Grammar;
use serde_json::{Map, Value, json};

use self::disjoint::{Comparer, TooMany};
use super::grammar::spelling;

/// How deep a schema may be nested.
const MAX_DEPTH: usize = 64;

/// The grammar of a schema, or why there is none.
pub(super) fn grammar(schema: Value) -> Result<Grammar, String> {
    Ok(Grammar::JsonSchema(spelled(enforceable(schema)?).to_string().into()))
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
    rewrite(&mut schema, &root, &mut Comparer::new(&root), 0)?;
    Ok(schema)
}

/// Rewrites every schema below; `sent` is the same value in the document as it was sent.
fn rewrite<'a>(
    value: &mut Value,
    sent: &'a Value,
    comparer: &mut Comparer<'a>,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    }
    match (value, sent) {
        (Value::Array(all), Value::Array(sent)) => {
            all.iter_mut().zip(sent).try_for_each(|(v, s)| rewrite(v, s, comparer, depth + 1))
        }
        (Value::Object(map), Value::Object(sent)) => {
            for ((key, below), sent) in map.iter_mut().zip(sent.values()) {
                // What these hold is data, not schemas.
                if !matches!(key.as_str(), "enum" | "const" | "default" | "examples") {
                    rewrite(below, sent, comparer, depth + 1)?;
                }
            }
            // That no name comes twice cannot be enforced, so names are not to be counted.
            let required = map.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
            if map.get("minProperties").and_then(Value::as_u64) > Some(required.max(1)) {
                let why =
                    "'minProperties' of more than one is only possible where as many are required";
                return Err(why.to_owned());
            }
            one_of(map, sent, comparer)
        }
        _ => Ok(()),
    }
}

/// `oneOf` says that exactly one schema matches. Where no two of them can, that is `anyOf`, which
/// can be enforced; else it cannot be.
fn one_of<'a>(
    schema: &mut Map<String, Value>,
    sent: &'a Map<String, Value>,
    comparer: &mut Comparer<'a>,
) -> Result<(), String> {
    // A property may have that name, with a schema: only an array is the keyword.
    let Some(Value::Array(options)) = sent.get("oneOf") else { return Ok(()) };
    let disjoint = comparer.are_disjoint(options).map_err(|TooMany| TooMany::why())?;
    if !disjoint || schema.contains_key("anyOf") {
        return Err("'oneOf' is only possible where no two of its schemas can match the same \
                    value, such as by a property with different 'const' values"
            .to_owned());
    }
    if let Some(options) = schema.shift_remove("oneOf") {
        schema.insert("anyOf".to_owned(), options);
    }
    Ok(())
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

    fn tagged(count: usize, tag: impl Fn(usize) -> Value) -> Vec<Value> {
        let one = |i: usize| {
            json!({"type": "object", "required": ["kind", "x"],
                   "properties": {"kind": tag(i), "x": {"type": "string"}}})
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn many_schemas_are_told_apart_by_a_tag() {
        let started = std::time::Instant::now();
        let by_const = tagged(5_000, |i| json!({"const": format!("k{i}")}));
        assert!(source(json!({"oneOf": by_const})).is_ok());
        let by_enum = tagged(3_000, |i| json!({"enum": [i, format!("k{i}")]}));
        assert!(source(json!({"items": {"oneOf": by_enum}})).is_ok());
        let mut twice = tagged(5_000, |i| json!({"const": format!("k{i}")}));
        twice.push(twice[0].clone());
        assert!(source(json!({"oneOf": twice})).unwrap_err().contains("oneOf"));
        let mixed = json!({"oneOf": [{"type": "string"}, {"type": "null"},
            {"type": "object", "properties": {"kind": {"const": 1}}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"const": 2}}, "required": ["kind"]}]});
        assert!(source(mixed).is_ok());
        assert!(
            source(json!({"oneOf": [{"const": 1}, {"const": "1"}, {"type": "array"}]})).is_ok()
        );
        assert!(source(json!({"oneOf": [{"const": 1}, {"const": 1.0}]})).is_err());
        let nested = |i: usize| {
            json!({"type": "object", "required": ["head"], "properties": {"head": {
                "type": "object", "required": ["kind"], "properties": {"kind": {"const": i}}}}})
        };
        assert!(source(json!({"oneOf": [nested(1), nested(2), nested(3)]})).is_ok());
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn comparing_is_bounded() {
        let started = std::time::Instant::now();
        // Told apart in pairs alone: each by the property that it shares with the next one only.
        let wide = |count: usize| -> Vec<Value> {
            let names = |i: usize| -> Vec<String> {
                (0..count).map(|j| format!("p{}_{}", i.min(j), i.max(j))).collect()
            };
            let one = |i: usize| {
                let of = |name: &String| (name.clone(), json!({"const": i}));
                let properties: Map<String, Value> = names(i).iter().map(of).collect();
                json!({"type": "object", "required": names(i), "properties": properties})
            };
            (0..count).map(one).collect()
        };
        assert!(source(json!({"oneOf": wide(20)})).is_ok());
        assert!(source(json!({"oneOf": wide(300)})).unwrap_err().contains("steps"));
        let same = vec![json!({"$ref": "#/$defs/a"}); 20_000];
        let same = json!({"oneOf": same, "$defs": {"a": {"$ref": "#/$defs/a"}}});
        assert!(source(same).unwrap_err().contains("oneOf"));
        // Each level doubles what is to be compared.
        let deep = (0..40).fold(json!({"const": 1}), |below, _| {
            json!({"type": "object", "required": ["a", "b"],
                   "properties": {"a": below, "b": {"$ref": "#"}}})
        });
        assert!(source(json!({"oneOf": [deep, deep]})).is_err());
        let values: Vec<Value> = (0..300_000).map(Value::from).collect();
        assert!(source(json!({"oneOf": [{"enum": values}, {"type": "object"}]})).is_err());
        assert!(started.elapsed() < std::time::Duration::from_secs(20));
    }
}
