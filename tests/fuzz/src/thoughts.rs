//! The parser of reasoning, by every pair of delimiters: cuts change nothing, and what is parsed is in the reply, in order,
//! without anything lost but delimiters and space around them.

use std::sync::LazyLock;

use forebay_chat::{ReasoningFormat, ReasoningMode, ReasoningParser, Segment};

use crate::templates;

const OPENING: [&str; 8] = [
    "<think>",
    "<seed:think>",
    "<mm:think>",
    "[THINK]",
    "<|START_THINKING|>",
    "<thinking>",
    "<|channel>thought",
    "<|inner_prefix|>",
];

static ALL: LazyLock<Vec<ReasoningFormat>> = LazyLock::new(|| {
    let format = |open: &&str| {
        let template = templates::parsed(&format!("{{{{ '{open}' }}}}"));
        template.and_then(|one| one.features().reasoning.clone()).expect("a known delimiter")
    };
    OPENING.iter().map(format).collect()
});

pub fn run(data: &[u8]) {
    let Some(([kind, flags, a, b], text)) = crate::parts(data) else { return };
    let format = &ALL[usize::from(kind) % ALL.len()];
    let mode = if flags & 1 != 0 { ReasoningMode::Opened } else { ReasoningMode::Possible };
    let text = if flags & 2 != 0 { format!("{}{text}", format.open) } else { text };
    let whole = read(format, mode, &[&text]);
    let all = format!("{}{}", whole.0, whole.1);
    assert!(crate::is_subsequence(&all, &text), "{all:?} is not in {text:?}");
    let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let delimiters = bare(&format.open) + bare(&format.close);
    assert!(bare(&all) + delimiters >= bare(&text), "of {text:?} only {all:?} is left");
    for seed in [0, u16::from_be_bytes([a, b])] {
        let split = read(format, mode, &crate::pieces(&text, seed));
        assert_eq!(split, whole, "{text:?} in pieces {seed}");
    }
}

fn read(format: &ReasoningFormat, mode: ReasoningMode, pieces: &[&str]) -> (String, String) {
    let mut parser = ReasoningParser::new(format.clone(), mode);
    let mut parts = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut parts);
    }
    parser.finish(&mut parts);
    let (mut reasoning, mut text) = (String::new(), String::new());
    for part in parts {
        match part {
            Segment::Reasoning(more) => {
                assert!(text.is_empty(), "reasoning comes first");
                reasoning.push_str(&more);
            }
            Segment::Content(more) => text.push_str(&more),
        }
    }
    (reasoning, text)
}
