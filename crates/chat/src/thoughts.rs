//! Tells thoughts from the answer behind them.

use crate::channels;

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

/// Reads one answer as it grows.
#[derive(Debug, Clone)]
pub struct ThoughtReader {
    thinking: Thinking,
    state: State,
    /// Text that may be a part of a mark, or space that may be at an end.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Whether there are thoughts is not known yet.
    Before,
    /// In thoughts; whether something of them was told.
    In { spoke: bool },
    /// Behind them; whether something was told.
    After { spoke: bool },
}

impl ThoughtReader {
    /// A reader; `opened` where the prompt has begun the thoughts already.
    pub fn new(thinking: Thinking, opened: bool) -> Self {
        let state = if opened { State::In { spoke: false } } else { State::Before };
        Self { thinking, state, held: String::new() }
    }

    /// Whether what comes next may be a thought.
    pub fn is_thinking(&self) -> bool {
        matches!(self.state, State::In { .. })
    }

    /// Takes in more text.
    pub fn push(&mut self, text: &str, out: &mut Vec<Said>) {
        self.held.push_str(text);
        loop {
            match self.state {
                State::Before => {
                    let trimmed = self.held.trim_start();
                    if let Some(rest) = trimmed.strip_prefix(&self.thinking.open) {
                        self.held = rest.to_owned();
                        self.state = State::In { spoke: false };
                    } else if self.thinking.open.starts_with(trimmed) {
                        return;
                    } else {
                        self.state = State::After { spoke: true };
                    }
                }
                State::In { spoke } => {
                    let close = self.thinking.close.clone();
                    let end = self.held.find(&close);
                    let sure = end.unwrap_or_else(|| sure(&self.held, &close));
                    let mut thought: String = self.held.drain(..sure).collect();
                    if end.is_some() {
                        self.held.drain(..close.len());
                        thought.truncate(thought.trim_end().len());
                    }
                    let thought = if spoke { thought.as_str() } else { thought.trim_start() };
                    if !thought.is_empty() {
                        out.push(Said::Thought(thought.to_owned()));
                        self.state = State::In { spoke: true };
                    }
                    if end.is_none() {
                        return;
                    }
                    self.state = State::After { spoke: false };
                }
                State::After { spoke } => {
                    let text = std::mem::take(&mut self.held);
                    let text = if spoke { text.as_str() } else { text.trim_start() };
                    if !text.is_empty() {
                        out.push(Said::Text(text.to_owned()));
                        self.state = State::After { spoke: true };
                    }
                    return;
                }
            }
        }
    }

    /// Takes in that there is no more.
    pub fn finish(&mut self, out: &mut Vec<Said>) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::In { .. } if !held.trim().is_empty() => out.push(Said::Thought(held)),
            State::Before if !held.is_empty() => out.push(Said::Text(held)),
            _ => {}
        }
    }
}

/// How much of a text cannot be the beginning of `mark`, or space before one.
pub(crate) fn sure(text: &str, mark: &str) -> usize {
    let part =
        (1..mark.len()).rev().find(|&n| mark.is_char_boundary(n) && text.ends_with(&mark[..n]));
    text[..text.len() - part.unwrap_or(0)].trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        check(true, "Hm.\n</think>\nYes.", "Hm.", "Yes.");
        check(true, "Hm. </thi", "Hm. </thi", "");
        check(false, " Yes, <think> is a tag.", "", " Yes, <think> is a tag.");
        check(false, "<think></think>Yes.", "", "Yes.");
        check(false, "<thin", "", "<thin");
    }
}
