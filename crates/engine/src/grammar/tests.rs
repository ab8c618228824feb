//! What compiling accepts and refuses, and what it takes. The hostile sources are those that ended
//! the process, or took seconds or hundreds of megabytes, without the limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::constraint::CALL_LIMIT;
use super::cost::check;
use super::limits::MAX_LEVELS;
use super::*;
use crate::Token;
use crate::failure::Failure;
use crate::vocab::{ParseSpecial, Tokenize, Vocab, VocabTable};

/// A quarter of what the server's threads for such work have.
const STACK: usize = 16 << 20;

struct Bytes;

impl Tokenize for Bytes {
    fn tokenize(&self, texts: &[&str], _: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure> {
        Ok(texts.iter().map(|text| text.bytes().map(Token::from).collect()).collect())
    }
}

/// The 256 bytes, pairs of small letters, and a token that ends a text.
fn vocab() -> Vocab {
    let pairs = (b'a'..=b'z').flat_map(|a| (b'a'..=b'z').map(move |b| vec![a, b]));
    let words: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).chain(pairs).collect();
    let mut table = VocabTable::default();
    for word in words.iter().chain([&b"</s>".to_vec()]) {
        table.control.push(word == b"</s>");
        table.bytes.extend_from_slice(word);
        table.ends.push(u32::try_from(table.bytes.len()).unwrap());
    }
    table.eog = vec![u32::try_from(words.len()).unwrap()];
    Vocab::new(table, Arc::new(Bytes))
}

fn json(source: impl Into<Arc<str>>) -> Grammar {
    Grammar::JsonSchema(source.into())
}

fn regex(source: impl Into<Arc<str>>) -> Grammar {
    Grammar::Regex(source.into())
}

fn lark(source: impl Into<Arc<str>>) -> Grammar {
    Grammar::Lark(source.into())
}

fn all(range: std::ops::Range<usize>, each: impl Fn(usize) -> String) -> String {
    range.map(each).collect()
}

/// Rules that each name the next, within so many groups.
fn chain(name: &str, count: usize, groups: usize) -> Grammar {
    let (open, close) = ("(\"b\" ".repeat(groups), ")".repeat(groups));
    let rules = all(0..count, |i| format!("{name}{i}: {open}\"a\" {name}{}{close}\n", i + 1));
    lark(format!("start: {name}0\n{rules}{name}{count}: \"x\"\n"))
}

/// Definitions that each refer to the next.
fn references(count: usize, each: impl Fn(String) -> String, last: &str) -> Grammar {
    let next = |i: usize| format!("\"$ref\":\"#/$defs/d{}\"", i + 1);
    let definitions = all(0..count, |i| format!("\"d{i}\":{},", each(next(i))));
    json(format!("{{\"$ref\":\"#/$defs/d0\",\"$defs\":{{{definitions}\"d{count}\":{last}}}}}"))
}

fn object(count: usize, rest: &str) -> Grammar {
    let properties = all(0..count, |i| format!("\"p{i}\":{{\"type\":\"integer\"}},"));
    json(format!("{{\"type\":\"object\",{rest}\"properties\":{{{properties}\"z\":{{}}}}}}"))
}

/// Runs on a thread with a bounded stack.
fn with_stack<T: Send + 'static>(bytes: usize, run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(bytes).spawn(run).unwrap().join().unwrap()
}

fn compile_all(stack: usize, sources: Vec<Grammar>) -> Vec<Result<CompiledGrammar, GrammarError>> {
    with_stack(stack, move || {
        let grammars = Grammars::new(vocab());
        sources.iter().map(|grammar| grammars.compile(grammar)).collect()
    })
}

