//! Whether no value can match two schemas of a `oneOf`.
//!
//! Schemas that differ by type, by value, or by a property that all of them require (a tag) are
//! distinguished in one pass; only the others are compared in pairs, within a budget.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};

use serde_json::Value;

use super::keywords::Keywords;

/// Steps of comparing that a document may take, over all its `oneOf`.
const MAX_STEPS: usize = 200_000;
/// How deep properties of properties are compared.
const MAX_DEPTH: usize = 8;
/// References that are followed in a row.
const MAX_REFERENCES: usize = 16;
/// Nesting of values down to which they are compared.
const MAX_VALUE_DEPTH: usize = 128;

/// Keywords beside a reference that name no properties.
const NAME_NO_PROPERTIES: [&str; 10] = [
    "$ref",
    "type",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
];

const TYPES: [&str; 6] = ["null", "boolean", "string", "array", "object", "number"];
const OBJECT: u8 = 1 << 4;
const ANY: u8 = 0b11_1111;

/// What is known of a value from the schema that holds those that are compared.
#[derive(Clone, Copy)]
struct Beside<'a> {
    types: u8,
    /// Names that an object has.
    required: &'a [Value],
}

const NOTHING: Beside<'static> = Beside { types: ANY, required: &[] };

/// Compares schemas of a document.
#[derive(Debug)]
pub(super) struct Comparer<'a> {
    root: &'a Value,
    steps: usize,
    closed: bool,
    /// Values are compared by a keyed hash, so that no client can make two collide.
    hasher: RandomState,
}

/// Comparing takes more steps than allowed.
#[derive(Debug, PartialEq)]
pub(super) struct TooMany;

impl TooMany {
    pub(super) fn why() -> String {
        format!(
            "its 'oneOf' take more than {MAX_STEPS} steps to compare: give their schemas a \
             required property with different 'const' values"
        )
    }
}

/// What distinguishes a schema from others.
#[derive(Default)]
struct Traits<'a> {
    /// The properties of an object that has no others, as it is enforced.
    names: Option<HashSet<&'a str>>,
    /// The names that an object has to have.
    has: HashSet<&'a str>,
    /// Types that it allows.
    types: u8,
    /// Hashes of the values that it allows, where it lists them.
    values: Option<HashSet<u64>>,
    /// Of an object: required properties that it describes.
    required: HashMap<&'a str, &'a Value>,
}

