//! Response bodies of HTTP/2, and the streams that their clients do not read.
//!
//! On HTTP/2 a client that grants no window stalls one stream while writes to the socket succeed,
//! so the socket's timeout never sees it. hyper asks a body for its next chunk when the chunk before
//! fits into the client's window; the time in between is spent waiting for the client.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

use super::connections::RequestInFlight;

/// Bodies are sent in chunks of this size at most, each of which shows that the client reads. It is
/// HTTP/2's usual frame size.
const CHUNK: usize = 16 << 10;
/// Size of the last chunk of a longer frame. hyper drops a stream when its last chunk has been handed
/// to h2, which keeps it until the client has read it.
const LAST_CHUNK: usize = 1 << 10;
/// Bytes per second that restore a client's allowance. One that reads less is cut off in the end even
/// if it never stops for the whole timeout.
const MIN_RATE: f64 = 256.0;

tokio::task_local! {
    /// The progress of the HTTP/2 stream that the current task serves.
    static PROGRESS: Arc<ReadProgress>;
}

/// How long a stream has waited for its client.
#[derive(Debug)]
pub(super) struct ReadProgress {
    timeout: Duration,
    state: Mutex<ReadState>,
}

#[derive(Debug)]
struct ReadState {
    /// Since when a chunk waits to be read, and its size.
    chunk: Option<(Instant, usize)>,
    /// How much longer the client may take.
    allowance: Duration,
}

/// Spawns HTTP/2 streams and resets those that their client does not read for `timeout`.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor {
    pub(super) timeout: Duration,
}

/// A response's body. It counts as a request in flight until it is dropped.
pub(super) struct ResponseBody {
    inner: Body,
    /// The part of a frame that is not sent yet; HTTP/2 only.
    rest: Bytes,
    /// `None` on HTTP/1, where the socket's timeout is enough.
    progress: Option<Arc<ReadProgress>>,
    _in_flight: RequestInFlight,
}

// === impl ReadProgress ===

impl ReadProgress {
    fn new(timeout: Duration) -> Self {
        let state = Mutex::new(ReadState { chunk: None, allowance: timeout });
        Self { timeout, state }
    }

    fn with<T>(&self, f: impl FnOnce(&mut ReadState) -> T) -> T {
        // Plain values: a panic leaves nothing half done.
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that a chunk was handed out.
    fn offered(&self, bytes: usize, now: Instant) {
        self.with(|state| state.chunk = Some((now, bytes)));
    }

    /// Records that the next chunk is asked for, so the one before has been read.
    fn taken(&self, now: Instant) {
        self.with(|state| {
            let Some((since, bytes)) = state.chunk.take() else { return };
            #[expect(clippy::cast_precision_loss, reason = "at most CHUNK")]
            let earned = Duration::from_secs_f64(bytes as f64 / MIN_RATE);
            let left = state.allowance.saturating_sub(now - since);
            state.allowance = (left + earned).min(self.timeout);
        });
    }

    /// When the stream is to be reset unless its client reads.
    fn deadline(&self) -> Option<Instant> {
        self.with(|state| state.chunk.map(|(since, _)| since + state.allowance))
    }
}

// === impl StreamExecutor ===

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // A stream ends with its connection or its response.
        tokio::spawn(watch(stream, Arc::new(ReadProgress::new(self.timeout))));
    }
}

/// Drives a stream to its end, or drops it when its client does not read: h2 then resets it and
/// forgets what was buffered.
async fn watch(stream: impl Future<Output = ()>, progress: Arc<ReadProgress>) {
    let mut stream = std::pin::pin!(PROGRESS.scope(Arc::clone(&progress), stream));
    let mut timer = std::pin::pin!(sleep_until(Instant::now()));
    let finished = std::future::poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(true);
        }
        let Some(deadline) = progress.deadline() else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| false)
    });
    if !finished.await {
        tracing::debug!("an HTTP/2 stream is reset: its client does not read it");
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// Wraps a response's body in the task that serves its stream.
    pub(super) fn new(inner: Body, in_flight: RequestInFlight) -> Self {
        let progress = PROGRESS.try_with(Arc::clone).ok();
        Self { inner, rest: Bytes::new(), progress, _in_flight: in_flight }
    }

    /// The next chunk of `rest`.
    fn next_chunk(&mut self) -> Bytes {
        match self.rest.len() {
            // A copy: the last chunk must not keep the whole frame in memory.
            0..=LAST_CHUNK => Bytes::copy_from_slice(&std::mem::take(&mut self.rest)),
            length => self.rest.split_to(CHUNK.min(length - LAST_CHUNK)),
        }
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(progress) = self.progress.clone() else {
            return Pin::new(&mut self.inner).poll_frame(cx);
        };
        progress.taken(Instant::now());
        if self.rest.is_empty() {
            let frame = match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            self.rest = match frame.into_data() {
                Ok(data) => data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
        }
        let chunk = self.next_chunk();
        progress.offered(chunk.len(), Instant::now());
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_earns_its_time_by_reading() {
        let second = Duration::from_secs(1);
        let progress = ReadProgress::new(10 * second);
        let start = Instant::now();
        assert_eq!(progress.deadline(), None);
        progress.offered(256, start);
        assert_eq!(progress.deadline(), Some(start + 10 * second));
        progress.taken(start + 6 * second);
        assert_eq!(progress.deadline(), None, "nothing waits for the client");
        let later = start + 7 * second;
        progress.offered(CHUNK, later);
        // Six seconds gone, one earned.
        assert_eq!(progress.deadline(), Some(later + 5 * second));
        progress.taken(later);
        progress.offered(1, later);
        assert_eq!(progress.deadline(), Some(later + 10 * second));
    }

    #[tokio::test]
    async fn chunks_are_small_and_the_last_one_is_its_own() {
        use http_body_util::BodyExt as _;
        use hyper::body::Body as _;

        let whole = Bytes::from((0..50_000_u32).map(|i| i as u8).collect::<Vec<u8>>());
        let progress = Arc::new(ReadProgress::new(Duration::from_secs(1)));
        let body = Body::from(whole.clone());
        let in_flight = crate::listen::connections::RequestInFlight::none();
        let mut body = PROGRESS.sync_scope(progress, || ResponseBody::new(body, in_flight));
        assert_eq!(body.size_hint().exact(), Some(50_000));
        let (mut read, mut last) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let chunk = frame.unwrap().into_data().unwrap();
            last = chunk.len();
            assert!(last <= CHUNK);
            read.extend_from_slice(&chunk);
            assert_eq!(body.size_hint().exact(), Some((whole.len() - read.len()) as u64));
            assert_eq!(body.is_end_stream(), read.len() == whole.len());
        }
        assert!(last <= LAST_CHUNK && read == whole, "{last}");
    }
}
