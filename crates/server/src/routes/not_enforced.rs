//! The response header that names the keywords of a schema that are not enforced.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use crate::convert::schema::NotEnforced;

/// The header's name.
pub(crate) const NOT_ENFORCED: HeaderName = HeaderName::from_static("x-forebay-not-enforced");

/// Adds the header to a response, unless all keywords are enforced.
pub(super) fn with_not_enforced(mut response: Response, keywords: NotEnforced) -> Response {
    let value = keywords.names().and_then(|names| HeaderValue::from_str(&names).ok());
    if let Some(value) = value {
        response.headers_mut().insert(NOT_ENFORCED, value);
    }
    response
}
