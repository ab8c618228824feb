//! The texts that an argument's schemas allow: listed ones, those that match constraints, or any. Keywords that would need
//! a comparison of regular expressions or formats are not enforced here.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::value_types::{Argument, MAX_DEPTH, MAX_STEPS, type_allows_texts};

/// Alternative constraints that listed texts are compared with, and patterns that have to match together, at most.
const MAX_COMPARED: usize = 16;

/// A set of texts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TextSet<'s> {
    /// Any text.
    Any,
    /// This one.
    Listed(&'s str),
    /// All texts that match this.
    Constrained(TextConstraint<'s>),
}

/// What a text has to match.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TextConstraint<'s> {
    /// Regular expressions, each of which matches somewhere in the text.
    pub(crate) patterns: Vec<&'s str>,
    /// The minimum length in characters.
    pub(crate) min_length: u64,
    /// The maximum length in characters.
    pub(crate) max_length: Option<u64>,
    /// Whether there is a `format`.
    pub(crate) has_format: bool,
}

/// The texts that an argument may be.
#[derive(Debug, Default)]
pub(crate) struct AllowedTexts<'s> {
    /// The union of these sets contains all allowed texts.
    pub(crate) sets: Vec<TextSet<'s>>,
    /// Keywords that texts in the sets may violate.
    pub(crate) not_enforced: BTreeSet<&'static str>,
}

impl<'s> AllowedTexts<'s> {
    /// The texts that an argument may be. Adds the schemas, values and text visited to `spent`.
    pub(crate) fn of(argument: Argument<'_, 's>, spent: &mut usize) -> Self {
        let mut collector =
            TextCollector { argument, steps: 0, bytes: 0, not_enforced: BTreeSet::new() };
        let mut sets = vec![TextSet::Any];
        for schema in argument.schemas.iter().take(MAX_STEPS) {
            let own = collector.collect(schema, 0);
            sets = collector.intersection(sets, own);
        }
        *spent += collector.steps + collector.bytes / 16 + sets.len();
        Self { sets, not_enforced: collector.not_enforced }
    }
}

impl<'s> TextConstraint<'s> {
    /// Whether it constrains more than the length.
    pub(crate) fn is_more_than_lengths(&self) -> bool {
        self.has_format || !self.patterns.is_empty()
    }

    /// The constraint that both together are.
    fn and(mut self, other: &Self) -> Self {
        self.patterns.extend(&other.patterns);
        self.min_length = self.min_length.max(other.min_length);
        self.max_length = [self.max_length, other.max_length].into_iter().flatten().min();
        self.has_format |= other.has_format;
        self
    }

    /// Whether the length of a text, in characters, matches.
    fn fits(&self, length: u64) -> bool {
        self.min_length <= length && self.max_length.is_none_or(|most| length <= most)
    }

    /// The keywords that it consists of.
    fn keywords(&self) -> impl Iterator<Item = &'static str> {
        let each = [
            ("format", self.has_format),
            ("maxLength", self.max_length.is_some()),
            ("minLength", self.min_length > 0),
            ("pattern", !self.patterns.is_empty()),
        ];
        each.into_iter().filter(|(_, is)| *is).map(|(name, _)| name)
    }
}

struct TextCollector<'r, 's> {
    argument: Argument<'r, 's>,
    steps: usize,
    /// Bytes of listed texts that were compared.
    bytes: usize,
    not_enforced: BTreeSet<&'static str>,
}

