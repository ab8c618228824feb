//! The cost of compiling a JSON Schema.
//!
//! Follows llguidance's `json/schema.rs`: a reference alone is compiled once; one with constraints beside it is replaced
//! by a copy of its target, and so are references in schemas that are intersected (`allOf`, siblings of `anyOf`).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::limits::{
    Cost, MAX_COUNTED_PROPERTIES, MAX_EXPRESSIONS_TOGETHER, MAX_LEVELS, MAX_PAIRS,
    MAX_PATTERN_PAIRS, MAX_UNITS, within,
};
use super::source::GrammarError;

/// Keywords that constrain nothing, and those that [`Walk::flatten`] resolves.
const NEUTRAL: [&str; 18] = [
    "$ref",
    "allOf",
    "$anchor",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "readOnly",
    "writeOnly",
    "examples",
    "contentMediaType",
    "contentEncoding",
    "x-guidance",
];
/// The cost of an object with unnamed properties: a lexeme for all other names, half a millisecond.
const OPEN_OBJECT: u64 = 20;
const PAIRS: &str = "pairs of properties in the same object or of schemas in the same 'oneOf'";
/// The most references that are resolved for one schema, in a chain or side by side.
const MAX_MERGED: usize = 256;

/// Counts the cost of a schema.
///
/// # Errors
/// [`GrammarError`] if it is above a limit.
pub(super) fn check(root: &Value) -> Result<Cost, GrammarError> {
    let sizes = ValueSizes::of(root);
    let mut levels = u64::from(sizes.height(root));
    for reference in &sizes.references {
        let target = lookup(root, reference);
        levels += target.map_or(0, |target| u64::from(sizes.height(target)) + 1);
    }
    within(levels, MAX_LEVELS, "levels of nested schemas and references")?;
    let mut walk = Walk {
        root,
        sizes: &sizes,
        todo: vec![vec![part(root)]],
        defined: HashSet::new(),
        count: Counts::default(),
    };
    while let Some(parts) = walk.todo.pop() {
        walk.visit(parts)?;
    }
    Ok(Cost { units: walk.count.units })
}

/// The schema that a reference names, found as llguidance finds it.
fn lookup<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let path = match reference {
        "#" | "#/" => return Some(root),
        other => other.strip_prefix("#/")?,
    };
    path.split('/').try_fold(root, |at, segment| match at {
        Value::Array(all) => all.get(segment.parse::<usize>().ok()?),
        other => other.get(segment),
    })
}

/// Height and size of every value of a document, and its references.
struct ValueSizes<'a> {
    /// By address.
    of: HashMap<usize, (u32, u64)>,
    references: HashSet<&'a str>,
}

fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(all) => Box::new(all.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => Box::new(std::iter::empty()),
    }
}

impl<'a> ValueSizes<'a> {
    fn of(root: &'a Value) -> Self {
        let mut sizes = Self { of: HashMap::new(), references: HashSet::new() };
        let mut todo = vec![(root, false)];
        while let Some((value, seen)) = todo.pop() {
            if seen {
                let below = children(value).map(|child| sizes.get(child));
                let sum = below.fold((0, 0), |(h, s), (height, size)| (h.max(height), s + size));
                sizes.of.insert(address(value), (sum.0 + 1, sum.1 + 1));
                continue;
            }
            if let Some(Value::String(reference)) = value.get("$ref") {
                sizes.references.insert(reference);
            }
            if matches!(value, Value::Array(_) | Value::Object(_)) {
                todo.push((value, true));
                todo.extend(children(value).map(|child| (child, false)));
            }
        }
        sizes
    }

    /// Scalars are not stored: their height and size are 1.
    fn get(&self, value: &Value) -> (u32, u64) {
        self.of.get(&address(value)).copied().unwrap_or((1, 1))
    }

    fn height(&self, value: &Value) -> u32 {
        self.get(value).0
    }
}

/// One of several schemas that have to match together.
#[derive(Clone, Copy)]
struct SubSchema<'a> {
    schema: &'a Value,
    /// Without its alternatives and references: they are counted already.
    bare: bool,
}

#[derive(Default)]
struct Counts {
    units: u64,
    pairs: u64,
    patterns: u64,
}

struct Walk<'a, 's> {
    root: &'a Value,
    sizes: &'s ValueSizes<'a>,
    /// Schemas to visit, each as the schemas that have to match together.
    todo: Vec<Vec<SubSchema<'a>>>,
    /// References that are compiled once.
    defined: HashSet<&'a str>,
    count: Counts,
}

