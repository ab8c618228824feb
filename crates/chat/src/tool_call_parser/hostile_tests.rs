//! Replies that no well-meaning model writes.

use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use proptest::prelude::*;

use super::samples::{all, dsml, keyed, kimi, llama, mistral, python, qwen, tools};
use super::tests::parse;
use super::*;
use crate::reply_part::ParsedReply;
use crate::template::{ChatTemplate, SpecialTokens};
use crate::text_buffer::cuts::{characters, check_cuts, pieces};
use crate::tool_call_format::{ArgumentFormat, ValueFormat};

/// Runs on a thread of its own: an endless loop fails the test and does not hang it.
#[track_caller]
fn within<T: Send + 'static>(limit: Duration, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("parser".to_owned()).spawn(move || {
        let _ = sender.send(run());
    });
    drop(thread.unwrap());
    receiver.recv_timeout(limit).expect("the parser loops or panics")
}

#[track_caller]
fn check(format: &ToolCallFormat, text: &str, content: &str, calls: &[(&str, &str)]) {
    let expected = ParsedReply::new("", content, calls);
    let (format, text) = (format.clone(), text.to_owned());
    within(Duration::from_secs(5), move || {
        check_cuts(&text, &expected, |pieces| parse(&format, pieces));
    });
}

#[test]
fn a_brace_missing() {
    let f = [("now", "{}")];
    check(&llama(), "[{\"name\": \"now\", \"arguments\": {}]", "", &f);
    check(&llama(), "[{\"name\": \"now\", \"arguments\": {}]]]", "", &f);
    check(&mistral(), "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}]", "", &f);
    check(&llama(), "{\"name\": \"now\", ]", "", &[("now", "")]);
    check(&llama(), "{]", "{]", &[]);
    check(
        &llama(),
        "{\"name\": \"now\", \"arguments\": {\"a\": [1}}",
        "}}",
        &[("now", "{\"a\": [1")],
    );
    // The call after a broken one is read.
    let broken = "<tool_call>{\"name\": \"now\", \"arguments\": {}\n</tool_call>\n";
    let whole = "<tool_call>{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n";
    let text = format!("{broken}{whole}{broken}");
    check(&ToolCallFormat::fallback(), &text, "", &[f[0]; 3]);
}

#[test]
fn letters_of_many_bytes() {
    let call = "<tool_call>{\"name\": \"now\"}</tool_call>";
    let object = "{\"xy\": \"éééé\"}";
    check(&ToolCallFormat::fallback(), &format!("{call}{object}"), object, &[("now", "{}")]);
    let two = format!("{call}\u{3000}{call}é");
    check(&ToolCallFormat::fallback(), &two, "é", &[("now", "{}"), ("now", "{}")]);
    check(&llama(), "\u{3000}{\"x\": 1}", "\u{3000}{\"x\": 1}", &[]);
    check(&llama(), "\u{3000}{\"name\": \"now\"}", "", &[("now", "{}")]);
    check(&llama(), "\u{3000}é", "\u{3000}é", &[]);
    check(&llama(), "\u{3000}", "\u{3000}", &[]);
    check(&keyed(), "é<|tools_prefix|>é", "é<|tools_prefix|>é", &[]);
    let value =
        "<tool_call><function=weather><parameter=city>é\u{3000}</parameter></function></tool_call>";
    check(&qwen(), value, "", &[("weather", "{\"city\": \"é\u{3000}\"}")]);
    check(&python(), "<|tool_call_start|>[now(é=é)]", "", &[("now", "{\"é\": \"é\"}")]);
}

#[test]
fn what_was_emitted_is_final() {
    let text = "{\"name\": \"now\", \"arguments\": {\"a\": \"bc\"}, \
                \"function\": {\"name\": \"weather\", \"arguments\": \"é\"}}";
    check(&llama(), text, "", &[("now", "{\"a\": \"bc\"}")]);
    let text = "{\"name\": \"now\", \"name\": \"weather\", \"parameters\": 1, \"arguments\": {}}";
    check(&llama(), text, "", &[("now", "1")]);
    let text = "{\"arguments\": {\"a\": 1}, \"function\": {\"name\": \"now\", \"arguments\": {}}}";
    check(&llama(), text, "", &[("now", "{\"a\": 1}")]);
    // Text in JSON within JSON is decoded as it comes.
    let text = "{\"name\": \"now\", \"arguments\": \"{\\\"a\\\": \\\"\\ud83d\\udc4b\\u00e9";
    check(&llama(), text, "", &[("now", "{\"a\": \"👋é")]);
}

