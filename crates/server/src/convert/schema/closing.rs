//! Objects are closed: one that names properties has no others, unless its schema says so by
//! `additionalProperties` (or `unevaluatedProperties`).
//!
//! Where several schemas have to match together (`allOf`, a reference with siblings, `anyOf` beside
//! `properties`), each is left open and the properties that any of them names are allowed, so an
//! object that they describe together stays possible. Beside `anyOf` and `oneOf` that is decided for
//! each alternative.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::not_enforced::Keyword;
use super::relax::size;
use super::rewrite::{Part, Rewriter};

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
    /// Whether some schema says that there may be others.
    open: bool,
    /// Whether some schema says that there are no others.
    closed: bool,
    /// Whether some schema may allow what is no object.
    other_types: bool,
}

/// How the objects of a schema are closed.
#[derive(Debug)]
pub(super) enum Closing<'a> {
    /// Not here.
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
        out.insert("additionalProperties".to_owned(), Value::Bool(false));
        if !self.other_types && !["type", "enum", "const"].iter().any(|key| out.contains_key(*key))
        {
            out.insert("type".to_owned(), "object".into());
        }
        // The compiler reads in order, and what belongs together in one go.
        for key in ["$ref", "allOf", "anyOf"] {
            if let Some(value) = out.shift_remove(key) {
                out.insert(key.to_owned(), value);
            }
        }
    }
}

impl Closing<'_> {
    /// Closes alternatives.
    pub(super) fn options(&self, key: &str, options: &mut Value) {
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
    /// How a schema's objects are to be closed, and what part of a value the schemas have that it
    /// holds in place.
    pub(super) fn closing(
        &mut self,
        sent: &'a Map<String, Value>,
        part: Part,
    ) -> Result<(Closing<'a>, Part), String> {
        let inner = if part == Part::Member || is_group(sent) { Part::Member } else { Part::Whole };
        let describes = ["properties", "patternProperties", "unevaluatedProperties"]
            .iter()
            .any(|key| sent.contains_key(*key));
        if part == Part::Member || inner == Part::Whole && !describes {
            // Names that it requires alone are no description, but other names may be spelled like them.
            self.is_open |= part == Part::Whole && sent.contains_key("required");
            return Ok((Closing::Open, inner));
        }
        let mut base = Names::default();
        self.own_names(sent, 0, &mut base)?;
        let mut options: Vec<(&'a str, Vec<Names<'a>>)> = Vec::new();
        for key in ["anyOf", "oneOf"] {
            let all = sent.get(key).and_then(Value::as_array).into_iter().flatten();
            let each = all.map(|option| {
                let mut names = Names::default();
                self.names(option, 1, &mut names)?;
                Ok(names)
            });
            options.push((key, each.collect::<Result<_, String>>()?));
        }
        let all = || options.iter().flat_map(|(_, names)| names);
        base.described |= sent.get("unevaluatedProperties") == Some(&Value::Bool(false));
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

    /// What each alternative is closed to: its own names, those beside all of them, and those of the
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

    /// The properties that a schema names.
    fn names(&mut self, sent: &'a Value, depth: usize, to: &mut Names<'a>) -> Result<(), String> {
        let Value::Object(map) = sent else { return Ok(()) };
        self.own_names(map, depth, to)?;
        for key in ["anyOf", "oneOf"] {
            self.names_of_all(map.get(key), depth, to)?;
        }
        Ok(())
    }

    /// The same without its alternatives.
    fn own_names(
        &mut self,
        map: &'a Map<String, Value>,
        depth: usize,
        to: &mut Names<'a>,
    ) -> Result<(), String> {
        self.spend(1)?;
        if depth > MAX_DEPTH {
            // What it names is not known.
            to.open = true;
            return Ok(());
        }
        for (key, sent) in map {
            match (key.as_str(), sent) {
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
                    match self.find(name)? {
                        Some(target) if to.followed.insert(std::ptr::from_ref(target).addr()) => {
                            self.names(target, depth + 1, to)?;
                        }
                        Some(_) => {}
                        None => to.open = true,
                    }
                }
                ("allOf", all) => self.names_of_all(Some(all), depth, to)?,
                ("then" | "else", schema) => self.names(schema, depth + 1, to)?,
                ("dependencies" | "dependentSchemas" | "dependentRequired", Value::Object(all)) => {
                    for (name, below) in all {
                        to.add(name);
                        match below {
                            Value::Array(names) => self.required(names, to)?,
                            schema => self.names(schema, depth + 1, to)?,
                        }
                    }
                }
                ("type", kind) => to.other_types |= kind != "object",
                ("enum" | "const", _) => to.other_types = true,
                _ => {}
            }
        }
        if let Some(Value::Array(names)) = map.get("required") {
            self.required(names, to)?;
        }
        Ok(())
    }

    fn names_of_all(
        &mut self,
        sent: Option<&'a Value>,
        depth: usize,
        to: &mut Names<'a>,
    ) -> Result<(), String> {
        let mut all = sent.and_then(Value::as_array).into_iter().flatten();
        all.try_for_each(|one| self.names(one, depth + 1, to))
    }

    fn required(&mut self, names: &'a [Value], to: &mut Names<'a>) -> Result<(), String> {
        self.spend(names.iter().map(size).sum())?;
        names.iter().filter_map(Value::as_str).for_each(|name| to.add(name));
        Ok(())
    }
}

/// Closes a schema that is written.
pub(super) fn close(
    sent: &Map<String, Value>,
    part: Part,
    closing: &Closing<'_>,
    out: &mut Map<String, Value>,
) {
    if let Closing::Closed(names) = closing {
        names.close(out);
    } else if part == Part::Whole
        && sent.keys().all(|key| !IN_PLACE.contains(&key.as_str()))
        && !["type", "enum", "const"].iter().any(|key| out.contains_key(*key))
    {
        // What describes parts of a kind of value alone is meant to describe that kind.
        let has = |keys: &[&str]| keys.iter().any(|key| sent.contains_key(*key));
        if has(&["properties", "patternProperties"]) {
            out.insert("type".to_owned(), "object".into());
        } else if has(&["items", "prefixItems"]) && !has(&OF_OBJECTS) {
            out.insert("type".to_owned(), "array".into());
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

/// Whether a schema says with others what a value is: more than the one that it holds in place, or
/// alternatives beside constraints of its own.
fn is_group(sent: &Map<String, Value>) -> bool {
    let held = |key: &&&str| match sent.get(**key) {
        None => false,
        Some(Value::Array(all)) if **key == "allOf" => !all.is_empty(),
        Some(_) => true,
    };
    let several = |sent: &Map<String, Value>| {
        sent.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1)
    };
    match IN_PLACE.iter().filter(held).count() {
        0 => false,
        1 => several(sent) || OF_OBJECTS.iter().any(|key| sent.contains_key(*key)),
        _ => true,
    }
}
