use std::time::{Duration, Instant};

use serde_json::Map;

use super::*;
use crate::schema::argument_kinds::ArgumentKinds;
use crate::tool_call_format::ValueFormat;
use crate::tool_call_parser::samples;

fn target(json: &dyn Fn(&Value) -> Value) -> GrammarTarget<'_> {
    GrammarTarget { control: &|_| None, json, search: &|_, _| Satisfiability::Unknown }
}

#[test]
fn json_of_one_argument_is_a_document_like_the_whole_schema() {
    let text = str::to_owned;
    let format = ToolCallFormat {
        describes_tools: true,
        renders_calls: true,
        open: text("<call>"),
        after_name: text("<key>"),
        between_calls: None,
        close: text("</value></call>"),
        arguments: ArgumentFormat::OneByOne {
            key_value: text("</key><value>"),
            value_key: text("</value><key>"),
            no_arguments: text("</call>"),
            values: ValueFormat::Bare,
        },
        arguments_as_text: false,
        short_ids: false,
        content_prefix: "",
    };
    assert!(format.has_separate_arguments());
    let (guidance, definitions) =
        (json!({"json_allowed_escapes": "n"}), json!({"a": {"type": "null"}}));
    let draft = "http://json-schema.org/draft-07/schema#";
    let schema = json!({"type": "object", "x-guidance": guidance, "$defs": definitions,
        "$schema": draft, "properties": {"one": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}, "two": {"type": "array"}}});
    let tool = ToolShape { name: "f", schema: schema.clone(), sent: &schema, strict: true };
    let grammar =
        ToolCallGrammar::new(&format, &[tool], CallCount::One, target(&Value::clone), None);
    let grammar = grammar.unwrap().lark;
    let own = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
        "$schema": draft, "x-guidance": guidance, "$defs": definitions});
    for document in [own, json!({"type": "array", "$schema": draft, "x-guidance": guidance})] {
        assert!(grammar.contains(&format!("%json {document}")), "{grammar}");
    }
}

/// The rules of a call with one argument of this schema.
fn rules(format: &ToolCallFormat, schema: &Value) -> String {
    let schema = json!({"type": "object", "properties": {"a": schema}, "required": ["a"],
        "additionalProperties": false, "$defs": {"code": {"enum": ["007", "x"]}, "number": {"type": "integer"}}});
    let tool = ToolShape { name: "f", schema: schema.clone(), sent: &schema, strict: true };
    ToolCallGrammar::new(format, &[tool], CallCount::One, target(&|_| json!("schema")), None)
        .unwrap()
        .lark
}

#[test]
fn an_argument_without_a_type_is_what_its_schema_allows() {
    let nullable = json!({"anyOf": [{"type": "string"}, {"type": "null"}]});
    let has = |schema: &Value, wanted: &[&str]| {
        let grammar = rules(&samples::qwen(), schema);
        let all = ["%json", "tfnTFN", "\"007\\n", ">\"]: /(.|"];
        for rule in all {
            assert_eq!(grammar.contains(rule), wanted.contains(&rule), "{rule} of {grammar}");
        }
    };
    has(&json!({"$ref": "#/$defs/code"}), &["\"007\\n"]);
    has(&json!({"$ref": "#/$defs/number"}), &["%json"]);
    has(&json!({"properties": {"b": {}}}), &["%json"]);
    has(&json!({"enum": ["007"]}), &["\"007\\n"]);
    has(
        &json!({"anyOf": [{"$ref": "#/$defs/code"}, {"type": "string"}]}),
        &["\"007\\n", ">\"]: /(.|"],
    );
    has(&json!({"type": "string"}), &[">\"]: /(.|"]);
    // What looks like JSON is read as JSON: a text that does is written as JSON.
    has(&nullable, &["%json", "tfnTFN"]);
    has(&json!({}), &["%json", "tfnTFN"]);
    has(&json!({"enum": ["1", 2]}), &["%json"]);
    has(
        &json!({"anyOf": [{"type": "string", "pattern": "^[0-9]$"}, {"type": "null"}]}),
        &["%json"],
    );
    // A word for the type makes both possible.
    let typed = rules(&samples::dsml(), &nullable);
    assert!(
        typed.contains("string=\\\"true\\\"") && typed.contains("string=\\\"false\\\""),
        "{typed}"
    );
    let quoted = rules(&samples::python(), &nullable);
    assert!(quoted.contains("\"'\" x1 \"'\"") && quoted.contains("%json"), "{quoted}");
}

