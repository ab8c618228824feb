//! The items of a response, whole and as events.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::{Event, FinishReason, TokenLogprob};
use forebay_protocol::chat::Delta;
use forebay_protocol::tools::ToolCallDelta;
use forebay_protocol::usage::Usage;
use serde_json::{Map, Value, json};

use super::items::id;
use crate::answer::{Runs, Sourced};
use crate::convert::speech::Speech;
use crate::convert::{Stamp, chat_logprobs};
use crate::error::ApiError;
use crate::registry::Served;
use crate::sse::{Chunks, Encoder};
use crate::store::{Kept, Store};

/// A response while it grows.
#[derive(Debug)]
pub struct Response {
    stamp: Stamp,
    echo: Map<String, Value>,
    namespaces: BTreeMap<String, String>,
    speech: Speech,
    /// The items so far; the last one is open while `open` says so.
    items: Vec<Value>,
    open: bool,
    sequence: u64,
    /// Whether it was cut at its length.
    cut: bool,
    /// For the tokens of log probabilities.
    served: Arc<Served>,
    /// Log probabilities of text that is not told yet.
    untold: Vec<TokenLogprob>,
    /// Where it goes at the end.
    keep: Option<(Store, Kept)>,
}

impl Response {
    /// Nothing was said yet.
    pub fn new(
        stamp: Stamp,
        echo: Map<String, Value>,
        namespaces: BTreeMap<String, String>,
        speech: Speech,
        served: Arc<Served>,
    ) -> Self {
        let (items, open, sequence, cut) = (Vec::new(), false, 0, false);
        let (untold, keep) = (Vec::new(), None);
        Self { stamp, echo, namespaces, speech, items, open, sequence, cut, served, untold, keep }
    }

    /// Keeps it at the end.
    pub fn keep(&mut self, store: Store, kept: Kept) {
        self.echo.insert("store".to_owned(), json!(kept.retrievable));
        if let Some(conversation) = &kept.conversation {
            self.echo.insert("conversation".to_owned(), json!({"id": conversation}));
        }
        self.keep = Some((store, kept));
    }

    /// The object, with this status.
    pub fn object(&self, status: &str, usage: Option<Usage>) -> Value {
        let mut object = self.echo.clone();
        let tokens = usage.map(|usage| {
            json!({
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {
                    "cached_tokens": usage.prompt_tokens_details.cached_tokens,
                    "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": self.speech.reasoning_tokens()},
                "total_tokens": usage.total_tokens,
            })
        });
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let own = json!({
            "id": self.stamp.id, "object": "response", "created_at": self.stamp.created,
            "completed_at": (status == "completed").then_some(self.stamp.created),
            "model": self.stamp.model, "status": status, "error": null,
            "incomplete_details": incomplete, "output": self.items, "usage": tokens,
        });
        object.extend(own.as_object().cloned().unwrap_or_default());
        Value::Object(object)
    }

    /// The whole object at the end.
    pub fn finished(&self, usage: Usage) -> Value {
        self.object(if self.cut { "incomplete" } else { "completed" }, Some(usage))
    }

    /// The whole object where it failed.
    pub fn failure(&self, error: &ApiError) -> Value {
        let body = error.envelope().error;
        let code = body.code.unwrap_or_else(|| "server_error".to_owned());
        let mut response = self.object("failed", None);
        response["error"] = json!({"code": code, "message": body.message});
        response
    }

    /// Keeps the whole object, if it is to be kept. Where that fails, the object says so.
    pub async fn settle(&mut self, usage: Usage) {
        let Some((store, kept)) = self.keep.take() else { return };
        if let Err(error) = store.keep(kept, self.finished(usage)).await {
            tracing::error!(error = error.log_text(), "a response could not be kept");
            self.echo.insert("store".to_owned(), json!(false));
        }
    }

    /// Numbers events, in the order in which they go out.
    pub fn number(&mut self, mut events: Vec<Value>) -> Vec<Value> {
        for event in &mut events {
            event["sequence_number"] = json!(self.sequence);
            self.sequence += 1;
        }
        events
    }

