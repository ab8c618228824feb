//! Calls by generated schemas are read back as what these allow.

use std::collections::BTreeSet;

use forebay_engine::scripted::answer;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{QUOTED, SPELLED, format_of, read_by, wanted_by, why};

/// The innermost keywords by which a value is not valid, by the schemas of `any_argument`; none if it is.
fn violated(value: &Value, schema: &Value, root: &Value) -> BTreeSet<String> {
    let map = match schema {
        Value::Object(map) => map,
        Value::Bool(false) => return ["false".to_owned()].into(),
        _ => return BTreeSet::new(),
    };
    map.iter().flat_map(|(key, of)| violated_by(key, of, value, map, root)).collect()
}

/// The same by one keyword of a schema.
fn violated_by(
    key: &str,
    of: &Value,
    value: &Value,
    map: &Map<String, Value>,
    root: &Value,
) -> BTreeSet<String> {
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
    let all = of.as_array().map_or(&[][..], Vec::as_slice);
    let members = || value.as_object().into_iter().flatten();
    let named = |names: &Value, name: &str| {
        names
            .as_object()
            .into_iter()
            .flat_map(Map::keys)
            .any(|pattern| name.starts_with(&pattern[1..]))
    };
    let length = value.as_str().map(|text| text.chars().count() as u64);
    let own = |wrong: bool| wrong.then(|| key.to_owned()).into_iter().collect();
    match key {
        "type" => own(!is(of) && !all.iter().any(is)),
        "const" => own(of != value),
        "enum" => own(!all.contains(value)),
        "maxLength" => own(length.is_some_and(|length| length > of.as_u64().unwrap())),
        "minLength" => own(length.is_some_and(|length| length < of.as_u64().unwrap())),
        "pattern" => own(of == "^a" && value.as_str().is_some_and(|text| !text.starts_with('a'))),
        "required" => own(value.as_object().is_some_and(|members| {
            !all.iter().all(|name| members.contains_key(name.as_str().unwrap()))
        })),
        "$ref" => {
            let pointer = of.as_str().unwrap().trim_start_matches('#');
            violated(value, root.pointer(pointer).unwrap(), root)
        }
        "allOf" => all.iter().flat_map(|one| violated(value, one, root)).collect(),
        "anyOf" => {
            let each: Vec<_> = all.iter().map(|one| violated(value, one, root)).collect();
            let is_valid = each.iter().any(BTreeSet::is_empty);
            each.into_iter().flatten().filter(|_| !is_valid).collect()
        }
        "items" => {
            let items = value.as_array().into_iter().flatten();
            items.flat_map(|one| violated(one, of, root)).collect()
        }
        "properties" => members()
            .filter_map(|(name, value)| Some(violated(value, of.get(name)?, root)))
            .flatten()
            .collect(),
        "patternProperties" => members()
            .flat_map(|(name, value)| {
                let matching = of.as_object().into_iter().flatten();
                let matching = matching.filter(|(pattern, _)| name.starts_with(&pattern[1..]));
                matching.flat_map(|(_, one)| violated(value, one, root)).collect::<Vec<_>>()
            })
            .collect(),
        "additionalProperties" => members()
            .filter(|(name, _)| map.get("properties").is_none_or(|all| all.get(*name).is_none()))
            .filter(|(name, _)| !map.get("patternProperties").is_some_and(|all| named(all, name)))
            .flat_map(|(_, value)| violated(value, of, root))
            .collect(),
        _ => BTreeSet::new(),
    }
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
        let format = format_of(which);
        let wanted = match wanted_by(&format, &schema, false) {
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
        let arguments = read_by(&format, &schema, &text);
        // A value of a list is noted by one of its two keywords.
        let wrong = violated(&arguments, &schema, &schema);
        let noted: Vec<&str> = noted.iter().flat_map(|names| names.split(", ")).collect();
        let is_noted = |key: &String| noted.contains(&key.replace("const", "enum").as_str());
        prop_assert!(wrong.is_empty() || wrong.iter().any(is_noted), "{wrong:?}, {noted:?} noted: {arguments} of {text} by {schema}");
    }
}
