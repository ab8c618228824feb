//! Regular expressions, without the parts that the grammar compiler does not enforce.

use super::enforcement::Enforcement;
use super::not_enforced::Keyword;
use super::rewriter::Rewriter;
use crate::error::shown;

/// Unicode classes in a document's expressions, as many as the grammar compiler allows.
const MAX_CLASSES: u64 = 2_000;

impl<'a> Rewriter<'a> {
    /// The expression to enforce for texts or names: as sent, without assertions, or none.
    ///
    /// # Errors
    /// If a strict schema has an unsupported expression, or the budget is used up.
    pub(super) fn expression(
        &mut self,
        sent: &'a str,
        keyword: Keyword,
    ) -> Result<Option<String>, String> {
        let left = match self.enforcement {
            Enforcement::Strict => return self.strict_expression(sent, keyword).map(Some),
            Enforcement::Loosest => None,
            Enforcement::Nearest => match self.expressions.get(sent) {
                Some(left) => left.clone(),
                None => {
                    let left = self.readable(sent)?;
                    self.expressions.insert(sent, left.clone());
                    left
                }
            },
        };
        if left.as_deref() != Some(sent) {
            self.not_enforced.add(keyword);
        }
        Ok(left)
    }

    /// The expression as sent, if the compiler reads it: its own errors come too late to name the field.
    fn strict_expression(&mut self, sent: &'a str, keyword: Keyword) -> Result<String, String> {
        if !self.expressions.contains_key(sent) {
            let can_read = sent.len() > forebay_engine::MAX_EXPRESSION || self.can_read(sent)?;
            if !can_read {
                let why = match without_assertions(sent) == sent {
                    true => "is not a regular expression that is supported",
                    false => {
                        "has look-around, a word boundary or a reference to a group, which is not supported"
                    }
                };
                let shown = shown(sent);
                return Err(format!("its '{}' {why}: '{shown}'", keyword.name()));
            }
            self.expressions.insert(sent, None);
        }
        Ok(sent.to_owned())
    }

    /// The expression, or that without assertions, whichever the compiler reads.
    fn readable(&mut self, sent: &str) -> Result<Option<String>, String> {
        if self.can_read(sent)? {
            return Ok(Some(sent.to_owned()));
        }
        let without = without_assertions(sent);
        Ok(if without != sent && self.can_read(&without)? { Some(without) } else { None })
    }

    fn can_read(&mut self, expression: &str) -> Result<bool, String> {
        self.spend(1 + expression.len() / 64)?;
        self.classes += forebay_engine::unicode_classes(expression);
        if self.classes > MAX_CLASSES {
            return Err(format!("its expressions have more than {MAX_CLASSES} Unicode classes"));
        }
        Ok(forebay_engine::reads_expression(expression))
    }
}

/// The same expression without look-around, word boundaries and references to groups, which only
/// ever narrow what an expression matches: a superset. One pass, without recursion.
pub(super) fn without_assertions(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    // Groups that are open inside a look-around, that included.
    let mut inside = 0_u32;
    let mut in_class = false;
    while let Some(first) = rest.chars().next() {
        let (take, put) = next(rest, first, in_class, inside == 0);
        match (first, in_class) {
            ('[', false) => in_class = true,
            (']', true) => in_class = false,
            ('(', false) if inside > 0 || take > 1 => inside += 1,
            (')', false) if inside > 0 => {
                inside -= 1;
                rest = &rest[take..];
                continue;
            }
            _ => {}
        }
        if inside == 0 || take > 1 && first == '(' && inside == 1 {
            out.push_str(put);
        }
        rest = &rest[take..];
        // A bracket that a class begins with belongs to it.
        if in_class && first == '[' && (rest.starts_with(']') || rest.starts_with("^]")) {
            let end = rest.find(']').map_or(0, |at| at + 1);
            if inside == 0 {
                out.push_str(&rest[..end]);
            }
            rest = &rest[end..];
        }
    }
    out
}

/// The length of the next item of an expression, in bytes, and its replacement.
fn next(rest: &str, first: char, in_class: bool, outside: bool) -> (usize, &str) {
    const AROUND: [&str; 4] = ["(?=", "(?!", "(?<=", "(?<!"];
    if first == '\\' {
        let len = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
        return match rest.as_bytes().get(1) {
            // A boundary is an assertion.
            Some(b'b' | b'B') if !in_class => (len, "(?:)"),
            // The group that a reference repeats, by all the digits of its number, may be any text.
            Some(b'1'..=b'9') if !in_class => {
                let digits = rest.bytes().skip(1).take_while(u8::is_ascii_digit).count();
                (1 + digits, "(?:[\\s\\S]*)")
            }
            _ => (len, &rest[..len]),
        };
    }
    if first == '(' && !in_class && outside {
        let around = AROUND.iter().find(|around| rest.starts_with(**around));
        if let Some(around) = around {
            return (around.len(), "(?:)");
        }
    }
    (first.len_utf8(), &rest[..first.len_utf8()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_are_left_out() {
        for (pattern, without) in [
            ("^(?!foo)[a-z]+$", "^(?:)[a-z]+$"),
            ("^(?=.*[0-9])(?=.*[)])a(b|c)$", "^(?:)(?:)a(b|c)$"),
            ("(?<!a(b(c)))d(?<=e)", "(?:)d(?:)"),
            ("(?!\\))x", "(?:)x"),
            ("\\bword\\b[\\b]", "(?:)word(?:)[\\b]"),
            ("(a)\\1", "(a)(?:[\\s\\S]*)"),
            ("(a)\\12+b[\\12]", "(a)(?:[\\s\\S]*)+b[\\12]"),
            ("[(?!]a[]b](?=c)", "[(?!]a[]b](?:)"),
            ("(?:a)(?P<n>b)(?<m>c)", "(?:a)(?P<n>b)(?<m>c)"),
            ("(?=a", "(?:)"),
            ("a\\", "a\\"),
            ("é(?=ü)ß\\ü", "é(?:)ß\\ü"),
            ("(?=(?!a)b)c", "(?:)c"),
        ] {
            assert_eq!(without_assertions(pattern), without, "{pattern}");
        }
    }
}