    /// Takes in what the engine says.
    pub fn event(&mut self, event: Event, out: &mut Vec<Value>) {
        match event {
            Event::Delta { text, tokens, logprobs, .. } => {
                self.untold.extend(logprobs);
                let deltas = self.speech.push(text, tokens);
                if self.speech.reasoning_tokens() == tokens {
                    self.untold.clear();
                }
                self.add(deltas, out);
            }
            Event::Finished { reason, .. } => {
                self.cut = reason == FinishReason::Length;
                let deltas = self.speech.finish();
                self.add(deltas, out);
                self.end(out);
            }
            Event::Started { .. } | Event::Prompt(_) | Event::Failed(_) => {}
        }
    }

    fn add(&mut self, deltas: Vec<Delta>, out: &mut Vec<Value>) {
        for delta in deltas {
            if let Some(text) = delta.reasoning_content {
                self.say("reasoning", &text, out);
            }
            if let Some(text) = delta.content {
                self.say("message", &text, out);
            }
            for call in delta.tool_calls {
                self.call(call, out);
            }
        }
    }

    fn at(&self) -> usize {
        self.items.len().saturating_sub(1)
    }

    /// An event of the open item.
    fn tell(&self, kind: &str, more: Value, out: &mut Vec<Value>) {
        let mut event = json!({"type": kind, "output_index": self.at(), "item_id": self.items[self.at()]["id"]});
        if let (Some(event), Value::Object(more)) = (event.as_object_mut(), more) {
            event.extend(more);
        }
        out.push(event);
    }

    fn begin(&mut self, item: Value, out: &mut Vec<Value>) {
        self.end(out);
        out.push(json!({"type": "response.output_item.added", "output_index": self.items.len(), "item": item}));
        self.items.push(item);
        self.open = true;
    }

