//! What the fields of a request are validated against, and those that no struct carries.

use std::collections::BTreeMap;

use forebay_engine::Vocab;
use forebay_protocol::fields::{FieldRule, TableRow, lookup};
use serde_json::Value;

use crate::admission::Caller;
use crate::error::{ApiError, shown};

/// What a request's fields are validated against: plain values of the model, the settings and the headers.
#[derive(Debug, Clone, Copy)]
pub struct RequestRules<'a> {
    /// The model's vocabulary.
    pub vocab: &'a Vocab,
    /// Whether the model's template has a control for the amount of reasoning.
    pub has_effort_control: bool,
    /// Whether unknown fields are refused.
    pub strict: bool,
    /// The most replies to one prompt.
    pub max_choices: u32,
    /// Who sent the request.
    pub caller: Caller,
}

#[cfg(any(test, feature = "fuzzing"))]
impl<'a> RequestRules<'a> {
    /// Without a caller, for tests and fuzz targets.
    #[doc(hidden)]
    pub fn without_caller(vocab: &'a Vocab, strict: bool, has_effort_control: bool) -> Self {
        let caller = Caller { principal: forebay_engine::Principal(0), timeout: None };
        Self { vocab, has_effort_control, strict, max_choices: 16, caller }
    }
}

/// Accepts or refuses the fields that no struct carries. Returns the names of unknown ones.
///
/// # Errors
/// 400 for the first that is refused.
pub fn check_extra(
    table: &[TableRow],
    extra: &BTreeMap<String, Value>,
    strict: bool,
) -> Result<Vec<String>, ApiError> {
    let mut unknown = Vec::new();
    for (name, value) in extra.iter().filter(|(_, value)| !value.is_null()) {
        match lookup(table, name) {
            Some(FieldRule::Hint) => {}
            Some(FieldRule::Refused { unless, .. }) if unless(value) => {}
            Some(FieldRule::Refused { why, .. }) => {
                let message = format!("'{name}' is not supported: {why}.");
                return Err(ApiError::invalid(name, "unsupported_parameter", message));
            }
            None if strict => {
                let name = shown(name);
                let message = format!("Unknown parameter: '{name}'.");
                return Err(ApiError::invalid(name, "unknown_parameter", message));
            }
            None => unknown.push(shown(name)),
        }
    }
    Ok(unknown)
}

/// Logs the names of ignored fields, at debug level.
pub fn log_unknown(unknown: &[String]) {
    if !unknown.is_empty() {
        tracing::debug!(fields = ?unknown, "unknown request fields are ignored");
    }
}