#[test]
fn the_worst_that_is_accepted_fits_a_quarter_of_the_stack() {
    let levels = usize::try_from(MAX_LEVELS).unwrap();
    let plain = |next: String| format!("{{{next}}}");
    let property = |next: String| {
        format!(
            "{{\"type\":\"object\",\"additionalProperties\":false,\"properties\":{{\"a\":{{{next}}}}}}}"
        )
    };
    let nested = |next: String| format!("{{\"allOf\":[{{\"anyOf\":[{{\"items\":{{{next}}}}}]}}]}}");
    let sources = vec![
        chain("r", levels - 10, 0),
        chain("R", 700, 0),
        chain("r", levels / 26 - 1, 25),
        chain("R", levels / 26 - 1, 25),
        references(levels / 3 - 10, plain, "{\"type\":\"string\"}"),
        references(levels / 5 - 10, property, "{\"type\":\"string\"}"),
        references(levels / 8 - 10, nested, "{\"type\":\"string\"}"),
        json(format!("{}{{}}{}", "{\"items\":".repeat(120), "}".repeat(120))),
    ];
    for (at, compiled) in compile_all(STACK, sources).into_iter().enumerate() {
        assert!(compiled.is_ok(), "{at}: {compiled:?}");
    }
}

#[test]
fn what_costs_too_much_is_refused_by_name() {
    let sibling = |next: &str| format!("{{\"type\":\"object\",{next}}}");
    let twice = |next: String| {
        let one = sibling(&next);
        format!("{{\"type\":\"object\",\"properties\":{{\"a\":{one},\"b\":{one}}}}}")
    };
    let once = |next: String| {
        format!("{{\"type\":\"object\",\"properties\":{{\"a\":{}}}}}", sibling(&next))
    };
    let tree = |name: &str| {
        format!(
            "\"{name}\":{{\"type\":\"object\",\"properties\":{{\"l\":{{\"$ref\":\"#/$defs/{name}\"}},\"r\":{{\"$ref\":\"#/$defs/{name}\"}}}}}}"
        )
    };
    let any = format!(
        "{{\"anyOf\":[{}{{}}]}}",
        all(0..300, |i| format!("{{\"properties\":{{\"a{i}\":{{}}}}}},"))
    );
    let fan = all(0..40, |i| format!("R{i}: R{0} \"a\" R{0}\n", i + 1));
    let patterns = all(0..100, |i| format!("\"^p{i}x\":{{}},"));
    let together = all(0..16, |i| format!("{{\"pattern\":\".*x{i}.{{10}}y\"}},"));
    let cases = [
        (chain("r", 5_000, 0), "levels"),
        (chain("R", 5_000, 0), "levels"),
        (chain("r", 200, 25), "levels"),
        (references(2_500, |next| format!("{{{next}}}"), "{}"), "levels"),
        (references(40, twice, "{}"), "references are resolved"),
        (references(600, once, "{}"), "references are resolved"),
        (
            json(format!(
                "{{\"allOf\":[{{\"$ref\":\"#/$defs/s\"}},{{\"$ref\":\"#/$defs/t\"}}],\"$defs\":{{{},{}}}}}",
                tree("s"),
                tree("t")
            )),
            "references are resolved",
        ),
        (json(format!("{{\"allOf\":[{any},{any}]}}")), "references are resolved"),
        (object(2_100, ""), "pairs of properties"),
        (
            lark(format!(
                "start: %json {{\"oneOf\":[{}{{}}]}}",
                "{\"type\":\"object\"},".repeat(2_100)
            )),
            "'oneOf'",
        ),
        (object(100, "\"minProperties\":1,\"additionalProperties\":false,"), "minProperties"),
        (json(format!("{{\"patternProperties\":{{{patterns}\"z\":{{}}}}}}")), "pattern properties"),
        (json(format!("{{\"enum\":[{}0]}}", "1,".repeat(60_000))), "schemas and values"),
        (json(format!("{{\"allOf\":[{together}{{}}]}}")), "have to match together"),
        (lark(format!("start: R0\n{fan}R40: \"x\"\n")), "terminals"),
        (lark(format!("start: {}", "a{".repeat(1000))), "nested brackets"),
        (
            lark(format!("start: a::0\na::_: \"x\" %if {}", "not(".repeat(50_000))),
            "nested brackets",
        ),
        (lark(format!("start: {}\n", "\"a\"|".repeat(51_000))), "symbols"),
        (regex("\\w".repeat(3_000)), "Unicode classes"),
        (
            json(format!("{{\"pattern\":{}}}", serde_json::json!("\\pL".repeat(3_000)))),
            "Unicode classes",
        ),
        (regex("a".repeat(300 << 10)), "bytes"),
    ];
    let (sources, words): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    // One megabyte: counting does not recurse.
    let started = Instant::now();
    for (at, (compiled, word)) in compile_all(1 << 20, sources).into_iter().zip(words).enumerate() {
        let error = compiled.expect_err(word).to_string();
        assert!(error.contains(word) && error.len() < 1_000, "{at} {word}: {error}");
        assert!(error.contains("most is") || error.contains("more than"), "{at}: {error}");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn what_the_compiler_refuses_is_an_error() {
    let sources = vec![
        regex("(".repeat(100_000)),
        regex(format!("{}a{}", "(".repeat(300), ")".repeat(300))),
        json("{\"$ref\":\"#\"}"),
        json("{\"type\":\"object\",\"$ref\":\"#\"}"),
        json(
            "{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"type\":\"object\",\"$ref\":\"#/$defs/b\"},\"b\":{\"type\":\"object\",\"$ref\":\"#/$defs/a\"}}}",
        ),
        json(format!("{{\"minimum\":\"{}\"}}", "é".repeat(99))),
        json("{\"type\":\"integer\",\"multipleOf\":1000000007}"),
        lark("start: A\nA: A\n"),
        lark("start: \"a"),
        lark("start: %json {"),
        lark("start: %lark start: \"a\""),
        lark("start: <a"),
        lark(""),
    ];
    for (at, compiled) in compile_all(STACK, sources).into_iter().enumerate() {
        let error = compiled.expect_err(&format!("number {at}")).to_string();
        assert!(error.len() < 1_500 && !error.contains("backtrace"), "{at}: {error}");
    }
}

#[test]
fn counts_that_are_large_are_cheap() {
    let sources = vec![
        regex("(a?){1000}{1000}"),
        regex("(a|b|ab){100000}"),
        lark("start: ((((\"a\" \"b\"?){1,100000}){1,100000}){1,100000}){1,100000}\n"),
        json("{\"type\":\"string\",\"maxLength\":2000000000}"),
        json("{\"type\":\"array\",\"minItems\":1000000}"),
        object(1_900, "\"additionalProperties\":false,"),
        references(
            500,
            |next| format!("{{\"properties\":{{\"a\":{{{next}}},\"b\":{{{next}}}}}}}"),
            "{}",
        ),
    ];
    for (at, compiled) in compile_all(STACK, sources).into_iter().enumerate() {
        assert!(compiled.is_ok(), "{at}: {compiled:?}");
    }
}

#[test]
fn an_ambiguous_grammar_ends_within_its_time() {
    let compiled = compile_all(
        STACK,
        vec![
            lark("start: start start | \"a\"\n"),
            lark("start: start start start | start start | /[a-z ]/ |\n"),
        ],
    );
    for compiled in compiled {
        let mut constraint = compiled.unwrap().start();
        let mut spent = Duration::ZERO;
        let ended = (0..100_000).any(|_| {
            let started = super::time_limit::cpu_time();
            let ended = constraint.mask().is_err() || constraint.consume(u32::from(b'a')).is_err();
            let took = super::time_limit::cpu_time() - started;
            assert!(took < 2 * CALL_LIMIT + Duration::from_millis(300), "{took:?}");
            spent += took;
            ended || spent > Duration::from_secs(20)
        });
        assert!(ended && spent < Duration::from_secs(5), "{spent:?}");
        // And it stays so.
        assert!(constraint.mask().is_err() && constraint.forced().is_empty());
    }
}

#[test]
fn a_copy_is_made_when_it_is_asked() {
    let compiled = compile_all(STACK, vec![regex("ab")]).pop().unwrap().unwrap();
    let (mut one, two) = (compiled.start(), compiled.start());
    assert!(one.matching.is_none() && !one.is_complete());
    assert!(one.mask().unwrap().allows(u32::from(b'a')));
    assert!(!one.mask().unwrap().allows(u32::from(b'b')));
    assert!(one.matching.is_some() && two.matching.is_none());
    one.consume(u32::from(b'a')).unwrap();
    one.consume(u32::from(b'b')).unwrap();
    assert!(one.is_complete());
}

#[test]
fn names_are_read_as_the_compiler_reads_them() {
    // Each hides the chain where it is read otherwise.
    let hidden = [
        "start: \"x\" r0 // \" :\n",
        "start: r0T # \"\nT: \"t\"\n",
        "start: /[\"]/ r0\n",
        "start: /\\// r0 \"\\\"\"i\n",
        "start: <a\"b>? r0\n",
        "start: %json {\"const\": \"}\\\"\"} r0\n",
        "start: %lark { start: \"b\" } r0\n",
        "start[capture]: \"y\"\n  | r0\n",
        "start: a %if bit_clear([0:1], 0) r0\na: \"b\"\n",
        "?start: (\"a\"\n | r0)\n",
        "start: r0~1..2\n",
        "start: _r\n_r: r0\n",
    ];
    let rules = all(0..5_000, |i| format!("r{i}: \"a\" r{}\n", i + 1));
    for start in hidden {
        let error = check(&lark(format!("{start}{rules}r5000: \"x\"\n"))).unwrap_err();
        assert!(error.to_string().contains("levels"), "{start} {error}");
    }
    // Two grammars with the same names are apart.
    let one = all(0..1_500, |i| format!("r{i}: \"a\" r{}\n", i + 1));
    let nested =
        format!("start: %lark {{\nstart: r0\n{one}r1500: \"x\"\n}} r0\n{one}r1500: \"x\"\n");
    assert!(check(&lark(nested)).is_ok());
}

#[test]
fn braces_have_to_match() {
    for (source, word) in [
        ("start: \"a\"\n}\nb: %lark {\nstart: \"b\"", "'}'"),
        ("start: (\"a\" }\n)\nb: \"b\"{1", "'}'"),
        ("start: \"a\"{1", "'{'"),
        ("start: %lark {\nstart: \"a\"\n", "'{'"),
    ] {
        let error = check(&lark(source)).expect_err(source).to_string();
        assert!(error.contains(word), "{source}: {error}");
    }
    let hidden = "start: \"}\" /}/ %json {\"const\": \"}\"} \"a\"{1,2} # }\n// {\n";
    assert!(check(&lark(hidden)).is_ok());
}

#[test]
fn recursive_schemas_are_accepted() {
    let node = "{\"type\":\"object\",\"properties\":{\"value\":{},\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/node\"},{\"type\":\"null\"}]}},\"required\":[\"value\",\"next\"],\"additionalProperties\":false}";
    let sources = vec![
        json(format!("{{\"$ref\":\"#/$defs/node\",\"$defs\":{{\"node\":{node}}}}}")),
        json("{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}}}"),
        json(format!(
            "{{\"allOf\":[{{\"$ref\":\"#/$defs/node\"}},{{\"properties\":{{\"extra\":{{\"$ref\":\"#/$defs/node\"}}}}}}],\"$defs\":{{\"node\":{}}}}}",
            node.replace(",\"additionalProperties\":false", "")
        )),
    ];
    for (at, compiled) in compile_all(STACK, sources).into_iter().enumerate() {
        assert!(compiled.is_ok(), "{at}: {compiled:?}");
    }
}

/// Pieces of the notations, between broken bars.
const LARK: &str = r##"start¦a¦b¦A¦B¦:¦::¦_¦|¦(¦)¦[¦]¦{¦}¦{1,3}¦{,}¦{0}¦~¦~1..2¦*¦+¦?¦
¦ ¦"x"¦""¦"¦/a/¦/¦/(.|\n)*/¦//¦#¦<¦>¦<[1]>¦<[^*]>¦<x>¦@a¦&¦->¦..¦.¦,¦=¦%json {}¦
¦%json {"$ref":"#"}¦%json¦%regex {"substring_chars":"ab"}¦%lark {¦%ignore¦%import common.INT¦
¦%if¦true¦not(¦bit_set(0)¦[0:3]¦%llguidance {}¦é¦\¦9999999999¦0x1f¦[suffix="x"]¦[lazy]¦
¦[max_tokens=0]¦start: a
¦a: b
¦A: B
¦
b: a | A
¦
B: "y"
"##;
const REGEX: &str = r"a¦b¦.¦*¦+¦?¦{3}¦{0,9999}¦{2,1}¦(¦)¦(?i)¦(?P<stop>¦[¦]¦^¦$¦|¦\¦\w¦\d¦\b¦\p{L}¦
¦[^a]¦[[:alpha:]]¦/¦é¦(?:¦(?=¦&&¦-¦\x{110000}¦\u00e9";
const KEYS: &str = "type¦properties¦required¦items¦prefixItems¦anyOf¦allOf¦oneOf¦$ref¦enum¦const¦pattern¦format¦minLength¦maxLength¦minimum¦multipleOf¦additionalProperties¦patternProperties¦minProperties¦maxProperties¦$defs¦not¦minItems¦maxItems¦x-guidance¦$schema¦description";
const VALUES: &str = r##"{}¦true¦false¦null¦1¦-1.5e300¦"a"¦"é"¦[]¦[{}]¦"object"¦"integer"¦["string","null"]¦"#"¦"#/"¦
¦"#/$defs/0"¦"#/properties/a"¦{"a":{"$ref":"#"}}¦[{"$ref":"#"},{"type":"object"}]¦[1,1,"a"]¦"^a$"¦
¦"("¦{"^a":{},"a":{}}¦18446744073709551615¦0¦["a","b"]¦"date""##;

fn piece(of: &'static str) -> impl Strategy<Value = &'static str> {
    prop::sample::select(of.split('¦').collect::<Vec<_>>())
}

fn sources() -> impl Strategy<Value = Grammar> {
    prop_oneof![
        prop::collection::vec(piece(LARK), 0..40).prop_map(|all| lark(all.concat())),
        prop::collection::vec(piece(REGEX), 0..20).prop_map(|all| regex(all.concat())),
        prop::collection::vec((piece(KEYS), piece(VALUES)), 0..6).prop_map(|pairs| {
            let pairs: Vec<String> =
                pairs.iter().map(|(key, value)| format!("\"{key}\":{}", value.trim())).collect();
            json(format!("{{{}}}", pairs.join(",")))
        }),
        any::<String>().prop_map(lark),
        any::<String>().prop_map(regex),
        any::<String>().prop_map(json),
    ]
}

#[test]
fn no_source_panics_or_takes_long() {
    with_stack(STACK, || {
        let grammars = Grammars::new(vocab());
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 1_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let tested = runner.run(&sources(), |grammar| {
            let before = super::time_limit::cpu_time();
            if let Ok(compiled) = grammars.compile(&grammar) {
                let mut constraint = compiled.start();
                for _ in 0..8 {
                    let Ok(mask) = constraint.mask() else { break };
                    let Some(token) = (0..900).find(|&token| mask.allows(token)) else { break };
                    if constraint.consume(token).is_err() || constraint.is_complete() {
                        break;
                    }
                    let _ = constraint.forced();
                }
            }
            let took = super::time_limit::cpu_time() - before;
            prop_assert!(took < Duration::from_secs(4), "{took:?}");
            Ok(())
        });
        tested.unwrap();
    });
}
