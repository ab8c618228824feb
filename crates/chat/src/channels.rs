//! Replies that are messages in channels, as gpt-oss writes them: a header names each message's channel and recipient,
//! and a control token ends the message.
//!
//! The format: <https://cookbook.openai.com/articles/openai-harmony>. A reply starts after the word `assistant` of its
//! first header, with which the prompt ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::reply_part::ReplyPart;
use crate::text_buffer::{TextBuffer, partial_marker};

/// The control token before the name of a channel.
const CHANNEL: &str = "<|channel|>";
/// The control token that ends a header.
const MESSAGE: &str = "<|message|>";
/// What may end a message. The tokens that end the reply are not in its text.
const ENDS: [&str; 5] = ["<|end|>", "<|call|>", "<|return|>", "<|start|>", CHANNEL];
/// The control token before the type of a message.
const CONSTRAIN: &str = "<|constrain|>";
/// The channel of reasoning.
const ANALYSIS: &str = "analysis";
/// What a recipient's name starts with if it is a tool.
const TOOLS: &str = "functions.";

/// The delimiters of reasoning.
pub(crate) const REASONING: (&str, &str) = ("<|channel|>analysis<|message|>", "<|end|>");
/// Between reasoning and the next message.
pub(crate) const AFTER_REASONING: &str = "<|start|>assistant";
/// The header of content.
pub(crate) const CONTENT_PREFIX: &str = "<|channel|>final<|message|>";
/// From the start of a call to its name, and from its name to its arguments.
pub(crate) const CALL: (&str, &str) =
    ("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>");

/// Whether the model with this template source replies in channels.
pub(crate) fn are_used_by(source: &str) -> bool {
    [CHANNEL, MESSAGE, AFTER_REASONING].iter().all(|delimiter| source.contains(delimiter))
}

/// The control tokens of the format, which the parser needs as text.
pub(crate) fn control_tokens() -> impl Iterator<Item = &'static str> {
    ENDS.into_iter().chain([MESSAGE, CONSTRAIN])
}

/// Parses one reply while its text comes in. The result does not depend on how the text is cut; each character is read
/// once.
#[derive(Debug, Clone)]
pub struct ChannelParser {
    tools: Arc<BTreeSet<String>>,
    /// Whether all that follows the first call is dropped, reasoning aside.
    only_one: bool,
    /// Text that is not emitted yet: a header, or what may be the beginning of an end.
    held: TextBuffer,
    /// Bytes of the held text that are known not to be the beginning of a header's end.
    searched: usize,
    state: ChannelState,
    call_count: u32,
}

/// What the unread text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChannelState {
    Header,
    Reasoning,
    Content,
    /// The call with this number.
    Call(u32),
    /// A message that is dropped.
    Dropped,
}

impl ChannelParser {
    /// A parser of replies that may call these tools. With `only_one` all that follows the first call is dropped,
    /// reasoning aside.
    pub fn new(tools: impl IntoIterator<Item = String>, only_one: bool) -> Self {
        Self {
            tools: Arc::new(tools.into_iter().collect()),
            only_one,
            held: TextBuffer::default(),
            searched: 0,
            state: ChannelState::Header,
            call_count: 0,
        }
    }

    /// The number of calls so far.
    pub fn call_count(&self) -> u32 {
        self.call_count
    }

