//! The middleware around every request: its id, its log line, its metrics.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::admission;
use crate::error::messages::MessagesError;
use crate::error::{ApiError, Busy, Internal};
use crate::record::Record;
use crate::request_resources::RequestResources;
use crate::state::AppState;

/// The header that names a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_ID: usize = 128;
/// Header fields of a request; a field of an HTTP/2 request can be two bytes on the wire and a hundred
/// in memory.
const MAX_HEADERS: usize = 100;
/// The status that is logged and counted if the client left before there was a response.
const CLIENT_GONE: u16 = 499;

/// Gives the request an id and a record, and sees its response through to the last byte.
pub(crate) async fn track(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| Cow::Borrowed("other"), |path| Cow::Owned(path.as_str().to_owned()));
    let method = method_label(request.method());
    let record = Record::default();
    // A header that is no number of seconds is refused where the request is checked.
    let timeout = admission::timeout(request.headers()).ok().flatten();
    let resources = RequestResources::new(state.shared.clone(), timeout);
    request.extensions_mut().insert(record.clone());
    request.extensions_mut().insert(resources.clone());

    // Made first: a client that leaves while the handler runs drops this future, and with it the
    // completion, which then logs just that.
    let status = CLIENT_GONE;
    let permit = (!is_operational(&route)).then(|| state.requests.clone().try_acquire_owned());
    let full = matches!(permit, Some(Err(_)));
    let permit = permit.and_then(Result::ok);
    let mut completion =
        Completion { state, record, id, route, method, status, started, complete: false };
    // Otherwise requests that arrived together on one connection are answered in one go, and the other
    // connections of this thread wait for all of them.
    tokio::task::yield_now().await;
    let mut response = match refusal(request.headers(), full) {
        None => next.run(request).await,
        Some(error) => error_response(&completion.route, error),
    };
    // If the answer is whole, the parsed request is dropped: only memory for the answer is held until it is
    // read. `/metrics` and `/health` wait for no memory.
    let counted =
        response.body().size_hint().exact().filter(|_| !is_operational(&completion.route));
    if let Some(bytes) = counted {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Err(error) = resources.answered(bytes).await {
            response = error_response(&completion.route, error);
        }
    }
    if let Some(Internal(error)) = response.extensions_mut().remove() {
        completion.record.update(|facts| facts.error = Some(error));
    }
    if response.extensions_mut().remove::<Busy>().is_some() {
        completion.state.metrics.rejected("busy");
    }
    response.headers_mut().insert(REQUEST_ID, completion.id.clone());
    completion.status = response.status().as_u16();
    completion.complete = response.body().is_end_stream();
    response.map(|inner| Body::new(TrackedBody { inner, completion, _held: (resources, permit) }))
}

/// The error of a request that is refused before it is routed.
fn refusal(headers: &HeaderMap, full: bool) -> Option<ApiError> {
    if headers.len() > MAX_HEADERS {
        return Some(ApiError::too_many_headers(MAX_HEADERS));
    }
    full.then(|| ApiError::busy("too many requests are in progress"))
}

/// An error in the dialect of a route.
fn error_response(route: &str, error: ApiError) -> Response {
    if route.ends_with("/messages") || route.ends_with("/messages/count_tokens") {
        return MessagesError::from(error).into_response();
    }
    error.into_response()
}

/// Whether a route is for monitoring, and so always served.
fn is_operational(route: &str) -> bool {
    route.starts_with("/health") || route == "/metrics"
}

/// The client's id if it is one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let valid = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        !bytes.is_empty() && bytes.len() <= MAX_ID && bytes.iter().all(allowed)
    };
    headers.get(REQUEST_ID).filter(valid).cloned().unwrap_or_else(|| {
        let id = format!("req_{}", uuid::Uuid::new_v4().simple());
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("req_unknown"))
    })
}

/// A method from a closed list, so that metrics have a fixed number of labels.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        "DELETE" => "DELETE",
        "PUT" => "PUT",
        _ => "other",
    }
}

/// A response body that knows when it ends.
struct TrackedBody {
    inner: Body,
    completion: Completion,
    /// Memory and the permit of a request in progress, returned at the end.
    _held: (RequestResources, Option<OwnedSemaphorePermit>),
}

/// Writes the request's log line and counts it when dropped: at the body's end, or when the
/// connection breaks.
struct Completion {
    state: AppState,
    record: Record,
    id: HeaderValue,
    route: Cow<'static, str>,
    method: &'static str,
    status: u16,
    started: Instant,
    complete: bool,
}

impl hyper::body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        // A panic ends this response alone, and is in its log line. `inner` is not polled again.
        let polled = AssertUnwindSafe(|| Pin::new(&mut this.inner).poll_frame(cx));
        let polled = std::panic::catch_unwind(polled).unwrap_or_else(|panic| {
            let error = ApiError::panicked(&*panic);
            tracing::error!(error = error.log_text(), "a response body panicked");
            this.completion.record.update(|facts| facts.error = Some(error.log_text().to_owned()));
            Poll::Ready(Some(Err(axum::Error::new("the server failed"))))
        });
        if matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream() {
            self.completion.complete = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        self.state.metrics.response(&self.route, self.method, self.status);
        let facts = self.record.take();
        if let Some(model) = &facts.model {
            model.metrics.duration.record(duration.as_secs_f64());
        }
        if is_operational(&self.route) && self.status < 400 {
            return;
        }
        tracing::info!(
            target: "request",
            request_id = self.id.to_str().unwrap_or_default(),
            method = self.method,
            route = &*self.route,
            status = self.status,
            model = facts.model.as_ref().map(|m| &*m.name),
            stream = facts.stream,
            prompt_tokens = facts.prompt_tokens,
            cached_tokens = facts.cached_tokens,
            completion_tokens = facts.completion_tokens,
            ttft_ms = facts.ttft.map(|t| t.as_secs_f64() * 1e3),
            duration_ms = duration.as_secs_f64() * 1e3,
            finish_reason = facts.finish_reason,
            complete = self.complete,
            error = facts.error,
        );
    }
}
