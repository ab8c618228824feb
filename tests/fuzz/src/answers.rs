//! Answers of a model that says anything, as they are sent: reasoning, content and calls, of functions
//! and of custom tools. However the text comes, the message is the same, and it is one.

use std::sync::LazyLock;

use forebay_chat::{
    ChannelParser, ReasoningFormat, ReasoningMode, ReasoningParser, ToolCallParser,
};
use forebay_engine::{Event, FinishReason};
use forebay_server::conversation::tools::ToolKind;
use forebay_server::convert::tools::Toolset;
use forebay_server::dialects::chat::request::toolset;
use forebay_server::reply::{
    EndReason, ReplyEvent, ReplyParser, ReplyReader, ReplyUpdate,
};
use serde_json::json;

use crate::templates::{self, FORMATS, SOURCES};

static REASONING: LazyLock<Vec<Option<ReasoningFormat>>> = LazyLock::new(|| {
    let format =
        |(_, source): &(&str, &str)| templates::parsed(source)?.features().reasoning.clone();
    SOURCES.iter().map(format).collect()
});

static TOOLS: LazyLock<[Toolset; 3]> = LazyLock::new(|| {
    let mut tools = templates::tools();
    tools.truncate(2);
    tools.push(json!({"type": "custom", "custom": {"name": "shell"}}));
    let of = |choice: &str, parallel: bool| {
        let tools = serde_json::from_value(json!(tools)).expect("tools");
        let choice = serde_json::from_value(json!(choice)).expect("a choice");
        toolset(tools, Some(&choice), Some(parallel)).expect("a tool set")
    };
    [of("auto", true), of("auto", false), of("none", true)]
});

/// A whole reply.
#[derive(Debug, Default, PartialEq)]
struct Message {
    reasoning: String,
    content: String,
    /// Names, kinds and arguments.
    calls: Vec<(String, ToolKind, String)>,
    end: Option<EndReason>,
}

pub fn run(data: &[u8]) {
    let Some(([kind, flags, a, b], text)) = crate::parts(data) else { return };
    let (kind, tools) = (usize::from(kind) % SOURCES.len(), &TOOLS[usize::from(flags) % 3]);
    let opened = flags & 0x80 != 0;
    let text = match flags & 0x40 {
        0 => text,
        _ => {
            let pieces = FORMATS[kind].delimiters();
            let name = if flags & 0x20 != 0 { "shell" } else { "now" };
            format!("{}{name}{}{text}", pieces[0], pieces[1])
        }
    };
    let whole = read(kind, tools, opened, &[&text]);
    for seed in [0, u16::from_be_bytes([a, b])] {
        let message = read(kind, tools, opened, &crate::pieces(&text, seed));
        assert_eq!(message, whole, "{text:?} in pieces {seed}");
    }
}

fn read(kind: usize, tools: &Toolset, opened: bool, pieces: &[&str]) -> Message {
    let schemas = tools.schemas();
    let parser = match &REASONING[kind] {
        Some(format) if format.in_channels() => {
            let names: Vec<String> = if tools.allows_calls() {
                schemas.iter().map(|(name, _)| name.clone()).collect()
            } else {
                Vec::new()
            };
            ReplyParser::Channels(ChannelParser::new(names, tools.allows_one_call()))
        }
        format => {
            let mode = if opened { ReasoningMode::Opened } else { ReasoningMode::Possible };
            let reasoning = format.clone().map(|format| ReasoningParser::new(format, mode));
            let reader = tools.allows_calls().then(|| {
                Box::new(ToolCallParser::new(&FORMATS[kind], schemas.into(), tools.allows_one_call()))
            });
            ReplyParser::Markers(reasoning, reader)
        }
    };
    let mut reader = ReplyReader::new(parser, tools.clone());
    let (mut updates, mut tokens) = (Vec::new(), 0);
    for piece in pieces {
        tokens += 1;
        let text = (*piece).to_owned();
        reader.read(Event::Delta { choice: 0, text, logprobs: Vec::new(), tokens }, &mut updates);
    }
    reader
        .read(Event::Finished { choice: 0, reason: FinishReason::EndOfText, tokens }, &mut updates);
    let mut message = Message::default();
    for update in updates {
        let ReplyUpdate::Added { event, .. } = update else { panic!("{update:?}") };
        assert!(message.end.is_none(), "nothing follows the end");
        match event {
            ReplyEvent::Reasoning(text) => message.reasoning.push_str(&text),
            ReplyEvent::Text(text) => message.content.push_str(&text),
            ReplyEvent::CallStarted { name, kind, .. } => {
                message.calls.push((name, kind, String::new()))
            }
            ReplyEvent::CallArguments(text) => {
                message.calls.last_mut().expect("arguments of a call").2.push_str(&text);
            }
            ReplyEvent::Ended { reason, reasoning_tokens } => {
                assert!(reasoning_tokens <= tokens);
                assert_eq!(reason == EndReason::ToolCalls, !message.calls.is_empty());
                message.end = Some(reason);
            }
        }
    }
    assert!(message.end.is_some());
    message
}
