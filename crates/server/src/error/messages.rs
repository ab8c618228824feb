//! Errors in Anthropic's envelope.

use axum::http::header::CONTENT_LENGTH;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use axum::Json;

/// An error of the Messages API.
#[derive(Debug)]
pub struct MessagesError(ApiError);

impl From<ApiError> for MessagesError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for MessagesError {
    fn into_response(self) -> Response {
        let body = Json(self.0.in_messages()).into_response().into_body();
        let (parts, _) = self.0.into_response().into_parts();
        let mut response = Response::from_parts(parts, body);
        // The length of the other envelope.
        response.headers_mut().remove(CONTENT_LENGTH);
        response
    }
}