impl<'a> Comparer<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root, steps: 0, closed: false, hasher: RandomState::new() }
    }

    /// Whether no two of these can match the same value. If objects are `closed`, no value that is
    /// made by one: an object has the properties of that schema alone, so none that another requires.
    /// `beside` is the schema that they stand in, which has to match as well.
    pub(super) fn are_disjoint(
        &mut self,
        schemas: &'a [Value],
        beside: Keywords<'a>,
        closed: bool,
    ) -> Result<bool, TooMany> {
        let schemas: Vec<&'a Value> = schemas.iter().collect();
        let beside = Beside { types: types(beside.types()), required: beside.required_names() };
        self.closed = closed;
        self.all(&schemas, beside, 0)
    }

    fn spend(&mut self, steps: usize) -> Result<(), TooMany> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS { Err(TooMany) } else { Ok(()) }
    }

    fn all(
        &mut self,
        schemas: &[&'a Value],
        beside: Beside<'a>,
        depth: usize,
    ) -> Result<bool, TooMany> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        let traits = schemas.iter().map(|schema| self.traits(schema, beside));
        let traits = traits.collect::<Result<Vec<_>, _>>()?;
        // A schema with a type of its own is disjoint from all others.
        let mut counts = [0usize; TYPES.len()];
        for of in &traits {
            for (bit, count) in counts.iter_mut().enumerate() {
                *count += usize::from(of.types >> bit & 1);
            }
        }
        let shared =
            |of: &&Traits<'a>| (0..TYPES.len()).any(|b| of.types >> b & 1 == 1 && counts[b] > 1);
        let rest: Vec<&Traits<'a>> = traits.iter().filter(shared).collect();
        if rest.len() < 2 || have_own_values(&rest) || self.have_tag(&rest)? {
            return Ok(true);
        }
        for (at, a) in rest.iter().enumerate() {
            for b in &rest[at + 1..] {
                if !self.pair(a, b, depth)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether all require a property that has different values in each (a tag).
    fn have_tag(&mut self, all: &[&Traits<'a>]) -> Result<bool, TooMany> {
        if all.iter().any(|of| of.types != OBJECT) {
            return Ok(false);
        }
        for name in all[0].required.keys() {
            self.spend(all.len())?;
            let tags: Option<Vec<&'a Value>> =
                all.iter().map(|of| of.required.get(name).copied()).collect();
            let Some(tags) = tags else { continue };
            let tags = tags
                .into_iter()
                .map(|tag| self.traits(tag, NOTHING))
                .collect::<Result<Vec<_>, _>>()?;
            if have_own_values(&tags.iter().collect::<Vec<_>>()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pair(&mut self, a: &Traits<'a>, b: &Traits<'a>, depth: usize) -> Result<bool, TooMany> {
        self.spend(1)?;
        if a.types & b.types == 0 {
            return Ok(true);
        }
        if let (Some(of_a), Some(of_b)) = (&a.values, &b.values) {
            self.spend(of_a.len().min(of_b.len()))?;
            return Ok(of_a.is_disjoint(of_b));
        }
        if (a.types, b.types) != (OBJECT, OBJECT) {
            return Ok(false);
        }
        self.spend(a.required.len() + a.has.len() + b.has.len())?;
        let lacks = |a: &Traits<'a>, b: &Traits<'a>| {
            a.names.as_ref().is_some_and(|names| !b.has.is_subset(names))
        };
        if lacks(a, b) && lacks(b, a) {
            return Ok(true);
        }
        for (name, below) in &a.required {
            if let Some(other) = b.required.get(name)
                && self.all(&[below, other], NOTHING, depth + 1)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn traits(&mut self, schema: &'a Value, beside: Beside<'a>) -> Result<Traits<'a>, TooMany> {
        let (schema, alone) = self.resolve(schema);
        let Some(schema) = schema else {
            self.spend(1)?;
            return Ok(Traits { types: beside.types, ..Traits::default() });
        };
        let listed = schema.listed();
        let hashes = listed.map(|all| all.iter().map(|value| self.hash(value)).collect());
        let values: Option<HashSet<u64>> = hashes.transpose()?;
        let kinds =
            listed.map_or(ANY, |all| all.iter().fold(0, |kinds, value| kinds | kind(value)));
        let mut of = Traits {
            names: None,
            has: HashSet::new(),
            types: types(schema.types()) & kinds & beside.types,
            values,
            required: HashMap::new(),
        };
        if of.types == OBJECT
            && let Some(properties) = schema.properties()
        {
            self.spend(properties.len())?;
            let own = schema.required_names();
            self.spend(own.len() + beside.required.len())?;
            let required = || own.iter().chain(beside.required).filter_map(Value::as_str);
            of.required =
                required().filter_map(|name| Some((name, properties.get(name)?))).collect();
            of.has = required().collect();
            let names = || properties.keys().map(String::as_str).chain(of.has.iter().copied());
            of.names = (self.closed && alone && stands_alone(schema)).then(|| names().collect());
        }
        self.spend(1)?;
        Ok(of)
    }

    /// Follows references within the document, and returns whether no keyword beside one names properties: such a
    /// keyword narrows the target, but may name properties that the target does not.
    fn resolve(&self, schema: &'a Value) -> (Option<Keywords<'a>>, bool) {
        let (mut schema, mut alone) = (Keywords::of(schema), true);
        for _ in 0..MAX_REFERENCES {
            let Some(keywords) = schema else { break };
            let Some(pointer) = keywords.target().and_then(|target| target.strip_prefix('#'))
            else {
                break;
            };
            let Some(target) = self.root.pointer(pointer) else { break };
            alone &= keywords.has_only(&NAME_NO_PROPERTIES);
            schema = Keywords::of(target);
        }
        (schema, alone)
    }

    /// A hash by which equal values are equal. Numbers of the same value are the same number.
    fn hash(&mut self, value: &Value) -> Result<u64, TooMany> {
        let mut hasher = self.hasher.build_hasher();
        let mut todo = vec![(value, 0)];
        while let Some((value, depth)) = todo.pop() {
            self.spend(1)?;
            if depth > MAX_VALUE_DEPTH {
                continue;
            }
            match value {
                Value::Null => 0u8.hash(&mut hasher),
                Value::Bool(value) => (1u8, value).hash(&mut hasher),
                Value::String(text) => {
                    self.spend(text.len() / 64)?;
                    (2u8, text).hash(&mut hasher);
                }
                Value::Number(number) => {
                    // Adding zero makes 0 of -0.
                    (3u8, (number.as_f64().unwrap_or(0.0) + 0.0).to_bits()).hash(&mut hasher);
                }
                Value::Array(all) => {
                    (4u8, all.len()).hash(&mut hasher);
                    todo.extend(all.iter().map(|below| (below, depth + 1)));
                }
                Value::Object(map) => {
                    let mut names: Vec<_> = map.iter().collect();
                    names.sort_by_key(|(name, _)| *name);
                    (5u8, map.len()).hash(&mut hasher);
                    for (name, below) in names {
                        name.hash(&mut hasher);
                        todo.push((below, depth + 1));
                    }
                }
            }
        }
        Ok(hasher.finish())
    }
}

/// Whether each lists its values and no value is listed twice.
fn have_own_values(all: &[&Traits<'_>]) -> bool {
    let mut seen = HashSet::new();
    all.iter()
        .all(|of| of.values.as_ref().is_some_and(|own| own.iter().all(|value| seen.insert(*value))))
}

/// Whether a schema's own properties are all that its objects have.
fn stands_alone(schema: Keywords<'_>) -> bool {
    const OTHERS: [&str; 10] = [
        "patternProperties",
        "$ref",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
    ];
    let closed = schema.additional_properties().is_none_or(|more| *more == Value::Bool(false));
    closed && !schema.has_any(&OTHERS)
}

/// The bit of a value's type.
fn kind(value: &Value) -> u8 {
    1 << match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::String(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Number(_) => 5,
    }
}

/// The types that a schema allows, a bit for each; an integer is a number.
fn types(sent: Option<&Value>) -> u8 {
    let bit = |name: &str| {
        let name = if name == "integer" { "number" } else { name };
        TYPES.iter().position(|of| *of == name).map_or(0, |at| 1u8 << at)
    };
    match sent {
        Some(Value::String(one)) => bit(one),
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).fold(0, |m, t| m | bit(t)),
        _ => ANY,
    }
}
