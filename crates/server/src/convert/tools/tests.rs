//! What calls that have to be made can be, where arguments come one by one: what a grammar spells is read
//! back as arguments that the schema allows.

mod any_call;
mod patterns;
mod spelling;

use std::time::{Duration, Instant};

use forebay_chat::{ChatTemplate, ReplyPart, SpecialTokens, ToolCallParser};
use forebay_engine::scripted::{answer, can_answer, vocab};
use serde_json::json;

use super::*;
use crate::dialects::chat::request::toolset as toolset_of;

/// Templates that spell arguments one by one: what stands before a tool's name and between that and its
/// arguments, before and behind an argument's name, what it is told of texts and of others, what stands behind a
/// value, between two, and behind all.
const SPELLED: [[&str; 9]; 4] = [
    [
        "<tool_call>\\n<function=",
        ">\\n",
        "<parameter=",
        ">\\n",
        "",
        "",
        "\\n</parameter>\\n",
        "",
        "</function>\\n</tool_call>",
    ],
    [
        "<tool_call>",
        "\\n",
        "<arg_key>",
        "</arg_key>\\n<arg_value>",
        "",
        "",
        "</arg_value>\\n",
        "",
        "</tool_call>",
    ],
    [
        "<calls>\\n<invoke name=\"",
        "\">\\n",
        "<parameter name=\"",
        "\" string=\"",
        "true\">",
        "false\">",
        "</parameter>\\n",
        "",
        "</invoke>\\n</calls>",
    ],
    ["<call>[", "(", "", "=", "\\'", "", "", ", ", ")]</call>"],
];

/// The place of the format that puts texts in quotes.
const QUOTED: usize = 3;

/// Arguments one by one, texts as they are.
fn format() -> ToolCallFormat {
    format_of(0)
}

fn format_of(which: usize) -> ToolCallFormat {
    learned(SPELLED[which])
}

