//! Anthropic's Messages API on the path of chat: requests become chat requests, deltas blocks.

use forebay_engine::{Event, FinishReason};
use forebay_protocol::chat::{ChatCompletionRequest, Delta};
use forebay_protocol::fields;
use forebay_protocol::messages::{InputMessage, Message, MessageUsage, MessagesRequest};
use forebay_protocol::usage::Usage;
use serde_json::{Value, json};

use super::speech::Speech;
use super::{Stamp, check_extra, log_unknown};
use crate::answer::{Answer, Runs, Sourced, finish_reason};
use crate::error::{ApiError, shown};
use crate::sse::{Chunks, Encoder};

/// What `output_config.effort` may be.
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// The chat request that asks the same; `knows_effort` where the model's template does.
///
/// # Errors
/// 400 for what cannot be honoured.
pub fn to_chat(
    request: MessagesRequest,
    strict: bool,
    knows_effort: bool,
) -> Result<ChatCompletionRequest, ApiError> {
    log_unknown(&check_extra(fields::MESSAGES, &request.extra, strict)?);
    let mut messages = Vec::new();
    if let Some(system) = &request.system {
        messages.push(json!({"role": "system", "content": text("system", system)?}));
    }
    for (index, message) in request.messages.iter().enumerate() {
        messages.extend(turns(&format!("messages[{index}]"), message)?);
    }
    let mut chat = json!({
        "model": request.model, "messages": messages, "max_tokens": request.max_tokens,
        "stop": request.stop_sequences, "stream": request.stream,
        "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k,
    });
    if request.stream == Some(true) {
        chat["stream_options"] = json!({"include_usage": true});
    }
    let tools = request.tools.unwrap_or_default();
    for (index, tool) in tools.iter().enumerate() {
        if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
            let param = format!("tools[{index}].type");
            let kind = shown(kind);
            let message = format!("'{param}' is '{kind}': this server has no tools of its own.");
            return Err(ApiError::invalid(param, "unsupported_value", message));
        }
    }
    chat["tools"] = tools
        .into_iter()
        .map(|tool| {
            json!({"type": "function", "function": {
                "name": tool.name, "description": tool.description,
                "parameters": tool.input_schema, "strict": tool.strict}})
        })
        .collect();
    choose(&mut chat, request.tool_choice.as_ref())?;
    think(&mut chat, request.thinking.as_ref(), request.output_config.as_ref(), knows_effort)?;
    serde_json::from_value(chat)
        .map_err(|error| ApiError::not_json(&format!("it is no request: {error}")))
}

fn choose(chat: &mut Value, choice: Option<&Value>) -> Result<(), ApiError> {
    let Some(choice) = choice else { return Ok(()) };
    chat["tool_choice"] = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("any") => json!("required"),
        Some("none") => json!("none"),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => {
            let message = "'tool_choice.type' must be 'auto', 'any', 'tool' or 'none'.";
            return Err(ApiError::invalid("tool_choice.type", "invalid_value", message));
        }
    };
    if choice["disable_parallel_tool_use"] == json!(true) {
        chat["parallel_tool_calls"] = json!(false);
    }
    Ok(())
}

fn think(
    chat: &mut Value,
    thinking: Option<&Value>,
    config: Option<&Value>,
    knows_effort: bool,
) -> Result<(), ApiError> {
    if let Some(thinking) = thinking {
        if !thinking["budget_tokens"].is_null() {
            chat["thinking_token_budget"] = thinking["budget_tokens"].clone();
        }
        chat["chat_template_kwargs"] = match thinking["type"].as_str() {
            Some("disabled") => json!({"enable_thinking": false}),
            Some("enabled" | "adaptive" | "between_tools") => json!({"enable_thinking": true}),
            _ => {
                let message = "'thinking.type' must be 'enabled', 'adaptive' or 'disabled'.";
                return Err(ApiError::invalid("thinking.type", "invalid_value", message));
            }
        };
    }
    let Some(config) = config else { return Ok(()) };
    let effort = &config["effort"];
    if !effort.is_null() {
        if !effort.as_str().is_some_and(|effort| EFFORTS.contains(&effort)) {
            let param = "output_config.effort";
            let message = format!("'{param}' must be one of {}.", EFFORTS.join(", "));
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        // Clients of this dialect always say it: to a model that has no such control it is a hint.
        if knows_effort {
            chat["reasoning_effort"] = effort.clone();
        }
    }
    if !config["format"].is_null() {
        let schema = json!({"name": "answer", "schema": config["format"]["schema"]});
        chat["response_format"] = json!({"type": "json_schema", "json_schema": schema});
    }
    Ok(())
}

/// A text, or text blocks joined.
fn text(param: &str, content: &Value) -> Result<String, ApiError> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => {
            let each = blocks.iter().enumerate().map(|(index, block)| {
                let text = block["text"].as_str().filter(|_| block["type"] == "text");
                text.map(str::to_owned).ok_or_else(|| no_text(&format!("{param}[{index}]"), block))
            });
            each.collect()
        }
        _ => {
            let message = format!("'{param}' must be a string or an array of blocks.");
            Err(ApiError::invalid(param, "invalid_type", message))
        }
    }
}

