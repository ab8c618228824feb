//! All errors of requests, and the one place that maps them to HTTP.
//!
//! Each error has two texts: the message, which the client gets, and an internal one, which only
//! the request's log line gets.

mod conversions;
pub(crate) mod messages;

use std::time::Duration;

use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use forebay_protocol::error::{ErrorBody, ErrorEnvelope};
use forebay_protocol::messages::{MessageError, MessageErrorBody};

use crate::pool::{JobError, panic_message};

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    kind: ErrorKind,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
    internal: Option<String>,
    /// For `Retry-After`, with kinds that have that header.
    retry_after: Duration,
}

/// The kind of an error, which decides its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorKind {
    Invalid,
    NoSuchModel,
    NoSuchObject,
    NoSuchRoute,
    WrongMethod,
    SlowBody,
    SlowReader,
    TooLarge,
    TooManyHeaders,
    WrongMediaType,
    Overloaded,
    Internal,
    Unavailable,
    OutOfTime,
}

/// The internal text of an error, for the request's log line.
#[derive(Debug, Clone)]
pub(crate) struct Internal(pub String);

/// Marks a request that the server refused before it reached a model, for its metrics.
#[derive(Debug, Clone)]
pub(crate) struct Busy;

/// The code of errors marked [`Busy`].
const BUSY: &str = "server_busy";
/// The code of a request that crashes the engine and should not be sent again.
const ENGINE_CRASHED: &str = "engine_crashed";

/// `Retry-After` without an estimate, and the longest.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The most of a client's own text that a message repeats, in characters.
const MAX_QUOTED: usize = 64;
/// Longest message, name of a field and text for the log, in bytes.
const MAX_TEXT: usize = 2048;

/// A client's text as it may appear in a message: cut, without control characters.
pub(crate) fn shown(text: &str) -> String {
    cut(text, MAX_QUOTED)
}

/// A sentence that quotes a client's text, cut.
pub(crate) fn shown_long(text: &str) -> String {
    cut(text, MAX_QUOTED * 4)
}

/// A text with at most [`MAX_TEXT`] bytes.
fn bounded(text: String) -> String {
    if text.len() <= MAX_TEXT { text } else { cut(&text, MAX_TEXT) }
}

fn cut(text: &str, limit: usize) -> String {
    let mut short: String = text.chars().take(limit).filter(|c| !c.is_control()).collect();
    if text.chars().nth(limit).is_some() {
        short.push('…');
    }
    short
}

