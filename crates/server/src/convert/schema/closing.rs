//! Objects are closed: one that names properties has no others, unless its schema says so by
//! `additionalProperties` (or `unevaluatedProperties`).
//!
//! If several schemas have to match together (`allOf`, a reference with siblings, `anyOf` beside
//! `properties`), each is left open and the properties that any of them names are allowed, so an
//! object that they describe together stays possible. Beside `anyOf` and `oneOf` that is decided for
//! each alternative.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::build::set;
use super::keywords::Keywords;
use super::not_enforced::Keyword;
use super::rewriter::{Rewriter, SchemaRole};
use super::values::size;

/// References and members that are followed to find an object's properties.
const MAX_DEPTH: usize = 16;

/// Keywords by which a schema constrains objects, besides those that hold other schemas for the same
/// value.
const OF_OBJECTS: [&str; 10] = [
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "unevaluatedProperties",
];
/// Keywords that hold other schemas for the same value.
const IN_PLACE: [&str; 6] = ["$ref", "allOf", "anyOf", "oneOf", "dependentSchemas", "if"];
/// Keywords by which a schema has types of its own.
const TYPED: [&str; 3] = ["type", "enum", "const"];

/// The properties that schemas for one value name.
#[derive(Debug, Default, Clone)]
pub(super) struct Names<'a> {
    names: Vec<&'a str>,
    seen: HashSet<&'a str>,
    patterns: Vec<String>,
    /// The addresses of schemas that references led to.
    followed: HashSet<usize>,
    /// Whether some schema describes properties, rather than requiring some alone.
    described: bool,
    /// Whether some schema allows others.
    open: bool,
    /// Whether some schema excludes others.
    closed: bool,
    /// Whether some schema may allow values that are no objects.
    other_types: bool,
}

/// How the objects of a schema are closed.
#[derive(Debug)]
pub(super) enum Closing<'a> {
    /// The object stays open.
    Open,
    /// To these names.
    Closed(Names<'a>),
    /// To these names, for each alternative of `anyOf` and of `oneOf`.
    Options(Vec<(&'a str, Vec<Option<Names<'a>>>)>),
}

impl<'a> Names<'a> {
    fn add(&mut self, name: &'a str) {
        if self.seen.insert(name) {
            self.names.push(name);
        }
    }

    fn merge(&mut self, other: &Self) {
        other.names.iter().for_each(|name| self.add(name));
        for pattern in &other.patterns {
            if !self.patterns.contains(pattern) {
                self.patterns.push(pattern.clone());
            }
        }
        self.described |= other.described;
        self.open |= other.open;
        self.closed |= other.closed;
        self.other_types |= other.other_types;
    }

    fn holds(&self, other: &Self) -> bool {
        other.seen.is_subset(&self.seen)
            && other.patterns.iter().all(|pattern| self.patterns.contains(pattern))
    }

    /// Closes a schema to these names.
    fn close(&self, out: &mut Map<String, Value>) {
        allow(out, "properties", self.names.iter().copied());
        if !self.patterns.is_empty() {
            allow(out, "patternProperties", self.patterns.iter().map(String::as_str));
        }
        set(out, "additionalProperties", false);
        if !self.other_types && !Keywords::new(out).has_any(&TYPED) {
            set(out, "type", "object");
        }
        // The compiler reads keywords in order, and those that belong together in one go.
        for key in ["$ref", "allOf", "anyOf"] {
            if let Some(value) = out.shift_remove(key) {
                set(out, key, value);
            }
        }
    }
}

impl Closing<'_> {
    /// Closes alternatives.
    pub(super) fn close_options(&self, key: &str, options: &mut Value) {
        let (Self::Options(all), Value::Array(options)) = (self, options) else { return };
        let names = all.iter().filter(|(of, _)| *of == key).flat_map(|(_, names)| names);
        for (option, names) in options.iter_mut().zip(names) {
            match (option, names) {
                (Value::Object(option), Some(names)) => names.close(option),
                (option @ Value::Bool(true), Some(names)) => {
                    let mut map = Map::new();
                    names.close(&mut map);
                    *option = Value::Object(map);
                }
                _ => {}
            }
        }
    }
}

