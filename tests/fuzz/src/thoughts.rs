//! The reader of thoughts, by every pair of marks: cuts change nothing, and what is read stood in the
//! answer, in order, without anything lost but marks and space around them.

use std::sync::LazyLock;

use forebay_chat::{Said, Thinking, ThoughtReader};

use crate::templates;

const MARKS: [&str; 8] = [
    "<think>",
    "<seed:think>",
    "<mm:think>",
    "[THINK]",
    "<|START_THINKING|>",
    "<thinking>",
    "<|channel>thought",
    "<|inner_prefix|>",
];

static ALL: LazyLock<Vec<Thinking>> = LazyLock::new(|| {
    let thinking = |mark: &&str| {
        let template = templates::parsed(&format!("{{{{ '{mark}' }}}}"));
        template.and_then(|template| template.thinking()).expect("a known mark")
    };
    MARKS.iter().map(thinking).collect()
});

pub fn run(data: &[u8]) {
    let Some(([kind, flags, a, b], text)) = crate::parts(data) else { return };
    let thinking = &ALL[usize::from(kind) % ALL.len()];
    let opened = flags & 1 != 0;
    let text = if flags & 2 != 0 { format!("{}{text}", thinking.open) } else { text };
    let whole = read(thinking, opened, &[&text]);
    let all = format!("{}{}", whole.0, whole.1);
    assert!(crate::is_subsequence(&all, &text), "{all:?} is not in {text:?}");
    let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let marks = bare(&thinking.open) + bare(&thinking.close);
    assert!(bare(&all) + marks >= bare(&text), "of {text:?} only {all:?} is left");
    for seed in [0, u16::from_be_bytes([a, b])] {
        let split = read(thinking, opened, &crate::pieces(&text, seed));
        assert_eq!(split, whole, "{text:?} in pieces {seed}");
    }
}

fn read(thinking: &Thinking, opened: bool, pieces: &[&str]) -> (String, String) {
    let mut reader = ThoughtReader::new(thinking.clone(), opened);
    let mut parts = Vec::new();
    for piece in pieces {
        reader.push(piece, &mut parts);
    }
    reader.finish(&mut parts);
    let (mut thoughts, mut text) = (String::new(), String::new());
    for part in parts {
        match part {
            Said::Thought(more) => {
                assert!(text.is_empty(), "thoughts come first");
                thoughts.push_str(&more);
            }
            Said::Text(more) => text.push_str(&more),
        }
    }
    (thoughts, text)
}
