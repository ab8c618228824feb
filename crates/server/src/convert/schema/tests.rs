//! What is rewritten to what, and that whatever comes is rewritten within bounds.

mod hostile;
mod one_of;

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

fn strict(schema: &Value) -> Result<Value, String> {
    enforceable(schema, Enforcement::Strict).map(without_spelling)
}

fn nearest(schema: &Value) -> (Value, String) {
    let enforceable = enforceable(schema, Enforcement::Nearest).unwrap();
    let names = enforceable.not_enforced.names().unwrap_or_default();
    (without_spelling(enforceable), names)
}

fn without_spelling(enforceable: Enforceable) -> Value {
    let mut schema = enforceable.schema;
    assert!(schema["x-guidance"]["lenient"] == false);
    schema.as_object_mut().unwrap().remove("x-guidance");
    schema
}

#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn source(schema: Value) -> Result<Value, String> {
    enforceable(&schema, Enforcement::Strict).map(|enforceable| enforceable.schema)
}

/// Whether printable letters may be spelled by number.
fn spells_by_number(schema: &Value) -> bool {
    let schema = enforceable(schema, Enforcement::Strict).unwrap().schema;
    schema["x-guidance"]["json_allowed_escapes"].as_str().unwrap().contains('u')
}

#[test]
fn objects_that_name_properties_are_closed() {
    for (sent, written) in [
        (
            json!({"type": "object", "properties": {"a": {}}}),
            json!({"type": "object", "properties": {"a": {}}, "additionalProperties": false}),
        ),
        // A name that is required is allowed, and what describes properties describes an object.
        (
            json!({"properties": {"a": {}}, "required": ["b"], "title": "x"}),
            json!({"properties": {"a": {}, "b": true}, "required": ["b"],
                   "additionalProperties": false, "type": "object"}),
        ),
        (
            json!({"type": "object", "patternProperties": {"^x": {}}}),
            json!({"type": "object", "patternProperties": {"^x": {}}, "properties": {},
                   "additionalProperties": false}),
        ),
        (json!({"type": "object"}), json!({"type": "object"})),
        (
            json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true}),
            json!({"type": "object", "properties": {"a": {}}, "additionalProperties": true}),
        ),
        (json!({"items": {"properties": {}}}), {
            let object = json!({"properties": {}, "additionalProperties": false, "type": "object"});
            json!({"items": object, "type": "array"})
        }),
        // Together they say what an object is.
        (
            json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
            json!({"properties": {"a": true, "b": true}, "additionalProperties": false,
                   "type": "object",
                   "allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
        ),
        // Alternatives by themselves.
        (
            json!({"anyOf": [{"properties": {"a": {}}}, {"type": "null"}]}),
            json!({"anyOf": [{"properties": {"a": {}}, "additionalProperties": false,
                              "type": "object"}, {"type": "null"}]}),
        ),
        // Beside properties: each with those.
        (
            json!({"type": "object", "properties": {"k": {}},
                   "anyOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}),
            json!({"type": "object", "properties": {"k": {}}, "anyOf": [
                {"properties": {"a": {}, "k": true}, "additionalProperties": false, "type": "object"},
                {"properties": {"b": {}, "k": true}, "additionalProperties": false, "type": "object"}]}),
        ),
        // Alternatives that only require need not be closed by themselves.
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "additionalProperties": false,
                   "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        ),
        // Somebody says that there may be others.
        (
            json!({"properties": {"a": {}}, "allOf": [{"additionalProperties": {"type": "null"}}]}),
            json!({"properties": {"a": {}}, "allOf": [{"additionalProperties": {"type": "null"}}]}),
        ),
        (
            json!({"properties": {"a": {}}, "unevaluatedProperties": true}),
            json!({"properties": {"a": {}}, "type": "object"}),
        ),
        (
            json!({"type": "object", "allOf": [{"properties": {"a": {}}}],
                   "unevaluatedProperties": false}),
            json!({"type": "object", "properties": {"a": true}, "additionalProperties": false,
                   "allOf": [{"properties": {"a": {}}}]}),
        ),
    ] {
        assert_eq!(strict(&sent).unwrap(), written, "{sent}");
    }
}

#[test]
fn a_definition_is_closed_where_it_stands_alone() {
    let schema = json!({
        "$defs": {"base": {"type": "object", "properties": {"a": {"$ref": "#/$defs/base"}}}},
        "properties": {
            "alone": {"$ref": "#/$defs/base", "description": "x"},
            "with": {"allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {}}}]},
        },
    });
    let written = strict(&schema).unwrap();
    assert_eq!(written["properties"]["alone"], json!({"$ref": "#/$defs/base"}));
    assert_eq!(written["$defs"]["base"]["additionalProperties"], false);
    let with = &written["properties"]["with"];
    assert_eq!(with["properties"], json!({"a": true, "b": true}));
    assert_eq!(with["additionalProperties"], false);
    let open = with["allOf"][0]["$ref"].as_str().unwrap().trim_start_matches("#/$defs/");
    let open = &written["$defs"][open];
    assert_eq!(open.get("additionalProperties"), None);
    assert_eq!(open["properties"]["a"], json!({"$ref": "#/$defs/base"}));
}

#[test]
fn names_are_spelled_in_one_way_where_others_are_free() {
    assert!(spells_by_number(&json!({"properties": {"a": {}}})));
    assert!(spells_by_number(&json!({"type": "object"})));
    for open in [
        json!({"properties": {"a": {}}, "additionalProperties": true}),
        json!({"type": "object", "required": ["a"]}),
        json!({"items": {"properties": {"a": {}}, "unevaluatedProperties": {"type": "null"}}}),
    ] {
        let refused = enforceable(&open, Enforcement::Strict).is_err();
        assert!(refused || !spells_by_number(&open), "{open}");
    }
}

#[test]
fn what_is_not_enforced_is_refused_or_noted() {
    for (sent, keyword, written) in [
        (json!({"oneOf": [{"minimum": 1}, {"type": "integer"}]}), "oneOf", {
            json!({"anyOf": [{"minimum": 1}, {"type": "integer"}]})
        }),
        (json!({"type": "string", "format": "made-up"}), "format", json!({"type": "string"})),
        (json!({"type": "array", "uniqueItems": true}), "uniqueItems", json!({"type": "array"})),
        (json!({"type": "string", "not": {"minLength": 3}}), "not", json!({"type": "string"})),
        (json!({"if": {}, "then": {"type": "null"}}), "if", json!({})),
        (json!({"contains": {"type": "null"}}), "contains", json!({})),
        (json!({"contains": {"const": 1}, "minContains": 0, "maxContains": 1}), "contains", {
            json!({})
        }),
        (json!({"propertyNames": {"maxLength": 3}}), "propertyNames", json!({})),
        (json!({"$ref": "https://a.example/s"}), "$ref", json!({})),
        (json!({"type": "array", "unevaluatedItems": false}), "unevaluatedItems", {
            json!({"type": "array"})
        }),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2}),
            { "minProperties" },
            {
                json!({"type": "object", "properties": {"a": {}, "b": {}, "c": {}},
                   "additionalProperties": false})
            },
        ),
    ] {
        assert_eq!(nearest(&sent), (written, keyword.to_owned()), "{sent}");
        let refused = strict(&sent).unwrap_err();
        assert!(refused.contains(keyword) || keyword == "format", "{refused}");
    }
    // Nothing need be contained; older drafts do not know how to say that.
    let none = json!({"contains": {"const": 1}, "minContains": 0});
    assert_eq!(strict(&none), Ok(json!({})));
    let mut old = none;
    old["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    assert!(strict(&old).unwrap_err().contains("contains"));
    let pattern = json!({"type": "string", "pattern": "^(?!x)[a-z]+$"});
    assert_eq!(nearest(&pattern).0, json!({"type": "string", "pattern": "^(?:)[a-z]+$"}));
    assert_eq!(nearest(&pattern).1, "pattern");
    // What is no expression without them either is left out.
    let broken = json!({"type": "string", "pattern": "(?=a)("});
    assert_eq!(nearest(&broken), (json!({"type": "string"}), "pattern".to_owned()));
    let names = json!({"patternProperties": {"(?=a)b$c": {}}, "additionalProperties": false});
    assert_eq!(nearest(&names).1, "patternProperties");
    assert_eq!(nearest(&names).0["additionalProperties"], true);
}

#[test]
fn what_can_be_said_otherwise_is_enforced() {
    for (sent, written) in [
        (json!({"uniqueItems": false, "type": "array"}), json!({"type": "array"})),
        (
            json!({"type": "array", "items": {"enum": ["a", "b", "a"]}, "uniqueItems": true,
                   "minItems": 1}),
            json!({"type": "array", "items": {"enum": ["a", "b", "a"]}, "minItems": 1,
                   "enum": [["a"], ["b"], ["a", "b"], ["b", "a"]]}),
        ),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}}, "not": {"required": ["b"]}}),
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "additionalProperties": false, "allOf": [{"type": "object", "properties": {"b": false}}]}),
        ),
        (json!({"enum": [1, 2, 3], "not": {"enum": [2]}}), json!({"enum": [1, 3]})),
        // A type beside references is left to what they name.
        (
            json!({"type": "object", "anyOf": [{"$ref": "#/$defs/a"}, {"type": "object"}],
                   "$defs": {"a": {"type": "object"}}}),
            json!({"anyOf": [{"$ref": "#/$defs/a"}, {"type": "object"}],
                   "$defs": {"a": {"type": "object"}}}),
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "null"}, {"type": "object"}]}),
            json!({"type": "object", "anyOf": [{"type": "null"}, {"type": "object"}]}),
        ),
        (json!({"type": ["string", "null"], "not": {"type": "string"}}), json!({"type": ["null"]})),
        (
            json!({"type": "object", "not": {"required": ["a", "b"]}}),
            json!({"type": "object", "allOf": [{"type": "object", "anyOf": [
                {"properties": {"a": false}}, {"properties": {"b": false}}]}]}),
        ),
        (json!({"items": {"not": {}, "type": "null"}}), json!({"items": false, "type": "array"})),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "dependentRequired": {"a": ["b"]}}),
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "additionalProperties": false, "allOf": [
                       {"anyOf": [{"properties": {"a": false}}, {"required": ["b"]}]}]}),
        ),
        (
            json!({"type": "object", "propertyNames": {"pattern": "^x"},
                   "additionalProperties": {"type": "null"}}),
            json!({"type": "object", "patternProperties": {"^x": {"type": "null"}},
                   "additionalProperties": false}),
        ),
        // Exactly one of two properties.
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"type": "object", "properties": {"a": {}, "b": {}},
                   "additionalProperties": false, "anyOf": [
                       {"required": ["a"], "properties": {"b": false}, "type": "object"},
                       {"required": ["b"], "properties": {"a": false}, "type": "object"}]}),
        ),
        // Objects that are closed have no property that the other requires.
        (
            json!({"oneOf": [
                {"type": "object", "properties": {"a": {}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {}}, "required": ["b"]}]}),
            json!({"anyOf": [
                {"type": "object", "properties": {"a": {}}, "required": ["a"],
                 "additionalProperties": false},
                {"type": "object", "properties": {"b": {}}, "required": ["b"],
                 "additionalProperties": false}]}),
        ),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}),
            json!({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1,
                   "additionalProperties": false}),
        ),
        // An older draft knows nothing beside a reference.
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/definitions/a",
                   "not": {}, "definitions": {"a": {"const": 1, "if": {}}}}),
            json!({"$ref": "#/$defs/a", "$schema": "http://json-schema.org/draft-07/schema#",
                   "$defs": {"a": {"const": 1}}}),
        ),
    ] {
        assert_eq!(strict(&sent).unwrap(), written, "{sent}");
    }
}