impl<'a> Rewriter<'a> {
    /// How a schema's objects are closed, and the role of the schemas that it holds in place.
    pub(super) fn closing(
        &mut self,
        sent: Keywords<'a>,
        role: SchemaRole,
    ) -> Result<(Closing<'a>, SchemaRole), String> {
        let inner = if role == SchemaRole::Conjunct || is_group(sent) {
            SchemaRole::Conjunct
        } else {
            SchemaRole::Whole
        };
        let describes = sent.has_any(&["properties", "patternProperties", "unevaluatedProperties"]);
        if role == SchemaRole::Conjunct || inner == SchemaRole::Whole && !describes {
            // Required names alone describe no object, but other names may be spelled like them.
            self.is_open |= role == SchemaRole::Whole && sent.required().is_some();
            return Ok((Closing::Open, inner));
        }
        let mut base = Names::default();
        self.collect_own_names(sent, 0, &mut base)?;
        let mut options: Vec<(&'a str, Vec<Names<'a>>)> = Vec::new();
        for key in ["anyOf", "oneOf"] {
            let each = sent.list(key).iter().map(|option| {
                let mut names = Names::default();
                self.collect_names(option, 1, &mut names)?;
                Ok(names)
            });
            options.push((key, each.collect::<Result<_, String>>()?));
        }
        let all = || options.iter().flat_map(|(_, names)| names);
        base.described |= sent.unevaluated_properties() == Some(&Value::Bool(false));
        let described = base.described || all().any(|names| names.described);
        if base.open || !described {
            self.is_open |= !base.seen.is_empty() || all().any(|names| !names.seen.is_empty());
            return Ok((Closing::Open, inner));
        }
        if base.closed {
            return Ok((Closing::Open, inner));
        }
        base.other_types |= all().any(|names| names.other_types);
        if all().all(|names| !names.open && base.holds(names)) {
            return Ok((Closing::Closed(base), inner));
        }
        Ok((self.by_option(&base, &options)?, inner))
    }

