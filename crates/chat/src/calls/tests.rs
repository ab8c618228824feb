use proptest::prelude::*;

use serde_json::json;

use super::*;
use crate::dialect::{Arguments, Values};

fn tools() -> BTreeMap<String, Value> {
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "units": {"type": "object"}}});
    BTreeMap::from([("weather".to_owned(), schema), ("now".to_owned(), json!({}))])
}

/// Text, and each call's name and arguments.
pub(super) type Read = (String, Vec<(String, String)>);

fn join(parts: Vec<Part>) -> Read {
    let (mut text, mut calls) = (String::new(), Vec::new());
    for part in parts {
        match part {
            Part::Text(more) => text.push_str(&more),
            Part::Thought(_) => panic!("no channels"),
            Part::Call { index, name } => {
                assert_eq!(index as usize, calls.len());
                calls.push((name, String::new()));
            }
            Part::Arguments { index, text } => calls[index as usize].1.push_str(&text),
        }
    }
    (text, calls)
}

pub(super) fn read(dialect: &Dialect, pieces: &[&str]) -> Read {
    let mut reader = CallReader::new(dialect.clone(), Arc::new(tools()), false);
    let mut parts = Vec::new();
    for piece in pieces {
        reader.push(piece, &mut parts);
    }
    reader.finish(&mut parts);
    join(parts)
}

/// Reads the text whole, in two pieces split at every character, and character by character.
#[track_caller]
fn check(dialect: &Dialect, text: &str, said: &str, calls: &[(&str, &str)]) {
    let calls = calls.iter().map(|(name, args)| ((*name).to_owned(), (*args).to_owned())).collect();
    let expected: Read = (said.to_owned(), calls);
    assert_eq!(read(dialect, &[text]), expected, "{text}");
    for (at, _) in text.char_indices() {
        let (a, b) = text.split_at(at);
        assert_eq!(read(dialect, &[a, b]), expected, "{a:?} {b:?}");
    }
    let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
    assert_eq!(read(dialect, &each), expected, "{text} by characters");
}

pub(super) fn json_dialect(
    open: &str,
    middle: &str,
    between: Option<&str>,
    close: &str,
) -> Dialect {
    Dialect {
        native: true,
        renders: true,
        open: open.to_owned(),
        middle: middle.to_owned(),
        between: between.map(str::to_owned),
        close: close.to_owned(),
        arguments: Arguments::Json,
        takes_text: false,
        short_ids: false,
        answer: "",
    }
}

const PARIS: &str = r#"{"city": "Paris {\"}", "days": 2}"#;

#[test]
fn hermes() {
    let d = Dialect::fallback();
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
    let mistral = json_dialect(
        "[TOOL_CALLS][{\"name\": \"",
        "\", \"arguments\": ",
        Some(", \"id\": \"probe1234\"}, {\"name\": \""),
        ", \"id\": \"probe1234\"}]",
    );
    let text = format!(
        "[TOOL_CALLS][{{\"name\": \"weather\", \"arguments\": {PARIS}, \"id\": \"abcdefghi\"}}, {{\"name\": \"now\", \"arguments\": {{}}}}]"
    );
    check(&mistral, &text, "", &[("weather", PARIS), ("now", "{}")]);
    let llama = json_dialect("{\"name\": \"", "\", \"parameters\": ", None, "}");
    let text = format!(" {{\"name\": \"weather\", \"parameters\": {PARIS}}}");
    check(&llama, &text, "", &[("weather", PARIS)]);
    check(&llama, "No {\"name\": \"now\"}", "No {\"name\": \"now\"}", &[]);
    check(&llama, "{\"name\": \"nobody\"}", "{\"name\": \"nobody\"}", &[]);
    let openai = "{\"id\": \"1\", \"type\": \"function\", \"function\": {\"name\": \"now\", \"arguments\": \"{}\"}}";
    check(&llama, openai, "", &[("now", "{}")]);
}

