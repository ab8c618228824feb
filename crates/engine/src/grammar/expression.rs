//! Whether a regular expression of a JSON Schema is one that the grammar compiler reads.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llguidance::derivre::{RegexAst, RegexBuilder};
use llguidance::regex_to_lark;

/// The longest expression that [`reads_expression`] tries, in bytes.
pub const MAX_EXPRESSION: usize = 16 << 10;
/// What finding out whether some text matches may take, in the steps that the compiler counts.
const MAX_SEARCH: u64 = 10_000;

/// Whether the compiler reads an expression as JSON Schema means it: found somewhere in a text, with
/// `\d` and `\w` for ASCII alone.
///
/// It takes time by the expression's length and its [`unicode_classes`], which the caller bounds.
pub fn reads_expression(expression: &str) -> bool {
    expression.len() <= MAX_EXPRESSION
        && catch_unwind(AssertUnwindSafe(|| {
            let search = RegexAst::SearchRegex(regex_to_lark(expression, "dw"));
            RegexBuilder::new().mk(&search).is_ok()
        }))
        .unwrap_or(false)
}

/// Whether some text matches, as a whole, all of some expressions and none of others; `None` if an expression
/// is not read or finding out would take too long.
///
/// It takes time by the expressions' lengths and their [`unicode_classes`], which the caller bounds.
pub fn some_text_matches(all: &[&str], none: &[&str]) -> Option<bool> {
    let each = |of: &[&str]| of.iter().map(|one| RegexAst::Regex((*one).to_owned())).collect();
    let mut parts: Vec<RegexAst> = each(all);
    if !none.is_empty() {
        parts.push(RegexAst::Not(Box::new(RegexAst::Or(each(none)))));
    }
    catch_unwind(AssertUnwindSafe(|| {
        let mut builder = RegexBuilder::new();
        let regex = builder.mk(&RegexAst::And(parts)).ok()?;
        let mut regex = builder.into_regex_limited(regex, MAX_SEARCH).ok()?;
        Some(!regex.always_empty())
    }))
    .ok()
    .flatten()
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
    fn expressions_that_no_text_matches_are_found() {
        let name = "[a-z]{1,64}";
        for (all, none, some) in [
            (vec![name], vec![], Some(true)),
            (vec![name, ".*(b).*"], vec!["a", "b"], Some(true)),
            (vec![name, "(b)"], vec!["a", "b"], Some(false)),
            (vec![name, "([0-9]).*"], vec![], Some(false)),
            (vec![name], vec![".*().*"], Some(false)),
            (vec![name, "(?=a)"], vec![], None),
            (
                vec![".*x0.{10}y", ".*x1.{10}y", ".*x2.{10}y", ".*x3.{10}y", ".*x4.{10}y"],
                vec![],
                None,
            ),
        ] {
            assert_eq!(some_text_matches(&all, &none), some, "{all:?} {none:?}");
        }
    }

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