fn no_text(param: &str, block: &Value) -> ApiError {
    let kind = block["type"].as_str().unwrap_or("without a type");
    let message = format!("'{param}' is '{}': this model reads text only.", shown(kind));
    ApiError::invalid(param, "unsupported_value", message)
}

/// The chat messages that one of Anthropic's is: answers of tools are messages of their own.
fn turns(param: &str, message: &InputMessage) -> Result<Vec<Value>, ApiError> {
    let role = message.role.as_str();
    let param = format!("{param}.content");
    let Value::Array(blocks) = &message.content else {
        return Ok(vec![json!({"role": role, "content": text(&param, &message.content)?})]);
    };
    let (mut out, mut said, mut thoughts) = (Vec::new(), String::new(), String::new());
    let mut calls = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let at = format!("{param}[{index}]");
        match (block["type"].as_str(), role) {
            (Some("text"), _) => said.push_str(block["text"].as_str().unwrap_or_default()),
            (Some("thinking"), "assistant") => {
                thoughts.push_str(block["thinking"].as_str().unwrap_or_default());
            }
            (Some("redacted_thinking"), "assistant") => {}
            (Some("tool_use"), "assistant") => calls.push(json!({
                "id": block["id"], "type": "function",
                "function": {"name": block["name"], "arguments": block["input"]}})),
            (Some("tool_result"), "user") => {
                let answer = match &block["content"] {
                    Value::Null => String::new(),
                    content => text(&format!("{at}.content"), content)?,
                };
                let failed = if block["is_error"] == json!(true) { "Error: " } else { "" };
                out.push(json!({"role": "tool", "tool_call_id": block["tool_use_id"],
                                "content": format!("{failed}{answer}")}));
            }
            _ => return Err(no_text(&at, block)),
        }
    }
    if !said.is_empty() || !calls.is_empty() || out.is_empty() {
        let mut turn = json!({"role": role, "content": said});
        if !calls.is_empty() {
            turn["tool_calls"] = Value::Array(calls);
        }
        if !thoughts.is_empty() {
            turn["reasoning_content"] = json!(thoughts);
        }
        out.push(turn);
    }
    Ok(out)
}

fn usage(usage: Usage) -> MessageUsage {
    let cached = usage.prompt_tokens_details.cached_tokens;
    MessageUsage {
        input_tokens: usage.prompt_tokens - cached,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: cached,
        output_tokens: usage.completion_tokens,
    }
}

/// Anthropic's words for why an answer ended: the reason, and the stop sequence.
fn stop(reason: &str, by: Option<&str>) -> (&'static str, Option<String>) {
    match (reason, by) {
        ("length", _) => ("max_tokens", None),
        ("tool_calls", _) => ("tool_use", None),
        (_, Some(by)) => ("stop_sequence", Some(by.to_owned())),
        _ => ("end_turn", None),
    }
}

/// A whole answer.
pub fn message(stamp: Stamp, answer: &Answer, mut speech: Speech, tokens: Usage) -> Message {
    let (mut blocks, mut events) = (Blocks::default(), Vec::new());
    blocks.add(speech.whole(answer), &mut events);
    blocks.end(&mut events);
    let reason = speech.finish_reason(answer.finish_reason);
    let (stop_reason, stop_sequence) = stop(reason, answer.stopped_by.as_deref());
    Message {
        id: stamp.id,
        kind: "message".to_owned(),
        role: "assistant".to_owned(),
        model: stamp.model,
        content: whole(events),
        stop_reason: Some(stop_reason.to_owned()),
        stop_sequence,
        usage: usage(tokens),
    }
}

/// Blocks put together from their events.
fn whole(events: Vec<Value>) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut input = String::new();
    let append = |block: &mut Value, key: &str, more: &Value| {
        let text = format!(
            "{}{}",
            block[key].as_str().unwrap_or_default(),
            more.as_str().unwrap_or_default()
        );
        block[key] = json!(text);
    };
    for event in events {
        let delta = &event["delta"];
        match (event["type"].as_str(), blocks.last_mut()) {
            (Some("content_block_start"), _) => blocks.push(event["content_block"].clone()),
            (Some("content_block_delta"), Some(block)) => match delta["type"].as_str() {
                Some("text_delta") => append(block, "text", &delta["text"]),
                Some("thinking_delta") => append(block, "thinking", &delta["thinking"]),
                _ => input.push_str(delta["partial_json"].as_str().unwrap_or_default()),
            },
            (_, Some(block)) if block["type"] == "tool_use" => {
                let text = std::mem::take(&mut input);
                block["input"] = serde_json::from_str(&text).unwrap_or_else(|_| json!({}));
            }
            _ => {}
        }
    }
    blocks
}

