//! The pairs that a client may attach to what is made for it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::ApiError;

const MAX_PAIRS: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

/// Holds them to OpenAI's limits.
///
/// # Errors
/// 400 for what is above them.
pub fn check(metadata: Option<&BTreeMap<String, Value>>) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::invalid("metadata", "invalid_value", message));
    let Some(metadata) = metadata else { return Ok(()) };
    if metadata.len() > MAX_PAIRS {
        return refuse(format!("'metadata' can have at most {MAX_PAIRS} pairs."));
    }
    let fits = |(key, value): (&String, &Value)| {
        key.chars().count() <= MAX_KEY
            && value.as_str().is_some_and(|value| value.chars().count() <= MAX_VALUE)
    };
    if !metadata.iter().all(fits) {
        return refuse(format!(
            "'metadata' has keys of at most {MAX_KEY} characters and strings of at most {MAX_VALUE} as values."
        ));
    }
    Ok(())
}
