//! A response while it grows: its items, whole and as events.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::{Event as EngineEvent, FinishReason, TokenLogprob};
use forebay_protocol::chat::Delta;
use forebay_protocol::tools::ToolCallDelta;
use forebay_protocol::usage::Usage;

mod event;
mod item;
mod object;

pub use self::event::{Event, EventSink, NoEvents};
pub use self::item::Status;
pub use self::object::{Echo, Header, Object, Progress, ResponseError};

use self::event::Numbering;
use self::item::{Call, Content, Item, Logprobs, Part};
use self::object::TokenUsage;
use crate::answer::{Runs, Sourced};
use crate::convert::chat_logprobs;
use crate::convert::speech::Speech;
use crate::error::ApiError;
use crate::registry::Served;
use crate::sse::{Chunks, Encoder};
use crate::store::{Kept, Store, StoredResponse};

/// A response while it grows.
#[derive(Debug)]
pub struct Response {
    header: Header,
    namespaces: BTreeMap<String, String>,
    speech: Speech,
    /// The items so far; the last one is open while `open` says so.
    items: Vec<Item>,
    open: bool,
    numbering: Numbering,
    /// Whether it was cut at its length.
    cut: bool,
    /// For the tokens of log probabilities.
    served: Arc<Served>,
    /// Log probabilities of text that is not emitted yet.
    untold: Vec<TokenLogprob>,
    /// Where it goes at the end.
    keep: Option<(Store, Kept)>,
}

impl Response {
    /// Nothing is generated yet.
    pub fn new(
        header: Header,
        namespaces: BTreeMap<String, String>,
        speech: Speech,
        served: Arc<Served>,
    ) -> Self {
        Self {
            header,
            namespaces,
            speech,
            items: Vec::new(),
            open: false,
            numbering: Numbering::default(),
            cut: false,
            served,
            untold: Vec::new(),
            keep: None,
        }
    }

    /// Keeps it at the end.
    pub fn keep(&mut self, store: Store, kept: Kept) {
        self.header.set_kept(&kept);
        self.keep = Some((store, kept));
    }

    /// What was known before it was generated.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The object with the items so far.
    pub fn object<'a>(&'a self, progress: &'a Progress) -> Object<'a> {
        self.header.object(progress, &self.items)
    }

    /// The same as it is kept.
    pub fn stored(&self, progress: &Progress) -> StoredResponse {
        self.header.stored(progress, &self.items)
    }

    /// The end of an answer that did not fail.
    pub fn finished(&self, usage: Usage) -> Progress {
        let status = if self.cut { Status::Incomplete } else { Status::Completed };
        let usage = TokenUsage::new(usage, self.speech.reasoning_tokens());
        Progress { usage: Some(usage), ..Progress::of(status) }
    }

    /// The end of an answer that failed.
    pub fn failure(error: &ApiError) -> Progress {
        let error = ResponseError::from(error).with_code();
        Progress { error: Some(error), ..Progress::of(Status::Failed) }
    }

    /// Keeps the whole object, if it is to be kept. Where that fails, the object says so.
    pub async fn settle(&mut self, usage: Usage) {
        let Some((store, kept)) = self.keep.take() else { return };
        let stored = self.stored(&self.finished(usage));
        if let Err(error) = store.keep(kept, stored).await {
            tracing::error!(error = error.log_text(), "a response could not be kept");
            self.header.set_not_stored();
        }
    }

    /// Takes in an event of the engine and emits what it adds.
    pub fn event(&mut self, event: EngineEvent, out: &mut impl EventSink) {
        match event {
            EngineEvent::Delta { text, tokens, logprobs, .. } => {
                self.untold.extend(logprobs);
                let deltas = self.speech.push(text, tokens);
                if self.speech.reasoning_tokens() == tokens {
                    self.untold.clear();
                }
                self.add(deltas, out);
            }
            EngineEvent::Finished { reason, .. } => {
                self.cut = reason == FinishReason::Length;
                let deltas = self.speech.finish();
                self.add(deltas, out);
                self.close_item(out);
            }
            EngineEvent::Started { .. }
            | EngineEvent::Paused
            | EngineEvent::Prompt(_)
            | EngineEvent::Failed(_) => {}
        }
    }

    fn add(&mut self, deltas: Vec<Delta>, out: &mut impl EventSink) {
        for delta in deltas {
            if let Some(text) = delta.reasoning_content {
                self.add_reasoning(&text, out);
            }
            if let Some(text) = delta.content {
                self.add_content(&text, out);
            }
            for call in delta.tool_calls {
                self.add_call(call, out);
            }
        }
    }