#[test]
fn names_outside_json() {
    let kimi = json_dialect(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.",
        ":0<|tool_call_argument_begin|>",
        Some("<|tool_call_end|><|tool_call_begin|>functions."),
        "<|tool_call_end|><|tool_calls_section_end|>",
    );
    let text = format!(
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{PARIS}<|tool_call_end|><|tool_call_begin|>functions.now:12<|tool_call_argument_begin|>{{}}<|tool_call_end|><|tool_calls_section_end|>"
    );
    check(&kimi, &text, "I look.", &[("weather", PARIS), ("now", "{}")]);
    let deepseek = json_dialect(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        "\n```json\n",
        Some("\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"),
        "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    );
    let text = format!(
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{PARIS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{{}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    );
    check(&deepseek, &text, "", &[("weather", PARIS), ("now", "{}")]);
    let mistral = json_dialect("[TOOL_CALLS]", "[ARGS]", Some("[TOOL_CALLS]"), "");
    let text = format!("[TOOL_CALLS]weather[ARGS]{PARIS}[TOOL_CALLS]now[ARGS]{{}}");
    check(&mistral, &text, "", &[("weather", PARIS), ("now", "{}")]);
    let llama = json_dialect("<function=", ">", Some("</function><function="), "</function>");
    let text = format!("<function=weather>{PARIS}</function>");
    check(&llama, &text, "", &[("weather", PARIS)]);
}

#[test]
fn arguments_one_by_one() {
    let qwen = Dialect {
        arguments: Arguments::Each {
            key_value: ">\n".to_owned(),
            value_key: "\n</parameter>\n<parameter=".to_owned(),
            none: ">\n</function>\n</tool_call>".to_owned(),
            values: Values::Bare,
        },
        ..json_dialect(
            "<tool_call>\n<function=",
            ">\n<parameter=",
            Some("\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function="),
            "\n</parameter>\n</function>\n</tool_call>",
        )
    };
    let one = "<tool_call>\n<function=weather>\n<parameter=city>\nNew\nYork\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>";
    let arguments = r#"{"city": "New\nYork", "days": 3}"#;
    check(&qwen, one, "", &[("weather", arguments)]);
    let two = format!("So:\n{one}\n<tool_call>\n<function=now>\n</function>\n</tool_call>");
    check(&qwen, &two, "So:", &[("weather", arguments), ("now", "{}")]);
    let glm = Dialect {
        arguments: Arguments::Each {
            key_value: "</arg_key>\n<arg_value>".to_owned(),
            value_key: "</arg_value>\n<arg_key>".to_owned(),
            none: "\n</tool_call>".to_owned(),
            values: Values::Bare,
        },
        ..json_dialect(
            "<tool_call>",
            "\n<arg_key>",
            Some("</arg_value>\n</tool_call>\n<tool_call>"),
            "</arg_value>\n</tool_call>",
        )
    };
    let text = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n<arg_key>units</arg_key>\n<arg_value>{\"a\": 1}</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>";
    let arguments = r#"{"city": "12", "units": {"a":1}}"#;
    check(&glm, text, "", &[("weather", arguments), ("now", "{}")]);
    let minimax = Dialect {
        arguments: Arguments::Each {
            key_value: "\">".to_owned(),
            value_key: "</parameter>\n<parameter name=\"".to_owned(),
            none: "\">\n</invoke>\n</minimax:tool_call>".to_owned(),
            values: Values::Bare,
        },
        ..json_dialect(
            "<minimax:tool_call>\n<invoke name=\"",
            "\">\n<parameter name=\"",
            Some("</parameter>\n</invoke>\n<invoke name=\""),
            "</parameter>\n</invoke>\n</minimax:tool_call>",
        )
    };
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
fn values_that_say_what_they_are() {
    let told = |texts: &str, others: &str, front: &str, back: &str| Values::Told {
        front: front.to_owned(),
        back: back.to_owned(),
        texts: texts.to_owned(),
        others: vec![("integer", others.to_owned())],
    };
    let dsml = Dialect {
        arguments: Arguments::Each {
            key_value: "\" string=\"true\">".to_owned(),
            value_key: "</|DSML|parameter>\n<|DSML|parameter name=\"".to_owned(),
            none: "\">\n</|DSML|invoke>\n</|DSML|calls>".to_owned(),
            values: told("true", "false", "\" string=\"", "\">"),
        },
        ..json_dialect(
            "<|DSML|calls>\n<|DSML|invoke name=\"",
            "\">\n<|DSML|parameter name=\"",
            Some("</|DSML|parameter>\n</|DSML|invoke>\n<|DSML|invoke name=\""),
            "</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|calls>",
        )
    };
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
    let quoted = |quote: &str, key_value: &str, value_key: &str, none: &str| Arguments::Each {
        key_value: key_value.to_owned(),
        value_key: value_key.to_owned(),
        none: none.to_owned(),
        values: Values::Quoted(quote.to_owned()),
    };
    let python = Dialect {
        arguments: quoted("'", "=", ", ", "()]"),
        ..json_dialect("<|tool_call_start|>[", "(", Some("), "), ")]")
    };
    let text = "<|tool_call_start|>[weather(city='It\\'s, \"x\"', days=2), now(), \
                weather(city=\"Rome\", units={'a': [True, None]})]";
    let calls = [
        ("weather", r#"{"city": "It's, \"x\"", "days": 2}"#),
        ("now", "{}"),
        ("weather", r#"{"city": "Rome", "units": {"a":[true,null]}}"#),
    ];
    check(&python, text, "", &calls);
    let quote = "<|\"|>";
    let declared = Dialect {
        arguments: quoted(quote, ":", ",", "{}<tool_call|>"),
        ..json_dialect(
            "<|tool_call>call:",
            "{",
            Some("}<tool_call|><|tool_call>call:"),
            "}<tool_call|>",
        )
    };
    let text = "Hm.<|tool_call>call:weather{city:<|\"|>Paris, {TX}<|\"|>,days:2,units:{a:<|\"|>b<|\"|>}}\
                <tool_call|><|tool_call>call:now{}<tool_call|>";
    let calls =
        [("weather", r#"{"city": "Paris, {TX}", "days": 2, "units": {"a":"b"}}"#), ("now", "{}")];
    check(&declared, text, "Hm.", &calls);
    let keyed = json_dialect("<|tools_prefix|>[{\"", "\": ", Some("}, {\""), "}]<|tools_suffix|>");
    let text =
        "<|tools_prefix|>[{\"weather\": {\"city\": \"Oslo\"}}, {\"now\": {}}]<|tools_suffix|>";
    check(&keyed, text, "", &[("weather", r#"{"city": "Oslo"}"#), ("now", "{}")]);
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_panics(
        pieces in proptest::collection::vec(
            "(<tool_call>|</tool_call>|\n|\\{\"name\": \"now\", \"arguments\": \\{\\}\\}|[a-z<>{}\" ]{0,4})", 0..8,
        ),
    ) {
        let text = pieces.concat();
        let whole = read(&Dialect::fallback(), &[&text]);
        let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
        prop_assert_eq!(read(&Dialect::fallback(), &each), whole.clone());
        if !text.contains("<tool_call>") {
            prop_assert_eq!(whole.0, text);
        }
    }
}
