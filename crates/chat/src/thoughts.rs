//! Tells thoughts from the answer behind them.

use crate::channels;
use crate::text_buffer::{MarkerSearch, TextBuffer};

/// How a model marks its thoughts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thinking {
    /// What begins them.
    pub open: String,
    /// What ends them.
    pub close: String,
    /// What stands between thoughts and what comes then; empty where they just end.
    pub then: &'static str,
    /// What begins an answer to the user; empty where it just begins.
    pub answer: &'static str,
}

/// The marks that templates are known to have.
const MARKS: [(&str, &str); 8] = [
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thinking>", "</thinking>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
];

impl Thinking {
    /// How the model of this template marks its thoughts, if it has any.
    pub(crate) fn of(source: &str) -> Option<Self> {
        if channels::is_used_by(source) {
            let (open, close) = channels::THINKING;
            let (open, close) = (open.to_owned(), close.to_owned());
            return Some(Self { open, close, then: channels::THEN, answer: channels::ANSWER });
        }
        let known =
            MARKS.iter().find(|(open, close)| source.contains(open) || source.contains(close));
        known.map(|&(open, close)| {
            let (open, close) = (open.to_owned(), close.to_owned());
            Self { open, close, then: "", answer: "" }
        })
    }

    /// Whether answers are messages in channels.
    pub fn in_channels(&self) -> bool {
        !self.answer.is_empty()
    }

    /// All text that has control tokens that have to be seen.
    pub fn pieces(&self) -> Vec<String> {
        let mut pieces = vec![self.open.clone(), self.close.clone()];
        if self.in_channels() {
            pieces.extend(channels::marks().map(str::to_owned));
        }
        pieces
    }
}

/// A part of what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// To itself.
    Thought(String),
    /// To everybody.
    Text(String),
}

/// Reads one answer as it grows, each character once.
#[derive(Debug, Clone)]
pub struct ThoughtReader {
    thinking: Thinking,
    state: State,
    /// Text that may be a part of a marker, or white space that may be at an end.
    held: TextBuffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Whether there is reasoning is not known yet; how much of what is held is white space.
    Before { space: usize },
    /// In reasoning; whether some of it was emitted.
    In { spoke: bool, search: MarkerSearch },
    /// Behind it; whether something was emitted.
    After { spoke: bool },
}

/// In reasoning of which nothing was emitted.
fn opened() -> State {
    State::In { spoke: false, search: MarkerSearch::default() }
}

impl ThoughtReader {
    /// A reader; `is_open` if the prompt has begun the reasoning already.
    pub fn new(thinking: Thinking, is_open: bool) -> Self {
        let state = if is_open { opened() } else { State::Before { space: 0 } };
        Self { thinking, state, held: TextBuffer::default() }
    }

    /// Whether what comes next may be reasoning.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::In { .. })
    }

    /// Reads more text and appends what it adds to the answer.
    pub fn push(&mut self, text: &str, out: &mut Vec<Said>) {
        self.held.push(text);
        while self.read(out) {}
    }

    /// Reads what is held. Returns whether that led to another state.
    fn read(&mut self, out: &mut Vec<Said>) -> bool {
        match self.state {
            State::Before { space } => {
                let rest = &self.held.rest()[space..];
                let begin = rest.trim_start();
                let space = space + rest.len() - begin.len();
                if begin.starts_with(&self.thinking.open) {
                    self.held.consume(space + self.thinking.open.len());
                    self.state = opened();
                } else if self.thinking.open.starts_with(begin) {
                    self.state = State::Before { space };
                    return false;
                } else {
                    self.state = State::After { spoke: true };
                }
                true
            }
            State::In { spoke, mut search } => {
                let found = search.search(self.held.rest(), &self.thinking.close);
                let text = self.held.take(found.len);
                let text = if spoke { text.as_str() } else { text.trim_start() };
                self.state = State::In { spoke: spoke || !text.is_empty(), search };
                if !text.is_empty() {
                    out.push(Said::Thought(text.to_owned()));
                }
                if let Some(at) = found.marker {
                    self.held.consume(at - found.len + self.thinking.close.len());
                    self.state = State::After { spoke: false };
                }
                found.marker.is_some()
            }
            State::After { spoke } => {
                let text = self.held.take_all();
                let text = if spoke { text.as_str() } else { text.trim_start() };
                if !text.is_empty() {
                    out.push(Said::Text(text.to_owned()));
                    self.state = State::After { spoke: true };
                }
                false
            }
        }
    }

    /// Signals the end of the answer and flushes what was held back.
    pub fn finish(&mut self, out: &mut Vec<Said>) {
        let held = self.held.take_all();
        match self.state {
            State::In { .. } if !held.trim().is_empty() => out.push(Said::Thought(held)),
            State::Before { .. } if !held.is_empty() => out.push(Said::Text(held)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text_buffer::pieces;

    fn read(opened: bool, pieces: &[&str]) -> (String, String) {
        let thinking = Thinking::of("{{ '<think>' }}").unwrap();
        let mut reader = ThoughtReader::new(thinking, opened);
        let mut said = Vec::new();
        for piece in pieces {
            reader.push(piece, &mut said);
        }
        reader.finish(&mut said);
        let (mut thought, mut text) = (String::new(), String::new());
        for part in said {
            match part {
                Said::Thought(more) => thought.push_str(&more),
                Said::Text(more) => text.push_str(&more),
            }
        }
        (thought, text)
    }

    #[track_caller]
    fn check(opened: bool, text: &str, thought: &str, said: &str) {
        let expected = (thought.to_owned(), said.to_owned());
        assert_eq!(read(opened, &[text]), expected);
        for (at, _) in text.char_indices() {
            let (a, b) = text.split_at(at);
            assert_eq!(read(opened, &[a, b]), expected, "{a:?} {b:?}");
        }
        let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
        assert_eq!(read(opened, &each), expected, "{text} by characters");
    }

    #[test]
    fn thoughts_are_told_from_answers() {
        check(
            false,
            "<think>\nOne < two.\n\nSo.\n</think>\n\nYes </think>.",
            "One < two.\n\nSo.",
            "Yes </think>.",
        );
        check(false, "\u{3000}<think>\u{3000}é\u{3000}</think>\u{3000}ü", "é", "ü");
        check(true, "Hm.\n</think>\nYes.", "Hm.", "Yes.");
        check(true, "Hm. </thi", "Hm. </thi", "");
        check(false, " Yes, <think> is a tag.", "", " Yes, <think> is a tag.");
        check(false, "<think></think>Yes.", "", "Yes.");
        check(false, "<thin", "", "<thin");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_is_lost(
            text in "(<think>|</think>|<thi|</|nk>|[<>/a é\u{3000}\n]){0,10}",
            opened: bool,
            cuts in proptest::collection::vec(0_usize..40, 0..4),
        ) {
            let whole = read(opened, &[&text]);
            prop_assert_eq!(&read(opened, &pieces(&text, &cuts)), &whole);
            let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
            prop_assert_eq!(&read(opened, &each), &whole);
            if !opened && !text.contains("<think>") {
                prop_assert_eq!(&whole.1, &text);
            }
        }
    }
}
