//! The texts that an argument's schemas allow, where arguments come one by one: listed ones, those that match
//! constraints, or any.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use crate::argument::{Argument, MAX_DEPTH, MAX_STEPS, names_texts};

/// Constraints of which one has to match that listed texts are compared with, and expressions that have to
/// match together.
const MAX_COMPARED: usize = 16;

/// Texts that a schema allows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Texts<'s> {
    /// Any text.
    Any,
    /// This one.
    Listed(&'s str),
    /// Those that match this.
    Constrained(Constraint<'s>),
}

/// What a text has to match.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Constraint<'s> {
    /// Expressions, all of which are found in it.
    pub(crate) patterns: Vec<&'s str>,
    /// The fewest characters that it has.
    pub(crate) least: u64,
    /// The most characters that it has.
    pub(crate) most: Option<u64>,
    /// Whether it has a format.
    pub(crate) has_format: bool,
}

/// The texts that an argument allows, or more.
#[derive(Debug, Default)]
pub(crate) struct Found<'s> {
    /// Each of them is allowed.
    pub(crate) texts: Vec<Texts<'s>>,
    /// Keywords that these may violate.
    pub(crate) left_out: BTreeSet<&'static str>,
}

/// The texts that an argument allows. `spent` counts work.
pub(crate) fn texts_of<'s>(argument: Argument<'_, 's>, spent: &mut usize) -> Found<'s> {
    let mut collector = Collector { argument, steps: 0, bytes: 0, left_out: BTreeSet::new() };
    let mut texts = vec![Texts::Any];
    for schema in argument.schemas.iter().take(MAX_STEPS) {
        let own = collector.collect(schema, 0);
        texts = collector.both(texts, own);
    }
    *spent += collector.steps + collector.bytes / 16 + texts.len();
    Found { texts, left_out: collector.left_out }
}

impl<'s> Constraint<'s> {
    /// Whether it allows other texts than their lengths say.
    pub(crate) fn is_more_than_lengths(&self) -> bool {
        self.has_format || !self.patterns.is_empty()
    }

    /// What both say.
    fn and(mut self, other: &Self) -> Self {
        self.patterns.extend(&other.patterns);
        self.least = self.least.max(other.least);
        self.most = [self.most, other.most].into_iter().flatten().min();
        self.has_format |= other.has_format;
        self
    }

    /// Whether a text of so many characters can match.
    fn fits(&self, length: u64) -> bool {
        self.least <= length && self.most.is_none_or(|most| length <= most)
    }

    fn keywords(&self) -> impl Iterator<Item = &'static str> {
        let each = [
            ("format", self.has_format),
            ("maxLength", self.most.is_some()),
            ("minLength", self.least > 0),
            ("pattern", !self.patterns.is_empty()),
        ];
        each.into_iter().filter(|(_, is)| *is).map(|(name, _)| name)
    }
}

struct Collector<'r, 's> {
    argument: Argument<'r, 's>,
    steps: usize,
    /// Bytes of listed texts that were looked at.
    bytes: usize,
    left_out: BTreeSet<&'static str>,
}