#[test]
fn a_closed_alternative_is_told_from_one_that_requires_more_alone() {
    // What the second makes is valid by the first as well.
    let overlapping = json!({"oneOf": [
        {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}]});
    assert!(strict(&overlapping).unwrap_err().contains("oneOf"));
    let open = json!({"oneOf": [
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": true},
        {"type": "object", "properties": {"b": {}}, "required": ["b"]}]});
    assert!(strict(&open).unwrap_err().contains("oneOf"));
}

#[test]
fn times_and_durations_have_an_end() {
    let time = json!({"type": "string", "format": "date-time", "pattern": "^2"});
    let written = strict(&time).unwrap();
    assert_eq!(written["pattern"], "^2");
    assert!(written["allOf"][0]["pattern"].as_str().unwrap().contains("{1,9}"));
    let number = json!({"type": "integer", "format": "int64"});
    assert_eq!(strict(&number).unwrap(), json!({"type": "integer"}));
}

#[test]
fn rewriting_is_bounded() {
    let started = Instant::now();
    let names: Map<String, Value> = (0..1_500).map(|i| (format!("p{i}"), json!({}))).collect();
    let options: Vec<Value> =
        (0..1_500).map(|i| json!({"properties": {format!("o{i}"): {}}})).collect();
    let wide = json!({"properties": names, "anyOf": options});
    assert!(enforceable(&wide, Enforcement::Nearest).unwrap_err().contains("steps"));
    let groups: Vec<Value> = (0..2_000)
        .map(|_| json!({"allOf": [{"$ref": "#/$defs/d"}, {"required": ["a"]}]}))
        .collect();
    let shared = json!({"anyOf": groups, "$defs": {"d": {"properties": names}}});
    assert!(enforceable(&shared, Enforcement::Nearest).unwrap_err().contains("steps"));
    let deep = (0..200).fold(json!({}), |below, _| json!({"items": below}));
    assert!(enforceable(&deep, Enforcement::Nearest).unwrap_err().contains("deep"));
    let circular =
        json!({"allOf": [{"$ref": "#"}, {"$ref": "#/allOf/0"}], "properties": {"a": {}}});
    assert!(enforceable(&circular, Enforcement::Nearest).is_ok());
    let unique: Vec<Value> = (0..100)
        .map(|_| json!({"type": "array", "uniqueItems": true, "items": {"enum": [1, 2, 3, 4, 5]}}))
        .collect();
    assert_eq!(nearest(&json!({"anyOf": unique})).1, "uniqueItems");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_spelling_is_ours() {
    let schema = source(json!({"type": "object", "x-guidance": {"lenient": true}})).unwrap();
    assert_eq!(schema["x-guidance"]["lenient"], false);
    assert!(source(json!(false)).is_err() && source(json!(7)).is_err());
    assert!(source(json!({"not": {}})).unwrap_err().contains("nothing"));
    assert!(source(json!(true)).is_ok());
}

fn can_answer(schema: &Value, enforcement: Enforcement, text: &str) -> bool {
    let grammar = enforceable(schema, enforcement).unwrap().grammar();
    forebay_engine::scripted::can_answer(&grammar, text).unwrap()
}

#[test]
fn properties_that_become_documents_still_name_the_whole() {
    let tree = json!({"type": "object", "required": ["id"], "properties": {
        "id": {"type": "integer"}, "below": {"type": "array", "items": {"$ref": "#"}}}});
    let whole = enforceable_apart(&tree, Enforcement::Strict).unwrap().schema;
    let mut below = whole["properties"]["below"].clone();
    for key in ["$defs", "x-guidance"] {
        below[key] = whole[key].clone();
    }
    let grammar = Grammar::JsonSchema(below.to_string().into());
    for (text, may) in [
        (r#"[{"id": 1, "below": [{"id": 2}]}]"#, true),
        ("[[]]", false),
        (r#"[{"below": []}]"#, false),
    ] {
        assert_eq!(forebay_engine::scripted::can_answer(&grammar, text), Ok(may), "{text}");
    }
    assert_eq!(enforceable(&tree, Enforcement::Strict).unwrap().schema.get("$defs"), None);
}

#[test]
fn no_declared_name_comes_twice() {
    let (strict, open) = (
        Enforcement::Strict,
        json!({"properties": {"name": {"type": "integer"}},
        "additionalProperties": {"type": "integer"}, "type": "object"}),
    );
    let closed = json!({"properties": {"name": {"type": "integer"}}, "required": ["name"]});
    assert!(can_answer(&open, strict, r#"{"name": 1, "other": 2}"#));
    assert!(can_answer(&closed, strict, r#"{"name": 1}"#));
    for schema in [open, closed] {
        for twice in [r#"{"name": 1, "name": 2}"#, r#"{"name": 1, "n\u0061me": 2}"#] {
            assert!(!can_answer(&schema, strict, twice), "{schema} {twice}");
        }
    }
}

#[track_caller]
fn check_said(schema: &Value, valid: &[&str], invalid: &[&str]) {
    for (texts, may) in [(valid, true), (invalid, false)] {
        for text in texts {
            assert_eq!(can_answer(schema, Enforcement::Strict, text), may, "{schema} {text}");
            assert_eq!(can_answer(schema, Enforcement::Nearest, text), may, "{schema} {text}");
        }
    }
}

#[test]
fn what_is_valid_can_still_be_said() {
    let parts = json!({"$defs": {"base": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}]});
    let tagged = json!({"type": "object", "properties": {"k": {"enum": ["x", "y"]}}, "required": ["k"],
        "oneOf": [{"properties": {"k": {"const": "x"}, "x": {"type": "integer"}}, "required": ["x"]},
                  {"properties": {"k": {"const": "y"}, "y": {"type": "null"}}}]});
    let either = json!({"type": "object", "properties": {"a": {}, "b": {}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    let needs = json!({"type": "object", "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
        "dependentRequired": {"a": ["b"]}});
    let unique = json!({"type": "array", "items": {"enum": [1, "x", null]}, "uniqueItems": true,
        "minItems": 1});
    for (schema, valid, invalid) in [
        (
            parts,
            vec![r#"{"a": 1, "b": null}"#, r#"{"b": null}"#],
            vec![r#"{"a": 1}"#, r#"{"a": 1, "b": null, "c": 1}"#, r#"{"a": "", "b": null}"#],
        ),
        (
            tagged,
            vec![r#"{"k": "x", "x": 1}"#, r#"{"k": "y", "y": null}"#, r#"{"k": "y"}"#],
            vec![r#"{"k": "x"}"#, r#"{"k": "y", "x": 1}"#, r#"{"k": "x", "x": 1, "y": null}"#],
        ),
        (either, vec![r#"{"a": 1}"#, r#"{"b": {}}"#], vec!["{}", r#"{"a": 1, "b": 1}"#]),
        (needs, vec!["{}", r#"{"b": null}"#, r#"{"a": null, "b": null}"#], vec![r#"{"a": null}"#]),
        (unique, vec!["[1]", r#"[null, "x", 1]"#, r#"["x", null]"#], vec!["[]", "[1, 1]", "[2]"]),
        (
            json!({"type": "number"}),
            vec!["0.12345678901234567", "-6.02214076e23", "1E-300", "18446744073709551615"],
            vec!["0.123456789012345678", "1e-0001", "100000000000000000000"],
        ),
        (json!({"type": "integer", "minimum": 1}), vec!["1"], vec!["0"]),
        (
            json!({"type": "string", "pattern": "^[0-9]{30}$"}),
            vec![r#""000000000000000000000000000000""#],
            vec![r#""0""#],
        ),
    ] {
        check_said(&schema, &valid, &invalid);
    }
}

#[test]
fn formats_are_enforced() {
    for (schema, valid, invalid) in [
        (
            json!({"type": "string", "format": "date-time"}),
            vec![r#""2024-02-29T10:00:00.123456789Z""#, r#""2024-01-31t23:59:59+01:00""#],
            vec![
                r#""2024-02-29T10:00:00.1234567890Z""#,
                r#""2024-01-31T10:00:60Z""#,
                r#""2024-02-30T10:00:00Z""#,
            ],
        ),
        (
            json!({"type": "string", "format": "duration"}),
            vec![r#""P1Y2M3DT4H5M6S""#, r#""P3W""#],
            vec![r#""P""#, r#""P1234567890D""#],
        ),
        (
            json!({"type": "string", "format": "date"}),
            vec![r#""2024-02-29""#],
            vec![r#""2024-02-30""#, r#""2024-2-29""#],
        ),
        (
            json!({"type": "string", "format": "uuid"}),
            vec![r#""9b2ef1c8-1fb8-4b0a-a4be-8f3d1e2a7c65""#],
            vec![r#""9b2ef1c8-1fb84b0a-a4be-8f3d1e2a7c65""#],
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            vec![r#""255.0.9.199""#],
            vec![r#""256.0.9.199""#, r#""1.2.3""#, r#""01.2.3.4""#],
        ),
        (
            json!({"type": "string", "format": "hostname", "maxLength": 12}),
            vec![r#""a""#, r#""a-b.example""#],
            vec![r#""-a""#, r#""a..b""#, r#""a.example.org""#],
        ),
        (
            json!({"type": "string", "format": "email"}),
            vec![r#""a.b+c@example.org""#, r#""a/b@x""#],
            vec![r#""a.@example.org""#, r#""@x""#, r#""a@""#, r#""a@b@c""#],
        ),
    ] {
        check_said(&schema, &valid, &invalid);
    }
}

#[test]
fn the_nearest_allows_what_is_valid() {
    for (schema, valid, keyword) in [
        (
            json!({"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}]}),
            vec!["2", "9"],
            "oneOf",
        ),
        (json!({"type": "string", "pattern": "^(?!a)[a-z]{2}$(?<!z)"}), vec![r#""bc""#], "pattern"),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer"}},
            "if": {"required": ["a"]}, "then": {"properties": {"b": {}}, "required": ["b"]}}),
            vec!["{}", r#"{"a": 1, "b": 2}"#],
            "if",
        ),
        (
            json!({"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "minProperties": 2}),
            vec![r#"{"a": 1, "b": 2}"#, r#"{"a": 1, "c": 2}"#],
            "minProperties",
        ),
        (
            json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true}),
            vec!["[1, 2]"],
            "uniqueItems",
        ),
        (
            json!({"type": "object", "patternProperties": {"^(?=x)": {"type": "null"}, "y$": {}}}),
            vec![r#"{"x": null}"#],
            "patternProperties",
        ),
        (
            json!({"type": "array", "items": {"$ref": "other.json"}, "maxItems": 1}),
            vec!["[{\"a\": 1}]"],
            "$ref",
        ),
    ] {
        for text in valid {
            // Names that several expressions match are more than the compiler knows.
            let enforcement = if keyword == "patternProperties" {
                Enforcement::Loosest
            } else {
                Enforcement::Nearest
            };
            assert!(can_answer(&schema, enforcement, text), "{schema} {text}");
            assert_eq!(
                enforceable(&schema, enforcement).unwrap().not_enforced.names().unwrap(),
                keyword
            );
        }
    }
}

const KEYS: &str = "type¦properties¦required¦items¦prefixItems¦anyOf¦allOf¦oneOf¦$ref¦enum¦const¦pattern¦format¦minLength¦additionalProperties¦patternProperties¦minProperties¦maxProperties¦$defs¦not¦minItems¦maxItems¦uniqueItems¦x-guidance¦$schema¦if¦then¦else¦dependentRequired¦dependencies¦dependentSchemas¦propertyNames¦contains¦unevaluatedProperties¦unevaluatedItems¦$id¦$anchor";
const TEXTS: &str = "object¦array¦string¦#¦#/$defs/a¦#/properties/a¦#/anyOf/0¦#a¦a¦b¦^a(?=b)¦date-time¦[¦http://json-schema.org/draft-04/schema#";

fn any_schema() -> impl Strategy<Value = Value> {
    let text = || prop::sample::select(TEXTS.split('¦').collect::<Vec<_>>());
    let key = || prop::sample::select(KEYS.split('¦').chain(["a", "b"]).collect::<Vec<_>>());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..4i64).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |below| {
        let map = prop::collection::vec((key(), below.clone()), 0..6);
        prop_oneof![
            2 => prop::collection::vec(below, 0..4).prop_map(Value::from),
            5 => map.prop_map(|all| all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_is_left_out_that_can_be_enforced(schema in any_schema()) {
        let nearest = enforceable(&schema, Enforcement::Nearest);
        if let (Ok(nearest), Ok(strict)) = (nearest, enforceable(&schema, Enforcement::Strict))
            && nearest.not_enforced.names().is_none()
        {
            prop_assert_eq!(nearest.schema, strict.schema);
        }
    }

    #[test]
    fn whatever_comes_is_rewritten_or_refused(schema in any_schema()) {
        for enforcement in [Enforcement::Strict, Enforcement::Nearest, Enforcement::Loosest] {
            if let Ok(written) = enforceable(&schema, enforcement) {
                let text = written.schema.to_string();
                prop_assert!(text.len() < 100 * (1 + schema.to_string().len()), "{text}");
                prop_assert!(enforcement != Enforcement::Strict || written.not_enforced.names().is_none());
                // The same again is the same: grammars are kept by their text.
                prop_assert_eq!(&text, &enforceable(&schema, enforcement).unwrap().schema.to_string());
            }
        }
    }
}
