//! The filter `tojson` as Python's `json.dumps`, which templates are written for. minijinja's own filter escapes `<` and `'`
//! for HTML, which would reach the model.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::fuel::charge_value;
use crate::guard::is_reserved;

/// The filter: `value|tojson`, with `indent` and `ensure_ascii` as in Python; other arguments are
/// accepted and change nothing.
#[expect(clippy::needless_pass_by_value, reason = "the signature of a filter")]
pub(super) fn tojson(state: &State<'_, '_>, value: Value, kwargs: Kwargs) -> Result<String, Error> {
    charge_value(state, &value)?;
    let indent: Option<usize> = kwargs.get("indent")?;
    let mut out = Vec::new();
    let result = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let pretty = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut out, pretty))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut out, Spaced)),
    };
    result.map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("not JSON: {e}")))?;
    let text = String::from_utf8_lossy(&out).into_owned();
    let ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    Ok(if ascii == Some(true) { ascii_only(&text) } else { text })
}

/// JSON with `\uXXXX` for characters other than ASCII, which are in strings only.
fn ascii_only(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Sentinels of the guard stay: they are not in the prompt.
        if c.is_ascii() || is_reserved(c) {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

/// A value on one line, as `json.dumps` writes it.
pub(super) fn dumps(value: &serde_json::Value) -> String {
    let mut out = Vec::new();
    // Writing to memory does not fail, and keys are text.
    let done = value.serialize(&mut Serializer::with_formatter(&mut out, Spaced));
    debug_assert!(done.is_ok());
    String::from_utf8_lossy(&out).into_owned()
}

/// One line with `", "` and `": "`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}
