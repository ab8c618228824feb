//! What stores responses: a wrapper around their encoder, which stores a response when it is complete and
//! before its last event is sent, because clients may follow it at once.

use forebay_protocol::usage::Usage;

use crate::convert::to_json;
use crate::dialects::responses::encode::{Header, Item, NoEvents, Progress, Response, Status};
use crate::error::ApiError;
use crate::generations::Updates as _;
use crate::reply::{Replies, ReplyUpdate};
use crate::response_store::{ResponseEntry, ResponseSnapshot, ResponseStore, StoredItem};
use crate::sse::{Chunks, Encoder};

/// Where a response is stored.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) store: ResponseStore,
    pub(crate) entry: ResponseEntry,
}

/// A response that is stored at its end, if it has a destination.
#[derive(Debug)]
pub(crate) struct PersistedResponse {
    response: Response,
    destination: Option<Destination>,
}

/// A response as it is stored.
pub(crate) fn snapshot(header: &Header, progress: &Progress, output: &[Item]) -> ResponseSnapshot {
    let item = |item: &Item| StoredItem { id: Some(item.id.clone()), json: to_json(item) };
    ResponseSnapshot {
        id: header.id().to_owned(),
        complete: matches!(progress.status, Status::Completed | Status::Incomplete),
        body: to_json(&header.object_without_items(progress)),
        output: output.iter().map(item).collect(),
    }
}

impl Destination {
    /// Stores a response as it is; logs an error. Returns whether it is stored.
    pub(crate) async fn save(self, response: ResponseSnapshot) -> bool {
        let saved = self.store.save(self.entry, response).await;
        let saved = saved.inspect_err(|error| tracing::error!(%error, "a response is not stored"));
        saved.is_ok()
    }
}

impl PersistedResponse {
    /// The response says at once whether it will be stored.
    pub(crate) fn new(mut response: Response, destination: Option<Destination>) -> Self {
        if let Some(Destination { entry, .. }) = &destination {
            response.set_stored(entry.retrievable, entry.conversation.as_deref());
        }
        Self { response, destination }
    }

    /// Reads all of a reply and stores the response. Returns the whole object as JSON.
    ///
    /// # Errors
    /// If the reply fails.
    pub(crate) async fn collect(mut self, mut replies: Replies) -> Result<String, ApiError> {
        replies.read_all(|update| self.response.update(update, &mut NoEvents)).await?;
        self.before_end(replies.usage()).await;
        Ok(to_json(&self.response.object(&self.response.finished(replies.usage()))))
    }
}

impl Encoder for PersistedResponse {
    type Updates = Replies;

    const DONE: Option<&'static str> = Response::DONE;

    fn start(&mut self, out: &mut Chunks) {
        self.response.start(out);
    }

    fn update(&mut self, update: ReplyUpdate, out: &mut Chunks) {
        Encoder::update(&mut self.response, update, out);
    }

    /// Stores the response. If that fails, its last event says that it is not stored.
    async fn before_end(&mut self, usage: Usage) {
        let Some(destination) = self.destination.take() else { return };
        let end = self.response.finished(usage);
        let snapshot = snapshot(self.response.header(), &end, self.response.items());
        if !destination.save(snapshot).await {
            self.response.set_not_stored();
        }
    }

    fn end(&mut self, usage: Usage, out: &mut Chunks) {
        self.response.end(usage, out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        self.response.failed(error, out);
    }
}
