//! The notation of grammars: [Lark as llguidance reads it](https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).

use serde_json::json;

use crate::tool_call_format::PROBE_ID;

/// Literal text: control tokens by id, as `control` finds them with their lengths in bytes; the probe's id as any id of
/// nine letters and digits.
pub fn lark_literal(text: &str, control: &dyn Fn(&str) -> Option<(u32, usize)>) -> String {
    let (mut out, mut plain) = (Vec::new(), String::new());
    let flush = |plain: &mut String, out: &mut Vec<String>| {
        if !plain.is_empty() {
            out.push(json!(plain).to_string());
            plain.clear();
        }
    };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((token, len)) = control(rest) {
            flush(&mut plain, &mut out);
            out.push(format!("<[{token}]>"));
            rest = &rest[len..];
        } else if let Some(after) = rest.strip_prefix(PROBE_ID) {
            flush(&mut plain, &mut out);
            out.push("/[a-zA-Z0-9]{9}/".to_owned());
            rest = after;
        } else {
            plain.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    flush(&mut plain, &mut out);
    out.join(" ")
}

/// A regular expression for use between slashes: slashes and line breaks in it are escaped, and an unfinished escape at
/// its end is dropped.
pub fn lark_regex(regex: &str) -> String {
    let mut out = String::with_capacity(regex.len());
    let mut escaped = false;
    for c in regex.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            '/' => out.push_str("\\/"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c => {
                out.extend(escaped.then_some('\\'));
                out.push(c);
            }
        }
        escaped = false;
    }
    out
}

/// A regular expression that matches this text only.
pub fn escape_regex(text: &str) -> String {
    let each = text.chars().map(|c| match c {
        '\n' => "\\n".to_owned(),
        c if "\\.+*?()|[]{}^$#&-~/".contains(c) => format!("\\{c}"),
        c => c.to_string(),
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regexes_stay_between_their_slashes() {
        assert_eq!(lark_regex("https?:\\/\\/a/b"), "https?:\\/\\/a\\/b");
        assert_eq!(lark_regex("a\\\\/b\nc"), "a\\\\\\/b\\nc");
    }
}
