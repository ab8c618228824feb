use super::samples::{
    declared, deepseek, dsml, glm, keyed, kimi, llama, llama_function, minimax, mistral,
    mistral_args, python, qwen, tools, two_markers,
};
use serde_json::json;

use super::*;
use crate::reply_part::ParsedReply;
use crate::text_buffer::cuts::check_cuts;

/// The reply that comes in these pieces.
pub(super) fn parse(format: &ToolCallFormat, pieces: &[&str]) -> ParsedReply {
    parse_with(format, Arc::new(tools()), pieces)
}

fn parse_with(
    format: &ToolCallFormat,
    tools: Arc<BTreeMap<String, Value>>,
    pieces: &[&str],
) -> ParsedReply {
    let mut parser = ToolCallParser::new(format, tools, false);
    let mut parts = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut parts);
    }
    parser.finish(&mut parts);
    ParsedReply::collect(parts)
}

#[track_caller]
fn check(format: &ToolCallFormat, text: &str, content: &str, calls: &[(&str, &str)]) {
    let expected = ParsedReply::new("", content, calls);
    check_cuts(text, &expected, |pieces| parse(format, pieces));
}

const PARIS: &str = r#"{"city": "Paris {\"}", "days": 2}"#;

#[test]
fn hermes() {
    let d = ToolCallFormat::fallback();
    let call =
        format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {PARIS}}}\n</tool_call>");
    check(&d, &call, "", &[("weather", PARIS)]);
    let two = format!(
        "Let me see.\n\n{call}\n<tool_call>{{\"arguments\":{{}},\"name\":\"now\"}}</tool_call>\n"
    );
    check(&d, &two, "Let me see.", &[("weather", PARIS), ("now", "{}")]);
    check(&d, "a < b <tool_ call>\n", "a < b <tool_ call>\n", &[]);
    let unknown = "<tool_call>\n{\"name\": \"rm\", \"arguments\": {}}\n</tool_call>";
    check(&d, unknown, unknown, &[]);
    let spaced = format!("Hm. \n {unknown}\n and on");
    check(&d, &spaced, &spaced, &[]);
    let broken = "<tool_call>\nnothing";
    check(&d, broken, broken, &[]);
    let cut = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Pa";
    check(&d, cut, "", &[("weather", "{\"city\": \"Pa")]);
    let text = "<tool_call>{\"name\": \"now\", \"arguments\": \"{\\\"x\\\": 1}\"}</tool_call>";
    check(&d, text, "", &[("now", "{\"x\": 1}")]);
    check(&d, "<tool_call>{\"name\": \"now\"}</tool_call> and more", "and more", &[("now", "{}")]);
}

#[test]
fn lists_and_bare_objects() {
    let mistral = mistral();
    let text = format!(
        "[TOOL_CALLS][{{\"name\": \"weather\", \"arguments\": {PARIS}, \"id\": \"abcdefghi\"}}, {{\"name\": \"now\", \"arguments\": {{}}}}]"
    );
    check(&mistral, &text, "", &[("weather", PARIS), ("now", "{}")]);
    let text = format!(
        "<calls><call>{{\"name\": \"weather\", \"arguments\": {PARIS}}}</call>\n<call>{{\"name\": \"now\"}}</call></calls>"
    );
    check(&two_markers(), &text, "", &[("weather", PARIS), ("now", "{}")]);
    let llama = llama();
    let text = format!(" {{\"name\": \"weather\", \"parameters\": {PARIS}}}");
    check(&llama, &text, "", &[("weather", PARIS)]);
    check(&llama, "No {\"name\": \"now\"}", "No {\"name\": \"now\"}", &[]);
    check(&llama, "{\"name\": \"nobody\"}", "{\"name\": \"nobody\"}", &[]);
    let openai = "{\"id\": \"1\", \"type\": \"function\", \"function\": {\"name\": \"now\", \"arguments\": \"{}\"}}";
    check(&llama, openai, "", &[("now", "{}")]);
}