    /// Whether the parser is within reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.state == ChannelState::Reasoning
    }

    /// Reads more text and appends what it adds to the reply.
    pub fn push(&mut self, text: &str, out: &mut Vec<ReplyPart>) {
        self.held.push(text);
        while self.advance(out) {}
    }

    /// Reads the held text up to the end of a header or a message. Returns whether there is one.
    fn advance(&mut self, out: &mut Vec<ReplyPart>) -> bool {
        let rest = self.held.rest();
        if self.state == ChannelState::Header {
            let fresh = &rest[self.searched..];
            let Some(at) = fresh.find(MESSAGE) else {
                self.searched = rest.len() - partial_marker(fresh, MESSAGE);
                return false;
            };
            let header = self.held.take(self.searched + at + MESSAGE.len());
            self.searched = 0;
            self.state = self.open_message(&header, out);
            return true;
        }
        let (safe, end) = next_end(rest);
        let text = self.held.take(safe);
        self.emit(text, out);
        let Some(end) = end else { return false };
        if end != CHANNEL {
            self.held.consume(end.len());
        }
        self.state = ChannelState::Header;
        true
    }

    /// Signals the end of the reply and flushes held text.
    pub fn finish(&mut self, out: &mut Vec<ReplyPart>) {
        let rest = self.held.take_all();
        if self.state == ChannelState::Header {
            // Text without a header is content.
            let is_header = control_tokens().any(|token| rest.contains(token));
            self.state = if is_header { ChannelState::Dropped } else { ChannelState::Content };
        }
        self.emit(rest, out);
    }

    /// Emits the call that a header starts, if it does. Returns what its message is.
    fn open_message(&mut self, header: &str, out: &mut Vec<ReplyPart>) -> ChannelState {
        let word_after = |marker: &str| {
            let rest = &header[header.find(marker)? + marker.len()..];
            let end = rest.find(|c: char| c.is_whitespace() || c == '<');
            Some(&rest[..end.unwrap_or(rest.len())])
        };
        let tool = word_after("to=").and_then(|to| to.strip_prefix(TOOLS));
        if let Some(name) = tool.filter(|name| self.tools.contains(*name)) {
            if self.only_one && self.call_count > 0 {
                return ChannelState::Dropped;
            }
            let index = self.call_count;
            self.call_count += 1;
            out.push(ReplyPart::ToolCall { index, name: name.to_owned() });
            return ChannelState::Call(index);
        }
        match word_after(CHANNEL) {
            Some(ANALYSIS) => ChannelState::Reasoning,
            _ if self.only_one && self.call_count > 0 => ChannelState::Dropped,
            _ => ChannelState::Content,
        }
    }

    fn emit(&self, text: String, out: &mut Vec<ReplyPart>) {
        if text.is_empty() {
            return;
        }
        match self.state {
            ChannelState::Reasoning => out.push(ReplyPart::Reasoning(text)),
            ChannelState::Content => out.push(ReplyPart::Content(text)),
            ChannelState::Call(index) => out.push(ReplyPart::Arguments { index, text }),
            ChannelState::Header | ChannelState::Dropped => {}
        }
    }
}

/// The bytes of a message up to its end, or to what may be the beginning of one, and the end.
fn next_end(text: &str) -> (usize, Option<&'static str>) {
    // All ends start with the same character, so one search finds them.
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
    use crate::reply_part::ParsedReply;
    use crate::text_buffer::cuts::{characters, check_cuts, pieces};

    fn parse(only_one: bool, pieces: &[&str]) -> ParsedReply {
        let tools = ["get_weather", "now"].map(str::to_owned);
        let mut parser = ChannelParser::new(tools, only_one);
        let mut parts = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut parts);
        }
        parser.finish(&mut parts);
        let reply = ParsedReply::collect(parts);
        assert_eq!(reply.calls.len(), parser.call_count() as usize);
        reply
    }

    #[track_caller]
    fn check(only_one: bool, text: &str, reasoning: &str, content: &str, calls: &[(&str, &str)]) {
        let expected = ParsedReply::new(reasoning, content, calls);
        check_cuts(text, &expected, |pieces| parse(only_one, pieces));
    }

    #[test]
    fn reasoning_and_content() {
        let text = "<|channel|>analysis<|message|>2 < 3, <b>so.\n<|end|><|start|>assistant\
                    <|channel|>final<|message|>Yes: <|2 < 3|>.<|return|>";
        check(false, text, "2 < 3, <b>so.\n", "Yes: <|2 < 3|>.", &[]);
        check(false, "<|channel|>analysis<|message|>Cut o", "Cut o", "", &[]);
        check(false, "<|channel|>final<|message|>", "", "", &[]);
        check(false, "No header at all.", "", "No header at all.", &[]);
        check(false, "<|channel|>fin", "", "", &[]);
    }

    #[test]
    fn calls_with_every_header() {
        let args = r#"{"location": "San Francisco <|", "unit": "c"}"#;
        let reasoning = "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant";
        for header in [
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
            "<|channel|>commentary to=functions.get_weather<|message|>",
            " to=functions.get_weather<|channel|>commentary json<|message|>",
            "<|channel|>analysis to=functions.get_weather code<|message|>",
        ] {
            let text = format!("{reasoning}{header}{args}<|call|>");
            check(true, &text, "Need the weather.", "", &[("get_weather", args)]);
        }
    }

    #[test]
    fn content_and_calls_around_calls() {
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
            let whole = parse(only_one, &[&text]);
            prop_assert_eq!(&parse(only_one, &pieces(&text, &cuts)), &whole);
            prop_assert_eq!(&parse(only_one, &characters(&text)), &whole);
            if control_tokens().all(|token| !text.contains(token)) {
                prop_assert_eq!(&whole.content, &text);
            }
        }
    }
}
