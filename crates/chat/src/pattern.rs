//! Text against a pattern learned from a template.

use crate::dialect::ID;

/// How a text begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It begins with the pattern, this long.
    Over(usize),
    /// It ends before the pattern does.
    Short,
    /// It is something else.
    Not,
}

/// Whether `text` begins with `pattern`: space may be more or less, numbers other ones, and an id
/// any id.
pub(crate) fn passes(pattern: &str, text: &str) -> Pass {
    let mut rest = text;
    let mut pattern = pattern.trim_start();
    loop {
        rest = rest.trim_start();
        pattern = pattern.trim_start();
        if pattern.is_empty() {
            return Pass::Over(text.len() - rest.len());
        }
        if rest.is_empty() {
            return Pass::Short;
        }
        if let Some(behind) = pattern.strip_prefix(ID) {
            let len = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (pattern, rest) = (behind, &rest[len..]);
            continue;
        }
        let digits = |s: &str| s.len() - s.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        match (digits(pattern), digits(rest)) {
            (0, _) => {}
            (_, 0) => return Pass::Not,
            (a, b) => {
                (pattern, rest) = (&pattern[a..], &rest[b..]);
                continue;
            }
        }
        let (mut want, mut have) = (pattern.chars(), rest.chars());
        if want.next() != have.next() {
            return Pass::Not;
        }
        (pattern, rest) = (want.as_str(), have.as_str());
    }
}