#[test]
fn names_outside_json() {
    let kimi = kimi();
    let text = format!(
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{PARIS}<|tool_call_end|><|tool_call_begin|>functions.now:12<|tool_call_argument_begin|>{{}}<|tool_call_end|><|tool_calls_section_end|>"
    );
    check(&kimi, &text, "I look.", &[("weather", PARIS), ("now", "{}")]);
    let deepseek = deepseek();
    let text = format!(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{{}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    );
    check(&deepseek, &text, "", &[("weather", PARIS), ("now", "{}")]);
    let mistral = mistral_args();
    let text = format!("[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{{}}");
    check(&mistral, &text, "", &[("weather", PARIS), ("now", "{}")]);
    let llama = llama_function();
    let text = format!("<function=weather>{PARIS}</function>");
    check(&llama, &text, "", &[("weather", PARIS)]);
}

#[test]
fn arguments_one_by_one() {
    let qwen = qwen();
    let one = "<tool_call>\n<function=weather>\n<parameter=city>\nNew\nYork\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";
    let arguments = r#"{"city": "New\nYork", "days": 3}"#;
    check(&qwen, one, "", &[("weather", arguments)]);
    let two = format!("So:\n{one}\n<tool_call>\n<function=now>\n</function>\n</tool_call>");
    check(&qwen, &two, "So:", &[("weather", arguments), ("now", "{}")]);
    let glm = glm();
    let text = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n<arg_key>units</arg_key>\n<arg_value>{\"a\": 1}</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>";
    let arguments = r#"{"city": "12", "units": {"a":1}}"#;
    check(&glm, text, "", &[("weather", arguments), ("now", "{}")]);
    let minimax = minimax();
    let text = "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Oslo</parameter>\n</invoke>\n<invoke name=\"weather\">\n<parameter name=\"city\">Rome</parameter>\n</invoke>\n</minimax:tool_call>";
    check(
        &minimax,
        text,
        "",
        &[("weather", r#"{"city": "Oslo"}"#), ("weather", r#"{"city": "Rome"}"#)],
    );
}

/// Recorded from what the models' own pages show.
#[test]
fn values_with_a_word_for_their_type() {
    let dsml = dsml();
    let one = |city: &str| {
        format!(
            "<|DSML|invoke name=\"weather\">\n<|DSML|parameter name=\"city\" string=\"true\">{city}\
             </|DSML|parameter>\n<|DSML|parameter name=\"days\" string=\"false\">3</|DSML|parameter>\n\
             </|DSML|invoke>\n"
        )
    };
    let text = format!("So: <|DSML|calls>\n{}{}</|DSML|calls>", one("12"), one("Rome"));
    let calls = [
        ("weather", r#"{"city": "12", "days": 3}"#),
        ("weather", r#"{"city": "Rome", "days": 3}"#),
    ];
    check(&dsml, &text, "So:", &calls);
}

#[test]
fn values_in_quotes() {
    let python = python();
    let text = "<|tool_call_start|>[weather(city='It\\'s, \"x\"', days=2), now(), \
                weather(city=\"Rome\", units={'a': [True, None]})]";
    let calls = [
        ("weather", r#"{"city": "It's, \"x\"", "days": 2}"#),
        ("now", "{}"),
        ("weather", r#"{"city": "Rome", "units": {"a":[true,null]}}"#),
    ];
    check(&python, text, "", &calls);
    let declared = declared();
    let text = "Hm.<|tool_call>call:weather{city:<|\"|>Paris, {TX}<|\"|>,days:2,units:{a:<|\"|>b<|\"|>}}\
                <tool_call|><|tool_call>call:now{}<tool_call|>";
    let calls =
        [("weather", r#"{"city": "Paris, {TX}", "days": 2, "units": {"a":"b"}}"#), ("now", "{}")];
    check(&declared, text, "Hm.", &calls);
    let keyed = keyed();
    let text =
        "<|tools_prefix|>[{\"weather\": {\"city\": \"Oslo\"}}, {\"now\": {}}]<|tools_suffix|>";
    check(&keyed, text, "", &[("weather", r#"{"city": "Oslo"}"#), ("now", "{}")]);
}

/// The types that an argument's schema allows decide how it is read.
#[test]
fn texts_without_a_type() {
    let schema = json!({"$defs": {"code": {"enum": ["007", "008"]}}, "properties": {
        "code": {"$ref": "#/$defs/code"}, "same": {"anyOf": [{"const": "1"}, {"pattern": "^1$", "type": "string"}]},
        "name": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "any": {}, "list": {"items": {}}}});
    let tools = Arc::new(BTreeMap::from([("f".to_owned(), schema)]));
    for (key, raw, json) in [
        ("code", "7", "\"7\""),
        ("code", "007", "\"007\""),
        ("same", "1", "\"1\""),
        ("name", "Paris", "\"Paris\""),
        ("name", "null", "null"),
        ("name", "None", "null"),
        ("name", "\"null\"", "\"null\""),
        ("any", "12", "12"),
        ("any", "twelve", "\"twelve\""),
        ("list", "[1]", "[1]"),
    ] {
        let text = format!(
            "<tool_call>\n<function=f>\n<parameter={key}>\n{raw}\n</parameter>\n</function>\n</tool_call>"
        );
        let arguments = format!("{{\"{key}\": {json}}}");
        let expected = ParsedReply::new("", "", &[("f", &arguments)]);
        assert_eq!(parse_with(&qwen(), Arc::clone(&tools), &[&text]), expected, "{text}");
    }
}
