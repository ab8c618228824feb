//! OpenAI's limits of `metadata`, the pairs that a client attaches to an object.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::ApiError;

const MAX_PAIRS: usize = 16;
const MAX_KEY: usize = 64;
const MAX_VALUE: usize = 512;

/// Checks metadata against OpenAI's limits.
///
/// # Errors
/// 400 if it exceeds them.
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
