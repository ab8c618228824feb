//! A response while it grows: its items, whole and as events.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_engine::TokenLogprob;
use forebay_protocol::usage::Usage;

mod event;
mod item;
mod object;

pub use self::event::{Event, EventSink, NoEvents};
pub use self::item::{Item, Status};
pub use self::object::{Echo, Header, Object, Progress, ResponseError};

use self::event::Numbering;
use self::item::{Call, Content, Logprobs, Part};
use self::object::TokenUsage;
use crate::conversation::tools::ToolKind;
use crate::convert::chat_logprobs;
use crate::error::ApiError;
use crate::registry::Served;
use crate::reply::{EndReason, Replies, ReplyEvent, ReplyUpdate, ScoredToken};
use crate::sse::{Chunks, Encoder};

/// A response while it grows.
#[derive(Debug)]
pub struct Response {
    header: Header,
    namespaces: BTreeMap<String, String>,
    /// The items so far; the last one is open while `open` says so.
    items: Vec<Item>,
    open: bool,
    numbering: Numbering,
    /// Whether it was cut at its length.
    cut: bool,
    /// For the tokens of log probabilities.
    served: Arc<Served>,
}

impl Response {
    /// Nothing is generated yet.
    pub fn new(header: Header, namespaces: BTreeMap<String, String>, served: Arc<Served>) -> Self {
        Self {
            header,
            namespaces,
            items: Vec::new(),
            open: false,
            numbering: Numbering::default(),
            cut: false,
            served,
        }
    }

    /// Records whether it can be retrieved later, and the conversation that it belongs to.
    pub fn set_stored(&mut self, retrievable: bool, conversation: Option<&str>) {
        self.header.set_stored(retrievable, conversation);
    }

    /// Records that it could not be stored.
    pub fn set_not_stored(&mut self) {
        self.header.set_not_stored();
    }

    /// The items so far.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What was known before it was generated.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The object with the items so far.
    pub fn object<'a>(&'a self, progress: &'a Progress) -> Object<'a> {
        self.header.object(progress, &self.items)
    }

    /// The end of an answer that did not fail.
    pub fn finished(&self, usage: Usage) -> Progress {
        let status = if self.cut { Status::Incomplete } else { Status::Completed };
        let usage = TokenUsage::from(usage);
        Progress { usage: Some(usage), ..Progress::of(status) }
    }

    /// The end of an answer that failed.
    pub fn failure(error: &ApiError) -> Progress {
        let error = ResponseError::from(error).with_code();
        Progress { error: Some(error), ..Progress::of(Status::Failed) }
    }

    /// Reads an update and emits what it adds.
    pub fn update(&mut self, update: ReplyUpdate, out: &mut impl EventSink) {
        let ReplyUpdate::Added { event, logprobs, .. } = update else { return };
        match event {
            ReplyEvent::Reasoning(text) => self.add_reasoning(&text, out),
            ReplyEvent::Text(text) => self.add_content(&text, logprobs, out),
            ReplyEvent::CallStarted { id, name, kind } => self.start_call(&id, name, kind, out),
            ReplyEvent::CallArguments(text) if text.is_empty() => {}
            ReplyEvent::CallArguments(text) => self.append(&text, Vec::new(), out),
            ReplyEvent::Ended { reason, .. } => {
                self.cut = reason == EndReason::Length;
                self.close_item(out);
            }
        }
    }

    fn add_reasoning(&mut self, text: &str, out: &mut impl EventSink) {
        if !matches!(self.open_content(), Some(Content::Reasoning { .. })) {
            self.open_text(Content::reasoning(), Part::reasoning(), out);
        }
        self.append(text, Vec::new(), out);
    }

    fn add_content(&mut self, text: &str, logprobs: Vec<ScoredToken>, out: &mut impl EventSink) {
        if !matches!(self.open_content(), Some(Content::Message { .. })) {
            self.open_text(Content::message(), Part::output(), out);
        }
        let own = logprobs.into_iter().filter(|scored| !scored.is_reasoning);
        let own: Vec<TokenLogprob> = own.map(|scored| scored.logprob).collect();
        let logprobs = chat_logprobs(self.served.vocab(), &own);
        self.append(text, logprobs, out);
    }

    fn start_call(&mut self, id: &str, name: String, kind: ToolKind, out: &mut impl EventSink) {
        let namespace = self.namespaces.get(&name).cloned();
        let call = Call { call_id: format!("call_{id}"), name, namespace };
        let content = match kind {
            ToolKind::Function => Content::FunctionCall { call, arguments: String::new() },
            ToolKind::Custom => Content::CustomToolCall { call, input: String::new() },
        };
        self.open_item(content, out);
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
    type Updates = Replies;

    const DONE: Option<&'static str> = None;

    fn start(&mut self, out: &mut Chunks) {
        self.opening(&["response.created", "response.in_progress"], out);
    }

    fn update(&mut self, update: ReplyUpdate, out: &mut Chunks) {
        Response::update(self, update, out);
    }

    fn end(&mut self, usage: Usage, out: &mut Chunks) {
        self.closing(&self.finished(usage), out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        self.closing(&Self::failure(error), out);
    }
}

#[cfg(test)]
mod tests;