    /// Thoughts or text: an item with one part.
    fn say(&mut self, kind: &str, text: &str, out: &mut Vec<Value>) {
        if !self.open || self.items[self.at()]["type"] != kind {
            let (item, part) = match kind {
                "reasoning" => (
                    json!({"id": id("rs"), "type": "reasoning", "summary": [], "content": [], "status": "in_progress"}),
                    json!({"type": "reasoning_text", "text": ""}),
                ),
                _ => (
                    json!({"id": id("msg"), "type": "message", "status": "in_progress", "role": "assistant", "content": []}),
                    json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []}),
                ),
            };
            self.begin(item, out);
            self.tell(
                "response.content_part.added",
                json!({"content_index": 0, "part": part}),
                out,
            );
            let at = self.at();
            self.items[at]["content"] = json!([part]);
        }
        let at = self.at();
        let part = &mut self.items[at]["content"][0]["text"];
        *part = json!(format!("{}{text}", part.as_str().unwrap_or_default()));
        if kind == "reasoning" {
            let delta = json!({"content_index": 0, "delta": text});
            return self.tell("response.reasoning_text.delta", delta, out);
        }
        let logprobs = chat_logprobs(self.served.vocab(), &std::mem::take(&mut self.untold));
        let logprobs = json!(logprobs).as_array().cloned().unwrap_or_default();
        let bare: Vec<Value> = logprobs.iter().map(without_bytes).collect();
        if let Some(all) = self.items[at]["content"][0]["logprobs"].as_array_mut() {
            all.extend(logprobs);
        }
        let delta = json!({"content_index": 0, "delta": text, "logprobs": bare});
        self.tell("response.output_text.delta", delta, out);
    }

    fn call(&mut self, call: ToolCallDelta, out: &mut Vec<Value>) {
        let (name, key, text) = match (call.function, call.custom) {
            (Some(function), _) => (function.name, "arguments", function.arguments),
            (_, Some(custom)) => (custom.name, "input", custom.input),
            _ => return,
        };
        self.untold.clear();
        if let Some(name) = name {
            let (kind, prefix) = match key {
                "arguments" => ("function_call", "fc"),
                _ => ("custom_tool_call", "ctc"),
            };
            let mut item = json!({"id": id(prefix), "type": kind, "status": "in_progress",
                                  "call_id": call.id, "name": name, key: ""});
            if let Some(namespace) = self.namespaces.get(&name) {
                item["namespace"] = json!(namespace);
            }
            self.begin(item, out);
        }
        if text.is_empty() || !self.open {
            return;
        }
        let at = self.at();
        let whole = format!("{}{text}", self.items[at][key].as_str().unwrap_or_default());
        self.items[at][key] = json!(whole);
        let kind = match key {
            "arguments" => "response.function_call_arguments.delta",
            _ => "response.custom_tool_call_input.delta",
        };
        self.tell(kind, json!({"delta": text}), out);
    }

    /// Ends the open item.
    fn end(&mut self, out: &mut Vec<Value>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let at = self.at();
        let item = self.items[at].clone();
        match item["type"].as_str() {
            Some("function_call") => {
                let done = json!({"arguments": item["arguments"], "name": item["name"]});
                self.tell("response.function_call_arguments.done", done, out);
            }
            Some("custom_tool_call") => {
                let done = json!({"input": item["input"]});
                self.tell("response.custom_tool_call_input.done", done, out);
            }
            Some("reasoning") => {
                let part = &item["content"][0];
                let done = json!({"content_index": 0, "text": part["text"]});
                self.tell("response.reasoning_text.done", done, out);
                self.tell(
                    "response.content_part.done",
                    json!({"content_index": 0, "part": part}),
                    out,
                );
            }
            _ => {
                let part = &item["content"][0];
                let bare = part["logprobs"].as_array().into_iter().flatten().map(without_bytes);
                let bare: Vec<Value> = bare.collect();
                let done = json!({"content_index": 0, "text": part["text"], "logprobs": bare});
                self.tell("response.output_text.done", done, out);
                self.tell(
                    "response.content_part.done",
                    json!({"content_index": 0, "part": part}),
                    out,
                );
            }
        }
        let status = if self.cut { "incomplete" } else { "completed" };
        self.items[at]["status"] = json!(status);
        out.push(json!({"type": "response.output_item.done", "output_index": at, "item": self.items[at]}));
    }

    fn send(&mut self, events: Vec<Value>, out: &mut Chunks) {
        for event in self.number(events) {
            out.push_named(event["type"].as_str().unwrap_or_default(), &event);
        }
    }

    /// The events before anything was said.
    pub fn opening(&self, states: &[&str]) -> Vec<Value> {
        let waits = self.echo.get("background") == Some(&json!(true));
        let event = |&state: &&str| {
            let status = if waits && state != "in_progress" { "queued" } else { "in_progress" };
            json!({"type": format!("response.{state}"), "response": self.object(status, None)})
        };
        states.iter().map(event).collect()
    }

    /// The last event: how it ended.
    pub fn closing(response: &Value) -> Value {
        let said = ["completed", "incomplete"];
        let kind = said.into_iter().find(|kind| response["status"] == **kind).unwrap_or("failed");
        json!({"type": format!("response.{kind}"), "response": response})
    }
}

/// As events have an entry.
fn without_bytes(entry: &Value) -> Value {
    let bare = |entry: &Value| json!({"token": entry["token"], "logprob": entry["logprob"]});
    let top = entry["top_logprobs"].as_array().into_iter().flatten().map(bare);
    let mut out = bare(entry);
    out["top_logprobs"] = top.collect();
    out
}

impl Encoder for Response {
    const DONE: Option<&'static str> = None;

    fn start(&mut self, out: &mut Chunks) {
        self.send(self.opening(&["created", "in_progress"]), out);
    }

    fn event(&mut self, Sourced { event, .. }: Sourced, out: &mut Chunks) {
        let mut events = Vec::new();
        Response::event(self, event, &mut events);
        self.send(events, out);
    }

    async fn settle(&mut self, usage: Usage) {
        Response::settle(self, usage).await;
    }

    fn end(&mut self, runs: &Runs, out: &mut Chunks) {
        let last = Self::closing(&self.finished(runs.usage()));
        self.send(vec![last], out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        let last = Self::closing(&self.failure(error));
        self.send(vec![last], out);
    }
}

#[cfg(test)]
mod tests;