    /// The names that each alternative is closed to: its own, those beside all of them, and those of the
    /// other keyword's alternatives.
    fn by_option(
        &mut self,
        base: &Names<'a>,
        options: &[(&'a str, Vec<Names<'a>>)],
    ) -> Result<Closing<'a>, String> {
        let mut out = Vec::new();
        for (key, own) in options {
            let mut beside = base.clone();
            for (_, others) in options.iter().filter(|(other, _)| other != key) {
                others.iter().for_each(|names| beside.merge(names));
            }
            let mut closed = Vec::new();
            for names in own {
                let bytes = beside.names.iter().chain(&names.names).map(|name| name.len() / 64);
                let bytes = bytes.sum::<usize>();
                let count = beside.names.len() + 16 * beside.patterns.len() + names.names.len();
                self.spend(count + bytes)?;
                self.is_open |= names.open;
                let closes = !names.open && !names.closed && !beside.open;
                closed.push(closes.then(|| {
                    let mut all = beside.clone();
                    all.merge(names);
                    all.other_types = names.other_types;
                    all
                }));
            }
            out.push((*key, closed));
        }
        Ok(Closing::Options(out))
    }

    /// Collects the properties that a schema names.
    fn collect_names(
        &mut self,
        sent: &'a Value,
        depth: usize,
        to: &mut Names<'a>,
    ) -> Result<(), String> {
        let Some(sent) = Keywords::of(sent) else { return Ok(()) };
        self.collect_own_names(sent, depth, to)?;
        for key in ["anyOf", "oneOf"] {
            self.collect_names_of_all(sent.list(key), depth, to)?;
        }
        Ok(())
    }

    /// Collects the properties that a schema names outside of its alternatives.
    fn collect_own_names(
        &mut self,
        sent: Keywords<'a>,
        depth: usize,
        to: &mut Names<'a>,
    ) -> Result<(), String> {
        self.spend(1)?;
        if depth > MAX_DEPTH {
            // Its names are unknown.
            to.open = true;
            return Ok(());
        }
        for (key, value) in sent.iter() {
            match (key, value) {
                ("properties", Value::Object(named)) => {
                    self.spend(named.len())?;
                    to.described = true;
                    named.keys().for_each(|name| to.add(name));
                }
                ("patternProperties", Value::Object(named)) => {
                    self.spend(named.len() * (1 + to.patterns.len()))?;
                    to.described = true;
                    for pattern in named.keys() {
                        match self.expression(pattern, Keyword::PatternProperties)? {
                            Some(pattern) if to.patterns.contains(&pattern) => {}
                            Some(pattern) => to.patterns.push(pattern),
                            None => to.open = true,
                        }
                    }
                }
                ("additionalProperties" | "unevaluatedProperties", Value::Bool(false)) => {
                    to.closed |= key == "additionalProperties";
                }
                ("additionalProperties" | "unevaluatedProperties", _) => to.open = true,
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(name)) => {
                    match self.resolve(name)? {
                        Some(target) if to.followed.insert(std::ptr::from_ref(target).addr()) => {
                            self.collect_names(target, depth + 1, to)?;
                        }
                        Some(_) => {}
                        None => to.open = true,
                    }
                }
                ("allOf", Value::Array(all)) => self.collect_names_of_all(all, depth, to)?,
                ("then" | "else", schema) => self.collect_names(schema, depth + 1, to)?,
                ("dependencies" | "dependentSchemas" | "dependentRequired", Value::Object(all)) => {
                    for (name, below) in all {
                        to.add(name);
                        match below {
                            Value::Array(names) => self.collect_required(names, to)?,
                            schema => self.collect_names(schema, depth + 1, to)?,
                        }
                    }
                }
                ("type", kind) => to.other_types |= kind != "object",
                ("enum" | "const", _) => to.other_types = true,
                _ => {}
            }
        }
        self.collect_required(sent.required_names(), to)
    }

    fn collect_names_of_all(
        &mut self,
        all: &'a [Value],
        depth: usize,
        to: &mut Names<'a>,
    ) -> Result<(), String> {
        all.iter().try_for_each(|one| self.collect_names(one, depth + 1, to))
    }

    fn collect_required(&mut self, names: &'a [Value], to: &mut Names<'a>) -> Result<(), String> {
        self.spend(names.iter().map(size).sum())?;
        names.iter().filter_map(Value::as_str).for_each(|name| to.add(name));
        Ok(())
    }
}

/// Closes a rewritten schema.
pub(super) fn close(
    sent: Keywords<'_>,
    role: SchemaRole,
    closing: &Closing<'_>,
    out: &mut Map<String, Value>,
) {
    if let Closing::Closed(names) = closing {
        names.close(out);
    } else if role == SchemaRole::Whole
        && !sent.has_any(&IN_PLACE)
        && !Keywords::new(out).has_any(&TYPED)
    {
        // A schema that only describes parts of objects, or of arrays, is meant to describe these.
        if sent.has_any(&["properties", "patternProperties"]) {
            set(out, "type", "object");
        } else if sent.has_any(&["items", "prefixItems"]) && !sent.has_any(&OF_OBJECTS) {
            set(out, "type", "array");
        }
    }
}

/// Adds names that may have any value.
fn allow<'n>(out: &mut Map<String, Value>, key: &str, names: impl Iterator<Item = &'n str>) {
    if let Value::Object(map) = out.entry(key).or_insert_with(|| Value::Object(Map::new())) {
        for name in names {
            map.entry(name).or_insert(Value::Bool(true));
        }
    }
}

/// Whether several schemas together describe a value: more than one that this one holds in place, or
/// alternatives beside constraints of its own.
fn is_group(sent: Keywords<'_>) -> bool {
    let held = |key: &&&str| match sent.value(key) {
        None => false,
        Some(Value::Array(all)) if **key == "allOf" => !all.is_empty(),
        Some(_) => true,
    };
    match IN_PLACE.iter().filter(held).count() {
        0 => false,
        1 => sent.list("allOf").len() > 1 || sent.has_any(&OF_OBJECTS),
        _ => true,
    }
}
