//! How strictly a schema is enforced.

/// What becomes of keywords that cannot be enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::convert) enum Enforcement {
    /// The schema is refused, by the name of the keyword.
    Strict,
    /// The others are enforced, and these are noted.
    Nearest,
    /// As `Nearest`, without regular expressions: for schemas whose expressions exceed the compiler's limits.
    Loosest,
}

impl Enforcement {
    /// By a `strict` field; without one, `Nearest`.
    pub(in crate::convert) fn of(strict: Option<bool>) -> Self {
        if strict == Some(true) { Self::Strict } else { Self::Nearest }
    }

    /// What to try if the compiler refuses the grammar.
    pub(in crate::convert) fn weaker(self) -> Option<Self> {
        (self == Self::Nearest).then_some(Self::Loosest)
    }
}
