//! Calls by generated schemas are read back as what these allow.

use forebay_engine::scripted::answer;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{QUOTED, SPELLED, dialect_of, read_by, wanted_by, why};

/// The keyword by which a value is not valid, of a schema with those of `any_argument`.
fn violates(value: &Value, schema: &Value, root: &Value) -> Option<String> {
    let map = match schema {
        Value::Bool(any) => return (!any).then(|| "false".to_owned()),
        Value::Object(map) => map,
        _ => return None,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |name: &Value| {
        name == kind || name == "integer" && value.as_f64().is_some_and(|n| n.fract() == 0.0)
    };
    let each = |key: &str| map.get(key).and_then(Value::as_array).into_iter().flatten();
    let below = |schema: &Value| violates(value, schema, root);
    for (key, of) in map {
        let wrong = match (key.as_str(), of) {
            ("type", Value::Array(all)) => !all.iter().any(is),
            ("type", one) => !is(one),
            ("const", one) => one != value,
            ("enum", _) => !each("enum").any(|one| one == value),
            ("$ref", name) => {
                let pointer = name.as_str().unwrap().trim_start_matches('#');
                below(root.pointer(pointer).unwrap()).is_some()
            }
            ("allOf", _) => each("allOf").any(|one| below(one).is_some()),
            ("anyOf", _) => each("anyOf").all(|one| below(one).is_some()),
            ("maxLength", most) => value
                .as_str()
                .is_some_and(|text| text.chars().count() as u64 > most.as_u64().unwrap()),
            ("minLength", least) => value
                .as_str()
                .is_some_and(|text| (text.chars().count() as u64) < least.as_u64().unwrap()),
            ("pattern", start) => {
                value.as_str().is_some_and(|text| start == "^a" && !text.starts_with('a'))
            }
            ("items", items) => {
                let all = value.as_array().into_iter().flatten();
                all.filter_map(|one| violates(one, items, root)).next().is_some()
            }
            ("required", names) => value.as_object().is_some_and(|own| {
                names
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|name| !own.contains_key(name.as_str().unwrap()))
            }),
            ("properties", all) => value.as_object().into_iter().flatten().any(|(name, value)| {
                all.get(name).is_some_and(|one| violates(value, one, root).is_some())
            }),
            ("patternProperties", all) => {
                value.as_object().into_iter().flatten().any(|(name, value)| {
                    all.as_object().unwrap().iter().any(|(pattern, one)| {
                        name.starts_with(&pattern[1..]) && violates(value, one, root).is_some()
                    })
                })
            }
            ("additionalProperties", one) => {
                value.as_object().into_iter().flatten().any(|(name, value)| {
                    let is_named = map.get("properties").is_some_and(|all| all.get(name).is_some());
                    let patterns = map.get("patternProperties").and_then(Value::as_object);
                    let matches =
                        patterns.is_some_and(|all| all.keys().any(|p| name.starts_with(&p[1..])));
                    !is_named && !matches && violates(value, one, root).is_some()
                })
            }
            _ => false,
        };
        if wrong {
            return Some(format!("{key} of {schema}"));
        }
    }
    None
}

/// Whether a keyword of a schema with those of `any_argument` may be left out: where a list holds what ends
/// values, or where lists and expressions have to match together.
fn may_be_noted(keyword: &str, schema: &str, which: usize) -> bool {
    let has = |part: &str| schema.contains(part);
    match keyword {
        "enum" | "const" if has("</") && which != QUOTED => true,
        "pattern" if has("\"enum\"") || has("\"const\"") => has("\"pattern\""),
        "enum" | "pattern" | "minLength" | "maxLength" => has("\"allOf\"") && has("\"anyOf\""),
        _ => false,
    }
}

