//! Chat completions, whole and as chunks.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::TokenLogprob;
use forebay_protocol::chat::{
    AssistantMessage, ChatChoice, ChatCompletion, ChatCompletionChunk, ChatLogprobs, ChunkChoice,
    Delta,
};
use forebay_protocol::tools::{
    CustomCall, CustomDelta, FunctionCall, FunctionDelta, ToolCall, ToolCallDelta,
};
use forebay_protocol::usage::Usage;
use serde_json::Value;

use crate::conversation::tools::ToolKind;
use crate::convert::{Stamp, chat_logprobs};
use crate::error::ApiError;
use crate::generations::Updates;
use crate::registry::Served;
use crate::reply::{EndReason, Replies, ReplyEvent, ReplyUpdate, ScoredToken};
use crate::sse::{Chunks, Encoder};

/// How an answer is written.
#[derive(Debug, Clone, Copy)]
pub struct ChatStyle {
    /// As chunks.
    pub stream: bool,
    /// With a usage chunk at a stream's end.
    pub include_usage: bool,
    /// With log probabilities.
    pub logprobs: bool,
    /// The service tier to report, if the request named one.
    pub tier: Option<&'static str>,
}

/// A choice of a whole answer, while its reply is read.
#[derive(Debug, Default)]
pub struct ChoiceBuilder {
    reasoning: Option<String>,
    content: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenLogprob>,
    finish_reason: &'static str,
}

/// Writes an answer as chunks.
#[derive(Debug)]
pub struct ChatEncoder {
    stamp: Stamp,
    style: ChatStyle,
    /// For the tokens of log probabilities.
    served: Arc<Served>,
    /// The calls of each choice so far: how many, and the last one's kind.
    calls: Vec<(u32, ToolKind)>,
}

/// OpenAI's word for why a reply ended.
fn finish_reason(reason: &EndReason) -> &'static str {
    match reason {
        EndReason::EndOfTurn | EndReason::StopString(_) => "stop",
        EndReason::ToolCalls => "tool_calls",
        EndReason::Length => "length",
    }
}

fn call_id(id: &str) -> String {
    format!("call_{id}")
}

/// Log probabilities in chat's shape.
fn written_logprobs(served: &Served, tokens: &[TokenLogprob]) -> ChatLogprobs {
    ChatLogprobs { content: Some(chat_logprobs(served.vocab(), tokens)), refusal: None }
}

fn unscored(logprobs: Vec<ScoredToken>) -> impl Iterator<Item = TokenLogprob> {
    logprobs.into_iter().map(|scored| scored.logprob)
}

// === impl ChoiceBuilder ===

impl ChoiceBuilder {
    fn add(&mut self, event: ReplyEvent, logprobs: Vec<ScoredToken>) {
        self.logprobs.extend(unscored(logprobs));
        match event {
            ReplyEvent::Reasoning(text) => {
                self.reasoning.get_or_insert_default().push_str(&text);
            }
            ReplyEvent::Text(text) => self.content.push_str(&text),
            ReplyEvent::CallStarted { id, name, kind } => {
                let mut call = ToolCall { id: Some(call_id(&id)), ..ToolCall::default() };
                match kind {
                    ToolKind::Function => {
                        call.kind = Some("function".to_owned());
                        let arguments = Value::String(String::new());
                        call.function = Some(FunctionCall { name, arguments });
                    }
                    ToolKind::Custom => {
                        call.kind = Some("custom".to_owned());
                        call.custom = Some(CustomCall { name, input: String::new() });
                    }
                }
                self.calls.push(call);
            }
            ReplyEvent::CallArguments(text) => match self.calls.last_mut() {
                Some(ToolCall { custom: Some(custom), .. }) => custom.input.push_str(&text),
                Some(ToolCall { function: Some(function), .. }) => {
                    if let Value::String(arguments) = &mut function.arguments {
                        arguments.push_str(&text);
                    }
                }
                Some(_) | None => {}
            },
            ReplyEvent::Ended { reason, .. } => self.finish_reason = finish_reason(&reason),
        }
    }

    fn finish(self, index: u32, style: ChatStyle, served: &Served) -> ChatChoice {
        let has_content = !self.content.is_empty() || self.calls.is_empty();
        ChatChoice {
            index,
            message: AssistantMessage {
                role: "assistant".to_owned(),
                content: has_content.then_some(self.content),
                reasoning_content: self.reasoning,
                refusal: None,
                tool_calls: self.calls,
                annotations: Vec::new(),
            },
            logprobs: style.logprobs.then(|| written_logprobs(served, &self.logprobs)),
            finish_reason: self.finish_reason.to_owned(),
        }
    }
}

