//! The keywords of a schema that output may violate.

/// A keyword that is not, or not always, enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(dead_code, reason = "the grammar of calls adds some by name")]
pub(super) enum Keyword {
    AdditionalProperties,
    AnyOf,
    Const,
    Contains,
    Dependencies,
    DependentRequired,
    DependentSchemas,
    DynamicRef,
    Enum,
    Format,
    If,
    MaxLength,
    MaxProperties,
    MinLength,
    MinProperties,
    Not,
    OneOf,
    Pattern,
    PatternProperties,
    Properties,
    PropertyNames,
    RecursiveRef,
    Ref,
    Required,
    UnevaluatedItems,
    UnevaluatedProperties,
    UniqueItems,
}

/// The names, in the order of [`Keyword`]. A response header consists of these alone.
const NAMES: [&str; 27] = [
    "additionalProperties",
    "anyOf",
    "const",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "$dynamicRef",
    "enum",
    "format",
    "if",
    "maxLength",
    "maxProperties",
    "minLength",
    "minProperties",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "properties",
    "propertyNames",
    "$recursiveRef",
    "$ref",
    "required",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// The set of keywords of a request's schemas that are not enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NotEnforced(u32);

impl Keyword {
    /// As schemas spell it.
    pub(super) fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

impl NotEnforced {
    /// Adds a keyword.
    pub(super) fn add(&mut self, keyword: Keyword) {
        self.0 |= 1 << keyword as u32;
    }

    /// Adds a keyword that the grammar of calls leaves out.
    pub(crate) fn add_named(&mut self, name: &str) {
        let at = NAMES.iter().position(|known| *known == name);
        debug_assert!(at.is_some(), "{name} has no name here");
        self.0 |= at.map_or(0, |at| 1 << at);
    }

    /// The union of both sets.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names, separated by commas; `None` if all keywords are enforced.
    pub fn names(self) -> Option<String> {
        let names = NAMES.iter().enumerate().filter(|(at, _)| self.0 >> at & 1 == 1);
        let names: Vec<&str> = names.map(|(_, name)| *name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_grammar_of_calls_leaves_out_has_a_name_here() {
        for name in [
            "$ref",
            "additionalProperties",
            "anyOf",
            "const",
            "enum",
            "format",
            "maxLength",
            "maxProperties",
            "minLength",
            "minProperties",
            "not",
            "oneOf",
            "pattern",
            "patternProperties",
            "properties",
            "propertyNames",
            "required",
        ] {
            let mut all = NotEnforced::default();
            all.add_named(name);
            assert_eq!(all.names().as_deref(), Some(name));
        }
    }

    #[test]
    fn names_come_once_and_fit_a_header() {
        let mut all = NotEnforced::default();
        assert_eq!(all.names(), None);
        all.add(Keyword::UniqueItems);
        all.add(Keyword::OneOf);
        all.add(Keyword::OneOf);
        let mut more = NotEnforced::default();
        more.add(Keyword::Contains);
        assert_eq!(all.union(more).names().unwrap(), "contains, oneOf, uniqueItems");
        assert_eq!(Keyword::UniqueItems as usize, NAMES.len() - 1);
        let names = NotEnforced((1 << NAMES.len()) - 1).names().unwrap();
        assert!(names.len() < 384 && names.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    }
}
