//! Answers that are messages in channels: a header says to whom each one speaks, and a control token
//! ends it.
//!
//! The format: <https://cookbook.openai.com/articles/openai-harmony>. An answer begins behind the
//! word `assistant` of its first header, as the prompt ends with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::calls::Part;
use crate::text_buffer::{TextBuffer, partial};

/// What begins the name of a channel.
const CHANNEL: &str = "<|channel|>";
/// What ends a header.
const BODY: &str = "<|message|>";
/// What may end a message. Those that end the answer are not seen where they are control tokens.
const ENDS: [&str; 5] = ["<|end|>", "<|call|>", "<|return|>", "<|start|>", CHANNEL];
/// Control tokens that the format uses besides.
const CONSTRAIN: &str = "<|constrain|>";
/// The channel that the model thinks in.
const THOUGHTS: &str = "analysis";
/// What a recipient's name begins with where it is a tool.
const TOOLS: &str = "functions.";

/// What begins thoughts, and what ends them.
pub(crate) const THINKING: (&str, &str) = ("<|channel|>analysis<|message|>", "<|end|>");
/// What stands between thoughts and what comes then.
pub(crate) const THEN: &str = "<|start|>assistant";
/// What begins an answer to the user.
pub(crate) const ANSWER: &str = "<|channel|>final<|message|>";
/// What begins a call, up to its name, and what stands behind that.
pub(crate) const CALL: (&str, &str) =
    ("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>");

/// Whether a template's model answers in channels.
pub(crate) fn is_used_by(source: &str) -> bool {
    [CHANNEL, BODY, THEN].iter().all(|mark| source.contains(mark))
}

/// The control tokens that have to be seen.
pub(crate) fn marks() -> impl Iterator<Item = &'static str> {
    ENDS.into_iter().chain([BODY, CONSTRAIN])
}

/// Reads one answer as it grows, each character once.
#[derive(Debug, Clone)]
pub struct ChannelReader {
    tools: Arc<BTreeSet<String>>,
    /// Whether calls behind the first one are left out.
    only_one: bool,
    /// Text that is not emitted yet: a header, or what may begin an end.
    held: TextBuffer,
    /// How much of what is held is known not to begin the end of a header.
    searched: usize,
    state: State,
    calls: u32,
}

/// What the text is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Thought,
    Text,
    /// The call with this number.
    Call(u32),
    /// What is left out.
    Nothing,
}

impl ChannelReader {
    /// A reader of answers that may call these tools. With `only_one` what follows the first call is
    /// left out.
    pub fn new(tools: impl IntoIterator<Item = String>, only_one: bool) -> Self {
        Self {
            tools: Arc::new(tools.into_iter().collect()),
            only_one,
            held: TextBuffer::default(),
            searched: 0,
            state: State::Header,
            calls: 0,
        }
    }

    /// How many calls there were.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Whether what comes next is reasoning.
    pub fn is_thinking(&self) -> bool {
        self.state == State::Thought
    }

    /// Reads more text and appends what it adds to the answer.
    pub fn push(&mut self, text: &str, out: &mut Vec<Part>) {
        self.held.push(text);
        while self.read(out) {}
    }

    /// Reads what is held. Returns whether a header or a message ended.
    fn read(&mut self, out: &mut Vec<Part>) -> bool {
        let rest = self.held.rest();
        if self.state == State::Header {
            let fresh = &rest[self.searched..];
            let Some(at) = fresh.find(BODY) else {
                self.searched = rest.len() - partial(fresh, BODY);
                return false;
            };
            let header = self.held.take(self.searched + at + BODY.len());
            self.searched = 0;
            self.state = self.open(&header, out);
            return true;
        }
        let (safe, end) = next_end(rest);
        let text = self.held.take(safe);
        self.emit(text, out);
        let Some(end) = end else { return false };
        if end != CHANNEL {
            self.held.consume(end.len());
        }
        self.state = State::Header;
        true
    }

    /// Signals the end of the answer and flushes what was held back.
    pub fn finish(&mut self, out: &mut Vec<Part>) {
        let rest = self.held.take_all();
        if self.state == State::Header {
            // Text without a header is for the user.
            let is_header = marks().any(|mark| rest.contains(mark));
            self.state = if is_header { State::Nothing } else { State::Text };
        }
        self.emit(rest, out);
    }

    /// Whose message the header begins.
    fn open(&mut self, header: &str, out: &mut Vec<Part>) -> State {
        let word = |mark: &str| {
            let behind = &header[header.find(mark)? + mark.len()..];
            let end = behind.find(|c: char| c.is_whitespace() || c == '<');
            Some(&behind[..end.unwrap_or(behind.len())])
        };
        let tool = word("to=").and_then(|to| to.strip_prefix(TOOLS));
        if let Some(name) = tool.filter(|name| self.tools.contains(*name)) {
            if self.only_one && self.calls > 0 {
                return State::Nothing;
            }
            let index = self.calls;
            self.calls += 1;
            out.push(Part::Call { index, name: name.to_owned() });
            return State::Call(index);
        }
        match word(CHANNEL) {
            Some(THOUGHTS) => State::Thought,
            _ if self.only_one && self.calls > 0 => State::Nothing,
            _ => State::Text,
        }
    }