fn any_argument() -> impl Strategy<Value = Value> {
    let leaf = prop::sample::select(vec![
        json!(true),
        json!({}),
        json!({"type": "string"}),
        json!({"type": "integer"}),
        json!({"type": "boolean"}),
        json!({"type": ["string", "null"]}),
        json!({"type": ["integer", "string"]}),
        json!({"enum": ["1", 2, null, "x y", true]}),
        json!({"enum": ["007", "null"]}),
        json!({"enum": [1, 2]}),
        json!({"const": "12"}),
        json!({"const": 12}),
        json!({"const": {"a": "1"}}),
        json!({"const": null}),
        json!({"type": "string", "maxLength": 3}),
        json!({"type": "string", "enum": ["true", "a"]}),
        json!({"$ref": "#/$defs/text"}),
        json!({"$ref": "#/$defs/number"}),
        json!({"$ref": "#/$defs/tree"}),
        json!({"type": "object", "additionalProperties": {"type": "string"}}),
        json!({"type": "array", "items": {"type": ["string", "null"]}}),
        json!({"type": "string", "minLength": 2}),
        json!({"type": "string", "pattern": "^a", "minLength": 3, "maxLength": 5}),
        json!({"type": "string", "pattern": "^.*$"}),
        json!({"type": ["string", "null"], "pattern": "^a", "maxLength": 4}),
        json!({"type": "string", "enum": ["abc", "x", "\n"], "minLength": 2}),
        json!({"type": "string", "enum": ["a'b", "a\\b", "a", "<s>"]}),
        json!({"type": "string", "enum": ["a</parameter>", " a ", "\na\n", "a</arg_value>", "b"]}),
        json!({"enum": ["x</parameter>y", null, {"a": "</arg_value>"}]}),
        json!({"const": {"$ref": "#/$defs/none"}}),
        json!({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    ]);
    leaf.prop_recursive(2, 6, 3, |below| {
        let list = || prop::collection::vec(below.clone(), 1..3);
        prop_oneof![
            list().prop_map(|all| json!({"anyOf": all})),
            below.clone().prop_map(|one| json!({"allOf": [one, {}]})),
            below.clone().prop_map(
                |one| json!({"type": "object", "properties": {"a": one}, "required": ["a"]})
            ),
        ]
    })
}

fn any_parameters() -> impl Strategy<Value = Value> {
    let some = || prop::collection::vec(any_argument(), 1..4);
    let object = || {
        (some(), any::<bool>()).prop_map(|(all, required)| {
            let names = ["a", "b", "c"];
            let named: serde_json::Map<String, Value> =
                names.iter().map(|name| (*name).to_owned()).zip(all.clone()).collect();
            let required = if required { &names[..all.len()] } else { &[] };
            json!({"type": "object", "properties": named, "required": required})
        })
    };
    let parts = (object(), object(), any_argument(), any::<bool>(), 0..6);
    parts.prop_map(|(mut first, second, other, closed, form)| {
        if closed {
            first["additionalProperties"] = false.into();
        }
        let mut schema = match form {
            0 => first,
            1 => json!({"$ref": "#/$defs/root", "$defs": {"root": first}}),
            2 => json!({"allOf": [{"properties": first["properties"]}, second]}),
            3 => json!({"anyOf": [first, second]}),
            4 => json!({"properties": first["properties"], "additionalProperties": other}),
            _ => json!({"patternProperties": {"^a": other}, "additionalProperties": first["additionalProperties"].as_bool().unwrap_or(true)}),
        };
        for (name, definition) in [
            ("text", json!({"type": "string"})),
            ("number", json!({"type": "integer"})),
            ("tree", json!({"type": "object", "properties": {"n": {"type": "string"},
                "below": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}})),
        ] {
            schema["$defs"][name] = definition;
        }
        schema
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        // More than half of the schemas have a grammar whose answer ends.
        max_global_rejects: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_a_call_is_made_of_is_read_as_the_schema_allows(
        schema in any_parameters(),
        choices in prop::collection::vec(any::<u8>(), 0..120),
        which in 0..SPELLED.len(),
    ) {
        let dialect = dialect_of(which);
        let wanted = match wanted_by(&dialect, &schema, false) {
            Ok(wanted) => wanted,
            Err(error) => {
                prop_assert!(why(&error).contains("no arguments are valid"), "{:?} for {}", error, schema);
                return Err(TestCaseError::reject("no arguments are valid"));
            }
        };
        let noted = wanted.not_enforced().names();
        let is_noted = |name: &str| may_be_noted(name, &schema.to_string(), which);
        prop_assert!(noted.iter().flat_map(|names| names.split(", ")).all(is_noted), "{noted:?} of {schema}");
        let text = match answer(wanted.grammar(), &choices) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(TestCaseError::reject("an answer without an end")),
            Err(error) => {
                // Nothing is valid, or two schemas that hold themselves have to match together: both are refused.
                let is_refused = ["Unsatisfiable schema", "intersection stack level exceeded"];
                prop_assert!(is_refused.iter().any(|why| error.to_string().contains(why)), "{error} for {schema}");
                return Err(TestCaseError::reject("no value is valid"));
            }
        };
        // A number that is out of every range.
        let exponents = text.match_indices(['E', 'e']).map(|(at, _)| text[at + 1..].trim_start_matches(['+', '-']));
        prop_assume!(!exponents.into_iter().any(|rest| rest.starts_with(|c: char| c.is_ascii_digit())));
        let arguments = read_by(dialect, &schema, &text);
        let wrong = violates(&arguments, &schema, &schema);
        prop_assert!(wrong.is_none() || noted.is_some(), "{wrong:?}: {arguments} of {text} by {schema}");
    }
}
