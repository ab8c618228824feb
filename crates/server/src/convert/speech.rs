//! An answer's text as content and calls.

use forebay_chat::{CallReader, ChannelReader, Part, Said, ThoughtReader};
use forebay_protocol::chat::Delta;
use forebay_protocol::tools::{
    CustomCall, CustomDelta, FunctionCall, FunctionDelta, ToolCall, ToolCallDelta,
};
use serde_json::Value;

use super::tools::Toolset;
use crate::answer::Answer;

/// Makes deltas of one answer's text.
#[derive(Debug)]
pub struct Speech {
    listener: Listener,
    /// Tokens up to the end of the thoughts.
    reasoning_tokens: u32,
    tools: Toolset,
    /// The call of a custom tool that is being read, and its arguments so far: its text is in them.
    custom: Option<(u32, String)>,
}

/// What reads one answer's text.
#[derive(Debug, Clone)]
pub enum Listener {
    /// Marks tell thoughts, where there can be any, and calls, where there can be any.
    Marks(Option<ThoughtReader>, Option<Box<CallReader>>),
    /// Answers are messages in channels.
    Channels(ChannelReader),
}

impl Listener {
    fn is_thinking(&self) -> bool {
        match self {
            Self::Marks(thoughts, _) => thoughts.as_ref().is_some_and(ThoughtReader::is_thinking),
            Self::Channels(reader) => reader.is_thinking(),
        }
    }

    fn calls(&self) -> u32 {
        match self {
            Self::Marks(_, reader) => reader.as_ref().map_or(0, |reader| reader.calls()),
            Self::Channels(reader) => reader.calls(),
        }
    }

    fn push(&mut self, text: String) -> Vec<Part> {
        let mut parts = Vec::new();
        match self {
            Self::Marks(Some(thoughts), reader) => {
                let mut said = Vec::new();
                thoughts.push(&text, &mut said);
                say(reader.as_deref_mut(), said, &mut parts);
            }
            Self::Marks(None, reader) => {
                say(reader.as_deref_mut(), vec![Said::Text(text)], &mut parts);
            }
            Self::Channels(reader) => reader.push(&text, &mut parts),
        }
        parts
    }

    fn finish(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        match self {
            Self::Marks(thoughts, reader) => {
                let mut said = Vec::new();
                if let Some(thoughts) = thoughts {
                    thoughts.finish(&mut said);
                }
                say(reader.as_deref_mut(), said, &mut parts);
                if let Some(reader) = reader {
                    reader.finish(&mut parts);
                }
            }
            Self::Channels(reader) => reader.finish(&mut parts),
        }
        parts
    }
}

fn say(mut reader: Option<&mut CallReader>, said: Vec<Said>, parts: &mut Vec<Part>) {
    for one in said {
        match (one, &mut reader) {
            (Said::Thought(text), _) => parts.push(Part::Thought(text)),
            (Said::Text(text), Some(reader)) => reader.push(&text, parts),
            (Said::Text(text), None) => parts.push(Part::Text(text)),
        }
    }
}

impl Speech {
    /// For an answer to a request with these tools.
    pub fn new(listener: Listener, tools: Toolset) -> Self {
        Self { listener, reasoning_tokens: 0, tools, custom: None }
    }

    /// Whether the answer may hold calls.
    pub fn has_tools(&self) -> bool {
        self.tools.is_active()
    }

    /// What more text adds; `tokens` is how many the answer has with it.
    pub fn push(&mut self, text: String, tokens: u32) -> Vec<Delta> {
        let thought = self.listener.is_thinking();
        let parts = self.listener.push(text);
        if thought || self.listener.is_thinking() {
            self.reasoning_tokens = tokens;
        }
        self.deltas(parts)
    }

    /// All deltas of a whole answer.
    pub fn whole(&mut self, answer: &Answer) -> Vec<Delta> {
        let (mut deltas, mut from) = (Vec::new(), 0);
        for &(to, tokens) in &answer.growth {
            deltas.extend(self.push(answer.text[from..to].to_owned(), tokens));
            from = to;
        }
        deltas.extend(self.finish());
        deltas
    }

    /// Tokens spent on thoughts.
    pub fn reasoning_tokens(&self) -> u32 {
        self.reasoning_tokens
    }

