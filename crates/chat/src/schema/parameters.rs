//! A tool's arguments by the schema of its parameters: their names, what each has to match, and which are required.
//! References and `allOf` are followed; `anyOf` and `oneOf` lead to alternatives.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use super::references::{References, is_any, is_none};
use super::value_types::{Argument, JsonTypes};

/// Schemas and names that are visited, at most.
const MAX_STEPS: usize = 1 << 18;
/// How deep schemas of the whole arguments are followed.
const MAX_DEPTH: usize = 16;
/// Combinations of alternatives, at most.
const MAX_ALTERNATIVES: usize = 32;
/// Keywords about all arguments together, which a grammar of arguments one by one does not enforce.
const WHOLE_OBJECT: [&str; 6] =
    ["enum", "const", "not", "propertyNames", "minProperties", "maxProperties"];

/// The arguments that a tool may be called with.
#[derive(Debug)]
pub(crate) struct Parameters<'s> {
    /// A call's arguments are one of these.
    pub(crate) alternatives: Vec<Alternative<'s>>,
    /// Keywords that these do not enforce.
    pub(crate) not_enforced: BTreeSet<&'static str>,
}

/// Arguments that may be given together.
#[derive(Debug, Default)]
pub(crate) struct Alternative<'s> {
    /// By name: schemas, all of which have to match.
    pub(crate) named: Vec<(&'s str, Vec<&'s Value>)>,
    /// Names of arguments without a valid value.
    pub(crate) never: Vec<&'s str>,
    pub(crate) required: HashSet<&'s str>,
    /// By a regular expression for their names.
    pub(crate) patterns: Vec<(&'s str, Vec<&'s Value>)>,
    /// What arguments with other names have to match; `None` if there may be none.
    pub(crate) others: Option<Vec<&'s Value>>,
}

/// Schemas that the arguments have to match together, while they are collected.
#[derive(Debug, Clone, Default)]
struct SchemaGroup<'s> {
    parts: Vec<&'s Map<String, Value>>,
    /// Lists of schemas of each of which one has to match, with the list's keyword.
    pending: Vec<(&'static str, &'s Vec<Value>)>,
    /// The addresses of schemas that references named.
    followed: HashSet<usize>,
    /// Whether no object can match.
    is_none: bool,
}

struct ParameterCollector<'r, 's> {
    references: &'r References<'s>,
    steps: usize,
    not_enforced: BTreeSet<&'static str>,
}

impl<'s> Parameters<'s> {
    /// The parameters of the schema `root`, the document of `references`.
    pub(crate) fn of(root: &'s Value, references: &References<'s>) -> Self {
        let mut collector =
            ParameterCollector { references, steps: 0, not_enforced: BTreeSet::new() };
        let mut first = SchemaGroup::default();
        collector.add(root, 0, &mut first);
        let (mut todo, mut alternatives) = (vec![first], Vec::new());
        // The keyword of the alternatives being combined.
        let mut listed_by = "anyOf";
        while let Some(mut group) = todo.pop() {
            if group.is_none {
                continue;
            }
            if collector.steps > MAX_STEPS && !alternatives.is_empty() {
                // Alternatives beyond the limit may be anything.
                collector.not_enforced.insert(listed_by);
                alternatives
                    .push(Alternative { others: Some(Vec::new()), ..Alternative::default() });
                break;
            }
            let Some((keyword, options)) = group.pending.pop() else {
                alternatives.extend(collector.alternative(&group));
                continue;
            };
            let count = alternatives.len() + todo.len() + options.len();
            if count > MAX_ALTERNATIVES || collector.steps > MAX_STEPS {
                // Too many combinations: this keyword is not enforced.
                collector.not_enforced.insert(keyword);
                todo.push(group);
                continue;
            }
            listed_by = keyword;
            // In reverse, since the last is popped first.
            for option in options.iter().rev() {
                collector.steps += group.parts.len() + group.followed.len() + group.pending.len();
                let mut with = group.clone();
                collector.add(option, 1, &mut with);
                todo.push(with);
            }
        }
        Self { alternatives, not_enforced: collector.not_enforced }
    }

