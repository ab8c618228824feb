//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use forebay_protocol::usage::Usage;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;

use crate::answer::{Runs, Sourced};
use crate::error::ApiError;

/// Turns events into the JSON texts of a stream's chunks.
pub(crate) trait Encoder: Send + 'static {
    /// What ends the stream, if anything does.
    const DONE: Option<&'static str> = Some("[DONE]");
    /// What comes before anything was generated.
    fn start(&mut self, out: &mut Chunks);
    /// What an event adds.
    fn event(&mut self, event: Sourced, out: &mut Chunks);
    /// What has to be done before the end is told.
    fn settle(&mut self, _usage: Usage) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// What comes after the last event.
    fn end(&mut self, runs: &Runs, out: &mut Chunks);
    /// What comes instead, where an answer fails.
    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        out.push(&error.envelope());
    }
}

/// Chunks on their way out.
#[derive(Debug, Default)]
pub(crate) struct Chunks(VecDeque<SseEvent>);

struct Streaming<E> {
    runs: Runs,
    encoder: E,
    chunks: Chunks,
    over: bool,
}

impl Chunks {
    /// Adds a chunk.
    pub(crate) fn push<T: Serialize>(&mut self, chunk: &T) {
        self.add(SseEvent::default(), chunk);
    }

    /// Adds a chunk under a name.
    pub(crate) fn push_named<T: Serialize>(&mut self, name: &str, chunk: &T) {
        self.add(SseEvent::default().event(name), chunk);
    }

    fn add<T: Serialize>(&mut self, event: SseEvent, chunk: &T) {
        match serde_json::to_string(chunk) {
            Ok(json) => self.0.push_back(event.data(json)),
            Err(error) => tracing::error!(%error, "a chunk cannot be written as JSON"),
        }
    }
}

/// The response that streams chunks that are made elsewhere.
pub(crate) fn relay(
    chunks: impl Stream<Item = SseEvent> + Send + 'static,
    keepalive: Duration,
) -> Response {
    let keepalive = KeepAlive::new().interval(keepalive).text("keepalive");
    Sse::new(chunks.map(Ok::<_, Infallible>)).keep_alive(keepalive).into_response()
}

/// The response that streams `runs` through `encoder`: chunks, `[DONE]`, and nothing after it. A
/// failure becomes an error event, without `[DONE]`.
pub(crate) fn respond(runs: Runs, mut encoder: impl Encoder, keepalive: Duration) -> Response {
    let mut chunks = Chunks::default();
    encoder.start(&mut chunks);
    let stream =
        stream::unfold(Streaming { runs, encoder, chunks, over: false }, |mut stream| async {
            let event = stream.next().await?;
            Some((event, stream))
        });
    relay(stream, keepalive)
}

impl<E: Encoder> Streaming<E> {
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.chunks.0.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match self.runs.next().await {
                Ok(Some(event)) => self.encoder.event(event, &mut self.chunks),
                Ok(None) => {
                    self.over = true;
                    self.encoder.settle(self.runs.usage()).await;
                    self.encoder.end(&self.runs, &mut self.chunks);
                    let done = E::DONE.map(|done| SseEvent::default().data(done));
                    self.chunks.0.extend(done);
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.over = true;
        self.encoder.failed(error, &mut self.chunks);
    }
}