impl<'a> Walk<'a, '_> {
    fn spend(&mut self, units: u64) -> Result<(), GrammarError> {
        self.count.units = self.count.units.saturating_add(units);
        if self.count.units > MAX_UNITS {
            // Their number is not known: counting ends here.
            let why = format!(
                "it has more than {MAX_UNITS} schemas and values once references are resolved"
            );
            return Err(GrammarError(why));
        }
        Ok(())
    }

    fn visit(&mut self, parts: Vec<SubSchema<'a>>) -> Result<(), GrammarError> {
        let parts = self.flatten(parts)?;
        self.spend(1 + parts.len() as u64)?;
        let mut values = 0;
        for map in parts.iter().filter_map(|part| part.schema.as_object()) {
            for data in [map.get("enum"), map.get("const")].into_iter().flatten() {
                values += self.sizes.get(data).1;
            }
        }
        self.spend(values)?;
        let expressions: HashSet<&str> = parts
            .iter()
            .flat_map(|part| [part.schema.get("pattern"), part.schema.get("format")])
            .filter_map(|one| one?.as_str())
            .collect();
        let together = expressions.len() as u64;
        within(together, MAX_EXPRESSIONS_TOGETHER, "expressions that have to match together")?;
        let groups: Vec<&'a Vec<Value>> = parts.iter().flat_map(alternatives).collect();
        for part in parts.iter().filter(|part| !part.bare) {
            // The compiler compares them in pairs.
            let options = part.schema.get("oneOf").and_then(Value::as_array).map_or(0, Vec::len);
            self.count.pairs += (options as u64).pow(2);
        }
        within(self.count.pairs, MAX_PAIRS, PAIRS)?;
        if groups.is_empty() { self.below(&parts) } else { self.combine(&parts, &groups) }
    }

    /// Visits each combination of alternatives, with the constraints beside them.
    fn combine(
        &mut self,
        parts: &[SubSchema<'a>],
        groups: &[&'a Vec<Value>],
    ) -> Result<(), GrammarError> {
        let bare = |part: &SubSchema<'a>| SubSchema { schema: part.schema, bare: true };
        let others: Vec<SubSchema<'a>> =
            parts.iter().filter(|part| constrains_beside(part)).map(bare).collect();
        let mut combinations = vec![others];
        for group in groups {
            let count = combinations.len().saturating_mul(group.len()) as u64;
            self.spend(count)?;
            let with = |set: &Vec<SubSchema<'a>>, schema: &'a Value| {
                let mut set = set.clone();
                set.push(part(schema));
                set
            };
            combinations =
                combinations.iter().flat_map(|set| group.iter().map(|s| with(set, s))).collect();
        }
        self.todo.extend(combinations);
        Ok(())
    }

    /// Schemas of properties and items.
    fn below(&mut self, parts: &[SubSchema<'a>]) -> Result<(), GrammarError> {
        let maps: Vec<&'a Map<String, Value>> =
            parts.iter().filter_map(|part| part.schema.as_object()).collect();
        let names = self.properties(&maps)?;
        self.items(&maps)?;
        let closed = maps.iter().any(|map| map.get("additionalProperties") == Some(&false.into()));
        self.spend(if names > 0 && !closed { OPEN_OBJECT } else { 0 })
    }

    /// Visits the schemas of properties, each with those of other parts for the same name: if a part does not name it,
    /// its schema of additional properties. Returns the number of names.
    fn properties(&mut self, maps: &[&'a Map<String, Value>]) -> Result<u64, GrammarError> {
        let mut named: HashMap<&'a str, Vec<SubSchema<'a>>> = HashMap::new();
        let mut patterns = 0;
        let schemas = |map: &'a Map<String, Value>, key: &str| {
            map.get(key).and_then(Value::as_object).into_iter().flatten()
        };
        for map in maps {
            for (name, schema) in schemas(map, "properties") {
                named.entry(name).or_default().push(part(schema));
            }
            let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
            for name in required.filter_map(Value::as_str) {
                named.entry(name).or_default();
            }
            for (_, schema) in schemas(map, "patternProperties") {
                patterns += 1;
                self.todo.push(vec![part(schema)]);
            }
        }
        let names = named.len() as u64;
        self.spend(names.saturating_mul(maps.len() as u64) + patterns)?;
        self.pairs(names, patterns, maps)?;
        let mut others = Vec::new();
        for map in maps {
            let Some(other) = map.get("additionalProperties").filter(|other| other.is_object())
            else {
                continue;
            };
            others.push(part(other));
            let own = map.get("properties");
            for (name, set) in &mut named {
                if own.is_none_or(|own| own.get(*name).is_none()) {
                    set.push(part(other));
                }
            }
        }
        self.todo.extend(named.into_values().chain([others]).filter(|set| !set.is_empty()));
        Ok(names)
    }

    /// Visits the schemas of items, by position and after all positions.
    fn items(&mut self, maps: &[&'a Map<String, Value>]) -> Result<(), GrammarError> {
        let prefix = |map: &&'a Map<String, Value>| {
            let first =
                ["prefixItems", "items"].into_iter().find_map(|key| map.get(key)?.as_array());
            first.map_or(&[][..], Vec::as_slice)
        };
        let rest = |map: &&'a Map<String, Value>| {
            ["items", "additionalItems"]
                .into_iter()
                .find_map(|key| map.get(key).filter(|v| v.is_object()))
        };
        let positions = maps.iter().map(|map| prefix(map).len()).max().unwrap_or(0);
        self.spend((positions as u64).saturating_mul(maps.len() as u64))?;
        let at = |position: usize| {
            let of = |map| prefix(map).get(position).or_else(|| rest(map)).map(part);
            maps.iter().filter_map(of).collect::<Vec<_>>()
        };
        let rest_of_all = maps.iter().filter_map(rest).map(part).collect();
        self.todo.extend((0..positions).map(at).chain([rest_of_all]).filter(|set| !set.is_empty()));
        Ok(())
    }

    fn pairs(
        &mut self,
        names: u64,
        patterns: u64,
        maps: &[&Map<String, Value>],
    ) -> Result<(), GrammarError> {
        let counted = maps.iter().any(|map| {
            map.get("maxProperties").is_some()
                || map.get("minProperties").and_then(Value::as_u64).is_some_and(|least| least > 0)
        });
        if counted {
            let what = "properties in an object with 'minProperties' or 'maxProperties'";
            within(names, MAX_COUNTED_PROPERTIES, what)?;
        }
        self.count.pairs += names * (names + patterns);
        within(self.count.pairs, MAX_PAIRS, PAIRS)?;
        self.count.patterns += patterns * patterns;
        within(self.count.patterns, MAX_PATTERN_PAIRS, "pairs of pattern properties")
    }

    /// The schemas that have to match together, with references resolved that the compiler
    /// replaces by copies. A reference that stands alone is visited once, by itself.
    fn flatten(&mut self, parts: Vec<SubSchema<'a>>) -> Result<Vec<SubSchema<'a>>, GrammarError> {
        let (mut own, mut references, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let (mut todo, mut merged) = (parts, 0);
        loop {
            while let Some(one) = todo.pop() {
                self.spend(1)?;
                let Some(map) = one.schema.as_object() else { continue };
                if one.bare || map.keys().any(|key| !NEUTRAL.contains(&key.as_str())) {
                    own.push(one);
                }
                if one.bare {
                    continue;
                }
                references.extend(map.get("$ref").and_then(Value::as_str));
                let all = map.get("allOf").and_then(Value::as_array).into_iter().flatten();
                todo.extend(all.map(part));
            }
            if let ([], [one]) = (own.as_slice(), references.as_slice())
                && merged == 0
            {
                self.define(one);
                return Ok(Vec::new());
            }
            let Some(reference) = references.pop() else { return Ok(own) };
            merged += 1;
            if merged > MAX_MERGED {
                let why = format!("more than {MAX_MERGED} references have to match together");
                return Err(GrammarError(why));
            }
            if seen.insert(reference) {
                let target = lookup(self.root, reference);
                todo.extend(target.map(part));
                // The compiler keeps the target by itself, too, with copies of what it refers to.
                self.define(reference);
            }
        }
    }

    /// Visits what a reference names by itself, once.
    fn define(&mut self, reference: &'a str) {
        if self.defined.insert(reference) {
            let target = lookup(self.root, reference);
            self.todo.extend(target.map(|schema| vec![part(schema)]));
        }
    }
}

fn part(schema: &Value) -> SubSchema<'_> {
    SubSchema { schema, bare: false }
}

/// What a part offers a choice of.
fn alternatives<'a>(part: &SubSchema<'a>) -> impl Iterator<Item = &'a Vec<Value>> + use<'a> {
    let map = part.schema.as_object().filter(|_| !part.bare);
    map.into_iter()
        .flat_map(|map| ["anyOf", "oneOf"].map(|key| map.get(key)))
        .flatten()
        .filter_map(Value::as_array)
}

/// Whether a part constrains by more than its alternatives.
fn constrains_beside(part: &SubSchema<'_>) -> bool {
    let beside = |key: &String| {
        !NEUTRAL.contains(&key.as_str()) && !matches!(key.as_str(), "anyOf" | "oneOf")
    };
    part.schema.as_object().is_some_and(|map| map.keys().any(beside))
}