    /// The types of each named argument, and of all others, that any alternative allows; `None` if there are no
    /// others.
    pub(crate) fn types(
        &self,
        references: &References<'s>,
    ) -> (HashMap<&'s str, JsonTypes>, Option<JsonTypes>) {
        let mut spent = 0;
        let mut types = |schemas: &[&'s Value]| {
            if spent > MAX_STEPS {
                return JsonTypes::ANY;
            }
            Argument { schemas, references }.all_types(&mut spent)
        };
        let (mut named, mut others) = (HashMap::new(), None::<JsonTypes>);
        for one in &self.alternatives {
            for (name, schemas) in &one.named {
                let all = named.entry(*name).or_insert(JsonTypes::NONE);
                *all = all.or(types(schemas));
            }
            // Beside expressions for names, other names count only if the schema describes them.
            let others_of =
                one.others.as_ref().filter(|all| one.patterns.is_empty() || !all.is_empty());
            let free = one.patterns.iter().map(|(_, schemas)| schemas).chain(others_of);
            for schemas in free {
                others = Some(others.unwrap_or(JsonTypes::NONE).or(types(schemas)));
            }
        }
        (named, others)
    }
}

impl<'s> ParameterCollector<'_, 's> {
    /// Adds a schema that has to match to a group, with the schemas that it refers to.
    fn add(&mut self, schema: &'s Value, depth: usize, to: &mut SchemaGroup<'s>) {
        self.steps += 1;
        if depth > MAX_DEPTH || self.steps > MAX_STEPS {
            self.not_enforced.insert("$ref");
            return;
        }
        let map = match schema {
            Value::Object(map) => map,
            other => {
                to.is_none |= *other == Value::Bool(false);
                return;
            }
        };
        let (names, alone) = self.references.applying(map);
        for name in names {
            self.steps += name.len() / 16;
            match self.references.find(name) {
                Some(target) if to.followed.insert(std::ptr::from_ref(target).addr()) => {
                    self.add(target, depth + 1, to);
                }
                Some(_) => {}
                None => {
                    self.not_enforced.insert("$ref");
                }
            }
        }
        if alone {
            return;
        }
        to.is_none |= map.get("type").is_some_and(|types| !allows_objects(types));
        to.parts.push(map);
        for key in ["anyOf", "oneOf"] {
            to.pending.extend(map.get(key).and_then(Value::as_array).map(|all| (key, all)));
        }
        for one in map.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.add(one, depth + 1, to);
            if self.steps > MAX_STEPS {
                break;
            }
        }
    }

    /// The arguments of a group; `None` if no arguments match.
    fn alternative(&mut self, group: &SchemaGroup<'s>) -> Option<Alternative<'s>> {
        let parts = &group.parts;
        let mentions = strings(parts, "required");
        let mut named = SchemasByName::of(parts, "properties");
        let mut patterns = SchemasByName::of(parts, "patternProperties");
        self.steps += mentions.len() + named.names.len() + patterns.names.len();
        let mut required: HashSet<&str> = HashSet::new();
        for name in mentions {
            if required.insert(name) {
                named.entry(name);
            }
        }
        if !patterns.names.is_empty() && !named.names.is_empty() {
            // Whether a name matches an expression is not checked.
            self.not_enforced.insert("patternProperties");
        }
        let mut others = Some(Vec::new());
        for (at, part) in parts.iter().enumerate() {
            self.add_whole_object_keywords(part, required.len());
            let Some(other) = part.get("additionalProperties").filter(|other| !is_any(other))
            else {
                continue;
            };
            if *other == Value::Bool(false) {
                others = None;
            } else if let Some(all) = &mut others {
                all.push(other);
            }
            let (own_patterns, own_names) = (part.get("patternProperties"), part.get("properties"));
            self.steps += named.names.len() + patterns.names.len();
            // The first schema's is enforced whatever the work.
            if self.steps > MAX_STEPS && at > 0 {
                self.not_enforced.insert("additionalProperties");
                continue;
            }
            // A name that matches one of the part's own expressions is not another one.
            let has_patterns =
                own_patterns.and_then(Value::as_object).is_some_and(|all| !all.is_empty());
            if !has_patterns {
                named.add_to_others(other, own_names);
            }
            patterns.add_to_others(other, own_patterns);
        }
        let (named, never): (Vec<_>, Vec<_>) =
            named.finish().partition(|(_, schemas)| schemas.iter().all(|one| !is_none(one)));
        if never.iter().any(|(name, _)| required.contains(name)) {
            return None;
        }
        let patterns = patterns.finish().filter(|(_, all)| all.iter().all(|one| !is_none(one)));
        let never = never.into_iter().map(|(name, _)| name).collect();
        Some(Alternative { named, never, required, patterns: patterns.collect(), others })
    }

    /// Adds the keywords about all arguments together that are not enforced; `required` arguments are required.
    fn add_whole_object_keywords(&mut self, part: &'s Map<String, Value>, required: usize) {
        let enforced = |key: &str| {
            key == "minProperties"
                && part[key].as_u64().is_some_and(|least| least <= required as u64)
        };
        let found = WHOLE_OBJECT.iter().filter(|key| part.contains_key(**key) && !enforced(key));
        self.not_enforced.extend(found);
    }
}

