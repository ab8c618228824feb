//! The OpenAI error envelope.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every response that is not a success, and of an error event inside a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorEnvelope {
    /// The error itself; SDKs read nothing outside this key.
    pub error: ErrorBody,
}

/// All four keys are always present; clients index them without checking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Message for people.
    pub message: String,
    /// The error type: `invalid_request_error`, `server_error`, `rate_limit_error`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The request field at fault as a path, such as `messages[2].content[0].type`.
    pub param: Option<String>,
    /// Stable code for programs, such as `context_length_exceeded`.
    pub code: Option<String>,
}
