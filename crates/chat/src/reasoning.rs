//! Reasoning: how a model delimits it, and the parser that separates it from the content after it.

use crate::channels;
use crate::text_buffer::{MarkerSearch, TextBuffer};

/// How a model delimits its reasoning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningFormat {
    /// The opening delimiter.
    pub open: String,
    /// The closing delimiter.
    pub close: String,
    /// What the model writes between reasoning and what follows it; empty if nothing.
    pub after_close: &'static str,
    /// What content starts with; empty if with itself.
    pub content_prefix: &'static str,
}

/// Whether a reply has reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningMode {
    /// It has none.
    Off,
    /// The prompt ends with the opening delimiter, so the reply starts within reasoning.
    Opened,
    /// The reply may start with the opening delimiter.
    Possible,
}

/// The delimiters that templates are known to have.
const DELIMITERS: [(&str, &str); 8] = [
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<thinking>", "</thinking>"),
    ("<|channel>thought", "<channel|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
];

impl ReasoningFormat {
    /// The format of the model with this template source, if a known delimiter is in it.
    pub(crate) fn find(source: &str) -> Option<Self> {
        if channels::are_used_by(source) {
            let (open, close) = channels::REASONING;
            let (open, close) = (open.to_owned(), close.to_owned());
            let (after_close, content_prefix) =
                (channels::AFTER_REASONING, channels::CONTENT_PREFIX);
            return Some(Self { open, close, after_close, content_prefix });
        }
        let mut known = DELIMITERS.iter();
        let (open, close) =
            known.find(|(open, close)| source.contains(open) || source.contains(close))?;
        let (open, close) = ((*open).to_owned(), (*close).to_owned());
        Some(Self { open, close, after_close: "", content_prefix: "" })
    }

    /// Whether replies are messages in channels.
    pub fn in_channels(&self) -> bool {
        !self.content_prefix.is_empty()
    }

    /// All text that the format consists of. The parser needs the control tokens in it as text.
    pub fn delimiters(&self) -> Vec<String> {
        let mut delimiters = vec![self.open.clone(), self.close.clone()];
        if self.in_channels() {
            delimiters.extend(channels::control_tokens().map(str::to_owned));
        }
        delimiters
    }

    /// Whether the reply to a prompt with this end has reasoning. Templates end the prompt with empty reasoning to turn
    /// it off.
    pub fn mode_after(&self, prompt: &str) -> ReasoningMode {
        let prompt = prompt.trim_end();
        if prompt.ends_with(&self.close) {
            ReasoningMode::Off
        } else if prompt.ends_with(&self.open) {
            ReasoningMode::Opened
        } else {
            ReasoningMode::Possible
        }
    }
}

/// A part of a reply, without tool calls looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Reasoning to append.
    Reasoning(String),
    /// Content to append, tool calls included.
    Content(String),
}

/// Separates reasoning from content in one reply while its text comes in. The result does not depend on how the text is
/// cut; each character is read once.
#[derive(Debug, Clone)]
pub struct ReasoningParser {
    format: ReasoningFormat,
    state: ReasoningState,
    /// Text that may be a part of a delimiter, or white space that may be at an end.
    held: TextBuffer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReasoningState {
    /// Before the reply's first character that is no white space; `space` bytes of the held text are white space.
    Before { space: usize },
    /// In reasoning; whether some of it was emitted.
    Within { emitted: bool, search: MarkerSearch },
    /// In content; whether some of it was emitted.
    After { emitted: bool },
}

impl ReasoningState {
    /// At the start of reasoning.
    fn opened() -> Self {
        Self::Within { emitted: false, search: MarkerSearch::default() }
    }
}

impl ReasoningParser {
    /// A parser for a reply with reasoning by `mode`.
    pub fn new(format: ReasoningFormat, mode: ReasoningMode) -> Self {
        let state = match mode {
            ReasoningMode::Off => ReasoningState::After { emitted: true },
            ReasoningMode::Opened => ReasoningState::opened(),
            ReasoningMode::Possible => ReasoningState::Before { space: 0 },
        };
        Self { format, state, held: TextBuffer::default() }
    }

    /// Whether the parser is within reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, ReasoningState::Within { .. })
    }

    /// Reads more text and appends what it adds to the reply.
    pub fn push(&mut self, text: &str, out: &mut Vec<Segment>) {
        self.held.push(text);
        while self.advance(out) {}
    }

