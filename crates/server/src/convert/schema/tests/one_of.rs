//! Which schemas of a `oneOf` are told apart.

use super::*;

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
    assert!(source(json!({"oneOf": [{"type": "string"}, {"type": ["null", "boolean"]}]})).is_ok());
    for overlapping in [
        json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        json!({"oneOf": [kind("a"), kind("a")]}),
        json!({"oneOf": [{"type": "object"}, kind("a")]}),
        json!({"items": {"oneOf": [{}, {"type": "string"}]}}),
    ] {
        assert!(source(overlapping.clone()).unwrap_err().contains("oneOf"), "{overlapping}");
    }
    // What stands beside a reference names properties as well.
    let by_names = |beside: Value| {
        let mut options = json!([{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/C"},
            {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}]);
        options[0].as_object_mut().unwrap().extend(beside.as_object().unwrap().clone());
        let a = json!({"type": "object", "properties": {"k": {}}, "required": ["k"]});
        let c = json!({"$ref": "#/$defs/D", "title": "c"});
        let d = json!({"type": "object", "properties": {"d": {}}, "required": ["d"]});
        json!({"oneOf": options, "$defs": {"A": a, "C": c, "D": d}})
    };
    assert!(source(by_names(json!({"description": "a"}))).is_ok());
    let overlapping = by_names(json!({"properties": {"x": {"type": "string"}}}));
    assert!(source(overlapping).unwrap_err().contains("oneOf"));
    let mut on_the_way = by_names(json!({}));
    on_the_way["$defs"]["C"]["properties"] = json!({"k": {}, "x": {}});
    assert!(source(on_the_way).unwrap_err().contains("oneOf"));
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
    assert!(source(json!({"oneOf": [{"const": 1}, {"const": "1"}, {"type": "array"}]})).is_ok());
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