#[test]
fn hostile_parameters_are_read_and_written_in_time() {
    let some = |count: usize, each: &dyn Fn(usize) -> Value| -> Map<String, Value> {
        (0..count).map(|at| (format!("p{at}"), each(at))).collect()
    };
    let one = json!({"anyOf": [{"$ref": "#"}]});
    let listed: Vec<String> = (0..4_000).map(|at| at.to_string()).collect();
    let chain = some(5_000, &|at| json!({"items": {"$ref": format!("#/$defs/p{}", at + 1)}}));
    let many = some(5_000, &|at| json!({"minItems": at, "$ref": format!("#/$defs/p{}", at % 50)}));
    let anchors = some(5_000, &|_| json!({"$ref": "#name"}));
    let each = [
        json!({"allOf": vec![one; 50_000]}),
        json!({"anyOf": vec![json!({"anyOf": vec![json!({"$ref": "#"}); 300]}); 300]}),
        json!({"allOf": (0..300).map(|at| json!({"properties": some(300, &|_| json!({"const": at}))})).collect::<Vec<_>>(),
            "additionalProperties": {"type": "null"}}),
        json!({"allOf": vec![json!({"additionalProperties": {}, "patternProperties": {"a": {}}}); 20_000],
            "properties": some(5_000, &|_| json!({}))}),
        json!({"properties": some(5_000, &|_| json!({"$ref": "#/$defs/e"})), "$defs": {"e": {"enum": listed}}}),
        json!({"properties": many, "$defs": chain}),
        json!({"properties": anchors, "$defs": {"a": {"$anchor": "name", "enum": listed}}}),
    ];
    let nested = (0..5).fold(json!("string"), |inner, _| json!(vec![inner; 16]));
    let twice = json!({"anyOf": vec![json!({"$ref": "#/$defs/t"}); 2_000]});
    let numbers: Vec<Value> =
        (0..9_000).map(|at| json!(at.to_string())).chain([Value::Null]).collect();
    let large = json!({"additionalProperties": {"type": "array", "const": vec![0; 600_000]}});
    let mut large = vec![large; 6];
    large.push(json!({"properties": some(2_000, &|at| json!({"minItems": at}))}));
    let more = [
        // Types within types, each walked for many references.
        json!({"properties": some(4, &|_| json!({"$ref": "#/$defs/w"})), "$defs": {"t": {"type": nested}, "w": twice}}),
        // The same arguments in many alternatives.
        json!({"properties": some(100, &|_| json!({"$ref": "#/$defs/w"})), "anyOf": vec![json!({}); 32],
            "$defs": {"w": {"enum": numbers}}}),
        json!({"properties": some(50_000, &|_| json!({})), "anyOf": vec![json!({}); 32]}),
        // A list for each member.
        json!({"properties": {"a": {"$ref": "#/$defs/x"}},
            "$defs": {"x": {"allOf": vec![json!({"$ref": "#/$defs/e"}); 1_000]}, "e": {"enum": numbers}}}),
        // What all others have to match, for each argument.
        json!({"allOf": [{"properties": some(700, &|at| json!({"minimum": at}))},
            {"additionalProperties": {"enum": numbers, "$ref": "#/$defs/e"}}], "$defs": {"e": {"enum": numbers}}}),
        // Schemas of all others, each far larger than what is written.
        json!({"allOf": large}),
    ];
    for schema in each.iter().chain(&more) {
        let begin = Instant::now();
        ArgumentKinds::of(schema);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?} to read", begin.elapsed());
        let tool = ToolShape { name: "f", schema: schema.clone(), sent: schema, strict: false };
        let format = samples::qwen();
        let target = target(&Value::clone);
        let written = ToolCallGrammar::new(&format, &[tool], CallCount::One, target, None);
        let bytes = written.map_or(0, |grammar| grammar.lark.len());
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(4) && bytes < 1 << 20, "{took:?} for {bytes} bytes");
    }
}
