//! Small schemas that would be large, or slow, if all that they name were copied.

use super::*;

/// The time and the result of rewriting a schema, strict or not.
fn timed(schema: &Value, enforcement: Enforcement) -> (Duration, Result<usize, String>) {
    let begin = Instant::now();
    let result = enforceable(schema, enforcement).map(|e| e.schema.to_string().len());
    (begin.elapsed(), result)
}

fn refused_soon(schema: &Value) {
    for enforcement in [Enforcement::Strict, Enforcement::Nearest] {
        let (took, result) = timed(schema, enforcement);
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(result.is_err() || result.is_ok_and(|bytes| bytes < 1 << 20));
    }
}

#[test]
fn names_of_nested_maps_are_not_multiplied() {
    let names: Vec<String> = (0..64).map(|i| format!("n{i}")).collect();
    let mut schema = json!({"type": "string"});
    for _ in 0..6 {
        schema = json!({"type": "object", "propertyNames": {"enum": names},
                        "additionalProperties": schema});
    }
    refused_soon(&schema);
}

#[test]
fn long_values_are_not_arranged_and_large_lists_not_copied() {
    let long: Vec<String> = (0..5).map(|i| format!("{i}").repeat(100_000)).collect();
    let array = json!({"type": "array", "uniqueItems": true, "items": {"$ref": "#/$defs/long"}});
    let properties: Map<String, Value> = (0..6).map(|i| (format!("p{i}"), array.clone())).collect();
    refused_soon(&json!({"type": "object", "properties": properties,
                         "$defs": {"long": {"enum": long}}}));
    let many: Vec<u32> = (0..100_000).collect();
    let arrays: Vec<Value> = vec![array; 5_000];
    refused_soon(&json!({"anyOf": arrays, "$defs": {"long": {"enum": many}}}));
}

#[test]
fn equal_numbers_are_equal_however_they_are_written() {
    let schema = source(json!({"enum": [1, 2, 3], "not": {"enum": [1.0, 2.0]}})).unwrap();
    assert_eq!(schema["enum"], json!([3]));
    let zeros = json!({"oneOf": [{"enum": [0, 1]}, {"enum": [-0.0, 2]}]});
    assert!(source(zeros).unwrap_err().contains("oneOf"));
}

#[test]
fn listed_control_characters_can_be_spelled() {
    let open = |value: &str| {
        json!({"type": "object", "properties": {"a": {"enum": [value]}}, "required": ["a"],
               "additionalProperties": true})
    };
    assert!(!spells_by_number(&open("plain\n")));
    assert!(spells_by_number(&open("x\u{1}")));
}
