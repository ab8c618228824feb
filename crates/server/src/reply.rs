//! Replies: the model's answers while they are read, in no dialect. The encoders in `dialects` write them, whole or
//! as a stream, from the same updates.

use std::collections::VecDeque;

use forebay_chat::{ChannelParser, ReasoningParser, ReplyPart, Segment, ToolCallParser};
use forebay_engine::{Event, FinishReason, TokenLogprob};
use forebay_protocol::usage::Usage;
use serde::Deserialize;

use crate::conversation::tools::ToolKind;
use crate::convert::tools::Toolset;
use crate::error::ApiError;
use crate::generations::{Generations, PromptEvent, Updates};

/// What is added to a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyEvent {
    /// Reasoning to append.
    Reasoning(String),
    /// Content to append.
    Text(String),
    /// A tool call starts; its arguments follow, and no other event before they are complete.
    CallStarted {
        /// Unique, without a prefix; tool results refer to it.
        id: String,
        /// The tool's name.
        name: String,
        /// What kind of arguments follow.
        kind: ToolKind,
    },
    /// Arguments of the last call to append.
    CallArguments(String),
    /// The reply is complete.
    Ended {
        /// Why.
        reason: EndReason,
        /// Tokens of the reply up to the end of its reasoning.
        reasoning_tokens: u32,
    },
}

/// Why a reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended it.
    EndOfTurn,
    /// The model ended it, and there are calls in it.
    ToolCalls,
    /// This stop string came.
    StopString(String),
    /// It has as many tokens as it may have.
    Length,
}

/// An update of the replies to one request.
#[derive(Debug, Clone)]
pub enum ReplyUpdate {
    /// The model is restarted; the replies will go on.
    Paused,
    /// The prompt left the queue.
    Started {
        /// Prompt tokens, and how many of them were cached.
        usage: Usage,
    },
    /// A reply goes on.
    Added {
        /// Which of the request's replies.
        choice: u32,
        /// What is added.
        event: ReplyEvent,
        /// Log probabilities of the tokens since the last update of this reply, when asked for.
        logprobs: Vec<ScoredToken>,
    },
}

/// A generated token's log probability.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// The token, and what else might have come.
    pub logprob: TokenLogprob,
    /// Whether it belongs to reasoning.
    pub is_reasoning: bool,
}

/// Parses the text of one reply.
#[derive(Debug, Clone)]
pub enum ReplyParser {
    /// Markers delimit reasoning, if there can be any, and calls, if there can be any.
    Markers(Option<ReasoningParser>, Option<Box<ToolCallParser>>),
    /// Replies are messages in channels.
    Channels(ChannelParser),
}

/// The arguments of a custom tool, as the model writes them.
#[derive(Deserialize)]
struct CustomArguments {
    input: String,
}

/// Reads one reply from the engine's events.
#[derive(Debug, Clone)]
pub struct ReplyReader {
    parser: ReplyParser,
    tools: Toolset,
    reasoning_tokens: u32,
    /// Log probabilities of tokens whose text is in no event yet.
    pending: Vec<ScoredToken>,
    /// JSON arguments so far of a custom tool's call: its text is in them.
    custom: Option<String>,
}

/// The replies to one request. Dropping it cancels their generation.
#[derive(Debug)]
pub(crate) struct Replies {
    generations: Generations,
    readers: Vec<ReplyReader>,
    ready: VecDeque<ReplyUpdate>,
    reasoning_tokens: u32,
}

impl ReplyUpdate {
    /// The tokens of a reply's reasoning, if the reply is complete.
    fn reasoning_tokens(&self) -> Option<u32> {
        match self {
            Self::Added { event: ReplyEvent::Ended { reasoning_tokens, .. }, .. } => {
                Some(*reasoning_tokens)
            }
            Self::Added { .. } | Self::Started { .. } | Self::Paused => None,
        }
    }
}

impl ReplyParser {
    fn is_reasoning(&self) -> bool {
        match self {
            Self::Markers(reasoning, _) => {
                reasoning.as_ref().is_some_and(ReasoningParser::is_reasoning)
            }
            Self::Channels(reader) => reader.is_reasoning(),
        }
    }

    fn has_calls(&self) -> bool {
        let calls = match self {
            Self::Markers(_, reader) => reader.as_ref().map_or(0, |parser| parser.call_count()),
            Self::Channels(parser) => parser.call_count(),
        };
        calls > 0
    }

    fn push(&mut self, text: String) -> Vec<ReplyPart> {
        let mut parts = Vec::new();
        match self {
            Self::Markers(Some(reasoning), calls) => {
                let mut segments = Vec::new();
                reasoning.push(&text, &mut segments);
                find_calls(calls.as_deref_mut(), segments, &mut parts);
            }
            Self::Markers(None, calls) => {
                find_calls(calls.as_deref_mut(), vec![Segment::Content(text)], &mut parts);
            }
            Self::Channels(reader) => reader.push(&text, &mut parts),
        }
        parts
    }

    fn finish(&mut self) -> Vec<ReplyPart> {
        let mut parts = Vec::new();
        match self {
            Self::Markers(reasoning, calls) => {
                let mut segments = Vec::new();
                if let Some(reasoning) = reasoning {
                    reasoning.finish(&mut segments);
                }
                find_calls(calls.as_deref_mut(), segments, &mut parts);
                if let Some(calls) = calls {
                    calls.finish(&mut parts);
                }
            }
            Self::Channels(reader) => reader.finish(&mut parts),
        }
        parts
    }
}

