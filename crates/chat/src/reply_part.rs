//! What the parsers find in a reply.

/// A part of a reply, in the order in which the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyPart {
    /// Reasoning to append. Only replies in channels have it ([`ChannelParser`](crate::ChannelParser)).
    Reasoning(String),
    /// Content to append.
    Content(String),
    /// A tool call starts; its arguments follow.
    ToolCall {
        /// The call's number within the reply, from 0.
        index: u32,
        /// The tool's name.
        name: String,
    },
    /// Arguments to append, JSON text.
    Arguments {
        /// The call's number within the reply.
        index: u32,
        /// The text to append.
        text: String,
    },
}

/// A whole reply, for tests of the parsers.
#[cfg(test)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ParsedReply {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    /// Names, each with its arguments.
    pub(crate) calls: Vec<(String, String)>,
}

#[cfg(test)]
impl ParsedReply {
    pub(crate) fn new(reasoning: &str, content: &str, calls: &[(&str, &str)]) -> Self {
        let calls = calls.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let (reasoning, content) = (reasoning.to_owned(), content.to_owned());
        Self { reasoning, content, calls: calls.collect() }
    }

    /// The reply with these parts; calls are numbered in order.
    pub(crate) fn collect(parts: Vec<ReplyPart>) -> Self {
        let mut reply = Self::default();
        for part in parts {
            match part {
                ReplyPart::Reasoning(more) => reply.reasoning.push_str(&more),
                ReplyPart::Content(more) => reply.content.push_str(&more),
                ReplyPart::ToolCall { index, name } => {
                    assert_eq!(index as usize, reply.calls.len());
                    reply.calls.push((name, String::new()));
                }
                ReplyPart::Arguments { index, text } => {
                    reply.calls[index as usize].1.push_str(&text);
                }
            }
        }
        reply
    }
}