/// Reads all replies to their ends.
///
/// # Errors
/// As [`Updates::next`]; the parts read so far are dropped.
pub(crate) async fn collect(replies: &mut Replies) -> Result<Vec<ChoiceBuilder>, ApiError> {
    let mut choices: Vec<ChoiceBuilder> =
        (0..replies.choices()).map(|_| ChoiceBuilder::default()).collect();
    let add = |update| {
        if let ReplyUpdate::Added { choice, event, logprobs } = update
            && let Some(choice) = choices.get_mut(choice as usize)
        {
            choice.add(event, logprobs);
        }
    };
    replies.read_all(add).await?;
    Ok(choices)
}

/// A whole answer.
pub fn completion(
    stamp: Stamp,
    choices: Vec<ChoiceBuilder>,
    usage: Usage,
    style: ChatStyle,
    served: &Served,
    metadata: Option<BTreeMap<String, Value>>,
) -> ChatCompletion {
    let finish = |(index, choice): (u32, ChoiceBuilder)| choice.finish(index, style, served);
    ChatCompletion {
        object: "chat.completion".to_owned(),
        choices: (0..).zip(choices).map(finish).collect(),
        usage,
        service_tier: style.tier.map(str::to_owned),
        metadata,
        id: stamp.id,
        created: stamp.created,
        model: stamp.model,
        system_fingerprint: stamp.system_fingerprint,
    }
}

// === impl ChatEncoder ===

impl ChatEncoder {
    /// For so many choices.
    pub fn new(stamp: Stamp, style: ChatStyle, served: Arc<Served>, choices: u32) -> Self {
        Self { stamp, style, served, calls: vec![(0, ToolKind::Function); choices as usize] }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.stamp.id.clone(),
            object: "chat.completion.chunk".to_owned(),
            created: self.stamp.created,
            model: self.stamp.model.clone(),
            system_fingerprint: self.stamp.system_fingerprint.clone(),
            service_tier: self.style.tier.map(str::to_owned),
            choices,
            usage: self.style.include_usage.then_some(usage),
        }
    }

    fn delta(&mut self, choice: u32, event: ReplyEvent) -> Delta {
        let Some((count, kind)) = self.calls.get_mut(choice as usize) else {
            return Delta::default();
        };
        let call = match event {
            ReplyEvent::Reasoning(text) => {
                return Delta { reasoning_content: Some(text), ..Delta::default() };
            }
            ReplyEvent::Text(text) => return Delta { content: Some(text), ..Delta::default() },
            ReplyEvent::Ended { .. } => return Delta::default(),
            ReplyEvent::CallStarted { id, name, kind: new } => {
                (*count, *kind) = (*count + 1, new);
                call_delta(*count, new, Some((id, name)), String::new())
            }
            ReplyEvent::CallArguments(text) => call_delta(*count, *kind, None, text),
        };
        Delta { tool_calls: vec![call], ..Delta::default() }
    }
}

/// What is added to the last of `count` calls; its id and name if it starts.
fn call_delta(
    count: u32,
    tool: ToolKind,
    start: Option<(String, String)>,
    text: String,
) -> ToolCallDelta {
    let index = count.saturating_sub(1);
    let (id, name) = start.map(|(id, name)| (call_id(&id), name)).unzip();
    let started = |kind: &str| id.is_some().then(|| kind.to_owned());
    match tool {
        ToolKind::Function => {
            let kind = started("function");
            let function = Some(FunctionDelta { name, arguments: text });
            ToolCallDelta { index, id, kind, function, custom: None }
        }
        ToolKind::Custom => {
            let kind = started("custom");
            let custom = Some(CustomDelta { name, input: text });
            ToolCallDelta { index, id, kind, function: None, custom }
        }
    }
}

impl Encoder for ChatEncoder {
    type Updates = Replies;

    fn start(&mut self, out: &mut Chunks) {
        // All choices at once and in order: a helper takes a new index only if it is the next.
        for index in (0..).take(self.calls.len()) {
            let delta = Delta {
                role: Some("assistant".to_owned()),
                content: Some(String::new()),
                refusal: Some(None),
                ..Delta::default()
            };
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None };
            out.push(&self.chunk(vec![choice], None));
        }
    }

    fn update(&mut self, update: ReplyUpdate, out: &mut Chunks) {
        let ReplyUpdate::Added { choice: index, event, logprobs } = update else { return };
        let finish_reason = match &event {
            ReplyEvent::Ended { reason, .. } => Some(finish_reason(reason).to_owned()),
            _ => None,
        };
        let shows = self.style.logprobs && (finish_reason.is_none() || !logprobs.is_empty());
        let logprobs: Vec<TokenLogprob> = unscored(logprobs).collect();
        let logprobs = shows.then(|| written_logprobs(&self.served, &logprobs));
        let delta = self.delta(index, event);
        let choice = ChunkChoice { index, delta, logprobs, finish_reason };
        out.push(&self.chunk(vec![choice], None));
    }

    fn end(&mut self, usage: Usage, out: &mut Chunks) {
        if self.style.include_usage {
            out.push(&self.chunk(Vec::new(), Some(usage)));
        }
    }
}
