//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use forebay_engine::Event;
use forebay_protocol::usage::Usage;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
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
/// failure, a panic of the encoder among them, becomes an error event, without `[DONE]`.
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
            // Whatever it panicked at, it is not used again but to tell of the error.
            if let Err(panic) = AssertUnwindSafe(self.advance()).catch_unwind().await {
                let error = self.runs.failed(ApiError::panicked(&*panic));
                tracing::error!(error = error.log_text(), "a stream panicked");
                self.fail(&error);
            }
        }
    }

    /// Encodes the next event.
    async fn advance(&mut self) {
        match self.runs.next().await {
            Ok(Some(Sourced { event: Event::Paused, .. })) => {
                self.chunks.0.push_back(SseEvent::default().comment("the model is started again"));
            }
            Ok(Some(event)) => self.encoder.event(event, &mut self.chunks),
            Ok(None) => {
                self.encoder.settle(self.runs.usage()).await;
                self.encoder.end(&self.runs, &mut self.chunks);
                let done = E::DONE.map(|done| SseEvent::default().data(done));
                self.chunks.0.extend(done);
                self.over = true;
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.over = true;
        let failed = AssertUnwindSafe(|| self.encoder.failed(error, &mut self.chunks));
        if std::panic::catch_unwind(failed).is_err() {
            tracing::error!("a stream panicked at its error event");
            self.chunks.push(&error.envelope());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Lifecycle;
    use crate::observe::Record;

    /// Panics at its end, and at its error event if `twice`.
    struct Panics {
        twice: bool,
    }

    impl Encoder for Panics {
        fn start(&mut self, out: &mut Chunks) {
            out.push(&"start");
        }

        fn event(&mut self, _event: Sourced, _out: &mut Chunks) {}

        fn end(&mut self, _runs: &Runs, out: &mut Chunks) {
            out.push(&"end");
            panic!("the encoder panics");
        }

        fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
            assert!(!self.twice, "the encoder panics again");
            out.push_named("oops", &error.envelope());
        }
    }

    #[tokio::test]
    async fn a_panic_ends_the_stream_with_an_error_event() {
        for twice in [false, true] {
            let record = Record::default();
            let runs = Runs::none(Lifecycle::default(), record.clone());
            let response = respond(runs, Panics { twice }, Duration::from_secs(9));
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.starts_with("data: \"start\"\n\ndata: \"end\"\n\n"), "{body}");
            let error = body.rsplit("data: ").next().unwrap();
            assert!(error.contains("internal_error") && !error.contains("panics"), "{body}");
            assert_eq!(body.contains("event: oops"), !twice, "{body}");
            assert!(!body.contains("[DONE]"), "{body}");
            record.note(|facts| {
                assert_eq!(facts.error.as_deref(), Some("a panic: the encoder panics"));
            });
        }
    }
}