/// The blocks of an answer, one open at a time.
#[derive(Debug, Default)]
struct Blocks {
    count: u32,
    open: Option<&'static str>,
}

impl Blocks {
    fn add(&mut self, deltas: Vec<Delta>, out: &mut Vec<Value>) {
        for delta in deltas {
            if let Some(text) = delta.reasoning_content {
                self.need(
                    "thinking",
                    || json!({"type": "thinking", "thinking": "", "signature": ""}),
                    out,
                );
                self.delta(&json!({"type": "thinking_delta", "thinking": text}), out);
            }
            if let Some(text) = delta.content {
                self.need("text", || json!({"type": "text", "text": ""}), out);
                self.delta(&json!({"type": "text_delta", "text": text}), out);
            }
            for call in delta.tool_calls {
                let Some(function) = call.function else { continue };
                if let Some(name) = function.name {
                    self.end(out);
                    let id = call.id.unwrap_or_default().replace("call_", "toolu_");
                    self.begin(
                        "tool_use",
                        &json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                        out,
                    );
                } else {
                    self.delta(
                        &json!({"type": "input_json_delta", "partial_json": function.arguments}),
                        out,
                    );
                }
            }
        }
    }

    fn need(&mut self, kind: &'static str, block: impl Fn() -> Value, out: &mut Vec<Value>) {
        if self.open != Some(kind) {
            self.end(out);
            self.begin(kind, &block(), out);
        }
    }

    fn begin(&mut self, kind: &'static str, block: &Value, out: &mut Vec<Value>) {
        self.open = Some(kind);
        out.push(
            json!({"type": "content_block_start", "index": self.count, "content_block": block}),
        );
    }

    fn delta(&self, delta: &Value, out: &mut Vec<Value>) {
        out.push(json!({"type": "content_block_delta", "index": self.count, "delta": delta}));
    }

    fn end(&mut self, out: &mut Vec<Value>) {
        if self.open.take().is_some() {
            out.push(json!({"type": "content_block_stop", "index": self.count}));
            self.count += 1;
        }
    }
}

/// Spells a stream.
#[derive(Debug)]
pub struct MessagesEncoder {
    stamp: Stamp,
    speech: Speech,
    blocks: Blocks,
    prompt_tokens: u32,
    ended: Option<(&'static str, Option<String>)>,
}

impl MessagesEncoder {
    /// For an answer to a prompt of this many tokens.
    pub fn new(stamp: Stamp, speech: Speech, prompt_tokens: u32) -> Self {
        Self { stamp, speech, blocks: Blocks::default(), prompt_tokens, ended: None }
    }

    fn tell(&mut self, deltas: Vec<Delta>, end: bool, out: &mut Chunks) {
        let mut events = Vec::new();
        self.blocks.add(deltas, &mut events);
        if end {
            self.blocks.end(&mut events);
        }
        for event in events {
            name(out, &event);
        }
    }
}

/// Adds an event under its own name.
fn name(out: &mut Chunks, event: &Value) {
    out.push_named(event["type"].as_str().unwrap_or_default(), event);
}

impl Encoder for MessagesEncoder {
    const DONE: Option<&'static str> = None;

    fn start(&mut self, _: &mut Chunks) {
        // It tells how much of the prompt was cached, which is known when it leaves the queue.
    }

    fn event(&mut self, Sourced { event, .. }: Sourced, out: &mut Chunks) {
        match event {
            Event::Started { cached, .. } => {
                let tokens = usage(Usage::default().plus(self.prompt_tokens, cached, 0));
                let message = json!({
                    "id": self.stamp.id, "type": "message", "role": "assistant",
                    "model": self.stamp.model, "content": [], "stop_reason": null,
                    "stop_sequence": null, "usage": tokens,
                });
                name(out, &json!({"type": "message_start", "message": message}));
            }
            Event::Delta { text, tokens, .. } => {
                let deltas = self.speech.push(text, tokens);
                self.tell(deltas, false, out);
            }
            Event::Finished { reason, .. } => {
                let deltas = self.speech.finish();
                self.tell(deltas, true, out);
                let why = self.speech.finish_reason(finish_reason(&reason));
                let by = match &reason {
                    FinishReason::StopString(by) => Some(by.as_str()),
                    _ => None,
                };
                self.ended = Some(stop(why, by));
            }
            Event::Paused | Event::Prompt(_) | Event::Failed(_) => {}
        }
    }

    fn end(&mut self, runs: &Runs, out: &mut Chunks) {
        let (stop_reason, stop_sequence) = self.ended.take().unwrap_or(("end_turn", None));
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        let tokens = usage(runs.usage());
        name(out, &json!({"type": "message_delta", "delta": delta, "usage": tokens}));
        name(out, &json!({"type": "message_stop"}));
    }

    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        out.push_named("error", &error.in_messages());
    }
}
