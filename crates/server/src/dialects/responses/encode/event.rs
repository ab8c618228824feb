//! The events of a response's stream.

use serde::Serialize;

use super::item::{Content, Item, Logprobs, Part, Status};
use super::object::Object;
use crate::sse::Chunks;

/// One event.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    /// Its name.
    #[serde(rename = "type")]
    pub name: &'static str,
    /// The item that it is about, unless it has it whole.
    #[serde(flatten)]
    item: Option<ItemRef<'a>>,
    #[serde(flatten)]
    body: Body<'a>,
    sequence_number: u64,
}

/// The item that an event is about.
#[derive(Debug, Serialize)]
struct ItemRef<'a> {
    output_index: usize,
    item_id: &'a str,
}

/// What events of one kind have.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Response {
        response: &'a Object<'a>,
    },
    Item {
        output_index: usize,
        item: &'a Item,
    },
    Part {
        content_index: usize,
        part: &'a Part,
    },
    TextDelta {
        content_index: usize,
        delta: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Logprobs<'a>>,
    },
    TextDone {
        content_index: usize,
        text: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Logprobs<'a>>,
    },
    CallDelta {
        delta: &'a str,
    },
    ArgumentsDone {
        arguments: &'a str,
        name: &'a str,
    },
    InputDone {
        input: &'a str,
    },
}

/// Where events go, in their order.
pub trait EventSink {
    /// Whether events that add to a text are wanted: those that close items repeat it.
    fn wants_deltas(&self) -> bool;
    /// Takes an event.
    fn push(&mut self, event: &Event<'_>);
}

/// Drops all events.
#[derive(Debug)]
pub struct NoEvents;

/// The number of the next event.
#[derive(Debug, Default)]
pub(super) struct Numbering(u64);

// === impl Event ===

impl<'a> Event<'a> {
    fn new(name: &'static str, body: Body<'a>) -> Self {
        Self { name, item: None, body, sequence_number: 0 }
    }

    fn of_item(name: &'static str, output_index: usize, item: &'a Item, body: Body<'a>) -> Self {
        let item = Some(ItemRef { output_index, item_id: &item.id });
        Self { item, ..Self::new(name, body) }
    }

    /// The response is in another state.
    pub fn response(name: &'static str, response: &'a Object<'a>) -> Self {
        Self::new(name, Body::Response { response })
    }

    /// The last event: how the response ended.
    pub fn closing(response: &'a Object<'a>) -> Self {
        let name = match response.status {
            Status::Completed => "response.completed",
            Status::Incomplete => "response.incomplete",
            Status::Queued | Status::InProgress | Status::Failed | Status::Cancelled => {
                "response.failed"
            }
        };
        Self::response(name, response)
    }

    /// An item begins.
    pub fn item_added(output_index: usize, item: &'a Item) -> Self {
        Self::new("response.output_item.added", Body::Item { output_index, item })
    }

    /// The item's part begins.
    pub fn part_added(output_index: usize, item: &'a Item, part: &'a Part) -> Self {
        let body = Body::Part { content_index: 0, part };
        Self::of_item("response.content_part.added", output_index, item, body)
    }

    /// The item's text grows. Log probabilities are for messages alone.
    pub fn delta(
        output_index: usize,
        item: &'a Item,
        delta: &'a str,
        logprobs: Logprobs<'a>,
    ) -> Self {
        let text = |logprobs| Body::TextDelta { content_index: 0, delta, logprobs };
        let (name, body) = match item.content {
            Content::Reasoning { .. } => ("response.reasoning_text.delta", text(None)),
            Content::Message { .. } => ("response.output_text.delta", text(Some(logprobs))),
            Content::FunctionCall { .. } => {
                ("response.function_call_arguments.delta", Body::CallDelta { delta })
            }
            Content::CustomToolCall { .. } => {
                ("response.custom_tool_call_input.delta", Body::CallDelta { delta })
            }
        };
        Self::of_item(name, output_index, item, body)
    }

    /// The events that close an item.
    pub fn item_done(output_index: usize, item: &'a Item) -> impl Iterator<Item = Self> {
        let whole = Self::new("response.output_item.done", Body::Item { output_index, item });
        let part = item.part().map(|part| {
            let body = Body::Part { content_index: 0, part };
            Self::of_item("response.content_part.done", output_index, item, body)
        });
        let text =
            Self::text_done(item).map(|(name, body)| Self::of_item(name, output_index, item, body));
        text.into_iter().chain(part).chain([whole])
    }

    /// The name and the body of the event that repeats an item's text.
    fn text_done(item: &'a Item) -> Option<(&'static str, Body<'a>)> {
        Some(match (&item.content, item.part()) {
            (Content::FunctionCall { call, arguments }, _) => (
                "response.function_call_arguments.done",
                Body::ArgumentsDone { arguments, name: &call.name },
            ),
            (Content::CustomToolCall { input, .. }, _) => {
                ("response.custom_tool_call_input.done", Body::InputDone { input })
            }
            (_, Some(Part::ReasoningText { text })) => (
                "response.reasoning_text.done",
                Body::TextDone { content_index: 0, text, logprobs: None },
            ),
            (_, Some(Part::OutputText { text, logprobs, .. })) => {
                let logprobs = Some(Logprobs::without_bytes(logprobs));
                ("response.output_text.done", Body::TextDone { content_index: 0, text, logprobs })
            }
            (Content::Reasoning { .. } | Content::Message { .. }, None) => return None,
        })
    }

    /// The same event with this number.
    pub fn numbered(self, sequence_number: u64) -> Self {
        Self { sequence_number, ..self }
    }

    fn is_delta(&self) -> bool {
        matches!(self.body, Body::TextDelta { .. } | Body::CallDelta { .. })
    }
}

// === impl Numbering ===

impl Numbering {
    /// Gives the event its number and emits it. One that is not wanted gets none.
    pub(super) fn emit(&mut self, event: Event<'_>, out: &mut impl EventSink) {
        if event.is_delta() && !out.wants_deltas() {
            return;
        }
        out.push(&event.numbered(self.0));
        self.0 += 1;
    }
}

// === impl EventSink ===

impl EventSink for NoEvents {
    fn wants_deltas(&self) -> bool {
        false
    }

    fn push(&mut self, _event: &Event<'_>) {}
}

impl EventSink for Chunks {
    fn wants_deltas(&self) -> bool {
        true
    }

    fn push(&mut self, event: &Event<'_>) {
        self.push_named(event.name, event);
    }
}
