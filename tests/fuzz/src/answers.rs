//! Answers of a model that says anything, as they are sent: thoughts, content and calls, of functions
//! and of custom tools. However the text comes, the message is the same, and it is one.

use std::sync::LazyLock;

use forebay_chat::{CallReader, ChannelReader, Thinking, ThoughtReader};
use forebay_protocol::chat::ChatCompletionRequest;
use forebay_protocol::tools::ToolCall;
use forebay_server::convert::speech::{self, Listener, Speech};
use forebay_server::convert::tools::Toolset;
use serde_json::json;

use crate::templates::{self, DIALECTS, SOURCES};

static THINKING: LazyLock<Vec<Option<Thinking>>> = LazyLock::new(|| {
    let thinking = |(_, source): &(&str, &str)| templates::parsed(source)?.thinking();
    SOURCES.iter().map(thinking).collect()
});

static TOOLS: LazyLock<[Toolset; 3]> = LazyLock::new(|| {
    let mut tools = templates::tools();
    tools.truncate(2);
    tools.push(json!({"type": "custom", "custom": {"name": "shell"}}));
    let of = |choice: &str, parallel: bool| {
        let request = json!({"model": "m", "messages": [], "tools": tools, "tool_choice": choice,
                             "parallel_tool_calls": parallel});
        let request: ChatCompletionRequest = serde_json::from_value(request).expect("a request");
        Toolset::of(&request).expect("a tool set")
    };
    [of("auto", true), of("auto", false), of("none", true)]
});

type Message = (Option<String>, Option<String>, Vec<ToolCall>);

pub fn run(data: &[u8]) {
    let Some(([kind, flags, a, b], text)) = crate::parts(data) else { return };
    let (kind, tools) = (usize::from(kind) % SOURCES.len(), &TOOLS[usize::from(flags) % 3]);
    let opened = flags & 0x80 != 0;
    let text = match flags & 0x40 {
        0 => text,
        _ => {
            let pieces = DIALECTS[kind].pieces();
            let name = if flags & 0x20 != 0 { "shell" } else { "now" };
            format!("{}{name}{}{text}", pieces[0], pieces[1])
        }
    };
    let (whole, whole_reason) = said(kind, tools, opened, &[&text]);
    for seed in [0, u16::from_be_bytes([a, b])] {
        let (message, reason) = said(kind, tools, opened, &crate::pieces(&text, seed));
        assert_eq!(message, whole, "{text:?} in pieces {seed}");
        assert_eq!(reason, whole_reason);
    }
}

fn said(kind: usize, tools: &Toolset, opened: bool, pieces: &[&str]) -> (Message, &'static str) {
    let schemas = tools.schemas();
    let listener = match &THINKING[kind] {
        Some(thinking) if thinking.in_channels() => {
            let names: Vec<String> = if tools.is_active() {
                schemas.iter().map(|(name, _)| name.clone()).collect()
            } else {
                Vec::new()
            };
            Listener::Channels(ChannelReader::new(names, tools.only_one()))
        }
        thinking => {
            let thoughts = thinking.clone().map(|thinking| ThoughtReader::new(thinking, opened));
            let reader = tools.is_active().then(|| {
                let dialect = DIALECTS[kind].clone();
                Box::new(CallReader::new(dialect, schemas.into(), tools.only_one()))
            });
            Listener::Marks(thoughts, reader)
        }
    };
    let mut speech = Speech::new(listener, tools.clone());
    let (mut deltas, mut tokens) = (Vec::new(), 0);
    for piece in pieces {
        tokens += 1;
        deltas.extend(speech.push((*piece).to_owned(), tokens));
    }
    deltas.extend(speech.finish());
    assert!(speech.reasoning_tokens() <= tokens);
    let mut message = speech::message(deltas);
    for call in &mut message.2 {
        assert!(call.function.is_some() != call.custom.is_some(), "one kind of call");
        // Drawn anew for each answer.
        call.id = None;
    }
    assert!(message.1.is_some() || !message.2.is_empty(), "a message has content or calls");
    (message, speech.finish_reason("stop"))
}