fn learned(pieces: [&str; 9]) -> ToolCallFormat {
    let [open, middle, key, value, text, other, end, between, close] = pieces;
    let quote = if text.starts_with('\\') { text } else { "" };
    let template = format!(
        "{{%- for m in messages %}}{{{{- '<|im_start|>' + m.role + '\\n' }}}}{{{{- m.content }}}}
{{%- for c in m.tool_calls or [] %}}{{%- set c = c.function %}}{{{{- '{open}' + c.name + '{middle}' }}}}
{{%- for name, value in c.arguments|items %}}{{{{- '{key}' + name + '{value}' }}}}
{{%- if value is string %}}{{{{- '{text}' + value + '{quote}' }}}}{{%- else %}}{{{{- '{other}' + value|tojson }}}}{{%- endif %}}
{{{{- '{end}' }}}}{{%- if not loop.last %}}{{{{- '{between}' }}}}{{%- endif %}}{{%- endfor %}}
{{{{- '{close}' }}}}{{%- endfor %}}{{{{- '<|im_end|>\\n' }}}}{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\\n' }}}}{{%- endif %}}"
    );
    let tokens = SpecialTokens { ends: vec!["<|im_end|>"], ..SpecialTokens::default() };
    let format = ChatTemplate::new(&template, &tokens).unwrap().features().tool_calls.clone();
    assert!(format.has_separate_arguments(), "{format:?}");
    format
}

fn toolset(parameters: &Value, strict: bool, choice: &str) -> Result<Toolset, ApiError> {
    let function = json!({"name": "f", "parameters": parameters, "strict": strict});
    let other = json!({"name": "g", "strict": true, "parameters": {"type": "object",
        "properties": {}, "additionalProperties": false}});
    let mut tools = vec![json!({"type": "function", "function": function})];
    if choice == "auto" {
        tools.push(json!({"type": "function", "function": other}));
    }
    tools_of(json!(tools), json!(choice), false)
}

/// The tools of a chat request.
fn tools_of(tools: Value, choice: Value, parallel: bool) -> Result<Toolset, ApiError> {
    let (tools, choice) = (serde_json::from_value(tools), serde_json::from_value(choice));
    toolset_of(tools.unwrap(), Some(&choice.unwrap()), Some(parallel))
}

fn wanted(parameters: &Value, strict: bool) -> Result<OutputGrammar, ApiError> {
    wanted_by(&format(), parameters, strict)
}

fn wanted_by(
    format: &ToolCallFormat,
    parameters: &Value,
    strict: bool,
) -> Result<OutputGrammar, ApiError> {
    let wanted = toolset(parameters, strict, "required")?.grammar(format, &vocab(), None)?;
    Ok(wanted.unwrap())
}

fn why(error: &ApiError) -> String {
    assert_eq!(error.param(), Some("tools[0].function.parameters"), "{error:?}");
    json!(error.envelope()).to_string()
}

/// The arguments of the one call that a text is.
fn read(parameters: &Value, text: &str) -> Value {
    read_by(&format(), parameters, text)
}

fn read_by(format: &ToolCallFormat, parameters: &Value, text: &str) -> Value {
    let tools = toolset(parameters, false, "required").unwrap().schemas();
    let mut reader = ToolCallParser::new(format, Arc::new(tools), true);
    let (mut parts, mut arguments) = (Vec::new(), String::new());
    reader.push(text, &mut parts);
    reader.finish(&mut parts);
    for part in parts {
        match part {
            ReplyPart::ToolCall { name, .. } => assert_eq!(name, "f", "{text}"),
            ReplyPart::Arguments { text, .. } => arguments.push_str(&text),
            other => panic!("{other:?} of {text}"),
        }
    }
    serde_json::from_str(&arguments)
        .unwrap_or_else(|error| panic!("{error}: {arguments} of {text}"))
}

/// A call with these arguments, as the format spells it.
fn call(arguments: &[(&str, &str)]) -> String {
    let [begin, end] = ["<tool_call>\n<function=f>\n", "</function>\n</tool_call>"];
    let each = arguments
        .iter()
        .map(|(name, value)| format!("<parameter={name}>\n{value}\n</parameter>\n"));
    format!("{begin}{}{end}", each.collect::<String>())
}

#[track_caller]
fn check(parameters: &Value, may: &[&[(&str, &str)]], may_not: &[&[(&str, &str)]]) {
    let wanted = wanted(parameters, false).unwrap();
    for (calls, is) in [(may, true), (may_not, false)] {
        for arguments in calls {
            let can = can_answer(wanted.grammar(), &call(arguments));
            assert_eq!(can, Ok(is), "{arguments:?} by {parameters}: {:?}", wanted.grammar());
        }
    }
}

#[test]
fn arguments_are_found_behind_references_and_in_members() {
    let a = json!({"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}},
        "required": ["n"]});
    let named = json!({"$ref": "#/$defs/A", "$defs": {"A": a}});
    let old = json!({"$ref": "#/definitions/A", "definitions": {"A": a},
        "$schema": "http://json-schema.org/draft-07/schema#"});
    let anchor = json!({"$ref": "#here", "$defs": {"A": {"$anchor": "here", "allOf": [a]}}});
    let b = json!({"properties": {"s": {"type": "string"}}});
    let both = json!({"allOf": [{"properties": {"n": {"type": "integer"}}, "required": ["n"]}, b]});
    for schema in [&named, &old, &anchor, &both] {
        check(
            schema,
            &[&[("n", "1")], &[("n", "1"), ("s", "007")]],
            &[&[], &[("s", "x")], &[("n", "x")], &[("n", "1"), ("z", "1")]],
        );
        assert_eq!(read(schema, &call(&[("n", "1"), ("s", "007")])), json!({"n": 1, "s": "007"}));
    }
}

#[test]
fn alternatives_of_all_arguments_are_kept_apart() {
    let either = json!({"type": "object", "properties": {"c": {"type": "boolean"}}, "anyOf": [
        {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"b": {"type": "string"}}, "required": ["b"]}]});
    check(
        &either,
        &[&[("c", "true"), ("a", "1")], &[("c", "true"), ("b", "1")], &[("a", "1")]],
        &[&[], &[("c", "true")], &[("b", "x"), ("a", "1")]],
    );
    assert_eq!(read(&either, &call(&[("b", "1")])), json!({"b": "1"}));
    // One of two has to be there: as many tools say it.
    let names = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}]});
    check(&names, &[&[("a", "1")], &[("b", "1")], &[("a", "1"), ("b", "2")]], &[&[]]);
}