    fn emit(&self, text: String, out: &mut Vec<Part>) {
        if text.is_empty() {
            return;
        }
        match self.state {
            State::Thought => out.push(Part::Thought(text)),
            State::Text => out.push(Part::Text(text)),
            State::Call(index) => out.push(Part::Arguments { index, text }),
            State::Header | State::Nothing => {}
        }
    }
}

/// How much of a text is a message before its end, or what may begin one, and which end that is.
fn next_end(text: &str) -> (usize, Option<&'static str>) {
    // All ends begin alike, so that one search finds them.
    for (at, _) in text.match_indices('<') {
        let rest = &text[at..];
        if let Some(end) = ENDS.into_iter().find(|end| rest.starts_with(end)) {
            return (at, Some(end));
        }
        if ENDS.iter().any(|end| end.starts_with(rest)) {
            return (at, None);
        }
    }
    (text.len(), None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text_buffer::pieces;

    type Read = (String, String, Vec<(String, String)>);

    fn read(only_one: bool, pieces: &[&str]) -> Read {
        let tools = ["get_weather", "now"].map(str::to_owned);
        let mut reader = ChannelReader::new(tools, only_one);
        let mut parts = Vec::new();
        for piece in pieces {
            reader.push(piece, &mut parts);
        }
        reader.finish(&mut parts);
        let (mut thought, mut said, mut calls) = (String::new(), String::new(), Vec::new());
        for part in parts {
            match part {
                Part::Thought(text) => thought.push_str(&text),
                Part::Text(text) => said.push_str(&text),
                Part::Call { name, .. } => calls.push((name, String::new())),
                Part::Arguments { index, text } => calls[index as usize].1.push_str(&text),
            }
        }
        assert_eq!(calls.len(), reader.calls() as usize);
        (thought, said, calls)
    }

    #[track_caller]
    fn check(only_one: bool, text: &str, thought: &str, said: &str, calls: &[(&str, &str)]) {
        let calls = calls.iter().map(|(n, a)| ((*n).to_owned(), (*a).to_owned())).collect();
        let expected: Read = (thought.to_owned(), said.to_owned(), calls);
        assert_eq!(read(only_one, &[text]), expected);
        for (at, _) in text.char_indices() {
            let (a, b) = text.split_at(at);
            assert_eq!(read(only_one, &[a, b]), expected, "{a:?} {b:?}");
        }
        let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
        assert_eq!(read(only_one, &each), expected, "{text} by characters");
    }

    #[test]
    fn thoughts_and_an_answer() {
        let text = "<|channel|>analysis<|message|>2 < 3, <b>so.\n<|end|><|start|>assistant\
                    <|channel|>final<|message|>Yes: <|2 < 3|>.<|return|>";
        check(false, text, "2 < 3, <b>so.\n", "Yes: <|2 < 3|>.", &[]);
        check(false, "<|channel|>analysis<|message|>Cut o", "Cut o", "", &[]);
        check(false, "<|channel|>final<|message|>", "", "", &[]);
        check(false, "No header at all.", "", "No header at all.", &[]);
        check(false, "<|channel|>fin", "", "", &[]);
    }

    #[test]
    fn calls_in_every_spelling() {
        let args = r#"{"location": "San Francisco <|", "unit": "c"}"#;
        let thought = "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant";
        for header in [
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
            "<|channel|>commentary to=functions.get_weather<|message|>",
            " to=functions.get_weather<|channel|>commentary json<|message|>",
            "<|channel|>analysis to=functions.get_weather code<|message|>",
        ] {
            let text = format!("{thought}{header}{args}<|call|>");
            check(true, &text, "Need the weather.", "", &[("get_weather", args)]);
        }
    }

    #[test]
    fn what_goes_before_and_behind_calls() {
        let text = "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant\
                    <|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|end|>\
                    <|start|>assistant<|channel|>commentary to=functions.get_weather \
                    <|constrain|>json<|message|>{\"location\": \"Rome\"}<|call|>";
        let both = [("now", "{}"), ("get_weather", "{\"location\": \"Rome\"}")];
        check(false, text, "", "I will look.", &both);
        check(true, text, "", "I will look.", &both[..1]);
        let unknown =
            "<|channel|>commentary to=functions.rm <|constrain|>json<|message|>{}<|call|>";
        check(false, unknown, "", "{}", &[]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_panics(
            text in "(<\\|channel\\|>|<\\|message\\|>|<\\|end\\|>|<\\|call\\|>|<\\|start\\|>|<\\|constrain\\|>\
                     |analysis|final| to=functions\\.|now|to=|<\\||[<>| a{}\"é\u{3000}]){0,14}",
            only_one: bool,
            cuts in proptest::collection::vec(0_usize..100, 0..4),
        ) {
            let whole = read(only_one, &[&text]);
            prop_assert_eq!(&read(only_one, &pieces(&text, &cuts)), &whole);
            let each: Vec<&str> = text.split("").filter(|piece| !piece.is_empty()).collect();
            prop_assert_eq!(&read(only_one, &each), &whole);
            if marks().all(|mark| !text.contains(mark)) {
                prop_assert_eq!(&whole.1, &text);
            }
        }
    }
}
