//! Values and names are spelled so that they are read back as they were, or they cannot be said.

use std::time::{Duration, Instant};

use forebay_engine::ParseSpecial;
use forebay_engine::scripted::{answer, can_answer, can_answer_in_pieces, vocab};
use serde_json::{Value, json};

use super::{
    QUOTED, call, check, format, format_of, learned, read, read_by, toolset, wanted, wanted_by, why,
};

/// What the one argument `a` by this schema can be: values as the format spells them, and what of that is not
/// enforced.
#[track_caller]
fn check_value(which: usize, schema: &Value, may: &[&str], may_not: &[&str], noted: Option<&str>) {
    let format = format_of(which);
    let parameters = json!({"type": "object", "properties": {"a": schema}, "required": ["a"]});
    let wanted = wanted_by(&format, &parameters, false).unwrap();
    assert_eq!(wanted.not_enforced().names().as_deref(), noted, "{schema}");
    let call = |value: &str| match which {
        0 => call(&[("a", value)]),
        1 => format!(
            "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>{value}</arg_value>\n</tool_call>"
        ),
        _ => format!("<call>[f(a={value})]</call>"),
    };
    for (values, is) in [(may, true), (may_not, false)] {
        for value in values {
            let can = can_answer(wanted.grammar(), &call(value));
            assert_eq!(can, Ok(is), "{value:?} by {schema}: {:?}", wanted.grammar());
        }
    }
    let strict = wanted_by(&format, &parameters, true);
    assert_eq!(strict.is_err(), noted.is_some(), "{schema}: {strict:?}");
}

