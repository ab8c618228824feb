//! A tool's arguments by the schema of its parameters: which there are, what each has to match, and which
//! have to be there. References and `allOf` are followed; `anyOf` and `oneOf` lead to alternatives. The
//! grammar of forced calls and the reader of calls both use it.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value};

use crate::argument::{Argument, Types};
use crate::references::References;

/// Schemas and names that are visited; what lies beyond is not known.
const MAX_STEPS: usize = 1 << 18;
/// How deep schemas for all arguments together are followed.
const MAX_DEPTH: usize = 16;
/// Combinations of alternatives.
const MAX_ALTERNATIVES: usize = 32;
/// Keywords that constrain arguments together, which a grammar of arguments one by one does not enforce.
const TOGETHER: [&str; 6] =
    ["enum", "const", "not", "propertyNames", "minProperties", "maxProperties"];

/// What a tool can be called with.
#[derive(Debug)]
pub(crate) struct Parameters<'s> {
    /// A call's arguments are one of these.
    pub(crate) alternatives: Vec<Alternative<'s>>,
    /// Keywords that these leave out.
    pub(crate) left_out: BTreeSet<&'static str>,
}

/// Arguments that can be there together.
#[derive(Debug, Default)]
pub(crate) struct Alternative<'s> {
    /// By name: schemas that all have to match.
    pub(crate) named: Vec<(&'s str, Vec<&'s Value>)>,
    /// Names of arguments that no value is valid for.
    pub(crate) never: Vec<&'s str>,
    pub(crate) required: HashSet<&'s str>,
    /// By an expression that their names match.
    pub(crate) patterns: Vec<(&'s str, Vec<&'s Value>)>,
    /// What arguments with other names have to match, if there may be any.
    pub(crate) others: Option<Vec<&'s Value>>,
}

/// Schemas that arguments have to match together, while they are collected.
#[derive(Debug, Clone, Default)]
struct Group<'s> {
    parts: Vec<&'s Map<String, Value>>,
    /// Alternatives of which one more has to match, and the keyword that lists them.
    pending: Vec<(&'static str, &'s Vec<Value>)>,
    /// The addresses of schemas that references led to.
    followed: HashSet<usize>,
    /// Whether no object matches.
    is_none: bool,
}

struct Collector<'r, 's> {
    references: &'r References<'s>,
    steps: usize,
    left_out: BTreeSet<&'static str>,
}

impl<'s> Parameters<'s> {
    /// Those of this schema, within the document of `references`.
    pub(crate) fn of(root: &'s Value, references: &References<'s>) -> Self {
        let mut collector = Collector { references, steps: 0, left_out: BTreeSet::new() };
        let mut first = Group::default();
        collector.add(root, 0, &mut first);
        let (mut todo, mut alternatives) = (vec![first], Vec::new());
        // The keyword of the alternatives that are under way.
        let mut listed_by = "anyOf";
        while let Some(mut group) = todo.pop() {
            if group.is_none {
                continue;
            }
            if collector.steps > MAX_STEPS && !alternatives.is_empty() {
                // What is not looked at may be anything.
                collector.left_out.insert(listed_by);
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
                // Too many combinations: whether one of these matches is not enforced.
                collector.left_out.insert(keyword);
                todo.push(group);
                continue;
            }
            listed_by = keyword;
            // In reverse, since the last is taken first.
            for option in options.iter().rev() {
                collector.steps += group.parts.len() + group.followed.len() + group.pending.len();
                let mut with = group.clone();
                collector.add(option, 1, &mut with);
                todo.push(with);
            }
        }
        Self { alternatives, left_out: collector.left_out }
    }

    /// The types of each argument that has a name, and of all others: what any alternative allows. `None`
    /// for those of others if there are none.
    pub(crate) fn types(
        &self,
        references: &References<'s>,
    ) -> (HashMap<&'s str, Types>, Option<Types>) {
        let mut spent = 0;
        let mut types = |schemas: &[&'s Value]| {
            if spent > MAX_STEPS {
                return Types::ANY;
            }
            Argument { schemas, references }.all_types(&mut spent)
        };
        let (mut named, mut others) = (HashMap::new(), None::<Types>);
        for one in &self.alternatives {
            for (name, schemas) in &one.named {
                let all = named.entry(*name).or_insert(Types::NONE);
                *all = all.or(types(schemas));
            }
            // Where names are described by expressions, others are not meant unless they are described.
            let others_of =
                one.others.as_ref().filter(|all| one.patterns.is_empty() || !all.is_empty());
            let free = one.patterns.iter().map(|(_, schemas)| schemas).chain(others_of);
            for schemas in free {
                others = Some(others.unwrap_or(Types::NONE).or(types(schemas)));
            }
        }
        (named, others)
    }
}

