//! Values of arguments without quotes: whether they are texts or JSON. The parser and the grammar of calls both ask here,
//! so that what the grammar allows is read back as it was.

use crate::json_scanner::compact;
use crate::literal::{json_string, parse_literal};

/// The longest key of an argument, or word for a value's type, in bytes. The text with a longer one is no call.
pub(crate) const MAX_KEY: usize = 1024;

/// The value without the line break that a template may write at either end of it.
pub(crate) fn trim_line_breaks(raw: &str) -> &str {
    let raw = raw.strip_prefix('\n').unwrap_or(raw);
    raw.strip_suffix('\n').unwrap_or(raw)
}

/// A value that may be a text or JSON, as JSON: what is JSON or a Python literal stays it, all else is a string.
pub(crate) fn to_json(raw: &str) -> String {
    literal_json(raw).unwrap_or_else(|| json_string(raw))
}

/// Whether [`to_json`] takes a value for a text.
pub(crate) fn is_text(raw: &str) -> bool {
    literal_json(raw).is_none()
}

/// JSON or a Python literal, as JSON.
fn literal_json(raw: &str) -> Option<String> {
    let trimmed = raw.trim();
    if serde_json::from_str::<serde::de::IgnoredAny>(trimmed).is_ok() {
        return Some(compact(trimmed));
    }
    let is_literal =
        matches!(trimmed, "True" | "False" | "None") || trimmed.starts_with(['[', '{']);
    if is_literal { parse_literal(trimmed) } else { None }
}
