//! Request bodies in, response bodies out: JSON with our own errors.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cost::{JsonSize, Reservation, measure};
use crate::error::ApiError;
use crate::pool::Effort;
use crate::request_resources::RequestResources;
use crate::response_store::{Owner, ResponseStore};
use crate::state::AppState;

/// Bytes of a body that may arrive before memory is reserved for it: over all requests they are
/// bounded by `max_requests`.
const SMALL_BODY: usize = 16 << 10;

/// A request body: JSON of type `T`, whole within the time and size limits.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

/// The query of a URL.
#[derive(Debug)]
pub struct ApiQuery<T>(pub T);

/// The response store, and whose part of it a request may see.
#[derive(Debug, Clone)]
pub struct StoreAccess {
    /// The store.
    pub store: ResponseStore,
    /// Whose responses and conversations.
    pub owner: Owner,
}

/// A response body as JSON.
#[derive(Debug)]
pub struct Json<T>(pub T);

/// A response body that is JSON text already.
#[derive(Debug)]
pub(crate) struct JsonText(pub String);

impl IntoResponse for JsonText {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl<T: DeserializeOwned + Send + 'static> FromRequest<AppState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_headers(&parts.headers, state.settings.max_body_bytes)?;
        let resources = parts.extensions.get::<RequestResources>();
        let resources =
            resources.ok_or_else(|| ApiError::internal("a request without a budget"))?;
        let timeout = Duration::from_secs(state.settings.body_timeout_s);
        let read =
            tokio::time::timeout(timeout, read(body, resources, state.settings.max_body_bytes));
        let slow = |_| ApiError::slow_body(state.settings.body_timeout_s);
        let Received { bytes, memory } = read.await.map_err(slow)??;
        let (bytes, cost) = measured(bytes, resources).await?;
        resources.reserve(cost).await?;
        let parsed = resources.run(move || {
            let parsed = parse(&bytes);
            drop((bytes, memory));
            parsed
        });
        parsed.await.map(Self)
    }
}

impl<T: DeserializeOwned> FromRequestParts<AppState> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(query)| Self(query)).map_err(|error| {
            let why = crate::error::shown_long(&error.body_text());
            ApiError::invalid("query", "invalid_value", format!("{why}."))
        })
    }
}

impl FromRequestParts<AppState> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        Ok(Self::of_key(parts.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)))
    }
}

impl FromRequestParts<AppState> for StoreAccess {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let store = state.store.clone();
        let store = store.ok_or_else(|| ApiError::turned_off("this server keeps no responses"))?;
        Ok(Self { store, owner: Owner::from_request_parts(parts, state).await? })
    }
}

fn check_headers(headers: &HeaderMap, max_bytes: usize) -> Result<(), ApiError> {
    let encoding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    if encoding.is_some_and(|e| !e.eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::wrong_media_type("Compressed request bodies are not accepted."));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let json = essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"));
    if !json {
        return Err(ApiError::wrong_media_type(
            "The request's content-type must be application/json.",
        ));
    }
    let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > max_bytes as u64 => Err(ApiError::too_large(max_bytes)),
        _ => Ok(()),
    }
}

/// A body as it was received.
struct Received {
    bytes: Bytes,
    /// Reserved for the bytes, until they are parsed.
    memory: Reservation,
}

/// Measures a body; a large one on the pool's threads.
async fn measured(
    bytes: Bytes,
    resources: &RequestResources,
) -> Result<(Bytes, JsonSize), ApiError> {
    let size = JsonSize { bytes: bytes.len(), values: 0 };
    let measure = move || {
        let cost = measure(&bytes)?;
        Ok((bytes, cost))
    };
    match size.effort() {
        Effort::Long => resources.run_at_least(Effort::Long, measure).await,
        Effort::Tiny | Effort::Small | Effort::Short | Effort::Unclear => measure(),
    }
}

/// Reads a body. Memory is reserved for what is there, not for what is announced.
async fn read(
    body: Body,
    resources: &RequestResources,
    limit: usize,
) -> Result<Received, ApiError> {
    let mut body = Limited::new(body, limit);
    let (mut memory, mut reserved) = (Reservation::default(), SMALL_BODY);
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if error.is::<LengthLimitError>() => return Err(ApiError::too_large(limit)),
            Err(error) => {
                return Err(ApiError::not_json("the body broke off").because(error.to_string()));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > reserved {
            // A quarter more at a time. What the buffer has beyond its bytes is not written to.
            let next = bytes.len() + (bytes.len() / 4).max(SMALL_BODY);
            memory.merge(resources.receive(reserved, next).await?);
            reserved = next;
        }
    }
    Ok(Received { bytes: bytes.freeze(), memory })
}

/// Deserializes; an error names the field.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value: T = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            ApiError::of_field(&path, &error)
        } else {
            ApiError::not_json(&position(&error))
        }
    })?;
    json.end().map_err(|error| ApiError::not_json(&position(&error)))?;
    Ok(value)
}

fn position(error: &serde_json::Error) -> String {
    error.to_string()
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => ([(CONTENT_TYPE, "application/json")], bytes).into_response(),
            Err(error) => ApiError::internal(error.to_string()).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocol::chat::ChatCompletionRequest;

    use super::*;

    fn error(text: &str) -> (String, Option<String>, Option<String>) {
        let error = parse::<ChatCompletionRequest>(text.as_bytes()).unwrap_err().envelope().error;
        (error.message, error.param, error.code)
    }

    #[track_caller]
    fn check(text: &str, param: Option<&str>, code: Option<&str>) {
        let (message, got_param, got_code) = error(text);
        assert_eq!((got_param.as_deref(), got_code.as_deref()), (param, code), "{text}: {message}");
    }

    #[test]
    fn wrong_fields_are_named() {
        check(r#"{"model":"m"}"#, Some("messages"), Some("missing_required_parameter"));
        check(
            r#"{"model":"m","messages":[{}]}"#,
            Some("messages[0].role"),
            Some("missing_required_parameter"),
        );
        check(
            r#"{"model":"m","messages":[{"role":"user","content":5}]}"#,
            Some("messages[0].content"),
            Some("invalid_type"),
        );
        let chat = |field: &str| format!(r#"{{"model":"m","messages":[],{field}}}"#);
        check(&chat(r#""max_tokens":"5""#), Some("max_tokens"), Some("invalid_type"));
        check(&chat(r#""max_tokens":1.5"#), Some("max_tokens"), Some("invalid_type"));
        check(&chat(r#""max_tokens":1e308"#), Some("max_tokens"), Some("invalid_type"));
        check(&chat(r#""seed":18446744073709551616"#), Some("seed"), Some("invalid_type"));
        check(&chat(r#""seed":18446744073709551615"#), Some("seed"), Some("invalid_value"));
        check(&chat(r#""stop":[1]"#), Some("stop[0]"), Some("invalid_type"));
    }

    #[test]
    fn what_is_not_json_has_no_param() {
        for text in [
            "{",
            "",
            "\u{feff}{}",
            r#"{"model":"m","messages":[]} x"#,
            r#"{"model":"\ud800","messages":[]}"#,
            "[]",
            "7",
        ] {
            check(text, None, None);
        }
        assert!(parse::<ChatCompletionRequest>(b"{\"model\":\"\xff\"}").is_err());
        check(&"[".repeat(100_000), None, None);
        let deep = format!(r#"{{"model":"m","messages":[],"x":{}"#, "[".repeat(100_000));
        check(&deep, None, None);
    }
}