impl<'s> Collector<'_, 's> {
    /// The texts that a schema allows.
    fn collect(&mut self, schema: &'s Value, depth: usize) -> Vec<Texts<'s>> {
        self.steps += 1;
        let map = match schema {
            Value::Bool(false) => return Vec::new(),
            Value::Object(map) if self.steps <= MAX_STEPS && depth <= MAX_DEPTH => map,
            Value::Object(map) if !map.is_empty() => {
                // What is not looked at may be anything.
                self.left_out.insert("anyOf");
                return vec![Texts::Any];
            }
            _ => return vec![Texts::Any],
        };
        let mut texts = vec![Texts::Any];
        let (names, alone) = self.argument.references.applying(map);
        for name in names {
            self.steps += name.len() / 16;
            if let Some(target) = self.argument.references.find(name) {
                let own = self.collect(target, depth + 1);
                texts = self.both(texts, own);
            }
        }
        if alone {
            return texts;
        }
        if map.get("type").is_some_and(|names| !names_texts(names)) {
            return Vec::new();
        }
        let list = |key: &str| map.get(key).and_then(Value::as_array);
        let one = map.get("const").map(std::slice::from_ref);
        for all in [one, list("enum").map(Vec::as_slice)].into_iter().flatten() {
            self.steps += all.len();
            let own = all.iter().filter_map(Value::as_str).map(Texts::Listed).collect();
            texts = self.both(texts, own);
        }
        let own = self.constraint(map);
        texts = self.both(texts, own);
        for all in [list("anyOf"), list("oneOf")].into_iter().flatten() {
            let own = self.any_of(all, depth);
            texts = self.both(texts, own);
        }
        for one in list("allOf").into_iter().flatten() {
            let own = self.collect(one, depth + 1);
            texts = self.both(texts, own);
            if self.steps > MAX_STEPS {
                self.left_out.insert("anyOf");
                break;
            }
        }
        texts
    }

    /// The texts that any of these schemas allows.
    fn any_of(&mut self, all: &'s [Value], depth: usize) -> Vec<Texts<'s>> {
        let mut texts = Vec::new();
        for one in all {
            if self.argument.allows_texts(one, depth + 1, &mut self.steps) {
                texts.extend(self.collect(one, depth + 1));
            }
            if self.steps > MAX_STEPS {
                self.left_out.insert("anyOf");
                return vec![Texts::Any];
            }
        }
        texts
    }

    /// The texts that a schema's own keywords about texts allow.
    fn constraint(&mut self, map: &'s Map<String, Value>) -> Vec<Texts<'s>> {
        let mut own = Constraint {
            patterns: map.get("pattern").and_then(Value::as_str).into_iter().collect(),
            has_format: map.contains_key("format"),
            ..Constraint::default()
        };
        for key in ["minLength", "maxLength"] {
            match map.get(key).map(Value::as_u64) {
                None => {}
                Some(None) => {
                    self.left_out.insert(key);
                }
                Some(Some(length)) if key == "minLength" => own.least = length,
                Some(length) => own.most = length,
            }
        }
        match own {
            own if own == Constraint::default() => vec![Texts::Any],
            own if own.most.is_some_and(|most| most < own.least) => Vec::new(),
            own => vec![Texts::Constrained(own)],
        }
    }

    /// The texts that are among these and those.
    fn both(&mut self, these: Vec<Texts<'s>>, those: Vec<Texts<'s>>) -> Vec<Texts<'s>> {
        if these == [Texts::Any] {
            return those;
        }
        if those.contains(&Texts::Any) {
            return these;
        }
        if these.contains(&Texts::Any) {
            return those;
        }
        let is_list = |texts: &[Texts<'_>]| texts.iter().all(|one| matches!(one, Texts::Listed(_)));
        match (these.as_slice(), those.as_slice()) {
            (_, all) if is_list(&these) => self.listed_in(&these, all),
            (all, _) if is_list(&those) => self.listed_in(&those, all),
            (all, [Texts::Constrained(one)]) | ([Texts::Constrained(one)], all) => {
                self.narrowed(all, one)
            }
            (_, all) => {
                self.leave_out(all);
                these
            }
        }
    }

    /// Those of a list of texts that are among others.
    fn listed_in(&mut self, list: &[Texts<'s>], others: &[Texts<'s>]) -> Vec<Texts<'s>> {
        let (mut names, mut constraints) = (HashSet::new(), Vec::new());
        for other in others {
            match other {
                Texts::Listed(text) => {
                    names.insert(*text);
                }
                Texts::Constrained(constraint) => constraints.push(constraint),
                Texts::Any => {}
            }
        }
        if constraints.len() > MAX_COMPARED {
            self.leave_out(others);
            return list.to_vec();
        }
        let mut found = Vec::new();
        for one in list {
            let Texts::Listed(text) = one else { continue };
            self.bytes += text.len();
            if names.contains(text) || self.matches_one(text, &constraints) {
                found.push(one.clone());
            }
        }
        found
    }

    /// Whether a text matches one of these constraints, as far as that is looked at.
    fn matches_one(&mut self, text: &str, constraints: &[&Constraint<'s>]) -> bool {
        if constraints.is_empty() {
            return false;
        }
        let length = text.chars().count() as u64;
        let fitting = constraints.iter().filter(|one| one.fits(length));
        let Some(found) = fitting.min_by_key(|one| one.is_more_than_lengths()) else {
            return false;
        };
        // Expressions and formats are the compiler's to read.
        let rest = found.keywords().filter(|key| matches!(*key, "format" | "pattern"));
        self.left_out.extend(rest);
        true
    }

    /// Those of some texts that match a constraint as well.
    fn narrowed(&mut self, texts: &[Texts<'s>], by: &Constraint<'s>) -> Vec<Texts<'s>> {
        let mut found = Vec::new();
        for one in texts {
            match one {
                Texts::Listed(text) => {
                    self.bytes += text.len();
                    found.extend(self.matches_one(text, &[by]).then(|| one.clone()));
                }
                Texts::Constrained(own) => {
                    let mut both = own.clone().and(by);
                    if both.patterns.len() > MAX_COMPARED {
                        both.patterns.truncate(MAX_COMPARED);
                        self.left_out.insert("pattern");
                    }
                    let some = both.most.is_none_or(|most| both.least <= most);
                    found.extend(some.then_some(Texts::Constrained(both)));
                }
                Texts::Any => found.push(Texts::Constrained(by.clone())),
            }
        }
        self.steps += texts.len();
        found
    }

    fn leave_out(&mut self, texts: &[Texts<'s>]) {
        for one in texts {
            match one {
                Texts::Constrained(constraint) => self.left_out.extend(constraint.keywords()),
                Texts::Listed(_) => {
                    self.left_out.insert("enum");
                }
                Texts::Any => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::references::References;

    fn found(schema: &Value) -> (Vec<String>, Vec<&'static str>) {
        let root =
            json!({"$defs": {"a": {"enum": ["x", 1]}, "b": {"type": "string", "maxLength": 3}}});
        let shown = |text: &Texts<'_>| match text {
            Texts::Any => "any".to_owned(),
            Texts::Listed(text) => (*text).to_owned(),
            Texts::Constrained(Constraint { patterns, least, most, has_format }) => {
                let most = most.map_or(String::new(), |most| most.to_string());
                let format = if *has_format { " format" } else { "" };
                format!("{}{{{least},{most}}}{format}", patterns.join("&"))
            }
        };
        let references = References::new(&root);
        let argument = Argument { schemas: &[schema], references: &references };
        let Found { texts, left_out } = texts_of(argument, &mut 0);
        (texts.iter().map(shown).collect(), left_out.into_iter().collect())
    }

    #[test]
    fn texts_are_found_where_they_are_described() {
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
            // All that a schema says of texts counts together.
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
    fn what_is_not_compared_is_noted() {
        let either = |one: &str| json!({"anyOf": [{"pattern": one}, {"maxLength": 2}]});
        for (schema, left_out) in [
            (json!({"enum": ["x"], "pattern": "y"}), vec!["pattern"]),
            (json!({"enum": ["x"], "format": "uuid"}), vec!["format"]),
            (json!({"allOf": [either("a"), either("b")]}), vec!["maxLength", "pattern"]),
        ] {
            assert_eq!(found(&schema).1, left_out, "{schema}");
        }
    }
}
