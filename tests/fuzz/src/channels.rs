//! The reader of answers that are messages in channels: cuts change nothing, what is read stood in
//! the answer, in order, and only known tools are called.

use forebay_chat::{ChannelParser, ReplyPart};

#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    reasoning: String,
    text: String,
    calls: Vec<(String, String)>,
    /// All of it as it came.
    all: String,
}

const TOOLS: [&str; 3] = ["get_weather", "now", "größe"];

pub fn run(data: &[u8]) {
    let Some(([flags, a, b], text)) = crate::parts(data) else { return };
    let only_one = flags & 1 != 0;
    let text = match (flags >> 1) % 3 {
        0 => text,
        1 => format!("<|channel|>analysis<|message|>{text}"),
        _ => format!("<|channel|>commentary to=functions.now <|constrain|>json<|message|>{text}"),
    };
    let whole = read(only_one, &[&text]);
    assert!(crate::is_subsequence(&whole.all, &text), "{:?} is not in {text:?}", whole.all);
    assert!(!only_one || whole.calls.len() <= 1);
    assert!(whole.calls.iter().all(|(name, _)| TOOLS.contains(&name.as_str())));
    for seed in [0, u16::from_be_bytes([a, b])] {
        assert_eq!(read(only_one, &crate::pieces(&text, seed)), whole, "{text:?} in pieces {seed}");
    }
}

fn read(only_one: bool, pieces: &[&str]) -> Read {
    let mut parser = ChannelParser::new(TOOLS.map(str::to_owned), only_one);
    let mut parts = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut parts);
    }
    parser.finish(&mut parts);
    let mut read = Read::default();
    for part in parts {
        match part {
            ReplyPart::Reasoning(text) => {
                read.all.push_str(&text);
                read.reasoning.push_str(&text);
            }
            ReplyPart::Content(text) => {
                read.all.push_str(&text);
                read.text.push_str(&text);
            }
            ReplyPart::ToolCall { index, name } => {
                assert_eq!(index as usize, read.calls.len(), "calls come in order");
                read.calls.push((name, String::new()));
            }
            ReplyPart::Arguments { index, text } => {
                read.all.push_str(&text);
                read.calls[index as usize].1.push_str(&text);
            }
        }
    }
    assert_eq!(read.calls.len(), parser.call_count() as usize);
    read
}