#[test]
fn depth_is_limited() {
    let deep = |open: &str, count: usize| open.repeat(count);
    let functions = deep("{\"function\":", 200_000);
    let reply = parse_within(&llama(), &functions);
    assert!(reply.content == functions && reply.calls.is_empty());
    let arrays = format!("{{\"name\": \"now\", \"arguments\": {}", deep("[", 200_000));
    let ParsedReply { content, calls, .. } = parse_within(&llama(), &arrays);
    assert_eq!(calls, [("now".to_owned(), deep("[", 127))]);
    assert_eq!(content.len(), 200_000 - 127);
    let literal = format!("<|tool_call_start|>[now(a={}", deep("[(", 100_000));
    let ParsedReply { content, calls, .. } = parse_within(&python(), &literal);
    assert_eq!((content.len(), calls.len()), (200_000 - 64, 1));
    let value = format!("<tool_call><function=now><parameter=a>{}</parameter>", deep("[", 200_000));
    assert_eq!(parse_within(&qwen(), &value).calls[0].1.len(), "{\"a\": \"\"".len() + 200_000);
}

#[track_caller]
fn parse_within(format: &ToolCallFormat, text: &str) -> ParsedReply {
    let (format, text) = (format.clone(), text.to_owned());
    within(Duration::from_secs(20), move || parse(&format, &[&text]))
}