#[test]
fn all_that_a_schema_says_of_a_text_counts_together() {
    let both = json!({"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3});
    for (which, quote) in [(0, ""), (1, ""), (QUOTED, "\"")] {
        let [may, longer, other, shorter] =
            ["abc", "abcd", "ab1", "a"].map(|text| format!("{quote}{text}{quote}"));
        check_value(which, &both, &[&may], &[&longer, &other, &shorter], None);
    }
    let each = json!({"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "z$"}]});
    check_value(0, &each, &["abz", "az"], &["a", "z", "bz"], None);
    let listed =
        json!({"type": "string", "enum": ["a", "abc", "abcde"], "minLength": 2, "maxLength": 3});
    check_value(0, &listed, &["abc"], &["a", "abcde"], None);
    check_value(QUOTED, &listed, &["'abc'"], &["'a'", "'abcde'"], None);
    // A line break at the end of a text would be taken for the one in front of the closing tag.
    let one = json!({"type": "string", "minLength": 1});
    check_value(0, &one, &["a", "\n"], &[""], None);
    check_value(1, &one, &["a"], &["\n", "", "a\n"], None);
    let uuid = json!({"type": "string", "format": "uuid"});
    check_value(0, &uuid, &["9b2ef1c8-1fb8-4b0a-a4be-8f3d1e2a7c65"], &["x"], None);
    // What this spelling does not enforce is noted.
    let format = json!({"type": "string", "format": "ipv6"});
    check_value(0, &format, &["x"], &[], Some("format"));
    check_value(QUOTED, &format, &["\"fe80::1:2\""], &["\"x\"", "'x'"], None);
    let expressed = json!({"type": "string", "enum": ["a", "b"], "pattern": "^a"});
    check_value(0, &expressed, &["a", "b"], &["c"], Some("pattern"));
}

#[test]
fn what_costs_too_much_to_look_for_is_left_out() {
    let begin = Instant::now();
    let together = |count: usize| {
        let one = |i| json!({"pattern": format!(".*x{i}.{{10}}y")});
        json!({"type": "string", "allOf": (0..count).map(one).collect::<Vec<_>>()})
    };
    let text = "x0__________y x1__________y";
    check_value(0, &together(2), &[text], &["x0__________y"], None);
    check_value(0, &together(16), &["any"], &[], Some("pattern"));
    // A text that only its end could spell.
    let broken = json!({"type": "string", "pattern": "^a\\n$"});
    check_value(0, &broken, &["a\n"], &["a"], None);
    check_value(1, &broken, &["any"], &[], Some("pattern"));
    let lengths =
        |least: u64, most: u64| json!({"type": "string", "minLength": least, "maxLength": most});
    for (which, ends) in [(0, ["a\n", "\n"]), (1, ["\na", "a\n"])] {
        let may_not = if which == 0 { &[][..] } else { &ends[..] };
        check_value(which, &lengths(0, u64::MAX), &["", "a", "ab", "a\nb"], may_not, None);
        check_value(which, &lengths(1, 1_000_000), &["a", "ab", "a\nb"], &[""], None);
        check_value(which, &lengths(2, 3), &["ab", "a\nb"], &["", "a", "abcd"], None);
        check_value(which, &lengths(1, 1), &["a"], &["", "ab"], None);
        check_value(which, &lengths(0, 0), &[""], &["a"], None);
        check_value(which, &lengths(u64::MAX, u64::MAX), &["a"], &[], Some("minLength"));
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_text_does_not_hold_what_ends_it() {
    let any = json!({"type": "string", "pattern": "^.*$"});
    check_value(QUOTED, &any, &["\"a\"", "\"a'b\""], &["'a'b'", "\"a\"b\""], None);
    let tagged = json!({"type": "string", "pattern": "^<.*>$"});
    check_value(0, &tagged, &["<a>"], &["<</parameter>\n>", "<a</parameter>b>"], None);
}

#[test]
fn a_control_token_that_ends_values_is_not_spelled_within_one() {
    let format = learned(["<call>", "\\n", "<key>", "</key>", "", "", "<|x|>", "", "</call>"]);
    for value in [
        json!({"type": "string"}),
        json!({"type": "string", "pattern": "^a+$", "maxLength": 3}),
        json!({"type": "string", "minLength": 1}),
        json!({"type": ["string", "null"]}),
    ] {
        let schema = json!({"type": "object", "properties": {"a": value}, "required": ["a"]});
        let wanted = wanted_by(&format, &schema, true).unwrap();
        let call = |value: &str| {
            let call = [
                (format!("<call>f\n<key>a</key>{value}"), ParseSpecial::No),
                ("<|x|></call>".to_owned(), ParseSpecial::Yes),
            ];
            let pieces = call.each_ref().map(|(text, special)| (text.as_str(), *special));
            can_answer_in_pieces(wanted.grammar(), &pieces)
        };
        assert_eq!(call("aaa"), Ok(true), "{wanted:?}");
        assert_eq!(call("a<|x|>"), Ok(false), "{wanted:?}");
    }
}

#[test]
fn listed_texts_are_said_as_they_are_read() {
    let tags =
        json!({"type": "string", "enum": ["a", "a</parameter>", "b\n</parameter>\n<parameter=b>"]});
    check_value(0, &tags, &["a"], &["a</parameter>", "b"], Some("enum"));
    check_value(1, &tags, &["a", "a</parameter>"], &["b"], None);
    // The reader takes a line break off either end where none stands there anyway.
    let broken = json!({"type": "string", "enum": ["\na", "b"]});
    check_value(0, &broken, &["\na", "b"], &["a"], None);
    check_value(1, &broken, &["b"], &["\na", "a"], Some("enum"));
    // If none can be said, any can.
    check_value(0, &json!({"const": "</parameter>"}), &["a"], &[], Some("enum"));
    // Control tokens of that name would not be a part of the text.
    check_value(0, &json!({"enum": ["</s>x", "<s>"]}), &["</s>x", "<s>"], &[], None);
    let quotes = json!({"type": "string", "enum": ["it's", "\\", "\"", "a"]});
    check_value(QUOTED, &quotes, &["'it\\'s'", "'\\\\'", "'\"'", "'a'"], &["'it's'", "'\\'"], None);
    for text in ["it's", "\\", "\"", "a"] {
        let only = json!({"properties": {"a": {"const": text}}, "required": ["a"]});
        let wanted = wanted_by(&format_of(QUOTED), &only, true).unwrap();
        let said = answer(wanted.grammar(), &[]).unwrap().unwrap();
        assert_eq!(read_by(&format_of(QUOTED), &only, &said), json!({"a": text}));
    }
    let objects = json!({"enum": [{"a": "</parameter>"}, 1]});
    check_value(0, &objects, &["1"], &["{\"a\": \"</parameter>\"}", "2"], Some("enum"));
    let within = json!({"type": "object", "properties": {"b": objects}, "required": ["b"]});
    check_value(0, &within, &["{\"b\": 1}"], &["{}", "{\"b\": 2}"], Some("enum"));
    check_value(1, &objects, &["{\"a\": \"</parameter>\"}", "1"], &["2"], None);
    // What looks like a reference in a value is none.
    check_value(
        0,
        &json!({"const": {"$ref": "other.json"}}),
        &["{\"$ref\": \"other.json\"}"],
        &["1"],
        None,
    );
}

#[test]
fn names_are_said_as_they_are_read() {
    let long = "n".repeat(1_025);
    for name in ["a>b", " a", "a\n>", long.as_str()] {
        let named = |required: &[&str]| {
            json!({"type": "object", "required": required,
            "properties": {"b": {"type": "integer"}, name: {"type": "string"}}})
        };
        for (required, noted) in [(&[name][..], "required"), (&[], "properties")] {
            let error = wanted(&named(required), true).unwrap_err();
            assert!(why(&error).contains("the name '"), "{error:?}");
            let wanted = wanted(&named(required), false).unwrap();
            assert_eq!(wanted.not_enforced().names().as_deref(), Some(noted));
            check(&named(required), &[&[], &[("b", "1")]], &[&[(name, "x")]]);
        }
    }
    let name = "<s>";
    let named =
        json!({"type": "object", "required": [name], "properties": {name: {"type": "integer"}}});
    let said = answer(wanted_by(&format_of(1), &named, true).unwrap().grammar(), b"1").unwrap();
    assert!(read_by(&format_of(1), &named, &said.unwrap())[name].is_number());
}

#[test]
fn what_no_value_is_valid_for_takes_its_alternative_alone() {
    let never = json!({"allOf": [{"type": "string"}, {"type": "integer"}]});
    let short = json!({"type": "string", "enum": ["a"], "minLength": 2});
    for none in [&never, &short] {
        let either = json!({"type": "object", "anyOf": [
            {"properties": {"a": none}, "required": ["a"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]});
        check(&either, &[&[("b", "1")]], &[&[], &[("a", "a")]]);
        let only = json!({"type": "object", "properties": {"a": none}, "required": ["a"]});
        for strict in [false, true] {
            let error = wanted(&only, strict).unwrap_err();
            assert!(why(&error).contains("'a' is required"), "{error:?}");
        }
        let free = json!({"type": "object", "additionalProperties": none});
        check(&free, &[&[]], &[&[("b", "1")], &[("b", "a")]]);
    }
}

#[test]
fn a_tool_that_is_not_strict_is_read_as_it_is_spelled() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer"}}});
    let tools = toolset(&schema, false, "auto").unwrap();
    let grammar = tools.grammar(&format(), &vocab(), None).unwrap().unwrap();
    for (text, arguments) in [("x", json!({"a": "x"})), ("007", json!({"a": "007"}))] {
        let call = call(&[("a", text)]);
        assert_eq!(can_answer(grammar.grammar(), &call), Ok(true), "{text}");
        assert_eq!(read(&schema, &call), arguments);
    }
    // Those that are named have their own form, so a quote is a part of the text.
    let lark = format!("{:?}", grammar.grammar());
    assert!(lark.contains("/(a)/"), "{lark}");
    for name in ["n", "z"] {
        assert_eq!(can_answer(grammar.grammar(), &call(&[(name, "7")])), Ok(true), "{name}");
    }
    assert_eq!(can_answer(grammar.grammar(), &call(&[("z", "007")])), Ok(false));
}