impl<'s> Collector<'_, 's> {
    /// Adds a schema that has to match.
    fn add(&mut self, schema: &'s Value, depth: usize, to: &mut Group<'s>) {
        self.steps += 1;
        if depth > MAX_DEPTH || self.steps > MAX_STEPS {
            self.left_out.insert("$ref");
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
                    self.left_out.insert("$ref");
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

    /// The arguments of schemas that have to match together; `None` if there can be none.
    fn alternative(&mut self, group: &Group<'s>) -> Option<Alternative<'s>> {
        let parts = &group.parts;
        let mentions = strings(parts, "required");
        let mut named = Schemas::of(parts, "properties");
        let mut patterns = Schemas::of(parts, "patternProperties");
        self.steps += mentions.len() + named.names.len() + patterns.names.len();
        let mut required: HashSet<&str> = HashSet::new();
        for name in mentions {
            if required.insert(name) {
                named.entry(name);
            }
        }
        if !patterns.names.is_empty() && !named.names.is_empty() {
            // Whether a name matches an expression is not looked at.
            self.left_out.insert("patternProperties");
        }
        let mut others = Some(Vec::new());
        for (at, part) in parts.iter().enumerate() {
            self.note_together(part, required.len());
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
            // That of the first schema is enforced whatever the work.
            if self.steps > MAX_STEPS && at > 0 {
                self.left_out.insert("additionalProperties");
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

    /// Notes keywords about arguments together; so many arguments are required.
    fn note_together(&mut self, part: &'s Map<String, Value>, required: usize) {
        let enforced = |key: &str| {
            key == "minProperties"
                && part[key].as_u64().is_some_and(|least| least <= required as u64)
        };
        let noted = TOGETHER.iter().filter(|key| part.contains_key(**key) && !enforced(key));
        self.left_out.extend(noted);
    }
}

/// Schemas by name, in the order in which the names were first seen.
#[derive(Debug, Default)]
struct Schemas<'s> {
    at: HashMap<&'s str, usize>,
    names: Vec<(&'s str, Vec<&'s Value>)>,
}

impl<'s> Schemas<'s> {
    /// Those that several schemas have under a keyword.
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

    /// Adds a schema to those of all names that `own` does not have.
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

/// Whether a schema matches everything.
pub fn is_any(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

fn is_none(schema: &Value) -> bool {
    *schema == Value::Bool(false)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::argument::{Kind, Kinds};
    use crate::calls::samples;
    use crate::forced::{Calls, Target, ToolShape, grammar};

    fn names(schema: &Value) -> Vec<Vec<String>> {
        let references = References::new(schema);
        let all = Parameters::of(schema, &references).alternatives;
        let names = |one: &Alternative<'_>| {
            let mark = |name: &str| if one.required.contains(name) { "!" } else { "" };
            one.named.iter().map(|(name, _)| format!("{name}{}", mark(name))).collect()
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
    fn what_is_about_arguments_together_is_noted() {
        let requires = |least: u64| json!({"required": ["a"], "minProperties": least});
        let either: Vec<Value> = (0..40).map(|at| json!({"required": [at.to_string()]})).collect();
        let all = |schema: &Value| -> Vec<&str> {
            Parameters::of(schema, &References::new(schema)).left_out.into_iter().collect()
        };
        for (schema, left_out) in [
            (requires(1), vec![]),
            (requires(2), vec!["minProperties"]),
            // A name that is required twice is one argument.
            (json!({"allOf": [requires(2), {"required": ["a"]}]}), vec!["minProperties"]),
            (json!({"allOf": [requires(2), {"required": ["b"]}]}), vec![]),
            (json!({"oneOf": either}), vec!["oneOf"]),
            (json!({"anyOf": either}), vec!["anyOf"]),
            (json!({"$ref": "other.json"}), vec!["$ref"]),
        ] {
            assert_eq!(all(&schema), left_out, "{schema}");
        }
    }

    #[test]
    fn what_one_alternative_names_is_read_by_it() {
        let schema = json!({"anyOf": [{"properties": {"a": {"type": "string"}, "b": {"type": "null"}}},
            {"properties": {"b": {"type": "string"}}}]});
        let kinds = Kinds::of(&schema);
        let each = ["a", "b", "z"].map(|name| kinds.get(name));
        assert_eq!(each, [Kind::Text, Kind::Either, Kind::Either]);
    }

    #[test]
    fn hostile_parameters_are_read_and_spelled_in_time() {
        let some = |count: usize, each: &dyn Fn(usize) -> Value| -> Map<String, Value> {
            (0..count).map(|at| (format!("p{at}"), each(at))).collect()
        };
        let one = json!({"anyOf": [{"$ref": "#"}]});
        let listed: Vec<String> = (0..4_000).map(|at| at.to_string()).collect();
        let chain = some(5_000, &|at| json!({"items": {"$ref": format!("#/$defs/p{}", at + 1)}}));
        let many =
            some(5_000, &|at| json!({"minItems": at, "$ref": format!("#/$defs/p{}", at % 50)}));
        let anchors = some(5_000, &|_| json!({"$ref": "#name"}));
        let each = [
            json!({"allOf": vec![one; 50_000]}),
            json!({"anyOf": vec![json!({"anyOf": vec![json!({"$ref": "#"}); 300]}); 300]}),
            json!({"allOf": (0..300).map(|at| json!({"properties": some(300, &|_| json!({"const": at}))})).collect::<Vec<_>>(),
                "additionalProperties": {"type": "null"}}),
            json!({"allOf": vec![json!({"additionalProperties": {}, "patternProperties": {"a": {}}}); 20_000],
                "properties": some(5_000, &|_| json!({}))}),
            json!({"properties": some(5_000, &|_| json!({"$ref": "#/$defs/e"})), "$defs": {"e": {"enum": listed}}}),
            json!({"properties": many, "$defs": chain}),
            json!({"properties": anchors, "$defs": {"a": {"$anchor": "name", "enum": listed}}}),
        ];
        let nested = (0..5).fold(json!("string"), |inner, _| json!(vec![inner; 16]));
        let twice = json!({"anyOf": vec![json!({"$ref": "#/$defs/t"}); 2_000]});
        let numbers: Vec<Value> =
            (0..9_000).map(|at| json!(at.to_string())).chain([Value::Null]).collect();
        let large = json!({"additionalProperties": {"type": "array", "const": vec![0; 600_000]}});
        let mut large = vec![large; 6];
        large.push(json!({"properties": some(2_000, &|at| json!({"minItems": at}))}));
        let more = [
            // Types within types, each walked for many references.
            json!({"properties": some(4, &|_| json!({"$ref": "#/$defs/w"})), "$defs": {"t": {"type": nested}, "w": twice}}),
            // The same arguments in many alternatives.
            json!({"properties": some(100, &|_| json!({"$ref": "#/$defs/w"})), "anyOf": vec![json!({}); 32],
                "$defs": {"w": {"enum": numbers}}}),
            json!({"properties": some(50_000, &|_| json!({})), "anyOf": vec![json!({}); 32]}),
            // A list for each member.
            json!({"properties": {"a": {"$ref": "#/$defs/x"}},
                "$defs": {"x": {"allOf": vec![json!({"$ref": "#/$defs/e"}); 1_000]}, "e": {"enum": numbers}}}),
            // What all others have to match, for each argument.
            json!({"allOf": [{"properties": some(700, &|at| json!({"minimum": at}))},
                {"additionalProperties": {"enum": numbers, "$ref": "#/$defs/e"}}], "$defs": {"e": {"enum": numbers}}}),
            // Schemas of all others, each far larger than what is written.
            json!({"allOf": large}),
        ];
        for schema in each.iter().chain(&more) {
            let begin = Instant::now();
            Kinds::of(schema);
            assert!(begin.elapsed() < Duration::from_secs(2), "{:?} to read", begin.elapsed());
            let tool = ToolShape { name: "f", schema: schema.clone(), sent: schema, strict: false };
            let dialect = samples::qwen();
            let target =
                Target { control: &|_| None, json: &Value::clone, some_text: &|_, _| None };
            let written = grammar(&dialect, &[tool], Calls::One, target, None);
            let bytes = written.map_or(0, |grammar| grammar.lark.len());
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(4) && bytes < 1 << 20, "{took:?} for {bytes} bytes");
        }
    }
}
