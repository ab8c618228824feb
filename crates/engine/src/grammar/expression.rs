//! Whether a regular expression of a JSON Schema is one that the grammar compiler reads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llguidance::derivre::{RegexAst, RegexBuilder};
use llguidance::regex_to_lark;

/// The longest expression that is tried, in bytes.
const MAX_LENGTH: usize = 16 << 10;

/// Whether the compiler reads an expression as JSON Schema means it: found somewhere in a text, with
/// `\d` and `\w` for ASCII alone.
///
/// It takes time by the expression's length and its [`unicode_classes`], which the caller bounds.
pub fn reads_expression(expression: &str) -> bool {
    expression.len() <= MAX_LENGTH
        && catch_unwind(AssertUnwindSafe(|| {
            let search = RegexAst::SearchRegex(regex_to_lark(expression, "dw"));
            RegexBuilder::new().mk(&search).is_ok()
        }))
        .unwrap_or(false)
}

/// Unicode classes in regular expressions of a source: up to 700 ranges each. Escaped backslashes
/// count too: a bound, not a parser.
pub fn unicode_classes(source: &str) -> u64 {
    let pairs = source.as_bytes().windows(2);
    pairs.filter(|pair| pair[0] == b'\\' && b"wWdDsSpP".contains(&pair[1])).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_are_not_read() {
        for expression in ["", "^a$|^b$", "a", "^[\\w.-]+@\\d{2,}$", "\\p{L}", "(?i)a"] {
            assert!(reads_expression(expression), "{expression}");
        }
        for expression in ["(?=a)", "a(?!b)", "\\bx", "(", "a$b", "(a)\\1", "\\p{None}"] {
            assert!(!reads_expression(expression), "{expression}");
        }
        assert!(!reads_expression(&"(".repeat(10_000)));
        assert_eq!(unicode_classes("\\d\\a\\p{L}"), 2);
    }
}