impl ApiError {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: bounded(message.into()),
            param: None,
            code: None,
            internal: None,
            retry_after: MIN_RETRY_AFTER,
        }
    }

    /// A field that cannot be honoured.
    pub fn invalid(
        param: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let param = Some(bounded(param.into()));
        Self { param, code: Some(code), ..Self::new(ErrorKind::Invalid, message) }
    }

    /// Converts serde's error at a field to one with `param` and `code`.
    pub(crate) fn of_field(path: &str, error: &serde_json::Error) -> Self {
        let full = error.to_string();
        // " at line 1 column 20" adds nothing to the field's path.
        let why = full.rfind(" at line ").map_or(full.as_str(), |at| &full[..at]);
        let base = if path == "." { "" } else { path };
        let quoted = |prefix: &str| why.strip_prefix(prefix)?.split('`').next();
        if let Some(field) = quoted("missing field `") {
            let param = if base.is_empty() { field.to_owned() } else { format!("{base}.{field}") };
            return Self::missing(param);
        }
        if base.is_empty() {
            return Self::not_json(&format!("it must be an object ({why})"));
        }
        let code = if why.starts_with("invalid type") { "invalid_type" } else { "invalid_value" };
        Self::invalid(base, code, format!("Invalid '{base}': {}.", shown_long(why)))
    }

    /// A required field that is missing.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required parameter: '{param}'.");
        Self::invalid(param, "missing_required_parameter", message)
    }

    /// A body that is not JSON.
    pub fn not_json(why: &str) -> Self {
        let message = format!("We could not parse the JSON body of your request: {why}.");
        Self::new(ErrorKind::Invalid, message)
    }

    /// A prompt that leaves no room for a reply.
    pub fn context_length(param: &str, tokens: usize, limit: u32) -> Self {
        Self::invalid(
            param,
            "context_length_exceeded",
            format!(
                "This model's maximum context length is {limit} tokens, prompt and answer \
                 together. Your prompt has {tokens} tokens."
            ),
        )
    }

    /// The same if only a lower bound of the prompt's tokens is known.
    pub fn context_length_at_least(param: &str, tokens: usize, limit: u32) -> Self {
        Self::invalid(
            param,
            "context_length_exceeded",
            format!(
                "This model's maximum context length is {limit} tokens, prompt and answer \
                 together. Your prompt has more than {} tokens.",
                tokens.saturating_sub(1)
            ),
        )
    }

    /// Inputs that have more tokens together than may wait for the model.
    pub fn too_many_tokens(tokens: usize, limit: usize) -> Self {
        let message = format!(
            "The inputs of a request can have at most {limit} tokens together, but these have \
             {tokens}. Send them in several requests."
        );
        Self::invalid("input", "max_tokens_per_request", message)
    }

    /// A model that is not served.
    pub fn no_such_model(name: &str) -> Self {
        let message =
            format!("The model `{}` does not exist or you do not have access to it.", shown(name));
        let (param, code) = (Some("model".to_owned()), Some("model_not_found"));
        Self { param, code, ..Self::new(ErrorKind::NoSuchModel, message) }
    }

    /// An object that is not kept (any more), or not for this key.
    pub fn not_found(what: &str, id: &str) -> Self {
        let message = format!("{what} with id '{}' not found.", shown(id));
        Self { code: Some("not_found"), ..Self::new(ErrorKind::NoSuchObject, message) }
    }

    /// A feature that the configuration turns off.
    pub fn turned_off(why: &str) -> Self {
        let message = format!("Not found: {why}.");
        Self { code: Some("turned_off"), ..Self::new(ErrorKind::NoSuchObject, message) }
    }

    /// A path without a route.
    pub fn no_such_route(method: &Method, path: &str) -> Self {
        let message = format!("Invalid URL ({method} {})", shown(path));
        Self { code: Some("unknown_url"), ..Self::new(ErrorKind::NoSuchRoute, message) }
    }

    /// A path whose route has another method.
    pub fn wrong_method(method: &Method, path: &str) -> Self {
        let message = format!("Not allowed to {method} on {}.", shown(path));
        Self { code: Some("method_not_allowed"), ..Self::new(ErrorKind::WrongMethod, message) }
    }

    /// A body that takes too long to arrive.
    pub fn slow_body(seconds: u64) -> Self {
        Self::new(
            ErrorKind::SlowBody,
            format!("The request body did not arrive within {seconds} seconds."),
        )
    }

    /// A body over the limit.
    pub fn too_large(limit: usize) -> Self {
        Self::new(ErrorKind::TooLarge, format!("The request body is larger than {limit} bytes."))
    }

    /// A body that would take more memory than a request may.
    pub fn too_complex(mib: usize, limit_mib: usize) -> Self {
        let message = format!(
            "The request would take some {mib} MiB of memory to read; the most is {limit_mib} MiB. \
             Send less text, or fewer JSON values."
        );
        Self { code: Some("request_too_complex"), ..Self::new(ErrorKind::TooLarge, message) }
    }

    /// A body with more JSON values than the limit.
    pub fn too_many_values(limit: usize) -> Self {
        let message = format!("The request has more than {limit} JSON values.");
        Self { code: Some("request_too_complex"), ..Self::new(ErrorKind::TooLarge, message) }
    }

    /// A request with too many header fields.
    pub fn too_many_headers(limit: usize) -> Self {
        let message = format!("A request can have at most {limit} header fields.");
        Self::new(ErrorKind::TooManyHeaders, message)
    }

    /// The server has no room for the request now.
    pub fn busy(why: &str) -> Self {
        let message = format!("The server is busy: {why}. Try again in 1 s.");
        Self { code: Some(BUSY), ..Self::new(ErrorKind::Overloaded, message) }
    }

    /// A body that is not plain JSON by its headers.
    pub fn wrong_media_type(message: &str) -> Self {
        Self::new(ErrorKind::WrongMediaType, message)
    }

    /// An internal error.
    pub fn internal(why: impl Into<String>) -> Self {
        let message = "The server had an error while processing your request.";
        let (code, internal) = (Some("internal_error"), Some(why.into()));
        Self { code, internal, ..Self::new(ErrorKind::Internal, message) }
    }

    /// A panic that was caught, as an internal error.
    pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        JobError::Panicked(panic_message(panic)).into()
    }

    /// The server cannot serve it now; another replica might.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(ErrorKind::Unavailable, message) }
    }

    /// The queue is full; `backlog` is the time it is likely to take.
    fn overloaded(backlog: Duration, why: &str) -> Self {
        let retry_after = backlog.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER);
        let seconds = retry_after.as_secs_f64().ceil();
        let message = format!("The server is busy: {why}. Try again in {seconds} s.");
        let code = Some("queue_full");
        Self { code, retry_after, ..Self::new(ErrorKind::Overloaded, message) }
    }

    /// The same error with a text for the log.
    #[must_use]
    pub fn because(self, why: impl Into<String>) -> Self {
        Self { internal: Some(bounded(why.into())), ..self }
    }

    /// The field that cannot be honoured.
    pub fn param(&self) -> Option<&str> {
        self.param.as_deref()
    }

    /// The same error at another field.
    #[must_use]
    pub fn at(self, param: impl Into<String>) -> Self {
        Self { param: Some(bounded(param.into())), ..self }
    }

    /// The body for clients.
    pub fn envelope(&self) -> ErrorEnvelope {
        ErrorEnvelope {
            error: ErrorBody {
                message: self.message.clone(),
                kind: self.status().1.to_owned(),
                param: self.param.clone(),
                code: self.code.map(str::to_owned),
            },
        }
    }

    /// The code by which clients distinguish errors.
    pub fn code(&self) -> Option<&'static str> {
        self.code
    }

    /// The body for clients of Anthropic's API.
    pub fn in_messages(&self) -> MessageError {
        let kind = match self.kind {
            ErrorKind::NoSuchModel | ErrorKind::NoSuchObject | ErrorKind::NoSuchRoute => {
                "not_found_error"
            }
            ErrorKind::TooLarge => "request_too_large",
            ErrorKind::Overloaded => "rate_limit_error",
            ErrorKind::Unavailable => "overloaded_error",
            ErrorKind::Internal => "api_error",
            ErrorKind::OutOfTime | ErrorKind::SlowReader => "timeout_error",
            ErrorKind::Invalid
            | ErrorKind::WrongMethod
            | ErrorKind::SlowBody
            | ErrorKind::TooManyHeaders
            | ErrorKind::WrongMediaType => "invalid_request_error",
        };
        // This dialect has no field of its own for the request's field.
        let message = match &self.param {
            Some(param) if !self.message.contains(param.as_str()) => {
                format!("{param}: {}", self.message)
            }
            _ => self.message.clone(),
        };
        let error = MessageErrorBody { kind: kind.to_owned(), message };
        MessageError { kind: "error".to_owned(), error }
    }

    /// The text for the log.
    pub fn log_text(&self) -> &str {
        self.internal.as_deref().unwrap_or(&self.message)
    }

    fn status(&self) -> (StatusCode, &'static str) {
        const INVALID: &str = "invalid_request_error";
        match self.kind {
            ErrorKind::Invalid => (StatusCode::BAD_REQUEST, INVALID),
            ErrorKind::NoSuchModel | ErrorKind::NoSuchObject | ErrorKind::NoSuchRoute => {
                (StatusCode::NOT_FOUND, INVALID)
            }
            ErrorKind::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, INVALID),
            ErrorKind::SlowBody | ErrorKind::SlowReader => (StatusCode::REQUEST_TIMEOUT, INVALID),
            ErrorKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, INVALID),
            ErrorKind::TooManyHeaders => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID),
            ErrorKind::WrongMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID),
            ErrorKind::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
            ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
            ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "server_error"),
            ErrorKind::OutOfTime => (StatusCode::GATEWAY_TIMEOUT, "server_error"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status().0, axum::Json(self.envelope())).into_response();
        let headers = response.headers_mut();
        match self.kind {
            ErrorKind::Overloaded | ErrorKind::Unavailable => {
                let seconds = self.retry_after.as_secs_f64().ceil();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small"
                )]
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds as u32));
            }
            // The rest of the body would be read as the next request.
            ErrorKind::TooLarge | ErrorKind::SlowBody | ErrorKind::TooManyHeaders => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            ErrorKind::Invalid
            | ErrorKind::NoSuchModel
            | ErrorKind::NoSuchObject
            | ErrorKind::NoSuchRoute
            | ErrorKind::WrongMethod
            | ErrorKind::WrongMediaType
            | ErrorKind::SlowReader
            | ErrorKind::OutOfTime
            | ErrorKind::Internal => {}
        }
        if self.code == Some(ENGINE_CRASHED) {
            // OpenAI's SDKs retry a 500 without this header.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response.extensions_mut().insert(Internal(self.log_text().to_owned()));
        if self.code == Some(BUSY) {
            response.extensions_mut().insert(Busy);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use forebay_engine::{Failure, SubmitError};

    use super::*;

    #[test]
    fn every_kind_has_its_status_and_type() {
        let check = |error: ApiError, status: u16, kind: &str, code: Option<&str>| {
            let response = error.clone().into_response();
            assert_eq!(response.status().as_u16(), status, "{error:?}");
            let body = error.envelope().error;
            assert_eq!((body.kind.as_str(), body.code.as_deref()), (kind, code), "{error:?}");
        };
        let invalid = "invalid_request_error";
        check(ApiError::not_json("x"), 400, invalid, None);
        check(
            ApiError::context_length("messages", 9, 8),
            400,
            invalid,
            Some("context_length_exceeded"),
        );
        check(ApiError::no_such_model("m"), 404, invalid, Some("model_not_found"));
        check(ApiError::no_such_route(&Method::GET, "/x"), 404, invalid, Some("unknown_url"));
        check(ApiError::not_found("Response", "r"), 404, invalid, Some("not_found"));
        check(ApiError::wrong_method(&Method::GET, "/x"), 405, invalid, Some("method_not_allowed"));
        check(ApiError::slow_body(1), 408, invalid, None);
        check(ApiError::too_large(1), 413, invalid, None);
        check(ApiError::wrong_media_type("x"), 415, invalid, None);
        check(
            SubmitError::QueueFull { limit: 1, backlog: MIN_RETRY_AFTER }.into(),
            429,
            "rate_limit_error",
            Some("queue_full"),
        );
        check(
            Failure::QueueTimeout(MIN_RETRY_AFTER).into(),
            429,
            "rate_limit_error",
            Some("queue_timeout"),
        );
        check(Failure::Timeout(MIN_RETRY_AFTER).into(), 504, "server_error", Some("timeout"));
        check(ApiError::internal("secret"), 500, "server_error", Some("internal_error"));
        check(SubmitError::EngineGone.into(), 503, "server_error", Some("engine_stopped"));
        let too_complex = Some("grammar_too_complex");
        check(Failure::Grammar.into(), 400, "invalid_request_error", too_complex);
        check(Failure::Step.into(), 503, "server_error", Some("step_failed"));
        check(Failure::Crashed.into(), 500, "server_error", Some("engine_crashed"));
        check(Failure::Unread.into(), 408, invalid, Some("response_not_read"));
        let many = SubmitError::TooManyTokens { tokens: 2, limit: 1 };
        check(many.into(), 400, invalid, Some("max_tokens_per_request"));
    }

    #[test]
    fn internal_text_stays_inside() {
        let error = ApiError::internal("secret");
        assert!(!serde_json::to_string(&error.envelope()).unwrap().contains("secret"));
        assert_eq!(error.log_text(), "secret");
        assert_eq!(shown(&"\u{0}é".repeat(200)).chars().count(), 33);
    }

    #[test]
    fn an_overload_has_a_retry_after() {
        let retry = |seconds| {
            let backlog = Duration::from_millis(seconds);
            let full = SubmitError::QueueTokens { tokens: 1, limit: 1, backlog };
            ApiError::from(full).into_response().headers()[RETRY_AFTER].clone()
        };
        assert_eq!([retry(0), retry(7500), retry(9_000_000)], ["1", "8", "300"]);
        let response = ApiError::too_large(1).into_response();
        assert_eq!(response.headers()[CONNECTION], "close");
    }
}
