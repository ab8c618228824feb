//! Messages, whole and as named events.

use forebay_protocol::messages::{
    BlockDelta, ContentBlock, Message, MessageEnd, MessageUsage, StreamEvent,
};
use forebay_protocol::usage::Usage;
use serde_json::{Map, Value};

use crate::convert::Stamp;
use crate::error::ApiError;
use crate::generations::Updates;
use crate::reply::{EndReason, Replies, ReplyEvent, ReplyUpdate};
use crate::sse::{Chunks, Encoder};

/// The blocks of a whole message, while its reply is read.
#[derive(Debug, Default)]
struct MessageBuilder {
    blocks: Vec<ContentBlock>,
    /// JSON text of the last call's arguments.
    arguments: String,
    end: MessageEnd,
}

/// Writes a message as named events.
#[derive(Debug)]
pub struct MessagesEncoder {
    stamp: Stamp,
    /// Index of the open block, or of the next one.
    index: u32,
    /// The block that text can be appended to.
    open: Option<BlockKind>,
    end: MessageEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockKind {
    Thinking,
    Text,
    ToolUse,
}

/// Anthropic's words for why a reply ended.
fn message_end(reason: EndReason) -> MessageEnd {
    let (stop_reason, stop_sequence) = match reason {
        EndReason::EndOfTurn => ("end_turn", None),
        EndReason::ToolCalls => ("tool_use", None),
        EndReason::StopString(by) => ("stop_sequence", Some(by)),
        EndReason::Length => ("max_tokens", None),
    };
    MessageEnd { stop_reason: Some(stop_reason.to_owned()), stop_sequence }
}

fn message_usage(usage: Usage) -> MessageUsage {
    let cached = usage.prompt_tokens_details.cached_tokens;
    MessageUsage {
        input_tokens: usage.prompt_tokens.saturating_sub(cached),
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: cached,
        output_tokens: usage.completion_tokens,
    }
}

fn tool_use(id: &str, name: String) -> ContentBlock {
    ContentBlock::ToolUse { id: format!("toolu_{id}"), name, input: Value::Object(Map::new()) }
}

fn thinking(thinking: String) -> ContentBlock {
    ContentBlock::Thinking { thinking, signature: String::new() }
}

fn build(stamp: Stamp, content: Vec<ContentBlock>, end: MessageEnd, usage: Usage) -> Message {
    Message {
        id: stamp.id,
        kind: "message".to_owned(),
        role: "assistant".to_owned(),
        model: stamp.model,
        content,
        end,
        usage: message_usage(usage),
    }
}

// === impl MessageBuilder ===

impl MessageBuilder {
    fn add(&mut self, event: ReplyEvent) {
        if !matches!(event, ReplyEvent::CallArguments(_)) {
            self.finish_call();
        }
        match (event, self.blocks.last_mut()) {
            (ReplyEvent::Reasoning(more), Some(ContentBlock::Thinking { thinking, .. })) => {
                thinking.push_str(&more);
            }
            (ReplyEvent::Reasoning(text), _) => self.blocks.push(thinking(text)),
            (ReplyEvent::Text(more), Some(ContentBlock::Text { text })) => text.push_str(&more),
            (ReplyEvent::Text(text), _) => self.blocks.push(ContentBlock::Text { text }),
            (ReplyEvent::CallStarted { id, name, .. }, _) => self.blocks.push(tool_use(&id, name)),
            (ReplyEvent::CallArguments(more), _) => self.arguments.push_str(&more),
            (ReplyEvent::Ended { reason, .. }, _) => self.end = message_end(reason),
        }
    }

    /// Parses the arguments of the last call, now that they are complete.
    fn finish_call(&mut self) {
        let arguments = std::mem::take(&mut self.arguments);
        if let (false, Some(ContentBlock::ToolUse { input, .. })) =
            (arguments.is_empty(), self.blocks.last_mut())
        {
            *input = serde_json::from_str(&arguments).unwrap_or_else(|_| Value::Object(Map::new()));
        }
    }
}

/// Reads the reply to its end and builds the message.
///
/// # Errors
/// As [`Updates::next`].
pub(crate) async fn message(stamp: Stamp, replies: &mut Replies) -> Result<Message, ApiError> {
    let mut blocks = MessageBuilder::default();
    let add = |update| {
        if let ReplyUpdate::Added { event, .. } = update {
            blocks.add(event);
        }
    };
    replies.read_all(add).await?;
    Ok(build(stamp, blocks.blocks, blocks.end, replies.usage()))
}

// === impl MessagesEncoder ===

impl MessagesEncoder {
    /// Nothing is generated yet.
    pub fn new(stamp: Stamp) -> Self {
        Self { stamp, index: 0, open: None, end: MessageEnd::default() }
    }

    /// Appends to a block of this kind; opens one if the last is of another kind.
    fn append(
        &mut self,
        kind: BlockKind,
        block: ContentBlock,
        delta: BlockDelta,
        out: &mut Chunks,
    ) {
        if self.open != Some(kind) {
            self.start_block(kind, block, out);
        }
        self.delta(delta, out);
    }

    fn start_block(&mut self, kind: BlockKind, content_block: ContentBlock, out: &mut Chunks) {
        self.close_block(out);
        self.open = Some(kind);
        push(out, &StreamEvent::ContentBlockStart { index: self.index, content_block });
    }

    fn delta(&self, delta: BlockDelta, out: &mut Chunks) {
        push(out, &StreamEvent::ContentBlockDelta { index: self.index, delta });
    }

    fn close_block(&mut self, out: &mut Chunks) {
        if self.open.take().is_some() {
            push(out, &StreamEvent::ContentBlockStop { index: self.index });
            self.index += 1;
        }
    }
}

/// Adds an event under its own name.
fn push(out: &mut Chunks, event: &StreamEvent) {
    out.push_named(event.name(), event);
}

impl Encoder for MessagesEncoder {
    type Updates = Replies;

    const DONE: Option<&'static str> = None;

    fn start(&mut self, _: &mut Chunks) {
        // The first event has the number of cached tokens, which is known when the prompt leaves the queue.
    }

    fn update(&mut self, update: ReplyUpdate, out: &mut Chunks) {
        let event = match update {
            ReplyUpdate::Paused => return,
            ReplyUpdate::Started { usage } => {
                let message = build(self.stamp.clone(), Vec::new(), MessageEnd::default(), usage);
                return push(out, &StreamEvent::MessageStart { message });
            }
            ReplyUpdate::Added { event, .. } => event,
        };
        match event {
            ReplyEvent::Reasoning(text) => {
                let delta = BlockDelta::ThinkingDelta { thinking: text };
                self.append(BlockKind::Thinking, thinking(String::new()), delta, out);
            }
            ReplyEvent::Text(text) => {
                let block = ContentBlock::Text { text: String::new() };
                self.append(BlockKind::Text, block, BlockDelta::TextDelta { text }, out);
            }
            ReplyEvent::CallStarted { id, name, .. } => {
                self.start_block(BlockKind::ToolUse, tool_use(&id, name), out);
            }
            ReplyEvent::CallArguments(partial_json) => {
                self.delta(BlockDelta::InputJsonDelta { partial_json }, out);
            }
            ReplyEvent::Ended { reason, .. } => {
                self.close_block(out);
                self.end = message_end(reason);
            }
        }
    }

    fn end(&mut self, usage: Usage, out: &mut Chunks) {
        let delta = std::mem::take(&mut self.end);
        push(out, &StreamEvent::MessageDelta { delta, usage: message_usage(usage) });
        push(out, &StreamEvent::MessageStop);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        out.push_named("error", &error.in_messages());
    }
}