    /// Reads the held text up to the next change of state. Returns whether there was one.
    fn advance(&mut self, out: &mut Vec<Segment>) -> bool {
        match self.state {
            ReasoningState::Before { space } => {
                let rest = &self.held.rest()[space..];
                let start = rest.trim_start();
                let space = space + rest.len() - start.len();
                if start.starts_with(&self.format.open) {
                    self.held.consume(space + self.format.open.len());
                    self.state = ReasoningState::opened();
                } else if self.format.open.starts_with(start) {
                    self.state = ReasoningState::Before { space };
                    return false;
                } else {
                    self.state = ReasoningState::After { emitted: true };
                }
                true
            }
            ReasoningState::Within { emitted, mut search } => {
                let found = search.search(self.held.rest(), &self.format.close);
                let text = self.held.take(found.len);
                let text = if emitted { text.as_str() } else { text.trim_start() };
                self.state =
                    ReasoningState::Within { emitted: emitted || !text.is_empty(), search };
                if !text.is_empty() {
                    out.push(Segment::Reasoning(text.to_owned()));
                }
                if let Some(at) = found.marker {
                    self.held.consume(at - found.len + self.format.close.len());
                    self.state = ReasoningState::After { emitted: false };
                }
                found.marker.is_some()
            }
            ReasoningState::After { emitted } => {
                let text = self.held.take_all();
                let text = if emitted { text.as_str() } else { text.trim_start() };
                if !text.is_empty() {
                    out.push(Segment::Content(text.to_owned()));
                    self.state = ReasoningState::After { emitted: true };
                }
                false
            }
        }
    }

    /// Signals the end of the reply and flushes held text.
    pub fn finish(&mut self, out: &mut Vec<Segment>) {
        let held = self.held.take_all();
        match self.state {
            ReasoningState::Within { .. } if !held.trim().is_empty() => {
                out.push(Segment::Reasoning(held));
            }
            ReasoningState::Before { .. } if !held.is_empty() => out.push(Segment::Content(held)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::ReasoningMode::{Off, Opened, Possible};
    use super::*;
    use crate::text_buffer::cuts::{characters, check_cuts, pieces};

    fn format() -> ReasoningFormat {
        ReasoningFormat::find("{{ '<think>' }}").unwrap()
    }

    /// Reasoning and content of a reply that comes in these pieces.
    fn parse(mode: ReasoningMode, pieces: &[&str]) -> (String, String) {
        let mut parser = ReasoningParser::new(format(), mode);
        let mut segments = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut segments);
        }
        parser.finish(&mut segments);
        let (mut reasoning, mut content) = (String::new(), String::new());
        for segment in segments {
            match segment {
                Segment::Reasoning(more) => reasoning.push_str(&more),
                Segment::Content(more) => content.push_str(&more),
            }
        }
        (reasoning, content)
    }

    #[track_caller]
    fn check(mode: ReasoningMode, text: &str, reasoning: &str, content: &str) {
        let expected = (reasoning.to_owned(), content.to_owned());
        check_cuts(text, &expected, |pieces| parse(mode, pieces));
    }

    #[test]
    fn reasoning_is_separated_from_content() {
        check(
            Possible,
            "<think>\nOne < two.\n\nSo.\n</think>\n\nYes </think>.",
            "One < two.\n\nSo.",
            "Yes </think>.",
        );
        check(Possible, "\u{3000}<think>\u{3000}é\u{3000}</think>\u{3000}ü", "é", "ü");
        check(Opened, "Hm.\n</think>\nYes.", "Hm.", "Yes.");
        check(Opened, "Hm. </thi", "Hm. </thi", "");
        check(Possible, " Yes, <think> is a tag.", "", " Yes, <think> is a tag.");
        check(Possible, "<think></think>Yes.", "", "Yes.");
        check(Possible, "<thin", "", "<thin");
        check(Off, " <think>", "", " <think>");
    }

    #[test]
    fn the_end_of_the_prompt_decides_whether_there_is_reasoning() {
        for (prompt, mode) in [
            ("<|assistant|>\n", Possible),
            ("<|assistant|>\n<think>\n", Opened),
            ("<think>\n\n</think>\n\n", Off),
            ("", Possible),
        ] {
            assert_eq!(format().mode_after(prompt), mode, "{prompt}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_nothing_is_lost(
            text in "(<think>|</think>|<thi|</|nk>|[<>/a é\u{3000}\n]){0,10}",
            opened: bool,
            cuts in proptest::collection::vec(0_usize..40, 0..4),
        ) {
            let mode = if opened { Opened } else { Possible };
            let whole = parse(mode, &[&text]);
            prop_assert_eq!(&parse(mode, &pieces(&text, &cuts)), &whole);
            prop_assert_eq!(&parse(mode, &characters(&text)), &whole);
            if !opened && !text.contains("<think>") {
                prop_assert_eq!(&whole.1, &text);
            }
        }
    }
}
