//! Bounds the cost of compiling a grammar by its source, before it is compiled.
//!
//! llguidance recurses along references and nesting (at most 3.4 kB of stack per level, measured), copies a referenced
//! schema wherever constraints stand beside the reference, and compares properties in pairs. All of that is counted on
//! the source, with lists instead of recursion, so that a source that would cost too much is refused in linear time.

use super::expression::unicode_classes;
use super::limits::{Cost, MAX_CLASSES, MAX_SOURCE, within};
use super::source::{Grammar, GrammarError};
use super::{lark_cost, schema_cost};

/// Refuses, in linear time, a grammar that costs too much to compile, and one in Lark's notation whose lexemes cannot be
/// read or whose braces do not match: an accepted grammar can be nested in another one.
///
/// # Errors
/// [`GrammarError`], with the reason.
pub fn check_source(grammar: &Grammar) -> Result<(), GrammarError> {
    check(grammar).map(|_| ())
}

/// Counts what a grammar costs to compile.
///
/// # Errors
/// [`GrammarError`] if it is more than allowed, or if the source cannot be read.
pub(super) fn check(grammar: &Grammar) -> Result<Cost, GrammarError> {
    let source = grammar.source();
    within(source.len() as u64, MAX_SOURCE as u64, "bytes")?;
    match grammar {
        Grammar::JsonSchema(schema) => {
            let schema = serde_json::from_str(schema).map_err(|e| GrammarError(e.to_string()))?;
            within(unicode_classes(source), MAX_CLASSES, "Unicode classes")?;
            schema_cost::check(&schema)
        }
        Grammar::Regex(regex) => {
            within(unicode_classes(regex), MAX_CLASSES, "Unicode classes")?;
            Ok(Cost { units: regex.len() as u64 })
        }
        Grammar::Lark(lark) => {
            within(unicode_classes(lark), MAX_CLASSES, "Unicode classes")?;
            lark_cost::check(lark)
        }
    }
}
