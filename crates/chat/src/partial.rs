//! JSON that is not complete.

/// The members of an object that begins a text.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(crate) list: Vec<Member>,
    /// Where it ends, if it does.
    pub(crate) end: Option<usize>,
}

/// A key and as much of its value as there is.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: String,
    start: usize,
    end: usize,
    /// Whether the value is all there.
    pub(crate) complete: bool,
}

impl Member {
    /// The value's text.
    pub(crate) fn text<'t>(&self, of: &'t str) -> &'t str {
        &of[self.start..self.end]
    }
}

/// Reads as much of an object as there is.
pub(crate) fn members(text: &str) -> Members {
    let mut members = Members::default();
    let skip = |from: usize, also: &[char]| {
        let rest = &text[from..];
        let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace() || also.contains(&c));
        text.len() - trimmed.len()
    };
    let mut at = skip(1, &[]);
    while at < text.len() {
        if text[at..].starts_with('}') {
            members.end = Some(at + 1);
            break;
        }
        let (key_end, complete) = value_end(&text[at..]);
        if !complete {
            break;
        }
        let key = serde_json::from_str(&text[at..at + key_end]).unwrap_or_default();
        let start = skip(at + key_end, &[':']);
        if start == text.len() {
            break;
        }
        let (len, complete) = value_end(&text[start..]);
        members.list.push(Member { key, start, end: start + len, complete });
        if !complete {
            break;
        }
        at = skip(start + len, &[',']);
    }
    members
}

/// How long the JSON value is that begins a text, and whether it is all there.
fn value_end(text: &str) -> (usize, bool) {
    let (mut depth, mut in_text, mut escaped) = (0_u32, false, false);
    for (at, c) in text.char_indices() {
        let behind = at + c.len_utf8();
        match c {
            _ if escaped => escaped = false,
            '\\' if in_text => escaped = true,
            '"' => {
                in_text = !in_text;
                if !in_text && depth == 0 {
                    return (behind, true);
                }
            }
            _ if in_text => {}
            '{' | '[' => depth += 1,
            '}' | ']' if depth <= 1 => {
                // The end of this value, or of what holds a number.
                return if depth == 1 { (behind, true) } else { (at, true) };
            }
            '}' | ']' => depth -= 1,
            ',' if depth == 0 => return (at, true),
            _ => {}
        }
    }
    (text.len(), false)
}
