//! The parser of tool calls, over the formats of all templates.
//!
//! However an answer is cut into pieces, what is read is the same. Calls are to tools that there are,
//! numbered in order; text that is read stood in the answer, in this order; nothing grows by more than
//! JSON's escapes.

use std::collections::BTreeMap;

use forebay_chat::{ReplyPart, ToolCallFormat, ToolCallParser};
use serde_json::Value;

use crate::templates::{self, FORMATS};

/// What was read: text, and each call's name and arguments.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub text: String,
    pub calls: Vec<(String, String)>,
}

/// Names, each with its parameters' schema.
pub fn schemas() -> BTreeMap<String, Value> {
    let named = |tool: Value| {
        let function = &tool["function"];
        Some((function["name"].as_str()?.to_owned(), function["parameters"].clone()))
    };
    templates::tools().into_iter().filter_map(named).collect()
}

pub fn run(data: &[u8]) {
    let Some(([kind, flags, a, b], text)) = crate::parts(data) else { return };
    let format = &FORMATS[usize::from(kind) % FORMATS.len()];
    let only_one = flags & 1 != 0;
    // Within a call from the first byte on: deep where the fuzzer would have to find the way.
    let text = match (flags >> 1) % 4 {
        0 | 1 => text,
        n => {
            let pieces = format.delimiters();
            let name = if n == 2 { "get_weather" } else { "größe" };
            format!("{}{name}{}{text}", pieces[0], pieces[1])
        }
    };
    let whole = read(format, only_one, &[&text]);
    check(&whole, &text, only_one);
    for seed in [0, u16::from_be_bytes([a, b])] {
        let split = read(format, only_one, &crate::pieces(&text, seed));
        assert_eq!(split, whole, "{text:?} in pieces {seed}");
    }
}

fn read(format: &ToolCallFormat, only_one: bool, pieces: &[&str]) -> Read {
    let mut parser = ToolCallParser::new(format, schemas().into(), only_one);
    let mut parts = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut parts);
    }
    parser.finish(&mut parts);
    let read = collect(parts);
    assert_eq!(read.calls.len(), parser.call_count() as usize);
    read
}

pub fn collect(parts: Vec<ReplyPart>) -> Read {
    let mut read = Read::default();
    for part in parts {
        match part {
            ReplyPart::Reasoning(_) => panic!("reasoning without channels"),
            ReplyPart::Content(text) => read.text.push_str(&text),
            ReplyPart::ToolCall { index, name } => {
                assert_eq!(index as usize, read.calls.len(), "calls come in order");
                read.calls.push((name, String::new()));
            }
            ReplyPart::Arguments { index, text } => {
                assert_eq!(index as usize + 1, read.calls.len(), "arguments are of the last call");
                read.calls[index as usize].1.push_str(&text);
            }
        }
    }
    read
}

fn check(read: &Read, text: &str, only_one: bool) {
    assert!(crate::is_subsequence(&read.text, text), "{:?} is not in {text:?}", read.text);
    assert!(!only_one || read.calls.len() <= 1);
    let tools = schemas();
    assert!(read.calls.iter().all(|(name, _)| tools.contains_key(name)));
    let arguments: usize = read.calls.iter().map(|(_, arguments)| arguments.len()).sum();
    assert!(arguments <= 8 * text.len() + 8 * read.calls.len(), "{arguments} of {}", text.len());
}
