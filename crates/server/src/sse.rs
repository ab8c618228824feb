//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use forebay_protocol::usage::Usage;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::generations::Updates;

/// Writes updates as a stream's chunks.
pub(crate) trait Encoder: Send + 'static {
    /// What it encodes.
    type Updates: Updates;
    /// What ends the stream, if anything does.
    const DONE: Option<&'static str> = Some("[DONE]");
    /// What comes before anything was generated.
    fn start(&mut self, out: &mut Chunks);
    /// What an update adds.
    fn update(&mut self, update: <Self::Updates as Updates>::Update, out: &mut Chunks);
    /// What has to happen before the end is sent.
    fn before_end(&mut self, _usage: Usage) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
    /// What comes after the last update; with the tokens of all answers.
    fn end(&mut self, usage: Usage, out: &mut Chunks);
    /// What comes instead, where an answer fails.
    fn failed(&mut self, error: &ApiError, out: &mut Chunks) {
        out.push(&error.envelope());
    }
}

/// Chunks on their way out.
#[derive(Debug, Default)]
pub(crate) struct Chunks(VecDeque<SseEvent>);

struct Streaming<E: Encoder> {
    updates: E::Updates,
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

/// The response that streams events that are JSON already, each under the name that is its `type`.
pub(crate) fn relay<T: AsRef<str> + 'static>(
    events: impl Stream<Item = T> + Send + 'static,
    keepalive: Duration,
) -> Response {
    into_response(events.map(|event| named(event.as_ref())), keepalive)
}

fn named(json: &str) -> SseEvent {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(rename = "type", borrow)]
        name: &'a str,
    }
    let name = serde_json::from_str(json).map_or("", |Named { name }| name);
    SseEvent::default().event(name).data(json)
}

fn into_response(
    chunks: impl Stream<Item = SseEvent> + Send + 'static,
    keepalive: Duration,
) -> Response {
    let keepalive = KeepAlive::new().interval(keepalive).text("keepalive");
    Sse::new(chunks.map(Ok::<_, Infallible>)).keep_alive(keepalive).into_response()
}

/// The response that streams updates through `encoder`: chunks, `[DONE]`, and nothing after it. A
/// failure, a panic of the encoder among them, becomes an error event, without `[DONE]`.
pub(crate) fn respond<E: Encoder>(
    updates: E::Updates,
    mut encoder: E,
    keepalive: Duration,
) -> Response {
    let mut chunks = Chunks::default();
    encoder.start(&mut chunks);
    let stream =
        stream::unfold(Streaming { updates, encoder, chunks, over: false }, |mut stream| async {
            let event = stream.next().await?;
            Some((event, stream))
        });
    into_response(stream, keepalive)
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
            // After a panic the encoder is used only to write the error event.
            if let Err(panic) = AssertUnwindSafe(self.advance()).catch_unwind().await {
                let error = self.updates.failed(ApiError::panicked(&*panic));
                tracing::error!(error = error.log_text(), "a stream panicked");
                self.fail(&error);
            }
        }
    }

    /// Encodes the next event.
    async fn advance(&mut self) {
        match self.updates.next().await {
            Ok(Some(update)) if E::Updates::is_pause(&update) => {
                self.chunks.0.push_back(SseEvent::default().comment("the model is started again"));
            }
            Ok(Some(update)) => self.encoder.update(update, &mut self.chunks),
            Ok(None) => {
                let usage = self.updates.usage();
                self.encoder.before_end(usage).await;
                self.encoder.end(usage, &mut self.chunks);
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
    use crate::generations::{Generations, PromptEvent};
    use crate::lifecycle::Lifecycle;
    use crate::record::Record;

    /// Panics at its end, and at its error event if `twice`.
    struct Panics {
        twice: bool,
    }

    impl Encoder for Panics {
        type Updates = Generations;

        fn start(&mut self, out: &mut Chunks) {
            out.push(&"start");
        }

        fn update(&mut self, _update: PromptEvent, _out: &mut Chunks) {}

        fn end(&mut self, _usage: Usage, out: &mut Chunks) {
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
            let none = Generations::none(Lifecycle::default(), record.clone());
            let response = respond(none, Panics { twice }, Duration::from_secs(9));
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            let body = String::from_utf8(body.to_vec()).unwrap();
            assert!(body.starts_with("data: \"start\"\n\ndata: \"end\"\n\n"), "{body}");
            let error = body.rsplit("data: ").next().unwrap();
            assert!(error.contains("internal_error") && !error.contains("panics"), "{body}");
            assert_eq!(body.contains("event: oops"), !twice, "{body}");
            assert!(!body.contains("[DONE]"), "{body}");
            record.update(|facts| {
                assert_eq!(facts.error.as_deref(), Some("a panic: the encoder panics"));
            });
        }
    }
}