/// Schemas by name, in the order in which the names were first seen.
#[derive(Debug, Default)]
struct SchemasByName<'s> {
    at: HashMap<&'s str, usize>,
    names: Vec<(&'s str, Vec<&'s Value>)>,
}

impl<'s> SchemasByName<'s> {
    /// The schemas that `parts` have under a keyword.
    fn of(parts: &[&'s Map<String, Value>], key: &str) -> Self {
        let mut all = Self::default();
        for (name, schema) in parts.iter().filter_map(|part| part.get(key)?.as_object()).flatten() {
            let schemas = all.entry(name);
            if !is_any(schema) {
                schemas.push(schema);
            }
        }
        all
    }

    fn entry(&mut self, name: &'s str) -> &mut Vec<&'s Value> {
        let next = self.names.len();
        let at = *self.at.entry(name).or_insert(next);
        if at == next {
            self.names.push((name, Vec::new()));
        }
        &mut self.names[at].1
    }

    /// Adds a schema to all names that `own` does not have.
    fn add_to_others(&mut self, schema: &'s Value, own: Option<&Value>) {
        for (name, schemas) in &mut self.names {
            if own.is_none_or(|own| own.get(*name).is_none()) {
                schemas.push(schema);
            }
        }
    }

    fn finish(self) -> impl Iterator<Item = (&'s str, Vec<&'s Value>)> {
        self.names.into_iter()
    }
}

fn strings<'s>(parts: &[&'s Map<String, Value>], key: &str) -> Vec<&'s str> {
    let lists = parts.iter().filter_map(|part| part.get(key)?.as_array());
    lists.flatten().filter_map(Value::as_str).collect()
}

fn allows_objects(types: &Value) -> bool {
    match types {
        Value::Array(all) => all.iter().any(|one| one == "object"),
        one => one == "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(schema: &Value) -> Vec<Vec<String>> {
        let references = References::new(schema);
        let all = Parameters::of(schema, &references).alternatives;
        let names = |one: &Alternative<'_>| {
            let suffix = |name: &str| if one.required.contains(name) { "!" } else { "" };
            one.named.iter().map(|(name, _)| format!("{name}{}", suffix(name))).collect()
        };
        all.iter().map(names).collect()
    }

    #[test]
    fn parts_are_merged_and_alternatives_kept_apart() {
        let a = json!({"properties": {"a": {}}, "required": ["a"]});
        let b = json!({"properties": {"b": {}}, "required": ["c"]});
        for (schema, found) in [
            (json!({"$ref": "#/$defs/a", "$defs": {"a": a}}), vec![vec!["a!"]]),
            (json!({"allOf": [a, b]}), vec![vec!["a!", "b", "c!"]]),
            (json!({"anyOf": [a, b]}), vec![vec!["a!"], vec!["b", "c!"]]),
            (json!({"oneOf": [a, {"type": "null"}, false]}), vec![vec!["a!"]]),
            (json!({"allOf": [a, {"properties": {"a": false}}]}), vec![]),
            (json!({"allOf": [b, {"properties": {"b": false}}]}), vec![vec!["c!"]]),
            (json!({"allOf": [a, {"additionalProperties": false}]}), vec![]),
            (json!({"$ref": "#"}), vec![vec![]]),
            (json!(true), vec![vec![]]),
        ] {
            assert_eq!(names(&schema), found, "{schema}");
        }
    }

    #[test]
    fn keywords_about_all_arguments_are_not_enforced() {
        let requires = |least: u64| json!({"required": ["a"], "minProperties": least});
        let either: Vec<Value> = (0..40).map(|at| json!({"required": [at.to_string()]})).collect();
        let all = |schema: &Value| -> Vec<&str> {
            Parameters::of(schema, &References::new(schema)).not_enforced.into_iter().collect()
        };
        for (schema, not_enforced) in [
            (requires(1), vec![]),
            (requires(2), vec!["minProperties"]),
            // A name that is required twice is one argument.
            (json!({"allOf": [requires(2), {"required": ["a"]}]}), vec!["minProperties"]),
            (json!({"allOf": [requires(2), {"required": ["b"]}]}), vec![]),
            (json!({"oneOf": either}), vec!["oneOf"]),
            (json!({"anyOf": either}), vec!["anyOf"]),
            (json!({"$ref": "other.json"}), vec!["$ref"]),
        ] {
            assert_eq!(all(&schema), not_enforced, "{schema}");
        }
    }
}
