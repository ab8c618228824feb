//! Answers that no well-meaning model gives.

use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use proptest::prelude::*;

use super::samples::{all, dsml, keyed, kimi, llama, mistral, python, qwen, tools};
use super::tests::{Read, read};
use super::*;
use crate::dialect::{Arguments, Values};
use crate::template::ChatTemplate;
use crate::text_buffer::pieces;

/// Runs on a thread of its own: an endless loop fails the test and does not hang it.
#[track_caller]
fn within<T: Send + 'static>(limit: Duration, run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let _ = sender.send(run());
    });
    drop(thread.unwrap());
    receiver.recv_timeout(limit).expect("the reader loops or panics")
}

/// Reads the text whole and in two pieces split at every character.
#[track_caller]
fn check(dialect: &Dialect, text: &str, said: &str, calls: &[(&str, &str)]) {
    let calls = calls.iter().map(|(name, args)| ((*name).to_owned(), (*args).to_owned())).collect();
    let expected: Read = (said.to_owned(), calls);
    let (dialect, shown, text) = (dialect.clone(), text.to_owned(), text.to_owned());
    let reads = within(Duration::from_secs(5), move || {
        let whole = read(&dialect, &[&text]);
        let split = text.char_indices().map(|(at, _)| {
            let (a, b) = text.split_at(at);
            read(&dialect, &[a, b])
        });
        [whole].into_iter().chain(split).collect::<Vec<_>>()
    });
    for read in reads {
        assert_eq!(read, expected, "{shown}");
    }
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
    check(&Dialect::fallback(), &text, "", &[f[0]; 3]);
}

#[test]
fn letters_of_many_bytes() {
    let call = "<tool_call>{\"name\": \"now\"}</tool_call>";
    let object = "{\"xy\": \"éééé\"}";
    check(&Dialect::fallback(), &format!("{call}{object}"), object, &[("now", "{}")]);
    let two = format!("{call}\u{3000}{call}é");
    check(&Dialect::fallback(), &two, "é", &[("now", "{}"), ("now", "{}")]);
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
    check_whole(&llama(), &functions, &functions, 0);
    let arrays = format!("{{\"name\": \"now\", \"arguments\": {}", deep("[", 200_000));
    let (text, calls) = check_within(&llama(), &arrays);
    assert_eq!(calls, [("now".to_owned(), deep("[", 127))]);
    assert_eq!(text.len(), 200_000 - 127);
    let literal = format!("<|tool_call_start|>[now(a={}", deep("[(", 100_000));
    let (text, calls) = check_within(&python(), &literal);
    assert_eq!((text.len(), calls.len()), (200_000 - 64, 1));
    let value = format!("<tool_call><function=now><parameter=a>{}</parameter>", deep("[", 200_000));
    assert_eq!(check_within(&qwen(), &value).1[0].1.len(), "{\"a\": \"\"".len() + 200_000);
}

#[track_caller]
fn check_within(dialect: &Dialect, text: &str) -> Read {
    let (dialect, text) = (dialect.clone(), text.to_owned());
    within(Duration::from_secs(20), move || read(&dialect, &[&text]))
}

#[track_caller]
fn check_whole(dialect: &Dialect, text: &str, said: &str, calls: usize) {
    let read = check_within(dialect, text);
    assert!(read.0 == said && read.1.len() == calls);
}

/// Texts that would take forever if any of it were read again with each piece, or with each marker.
fn long_texts() -> Vec<(Dialect, String)> {
    let (hermes, size) = (Dialect::fallback(), 1 << 19);
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
    for (dialect, text) in long_texts() {
        let begin: String = text.chars().take(60).collect();
        let (whole, each) = within(Duration::from_secs(20), move || {
            let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
            (read(&dialect, &[&text]), read(&dialect, &each))
        });
        assert!(whole == each, "{begin}");
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
            let mut reader = CallReader::new(Dialect::fallback(), Arc::new(tools()), false);
            let (mut parts, mut bytes) = (Vec::new(), 0);
            for c in text.chars() {
                reader.push(c.encode_utf8(&mut [0; 4]), &mut parts);
                for part in parts.drain(..) {
                    bytes += if let Part::Arguments { text, .. } = part { text.len() } else { 0 };
                }
            }
            reader.finish(&mut parts);
            assert!(bytes >= size - 5 && reader.text.rest().is_empty());
            begin.elapsed()
        })
    };
    let best = |size: usize| (0..3).map(|_| time(size)).min().unwrap_or_default();
    let (one, four) = (best(1 << 18), best(1 << 20));
    // 4 MB, the longest answer that anybody may get.
    assert!(time(4 << 20) < Duration::from_secs(10));
    assert!(four < one * 12 + Duration::from_millis(200), "{one:?} and {four:?}");
}

/// The tools of a request are shared by its readers, whatever their number.
#[test]
fn readers_share_their_tools() {
    let tools = Arc::new(tools());
    let reader = CallReader::new(Dialect::fallback(), Arc::clone(&tools), false);
    let readers = vec![reader; 128];
    assert_eq!((Arc::strong_count(&tools), readers.len()), (2, 128));
}

/// What a dialect's answers are made of, whole and in halves, and characters with a meaning.
fn alphabet(dialect: &Dialect) -> Vec<String> {
    let mut all: Vec<String> = dialect.pieces().into_iter().map(str::to_owned).collect();
    let ends = dialect.ends();
    all.extend([dialect.marker(), ends.call, ends.next, ends.all].map(str::to_owned));
    if let Arguments::Each { values: Values::Told { texts, others, .. }, .. } = &dialect.arguments {
        all.push(texts.clone());
        all.extend(others.iter().map(|(_, word)| word.clone()));
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

/// The samples, and what is learned from the templates of llama.cpp's sources where they are there.
#[expect(clippy::disallowed_methods, reason = "the Makefile says where the templates are")]
static DIALECTS: LazyLock<Vec<Dialect>> = LazyLock::new(|| {
    let folder =
        std::env::var("TEST_TEMPLATES").ok().and_then(|folder| std::fs::read_dir(folder).ok());
    let sources = folder.into_iter().flatten().flatten().filter_map(|entry| {
        let path = entry.path();
        path.extension().filter(|extension| *extension == "jinja")?;
        std::fs::read_to_string(path).ok()
    });
    let templates = sources.filter_map(|source| ChatTemplate::new(&source, "", "", vec![]).ok());
    let learned = templates.map(|template| Dialect::learn(&template, &["<|im_end|>", "</s>"]));
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
        let dialect = &DIALECTS[which % DIALECTS.len()];
        let alphabet = alphabet(dialect);
        let words: String = words.iter().map(|word| alphabet[word % alphabet.len()].as_str()).collect();
        let text = if opens { format!("{}{words}", dialect.open) } else { words };
        let whole = read(dialect, &[&text]);
        prop_assert_eq!(&read(dialect, &pieces(&text, &cuts)), &whole);
        let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
        prop_assert_eq!(&read(dialect, &each), &whole);
        if whole.1.is_empty() {
            prop_assert_eq!(&whole.0, &text);
        }
        let mut reader = CallReader::new(dialect.clone(), Arc::new(tools()), only_one);
        let mut parts = Vec::new();
        pieces(&text, &cuts).into_iter().for_each(|piece| reader.push(piece, &mut parts));
        reader.finish(&mut parts);
        let calls = parts.iter().filter(|part| matches!(part, Part::Call { .. })).count();
        prop_assert_eq!(calls, reader.calls() as usize);
        prop_assert_eq!(calls, if only_one { whole.1.len().min(1) } else { whole.1.len() });
    }
}