impl<'s> TextCollector<'_, 's> {
    /// The texts that a schema allows.
    fn collect(&mut self, schema: &'s Value, depth: usize) -> Vec<TextSet<'s>> {
        self.steps += 1;
        let map = match schema {
            Value::Bool(false) => return Vec::new(),
            Value::Object(map) if self.steps <= MAX_STEPS && depth <= MAX_DEPTH => map,
            Value::Object(map) if !map.is_empty() => {
                // Schemas beyond the limit may allow anything.
                self.not_enforced.insert("anyOf");
                return vec![TextSet::Any];
            }
            _ => return vec![TextSet::Any],
        };
        let mut texts = vec![TextSet::Any];
        let (names, alone) = self.argument.references.applying(map);
        for name in names {
            self.steps += name.len() / 16;
            if let Some(target) = self.argument.references.find(name) {
                let own = self.collect(target, depth + 1);
                texts = self.intersection(texts, own);
            }
        }
        if alone {
            return texts;
        }
        if map.get("type").is_some_and(|names| !type_allows_texts(names)) {
            return Vec::new();
        }
        let list = |key: &str| map.get(key).and_then(Value::as_array);
        let one = map.get("const").map(std::slice::from_ref);
        for all in [one, list("enum").map(Vec::as_slice)].into_iter().flatten() {
            self.steps += all.len();
            let own = all.iter().filter_map(Value::as_str).map(TextSet::Listed).collect();
            texts = self.intersection(texts, own);
        }
        let own = self.constraint(map);
        texts = self.intersection(texts, own);
        for all in [list("anyOf"), list("oneOf")].into_iter().flatten() {
            let own = self.any_of(all, depth);
            texts = self.intersection(texts, own);
        }
        for one in list("allOf").into_iter().flatten() {
            let own = self.collect(one, depth + 1);
            texts = self.intersection(texts, own);
            if self.steps > MAX_STEPS {
                self.not_enforced.insert("anyOf");
                break;
            }
        }
        texts
    }

    /// The texts that any of these schemas allows.
    fn any_of(&mut self, all: &'s [Value], depth: usize) -> Vec<TextSet<'s>> {
        let mut texts = Vec::new();
        for one in all {
            if self.argument.allows_texts(one, depth + 1, &mut self.steps) {
                texts.extend(self.collect(one, depth + 1));
            }
            if self.steps > MAX_STEPS {
                self.not_enforced.insert("anyOf");
                return vec![TextSet::Any];
            }
        }
        texts
    }

    /// The texts that a schema's own keywords about texts allow.
    fn constraint(&mut self, map: &'s Map<String, Value>) -> Vec<TextSet<'s>> {
        let mut own = TextConstraint {
            patterns: map.get("pattern").and_then(Value::as_str).into_iter().collect(),
            has_format: map.contains_key("format"),
            ..TextConstraint::default()
        };
        for key in ["minLength", "maxLength"] {
            match map.get(key).map(Value::as_u64) {
                None => {}
                Some(None) => {
                    self.not_enforced.insert(key);
                }
                Some(Some(length)) if key == "minLength" => own.min_length = length,
                Some(length) => own.max_length = length,
            }
        }
        match own {
            own if own == TextConstraint::default() => vec![TextSet::Any],
            own if own.max_length.is_some_and(|most| most < own.min_length) => Vec::new(),
            own => vec![TextSet::Constrained(own)],
        }
    }

    /// The texts that are in both unions.
    fn intersection(
        &mut self,
        these: Vec<TextSet<'s>>,
        those: Vec<TextSet<'s>>,
    ) -> Vec<TextSet<'s>> {
        if these == [TextSet::Any] {
            return those;
        }
        if those.contains(&TextSet::Any) {
            return these;
        }
        if these.contains(&TextSet::Any) {
            return those;
        }
        let is_list =
            |texts: &[TextSet<'_>]| texts.iter().all(|one| matches!(one, TextSet::Listed(_)));
        match (these.as_slice(), those.as_slice()) {
            (_, all) if is_list(&these) => self.listed_in(&these, all),
            (all, _) if is_list(&those) => self.listed_in(&those, all),
            (all, [TextSet::Constrained(one)]) | ([TextSet::Constrained(one)], all) => {
                self.constrained(all, one)
            }
            (_, all) => {
                self.drop_keywords(all);
                these
            }
        }
    }

    /// The texts of a list that are in one of the other sets.
    fn listed_in(&mut self, list: &[TextSet<'s>], others: &[TextSet<'s>]) -> Vec<TextSet<'s>> {
        let (mut names, mut constraints) = (HashSet::new(), Vec::new());
        for other in others {
            match other {
                TextSet::Listed(text) => {
                    names.insert(*text);
                }
                TextSet::Constrained(constraint) => constraints.push(constraint),
                TextSet::Any => {}
            }
        }
        if constraints.len() > MAX_COMPARED {
            self.drop_keywords(others);
            return list.to_vec();
        }
        let mut found = Vec::new();
        for one in list {
            let TextSet::Listed(text) = one else { continue };
            self.bytes += text.len();
            if names.contains(text) || self.matches_one(text, &constraints) {
                found.push(one.clone());
            }
        }
        found
    }

    /// Whether a text matches one of these constraints by its length; patterns and formats are not compared.
    fn matches_one(&mut self, text: &str, constraints: &[&TextConstraint<'s>]) -> bool {
        if constraints.is_empty() {
            return false;
        }
        let length = text.chars().count() as u64;
        let fitting = constraints.iter().filter(|one| one.fits(length));
        let Some(found) = fitting.min_by_key(|one| one.is_more_than_lengths()) else {
            return false;
        };
        let rest = found.keywords().filter(|key| matches!(*key, "format" | "pattern"));
        self.not_enforced.extend(rest);
        true
    }

    /// The texts in these sets that match a constraint as well.
    fn constrained(&mut self, texts: &[TextSet<'s>], by: &TextConstraint<'s>) -> Vec<TextSet<'s>> {
        let mut found = Vec::new();
        for one in texts {
            match one {
                TextSet::Listed(text) => {
                    self.bytes += text.len();
                    found.extend(self.matches_one(text, &[by]).then(|| one.clone()));
                }
                TextSet::Constrained(own) => {
                    let mut both = own.clone().and(by);
                    if both.patterns.len() > MAX_COMPARED {
                        both.patterns.truncate(MAX_COMPARED);
                        self.not_enforced.insert("pattern");
                    }
                    let some = both.max_length.is_none_or(|most| both.min_length <= most);
                    found.extend(some.then_some(TextSet::Constrained(both)));
                }
                TextSet::Any => found.push(TextSet::Constrained(by.clone())),
            }
        }
        self.steps += texts.len();
        found
    }

    /// Adds the keywords of these sets to those that are not enforced.
    fn drop_keywords(&mut self, texts: &[TextSet<'s>]) {
        for one in texts {
            match one {
                TextSet::Constrained(constraint) => self.not_enforced.extend(constraint.keywords()),
                TextSet::Listed(_) => {
                    self.not_enforced.insert("enum");
                }
                TextSet::Any => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::references::References;

    fn found(schema: &Value) -> (Vec<String>, Vec<&'static str>) {
        let root =
            json!({"$defs": {"a": {"enum": ["x", 1]}, "b": {"type": "string", "maxLength": 3}}});
        let shown = |text: &TextSet<'_>| match text {
            TextSet::Any => "any".to_owned(),
            TextSet::Listed(text) => (*text).to_owned(),
            TextSet::Constrained(TextConstraint {
                patterns,
                min_length: least,
                max_length: most,
                has_format,
            }) => {
                let most = most.map_or(String::new(), |most| most.to_string());
                let format = if *has_format { " format" } else { "" };
                format!("{}{{{least},{most}}}{format}", patterns.join("&"))
            }
        };
        let references = References::new(&root);
        let argument = Argument { schemas: &[schema], references: &references };
        let AllowedTexts { sets, not_enforced } = AllowedTexts::of(argument, &mut 0);
        (sets.iter().map(shown).collect(), not_enforced.into_iter().collect())
    }

    #[test]
    fn texts_by_all_keywords() {
        let b = "{0,3}";
        for (schema, wanted) in [
            (json!({"$ref": "#/$defs/a"}), vec!["x"]),
            (json!({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}), vec!["x", b]),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), vec!["any"]),
            (json!({"allOf": [{"type": "string"}, {"$ref": "#/$defs/b"}]}), vec![b]),
            (
                json!({"allOf": [{"$ref": "#/$defs/b"}, {"enum": ["x", "y"]}, {"enum": ["y", "z"]}]}),
                vec!["y"],
            ),
            (json!({"type": "integer"}), vec![]),
            (json!({}), vec!["any"]),
            // Keywords of one schema count together.
            (json!({"pattern": "^a", "minLength": 2, "$ref": "#/$defs/b"}), vec!["^a{2,3}"]),
            (json!({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}), vec!["a&b{0,}"]),
            (json!({"enum": ["x", "long", "é"], "maxLength": 1}), vec!["x", "é"]),
            (json!({"enum": ["x"], "minLength": 2}), vec![]),
            (json!({"minLength": 3, "maxLength": 2}), vec![]),
            (json!({"const": "x", "enum": ["x", "y"]}), vec!["x"]),
            (
                json!({"minLength": 2, "anyOf": [{"pattern": "a"}, {"enum": ["b", "bc"]}]}),
                vec!["a{2,}", "bc"],
            ),
            (json!({"format": "uuid"}), vec!["{0,} format"]),
        ] {
            let wanted = wanted.into_iter().map(str::to_owned).collect();
            assert_eq!(found(&schema), (wanted, vec![]), "{schema}");
        }
    }

    #[test]
    fn keywords_that_are_not_compared_are_not_enforced() {
        let either = |one: &str| json!({"anyOf": [{"pattern": one}, {"maxLength": 2}]});
        for (schema, not_enforced) in [
            (json!({"enum": ["x"], "pattern": "y"}), vec!["pattern"]),
            (json!({"enum": ["x"], "format": "uuid"}), vec!["format"]),
            (json!({"allOf": [either("a"), either("b")]}), vec!["maxLength", "pattern"]),
        ] {
            assert_eq!(found(&schema).1, not_enforced, "{schema}");
        }
    }
}