    /// What the end adds.
    pub fn finish(&mut self) -> Vec<Delta> {
        let parts = self.listener.finish();
        let mut deltas = self.deltas(parts);
        deltas.extend(self.end_custom());
        deltas
    }

    /// The reason to give where the answer ended for `reason`.
    pub fn finish_reason(&self, reason: &'static str) -> &'static str {
        let called = self.listener.calls() > 0;
        if called && reason == "stop" { "tool_calls" } else { reason }
    }

    fn deltas(&mut self, parts: Vec<Part>) -> Vec<Delta> {
        let mut deltas = Vec::with_capacity(parts.len());
        for part in parts {
            if !matches!(part, Part::Arguments { .. }) {
                deltas.extend(self.end_custom());
            }
            match part {
                Part::Thought(text) => {
                    deltas.push(Delta { reasoning_content: Some(text), ..Delta::default() });
                }
                Part::Text(text) => {
                    deltas.push(Delta { content: Some(text), ..Delta::default() });
                }
                Part::Call { index, name } => deltas.push(self.begin(index, name)),
                Part::Arguments { index, text } => match &mut self.custom {
                    Some((_, arguments)) => arguments.push_str(&text),
                    None => {
                        let function = FunctionDelta { name: None, arguments: text };
                        let function = Some(function);
                        deltas.push(of_call(ToolCallDelta {
                            index,
                            function,
                            ..Default::default()
                        }));
                    }
                },
            }
        }
        deltas
    }

    fn begin(&mut self, index: u32, name: String) -> Delta {
        let id = Some(format!("call_{}", &uuid::Uuid::new_v4().simple().to_string()[..24]));
        if self.tools.is_custom(&name) {
            self.custom = Some((index, String::new()));
            let custom = Some(CustomDelta { name: Some(name), input: String::new() });
            let kind = Some("custom".to_owned());
            return of_call(ToolCallDelta { index, id, kind, function: None, custom });
        }
        let function = Some(FunctionDelta { name: Some(name), arguments: String::new() });
        let kind = Some("function".to_owned());
        of_call(ToolCallDelta { index, id, kind, function, custom: None })
    }

    fn end_custom(&mut self) -> Option<Delta> {
        let (index, arguments) = self.custom.take()?;
        let input = match serde_json::from_str::<Value>(&arguments) {
            Ok(value) => value["input"].as_str().unwrap_or(&arguments).to_owned(),
            Err(_) => arguments,
        };
        let custom = Some(CustomDelta { name: None, input });
        Some(of_call(ToolCallDelta { index, custom, ..Default::default() }))
    }
}

fn of_call(delta: ToolCallDelta) -> Delta {
    Delta { tool_calls: vec![delta], ..Delta::default() }
}

/// Deltas put together: the thoughts, the content, if there is any or no call, and the calls.
pub fn message(deltas: Vec<Delta>) -> (Option<String>, Option<String>, Vec<ToolCall>) {
    let (mut content, mut calls) = (String::new(), Vec::<ToolCall>::new());
    let mut thoughts = None::<String>;
    for delta in deltas {
        if let Some(more) = delta.reasoning_content {
            thoughts.get_or_insert_default().push_str(&more);
        }
        content.push_str(delta.content.as_deref().unwrap_or_default());
        for call in delta.tool_calls {
            let ToolCallDelta { id, kind, function, custom, .. } = call;
            if id.is_some() {
                let function = function.map(|f| FunctionCall {
                    name: f.name.unwrap_or_default(),
                    arguments: Value::String(f.arguments),
                });
                let custom =
                    custom.map(|c| CustomCall { name: c.name.unwrap_or_default(), input: c.input });
                calls.push(ToolCall { id, kind, function, custom });
                continue;
            }
            let Some(last) = calls.last_mut() else { continue };
            if let (Some(to), Some(more)) = (&mut last.function, function)
                && let Value::String(arguments) = &mut to.arguments
            {
                arguments.push_str(&more.arguments);
            }
            if let (Some(to), Some(more)) = (&mut last.custom, custom) {
                to.input.push_str(&more.input);
            }
        }
    }
    let content = (!content.is_empty() || calls.is_empty()).then_some(content);
    (thoughts, content, calls)
}
