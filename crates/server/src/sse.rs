//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use crate::answer::{Runs, Sourced};
use crate::error::ApiError;

/// Turns events into the JSON texts of a stream's chunks.
pub(crate) trait Encoder: Send + 'static {
    /// What comes before anything was generated.
    fn start(&mut self, out: &mut Chunks);
    /// What an event adds.
    fn event(&mut self, event: Sourced, out: &mut Chunks);
    /// What comes after the last event.
    fn end(&mut self, runs: &Runs, out: &mut Chunks);
}

/// Chunks on their way out.
#[derive(Debug, Default)]
pub(crate) struct Chunks(VecDeque<String>);

struct Stream<E> {
    runs: Runs,
    encoder: E,
    chunks: Chunks,
    over: bool,
}

impl Chunks {
    /// Adds a chunk.
    pub(crate) fn push<T: Serialize>(&mut self, chunk: &T) {
        match serde_json::to_string(chunk) {
            Ok(json) => self.0.push_back(json),
            Err(error) => tracing::error!(%error, "a chunk cannot be written as JSON"),
        }
    }
}

/// The response that streams `runs` through `encoder`: chunks, `[DONE]`, and nothing after it. A
/// failure becomes an error event, without `[DONE]`.
pub(crate) fn respond(runs: Runs, mut encoder: impl Encoder, keepalive: Duration) -> Response {
    let mut chunks = Chunks::default();
    encoder.start(&mut chunks);
    let stream =
        stream::unfold(Stream { runs, encoder, chunks, over: false }, |mut stream| async {
            let json = stream.next().await?;
            Some((Ok::<_, Infallible>(SseEvent::default().data(json)), stream))
        });
    let keepalive = KeepAlive::new().interval(keepalive).text("keepalive");
    Sse::new(stream).keep_alive(keepalive).into_response()
}

impl<E: Encoder> Stream<E> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(json) = self.chunks.0.pop_front() {
                return Some(json);
            }
            if self.over {
                return None;
            }
            match self.runs.next().await {
                Ok(Some(event)) => self.encoder.event(event, &mut self.chunks),
                Ok(None) => {
                    self.over = true;
                    self.encoder.end(&self.runs, &mut self.chunks);
                    self.chunks.0.push_back("[DONE]".to_owned());
                }
                Err(error) => self.fail(&error),
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.over = true;
        self.chunks.push(&error.envelope());
    }
}