#[test]
fn arguments_that_are_not_named_may_be_any() {
    let maps = [
        (json!({"type": "object"}), true),
        (json!({"type": "object", "additionalProperties": {"type": "string"}}), false),
        (json!({"type": "object", "patternProperties": {"^k": {"type": "string"}}}), false),
    ];
    for (schema, any) in maps {
        check(&schema, &[&[], &[("k", "x")], &[("k", "x"), ("k2", "y")]], &[]);
        let read = read(&schema, &call(&[("k", "1")]));
        assert_eq!(read, if any { json!({"k": 1}) } else { json!({"k": "1"}) }, "{schema}");
    }
    let some = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": {"type": "boolean"}});
    check(
        &some,
        &[&[("a", "1")], &[("a", "1"), ("b", "true")]],
        &[
            &[("b", "true")],
            &[("a", "true")],
            &[("a", "1"), ("b", "2")],
            &[("a", "1"), ("a", "true")],
        ],
    );
    // A tool that is not strict beside one that is.
    let tools = toolset(
        &json!({"type": "object", "properties": {"a": {"type": "integer"}}}),
        false,
        "auto",
    );
    let grammar = tools.unwrap().grammar(&format(), &vocab(), None).unwrap().unwrap();
    assert_eq!(can_answer(grammar.grammar(), &call(&[("a", "1")])), Ok(true));
}

#[test]
fn schemas_that_are_true_or_false_are_read() {
    let schema = json!({"type": "object", "properties": {"a": true, "b": false, "c": {}}});
    check(&schema, &[&[], &[("a", "1")], &[("a", "x"), ("c", "[1]")]], &[&[("b", "1")]]);
    let never = json!({"type": "object", "properties": {"b": false}, "required": ["b"]});
    let error = wanted(&never, false).unwrap_err();
    assert!(why(&error).contains("no arguments are valid"), "{error:?}");
}