/// Texts that would take forever if a part of them were read again with each piece, or with each marker.
fn long_texts() -> Vec<(ToolCallFormat, String)> {
    let (hermes, size) = (ToolCallFormat::fallback(), 1 << 19);
    let fill = |text: &str| text.repeat(size / text.len());
    let call = "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    let named = "<tool_call>{\"name\": \"now\", \"arguments\": ";
    let qwen_call = "<tool_call>\n<function=weather>\n<parameter=";
    let python_call = "<|tool_call_start|>[now(";
    vec![
        (hermes.clone(), format!("{named}{{\"a\": \"{}\"}}}}", fill("é\\\" "))),
        (hermes.clone(), format!("{named}\"{}\"}}", fill("\\u00e9"))),
        (
            hermes.clone(),
            format!("<tool_call>{{\"arguments\": [{}1], \"name\": \"now\"}}", fill("1, ")),
        ),
        (hermes.clone(), format!("<tool_call>{{\"{}\": 1}}", fill("k"))),
        (hermes.clone(), fill(call)),
        (hermes.clone(), fill("<tool_call>")),
        (hermes.clone(), fill("<tool_call>{")),
        (hermes.clone(), fill("<tool_call>{\"a\": \"")),
        (hermes.clone(), fill("<tool_call>{\"name\": \"rm\"}")),
        (hermes.clone(), fill("<tool_call>[")),
        (hermes.clone(), format!("<tool_call>{}", fill(" "))),
        (hermes.clone(), format!("a{}b", fill(" "))),
        (hermes.clone(), format!("{call}{}", fill(" ,]"))),
        (hermes.clone(), format!("{call}<{}/tool_call>", fill("\u{3000}"))),
        (hermes.clone(), fill("<")),
        (llama(), format!("{}{{\"x\": 1}}", fill(" "))),
        (llama(), fill("[")),
        (llama(), fill("{\"name\": \"now\"}")),
        (mistral(), fill("[TOOL_CALLS][")),
        (kimi(), format!("<|tool_calls_section_begin|>{}", fill("<|tool_call_begin|>"))),
        (kimi(), fill("<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0")),
        (
            qwen(),
            format!("{qwen_call}city>{}</parameter></function></tool_call>", fill("</param ")),
        ),
        (qwen(), format!("{qwen_call}{}", fill("k"))),
        (qwen(), format!("{qwen_call}{}", fill("k>\n1\n</parameter>\n<parameter="))),
        (qwen(), format!("{qwen_call}k>[{}</parameter>", fill("1, ["))),
        (qwen(), format!("{qwen_call}k>1</parameter>{}", fill(" "))),
        (qwen(), fill("<tool_call>\n<function=weather")),
        (
            dsml(),
            format!(
                "<|DSML|calls><|DSML|invoke name=\"now\"><|DSML|parameter name=\"k\" string=\"{}",
                fill("t")
            ),
        ),
        (python(), format!("{python_call}a='{}')]", fill("é\\'"))),
        (python(), format!("{python_call}a=[{}1])]", fill("1, {'a': 'b'}, "))),
        (python(), format!("{python_call}a={}", fill("w"))),
        (python(), format!("{python_call}{}a=1)]", fill("a=1, "))),
    ]
}

#[test]
fn long_answers_are_read_in_linear_time() {
    for (format, text) in long_texts() {
        let start: String = text.chars().take(60).collect();
        let (whole, split) = within(Duration::from_secs(20), move || {
            (parse(&format, &[&text]), parse(&format, &characters(&text)))
        });
        assert!(whole == split, "{start}");
    }
}

/// The time for four times the text is some four times the time, and not sixteen times.
#[test]
fn a_long_call_takes_as_long_as_it_has_characters() {
    let time = |size: usize| {
        let begin = "<tool_call>{\"name\": \"now\", \"arguments\": {\"text\": \"";
        let text = format!("{begin}{}\"}}}}</tool_call>", "é\\\"x".repeat(size / 5));
        within(Duration::from_secs(30), move || {
            let begin = std::time::Instant::now();
            let mut parser =
                ToolCallParser::new(&ToolCallFormat::fallback(), Arc::new(tools()), false);
            let (mut parts, mut bytes) = (Vec::new(), 0);
            for c in text.chars() {
                parser.push(c.encode_utf8(&mut [0; 4]), &mut parts);
                for part in parts.drain(..) {
                    bytes +=
                        if let ReplyPart::Arguments { text, .. } = part { text.len() } else { 0 };
                }
            }
            parser.finish(&mut parts);
            assert!(bytes >= size - 5 && parser.text.rest().is_empty());
            begin.elapsed()
        })
    };
    let best = |size: usize| (0..3).map(|_| time(size)).min().unwrap_or_default();
    let (one, four) = (best(1 << 18), best(1 << 20));
    // 4 MB, the longest reply.
    assert!(time(4 << 20) < Duration::from_secs(10));
    assert!(four < one * 12 + Duration::from_millis(200), "{one:?} and {four:?}");
}

/// The parsers of a request's replies share its tools.
#[test]
fn parsers_share_their_tools() {
    let tools = Arc::new(tools());
    let parser = ToolCallParser::new(&ToolCallFormat::fallback(), Arc::clone(&tools), false);
    let parsers = vec![parser; 128];
    assert_eq!((Arc::strong_count(&tools), parsers.len()), (2, 128));
}

/// The delimiters of a format, whole and in halves, and characters with a meaning.
fn alphabet(format: &ToolCallFormat) -> Vec<String> {
    let mut all: Vec<String> = format.delimiters().into_iter().map(str::to_owned).collect();
    let ends = format.ends();
    all.extend([format.marker(), ends.call, ends.next, ends.all].map(str::to_owned));
    if let ArgumentFormat::OneByOne {
        values: ValueFormat::Typed { text_type, other_types, .. },
        ..
    } = &format.arguments
    {
        all.push(text_type.clone());
        all.extend(other_types.iter().map(|(_, word)| word.clone()));
    }
    let halves = |text: &String| {
        let middle = text.floor_char_boundary(text.len() / 2);
        [text[..middle].to_owned(), text[middle..].to_owned()]
    };
    all.extend(all.clone().iter().flat_map(halves));
    let more = "[ ] { } : , \" \\ ' ( ) < > / = | \n 0 17 -2.5e3 é a name function arguments parameters \
                now weather rm city days units True None null true \\\" \\u00e9 \\ud83d \\udc4b {} \
                {\"name\":\"now\"} {\"city\":\"é\"} \"name\": \"function\": \"arguments\": \"now\"";
    all.extend(more.split(' ').map(str::to_owned));
    all.extend(["\u{3000}", " ", "\n\n"].map(str::to_owned));
    all.retain(|text| !text.is_empty());
    all
}

/// The samples, and the formats of the templates in llama.cpp's sources if they are there.
#[expect(clippy::disallowed_methods, reason = "the Makefile says where the templates are")]
static FORMATS: LazyLock<Vec<ToolCallFormat>> = LazyLock::new(|| {
    let folder =
        std::env::var("TEST_TEMPLATES").ok().and_then(|folder| std::fs::read_dir(folder).ok());
    let sources = folder.into_iter().flatten().flatten().filter_map(|entry| {
        let path = entry.path();
        path.extension().filter(|extension| *extension == "jinja")?;
        std::fs::read_to_string(path).ok()
    });
    let tokens = SpecialTokens { ends: vec!["<|im_end|>", "</s>"], ..SpecialTokens::default() };
    let templates = sources.filter_map(move |source| ChatTemplate::new(&source, &tokens).ok());
    let learned = templates.map(|template| template.features().tool_calls.clone());
    all().into_iter().chain(learned).collect()
});

proptest! {
    #[test]
    fn pieces_do_not_matter_and_text_is_kept(
        which: usize,
        opens: bool,
        words in proptest::collection::vec(0_usize..1000, 0..24),
        cuts in proptest::collection::vec(0_usize..200, 0..5),
        only_one: bool,
    ) {
        let format = &FORMATS[which % FORMATS.len()];
        let alphabet = alphabet(format);
        let words: String = words.iter().map(|word| alphabet[word % alphabet.len()].as_str()).collect();
        let text = if opens { format!("{}{words}", format.open) } else { words };
        let whole = parse(format, &[&text]);
        prop_assert_eq!(&parse(format, &pieces(&text, &cuts)), &whole);
        prop_assert_eq!(&parse(format, &characters(&text)), &whole);
        if whole.calls.is_empty() {
            prop_assert_eq!(&whole.content, &text);
        }
        let mut parser = ToolCallParser::new(format, Arc::new(tools()), only_one);
        let mut parts = Vec::new();
        pieces(&text, &cuts).into_iter().for_each(|piece| parser.push(piece, &mut parts));
        parser.finish(&mut parts);
        let calls = parts.iter().filter(|part| matches!(part, ReplyPart::ToolCall { .. })).count();
        prop_assert_eq!(calls, parser.call_count() as usize);
        prop_assert_eq!(calls, if only_one { whole.calls.len().min(1) } else { whole.calls.len() });
    }
}
