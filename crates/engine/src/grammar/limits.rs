//! What a grammar's source may cost to compile, checked before it is compiled.
//!
//! llguidance recurses along references and nesting (at most 3.4 kB of stack a level, measured),
//! copies a referenced schema into each place where something stands beside the reference, and
//! compares properties in pairs. All of that is counted here on the source, with lists instead of
//! recursion, so that a source that would cost too much is refused in linear time.

use super::expression::unicode_classes;
use super::{Grammar, GrammarError};
use super::{lark_cost, schema_cost};

/// The longest source of a grammar, in bytes.
pub const MAX_SOURCE: usize = 256 << 10;
/// How deep the compiler may descend: rules or schemas that refer to one another in a row, each
/// with its own nesting. At this bound it uses 14 MB of stack.
pub(super) const MAX_LEVELS: u64 = 4_000;
/// How deep brackets may be nested in Lark's notation.
pub(super) const MAX_NESTING: u32 = 64;
/// Schemas and symbols after references are resolved where the compiler copies their targets.
pub(super) const MAX_UNITS: u64 = 50_000;
/// Pairs of properties, over all objects: as many as 2,000 properties in one object have. Schemas of a
/// `oneOf` count as well.
pub(super) const MAX_PAIRS: u64 = 4_000_000;
/// Pairs of pattern properties, over all objects: each is compiled and intersected.
pub(super) const MAX_PATTERN_PAIRS: u64 = 4_096;
/// Expressions (`pattern`, `format`) that one text has to match: the automaton of all is as large as the product of
/// theirs, and is searched whenever a token is chosen. Five small ones took 20 seconds.
pub(super) const MAX_EXPRESSIONS_TOGETHER: u64 = 3;
/// Properties of an object of which a number is required (`minProperties`, `maxProperties`): the
/// compiler writes an alternative for each.
pub(super) const MAX_COUNTED_PROPERTIES: u64 = 64;
/// Unicode classes (`\w`, `\p{..}`): up to 700 ranges each.
pub(super) const MAX_CLASSES: u64 = 2_000;
/// Characters of all terminals after their references are resolved: 16 bytes each while compiling.
pub(super) const MAX_TERMINALS: u64 = 2 << 20;

/// What compiling a source costs, in schemas and symbols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) units: u64,
}

/// Refuses what is above a bound.
pub(super) fn within(count: u64, most: u64, what: &str) -> Result<(), GrammarError> {
    if count > most {
        return Err(GrammarError(format!("it has {count} {what}; the most is {most}")));
    }
    Ok(())
}

/// Refuses a grammar that costs too much to compile, and one in Lark's notation whose lexemes cannot be read
/// or whose braces do not match: what is accepted can stand within another grammar. In linear time.
///
/// # Errors
/// [`GrammarError`], which says why.
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