#[test]
fn definitions_are_repeated_only_where_they_are_needed() {
    let definition = |at: usize| {
        let all: Vec<String> = (0..1_000).map(|value| format!("value-{at}-{value}")).collect();
        (format!("d{at}"), json!({"type": "array", "items": {"enum": all}}))
    };
    let property = |at: usize| (format!("p{at}"), json!({"$ref": format!("#/$defs/d{}", at % 10)}));
    let tool = |used: usize| {
        json!({"type": "object", "properties": (0..used).map(property).collect::<serde_json::Map<_, _>>(),
            "$defs": (0..10).map(definition).collect::<serde_json::Map<_, _>>()})
    };
    // All of them together fit, each of them 20 times would not.
    let (enforced, text) = (tool(200), r#"["value-3-7"]"#);
    check(&enforced, &[&[("p3", text)], &[("p13", text)]], &[&[("p4", text)]]);
    assert_eq!(wanted(&enforced, true).unwrap().not_enforced().names(), None);
    // Where they do not fit, the kind of the value alone is enforced.
    let large: serde_json::Map<String, Value> = (0..4)
        .map(|at| {
            let holds = json!({"type": "array", "items": {"$ref": "#/$defs/all"}, "minItems": at});
            (format!("p{at}"), holds)
        })
        .collect();
    let all: Vec<Value> = (0..10).map(|at| json!({"$ref": format!("#/$defs/d{at}")})).collect();
    let mut schema = tool(0);
    schema["$defs"]["all"] = json!({"anyOf": all});
    schema["properties"] = large.into();
    let wanted = wanted(&schema, false).unwrap();
    assert_eq!(wanted.not_enforced().names().as_deref(), Some("$ref"));
    check(&schema, &[&[("p0", "[1]")]], &[&[("p0", "7")], &[("p3", "[1]")]]);
    let error = super::tests::wanted(&schema, true).unwrap_err();
    assert!(why(&error).contains("definitions that its arguments refer to"), "{error:?}");
}

#[test]
fn a_custom_tools_format_is_named_by_its_own_field() {
    let regex = "a".repeat(300_000);
    let grammar = json!({"type": "grammar", "grammar": {"syntax": "regex", "definition": regex}});
    let custom = json!({"type": "custom", "custom": {"name": "c", "format": grammar}});
    let tools = tools_of(json!([custom]), json!("required"), true).unwrap();
    let error = tools.grammar(&format(), &vocab(), None).unwrap_err();
    assert_eq!(error.param(), Some("tools[0].custom.format"), "{error:?}");
}

#[test]
fn names_that_no_value_is_valid_for_cannot_be_said() {
    let never = json!({"type": "object", "properties": {"b": false}, "additionalProperties": {"type": "integer"}});
    check(&never, &[&[("c", "1")], &[]], &[&[("b", "1")], &[("c", "1"), ("b", "1")]]);
}

#[test]
fn a_dollar_sign_may_be_a_character() {
    let of = |pattern: &str| {
        json!({"type": "object", "required": ["a"],
        "properties": {"a": {"type": "string", "pattern": pattern}}})
    };
    check(&of(r"^[0-9]+\$$"), &[&[("a", "5$")]], &[&[("a", "5")]]);
    check(&of(r"^\$[0-9]\\$"), &[&[("a", "$5\\")]], &[&[("a", "$5")]]);
}

#[test]
fn what_is_written_is_compiled() {
    const { assert!(forebay_chat::MAX_GRAMMAR_BYTES <= forebay_engine::MAX_SOURCE) };
}

#[test]
fn what_is_too_long_is_refused_by_its_tool() {
    let listed: Vec<String> = (0..40_000).map(|at| format!("value {at}")).collect();
    let schema =
        json!({"type": "object", "properties": {"a": {"enum": listed}}, "required": ["a"]});
    let request = |choice: &str| toolset(&schema, false, choice).unwrap();
    for format in [format(), ToolCallFormat::fallback()] {
        let error = request("required").grammar(&format, &vocab(), None).unwrap_err();
        assert!(why(&error).contains("without its descriptions"), "{error:?}");
        // Where nothing of it has to be enforced, nothing is.
        assert!(request("auto").grammar(&format, &vocab(), None).is_ok());
    }
}

#[test]
fn parameters_that_refer_to_themselves_are_read_in_time() {
    let node = json!({"type": "object", "properties": {"id": {"type": "integer"},
        "below": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["id"]});
    let each = [
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), None),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            None,
        ),
        (json!({"$ref": "#"}), None),
        (json!({"allOf": [{"$ref": "#"}, {"properties": {"n": {"type": "integer"}}}]}), None),
        (
            json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "properties": {"n": {"type": "integer"}}}),
            None,
        ),
        (
            json!({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"$ref": "#/properties/a"}}}),
            None,
        ),
        (json!({"properties": {"a": {"$ref": "#/properties/a"}}}), None),
        (json!({"$ref": "#/$defs/node", "$defs": {"node": node}}), Some("node")),
        (
            json!({"properties": {"id": {"type": "integer"},
            "below": {"type": "array", "items": {"$ref": "#"}}}, "required": ["id"]}),
            Some("root"),
        ),
        (
            json!({"$defs": {"w": {"anyOf": vec![json!({"$ref": "#/$defs/w"}); 5_000]}}, "$ref": "#/$defs/w"}),
            None,
        ),
        (
            json!({"$defs": {"w": {"allOf": vec![json!({"$ref": "#/$defs/w"}); 5_000]}}, "$ref": "#/$defs/w"}),
            None,
        ),
    ];
    for (schema, tree) in each {
        let begin = Instant::now();
        for strict in [false, true] {
            for choice in ["auto", "required"] {
                let tools = toolset(&schema, strict, choice).unwrap();
                let grammar = tools.grammar(&format(), &vocab(), None);
                let Ok(Some(wanted)) = grammar else {
                    let message = why(&grammar.unwrap_err());
                    assert!(tree.is_none() && message.contains("cannot be enforced"), "{message}");
                    continue;
                };
                // What the compiler makes of it is a grammar, or a message for the client.
                let answered = answer(wanted.grammar(), &[1, 2, 3, 4]);
                assert!(tree.is_none() || answered.is_ok(), "{answered:?} for {schema}");
            }
        }
        assert!(begin.elapsed() < Duration::from_secs(8), "{:?} for {schema}", begin.elapsed());
        let text = call(&[("id", "1"), ("below", "[{\"id\": 2, \"below\": []}]")]);
        let begin = Instant::now();
        let read = read(&schema, &text);
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?} to read {schema}", begin.elapsed());
        if tree.is_some() {
            assert_eq!(read, json!({"id": 1, "below": [{"id": 2, "below": []}]}));
            check(
                &schema,
                &[&[("id", "1"), ("below", "[{\"id\": 2}]")]],
                &[&[], &[("id", "1"), ("below", "[{}]")]],
            );
        }
    }
}
