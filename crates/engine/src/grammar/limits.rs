//! Limits of what a grammar's source may cost to compile.

use super::source::GrammarError;

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

/// The cost of compiling a source, in schemas and symbols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) units: u64,
}

/// Checks a count of `what` against a limit.
///
/// # Errors
/// [`GrammarError`] if it is above `most`.
pub(super) fn within(count: u64, most: u64, what: &str) -> Result<(), GrammarError> {
    if count > most {
        return Err(GrammarError(format!("it has {count} {what}; the most is {most}")));
    }
    Ok(())
}