fn find_calls(
    mut calls: Option<&mut ToolCallParser>,
    segments: Vec<Segment>,
    parts: &mut Vec<ReplyPart>,
) {
    for segment in segments {
        match (segment, &mut calls) {
            (Segment::Reasoning(text), _) => parts.push(ReplyPart::Reasoning(text)),
            (Segment::Content(text), Some(calls)) => calls.push(&text, parts),
            (Segment::Content(text), None) => parts.push(ReplyPart::Content(text)),
        }
    }
}

impl ReplyReader {
    /// For a reply to a request with these tools.
    pub fn new(parser: ReplyParser, tools: Toolset) -> Self {
        Self { parser, tools, reasoning_tokens: 0, pending: Vec::new(), custom: None }
    }

    /// Whether the reply may hold calls.
    pub fn has_tools(&self) -> bool {
        self.tools.allows_calls()
    }

    /// Reads an event of the generation and appends the updates that it leads to.
    pub fn read(&mut self, event: Event, out: &mut impl Extend<ReplyUpdate>) {
        let mut events = Vec::new();
        let choice = match event {
            Event::Delta { choice, text, tokens, logprobs } => {
                let was_reasoning = self.parser.is_reasoning();
                let parts = self.parser.push(text);
                let is_reasoning = was_reasoning || self.parser.is_reasoning();
                if is_reasoning {
                    self.reasoning_tokens = tokens;
                }
                let scored = |logprob| ScoredToken { logprob, is_reasoning };
                self.pending.extend(logprobs.into_iter().map(scored));
                self.add(parts, &mut events);
                choice
            }
            Event::Finished { choice, reason, .. } => {
                let parts = self.parser.finish();
                self.add(parts, &mut events);
                self.end_custom(&mut events);
                let reason = self.end_reason(reason);
                let reasoning_tokens = self.reasoning_tokens;
                events.push(ReplyEvent::Ended { reason, reasoning_tokens });
                choice
            }
            Event::Started { .. } | Event::Paused | Event::Prompt(_) | Event::Failed(_) => return,
        };
        let pending = &mut self.pending;
        out.extend(events.into_iter().map(|event| ReplyUpdate::Added {
            choice,
            event,
            logprobs: std::mem::take(pending),
        }));
    }

    fn end_reason(&self, reason: FinishReason) -> EndReason {
        match reason {
            FinishReason::Length => EndReason::Length,
            _ if self.parser.has_calls() => EndReason::ToolCalls,
            FinishReason::StopString(by) => EndReason::StopString(by),
            FinishReason::EndOfText | FinishReason::StopToken(_) => EndReason::EndOfTurn,
        }
    }

    fn add(&mut self, parts: Vec<ReplyPart>, out: &mut Vec<ReplyEvent>) {
        for part in parts {
            if !matches!(part, ReplyPart::Arguments { .. }) {
                self.end_custom(out);
            }
            match part {
                ReplyPart::Reasoning(text) => out.push(ReplyEvent::Reasoning(text)),
                ReplyPart::Content(text) => out.push(ReplyEvent::Text(text)),
                ReplyPart::ToolCall { name, .. } => out.push(self.start_call(name)),
                ReplyPart::Arguments { text, .. } => match &mut self.custom {
                    Some(arguments) => arguments.push_str(&text),
                    None => out.push(ReplyEvent::CallArguments(text)),
                },
            }
        }
    }

    fn start_call(&mut self, name: String) -> ReplyEvent {
        let id = uuid::Uuid::new_v4().simple().to_string()[..24].to_owned();
        let kind = if self.tools.is_custom(&name) { ToolKind::Custom } else { ToolKind::Function };
        self.custom = (kind == ToolKind::Custom).then(String::new);
        ReplyEvent::CallStarted { id, name, kind }
    }

    /// Emits a custom tool's text, which is in its JSON arguments, now that they are complete.
    fn end_custom(&mut self, out: &mut Vec<ReplyEvent>) {
        let Some(arguments) = self.custom.take() else { return };
        let input = serde_json::from_str::<CustomArguments>(&arguments);
        out.push(ReplyEvent::CallArguments(input.map_or(arguments, |parsed| parsed.input)));
    }
}

impl Replies {
    /// The replies to one prompt, each with its reader.
    pub(crate) fn new(generations: Generations, readers: Vec<ReplyReader>) -> Self {
        Self { generations, readers, ready: VecDeque::new(), reasoning_tokens: 0 }
    }

    /// How many replies there are.
    pub(crate) fn choices(&self) -> u32 {
        u32::try_from(self.readers.len()).unwrap_or(u32::MAX)
    }
}

impl Updates for Replies {
    type Update = ReplyUpdate;

    fn is_pause(update: &ReplyUpdate) -> bool {
        matches!(update, ReplyUpdate::Paused)
    }

    async fn next(&mut self) -> Result<Option<ReplyUpdate>, ApiError> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                let ended = update.reasoning_tokens().unwrap_or(0);
                self.reasoning_tokens = self.reasoning_tokens.saturating_add(ended);
                return Ok(Some(update));
            }
            let Some(PromptEvent { event, .. }) = self.generations.next().await? else {
                return Ok(None);
            };
            match event {
                Event::Paused => self.ready.push_back(ReplyUpdate::Paused),
                Event::Started { .. } => {
                    let usage = self.generations.usage();
                    self.ready.push_back(ReplyUpdate::Started { usage });
                }
                Event::Delta { choice, .. } | Event::Finished { choice, .. } => {
                    if let Some(reader) = self.readers.get_mut(choice as usize) {
                        reader.read(event, &mut self.ready);
                    }
                }
                Event::Prompt(_) | Event::Failed(_) => {}
            }
        }
    }

    fn usage(&self) -> Usage {
        self.generations.usage().with_reasoning(self.reasoning_tokens)
    }

    fn failed(&self, error: ApiError) -> ApiError {
        self.generations.failed(error)
    }
}