    fn add_reasoning(&mut self, text: &str, out: &mut impl EventSink) {
        if !matches!(self.open_content(), Some(Content::Reasoning { .. })) {
            self.open_text(Content::reasoning(), Part::reasoning(), out);
        }
        self.append(text, Vec::new(), out);
    }

    fn add_content(&mut self, text: &str, out: &mut impl EventSink) {
        if !matches!(self.open_content(), Some(Content::Message { .. })) {
            self.open_text(Content::message(), Part::output(), out);
        }
        let logprobs = chat_logprobs(self.served.vocab(), &std::mem::take(&mut self.untold));
        self.append(text, logprobs, out);
    }

    fn add_call(&mut self, delta: ToolCallDelta, out: &mut impl EventSink) {
        let ToolCallDelta { id, function, custom, .. } = delta;
        let is_function = function.is_some();
        let function = function.map(|function| (function.name, function.arguments));
        let custom = custom.map(|custom| (custom.name, custom.input));
        let Some((name, text)) = function.or(custom) else { return };
        self.untold.clear();
        if let Some(name) = name {
            let namespace = self.namespaces.get(&name).cloned();
            let call = Call { call_id: id, name, namespace };
            let content = if is_function {
                Content::FunctionCall { call, arguments: String::new() }
            } else {
                Content::CustomToolCall { call, input: String::new() }
            };
            self.open_item(content, out);
        }
        let goes_on = match self.open_content() {
            Some(Content::FunctionCall { .. }) => is_function,
            Some(Content::CustomToolCall { .. }) => !is_function,
            Some(Content::Reasoning { .. } | Content::Message { .. }) | None => false,
        };
        if goes_on && !text.is_empty() {
            self.append(&text, Vec::new(), out);
        }
    }

    /// What the open item holds.
    fn open_content(&self) -> Option<&Content> {
        self.items.last().filter(|_| self.open).map(|item| &item.content)
    }

    fn open_item(&mut self, content: Content, out: &mut impl EventSink) {
        self.close_item(out);
        let item = Item::new(content);
        self.numbering.emit(Event::item_added(self.items.len(), &item), out);
        self.items.push(item);
        self.open = true;
    }

    /// Opens an item with one part.
    fn open_text(&mut self, content: Content, part: Part, out: &mut impl EventSink) {
        self.open_item(content, out);
        let Some((at, item)) = self.items.iter_mut().enumerate().next_back() else { return };
        self.numbering.emit(Event::part_added(at, item, &part), out);
        item.content.add_part(part);
    }

    /// Appends to the open item.
    fn append(
        &mut self,
        text: &str,
        logprobs: Vec<forebay_protocol::chat::TokenLogprob>,
        out: &mut impl EventSink,
    ) {
        let Some((at, item)) = self.items.iter_mut().enumerate().next_back() else { return };
        let bare = Logprobs::without_bytes(&logprobs);
        self.numbering.emit(Event::delta(at, item, text, bare), out);
        item.content.append(text, logprobs);
    }

    fn close_item(&mut self, out: &mut impl EventSink) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let Some((at, item)) = self.items.iter_mut().enumerate().next_back() else { return };
        item.status = if self.cut { Status::Incomplete } else { Status::Completed };
        for event in Event::item_done(at, item) {
            self.numbering.emit(event, out);
        }
    }

    /// The events before anything is generated.
    pub fn opening(&mut self, names: &[&'static str], out: &mut impl EventSink) {
        for &name in names {
            let waits = self.header.is_background() && name != "response.in_progress";
            let status = if waits { Status::Queued } else { Status::InProgress };
            let progress = Progress::of(status);
            let object = self.header.object(&progress, &self.items);
            self.numbering.emit(Event::response(name, &object), out);
        }
    }

    /// The last event.
    pub fn closing(&mut self, progress: &Progress, out: &mut impl EventSink) {
        let object = self.header.object(progress, &self.items);
        self.numbering.emit(Event::closing(&object), out);
    }
}

impl Encoder for Response {
    const DONE: Option<&'static str> = None;

    fn start(&mut self, out: &mut Chunks) {
        self.opening(&["response.created", "response.in_progress"], out);
    }

    fn event(&mut self, Sourced { event, .. }: Sourced, out: &mut Chunks) {
        Response::event(self, event, out);
    }

    async fn settle(&mut self, usage: Usage) {
        Response::settle(self, usage).await;
    }

    fn end(&mut self, runs: &Runs, out: &mut Chunks) {
        self.closing(&self.finished(runs.usage()), out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        self.closing(&Self::failure(error), out);
    }
}

#[cfg(test)]
mod tests;
