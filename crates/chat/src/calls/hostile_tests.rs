//! Answers that no well-meaning model gives.

use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::calls::tests::{Read, json_dialect, read};

/// Reads on a thread of its own: an endless loop fails the test and does not hang it.
#[track_caller]
fn within(dialect: &Dialect, pieces: &[&str]) -> Read {
    let (sender, receiver) = mpsc::channel();
    let dialect = dialect.clone();
    let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
    let thread = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let _ = sender.send(read(&dialect, &pieces));
    });
    drop(thread.unwrap());
    receiver.recv_timeout(Duration::from_secs(2)).expect("the reader loops or panics")
}

#[track_caller]
fn check(dialect: &Dialect, text: &str, said: &str, calls: &[(&str, &str)]) {
    let calls = calls.iter().map(|(name, args)| ((*name).to_owned(), (*args).to_owned())).collect();
    let expected: Read = (said.to_owned(), calls);
    assert_eq!(within(dialect, &[text]), expected, "{text}");
    for (at, _) in text.char_indices() {
        let (a, b) = text.split_at(at);
        assert_eq!(within(dialect, &[a, b]), expected, "{a:?} {b:?}");
    }
}

fn bare() -> Dialect {
    json_dialect("{\"name\": \"", "\", \"parameters\": ", None, "}")
}

#[test]
fn a_brace_missing() {
    check(&bare(), "[{\"name\": \"now\", \"arguments\": {}]", "", &[("now", "{}")]);
}

#[test]
fn an_object_of_other_letters_after_a_call() {
    let call = "<tool_call>{\"name\": \"now\"}</tool_call>";
    let object = "{\"xy\": \"éééé\"}";
    check(&Dialect::fallback(), &format!("{call}{object}"), object, &[("now", "{}")]);
}

#[test]
fn a_wide_space_first() {
    check(&bare(), "\u{3000}{\"x\": 1}", "\u{3000}{\"x\": 1}", &[]);
    check(&bare(), "\u{3000}{\"name\": \"now\"}", "", &[("now", "{}")]);
}

#[test]
fn a_later_function_does_not_change_what_was_emitted() {
    let text = "{\"name\": \"now\", \"arguments\": {\"a\": \"bc\"}, \
                \"function\": {\"name\": \"now\", \"arguments\": \"é\"}}";
    check(&bare(), text, "", &[("now", "{\"a\": \"bc\"}")]);
}
