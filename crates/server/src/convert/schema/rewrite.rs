//! From a schema as it was sent to one that the grammar compiler reads as it is meant.
//!
//! The schema is written anew: what is reached from its root, without annotations, with references
//! to definitions of our own. So a definition can be written twice: closed where it alone says what
//! an object is, open where others say so as well (`closing.rs`). What cannot be enforced is refused
//! or left out and noted (`relax.rs`). Each definition is visited twice at most, within a bound of
//! steps over all.

use std::collections::{HashMap, HashSet};

use forebay_chat::{References, is_any};
use serde_json::{Map, Value, json};

use super::Enforcement;
use super::closing::close;
use super::disjoint::Comparer;
use super::not_enforced::{Keyword, NotEnforced};

/// How deep schemas may be nested.
const MAX_DEPTH: usize = 64;
/// Schemas, names and values that rewriting may visit.
const MAX_STEPS: usize = 400_000;

/// Keywords that are the same in the schema that is enforced.
const COPIED: [&str; 13] = [
    "type",
    "enum",
    "const",
    "required",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// What a schema says of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// All: an object has no properties but those that it names.
    Whole,
    /// It is one of several that have to match together, which name properties as well.
    Member,
}

/// Rewrites a document.
pub(super) struct Rewriter<'a> {
    root: &'a Value,
    /// Whether the root is a definition as well, rather than `#`.
    defines_root: bool,
    pub(super) enforcement: Enforcement,
    pub(super) references: References<'a>,
    pub(super) comparer: Comparer<'a>,
    pub(super) not_enforced: NotEnforced,
    /// Whether some object may have other properties besides those that it names.
    pub(super) is_open: bool,
    /// Arrays that were written out for `uniqueItems`.
    pub(super) sequences: usize,
    /// Unicode classes of expressions that were tried.
    pub(super) classes: u64,
    /// What is left of expressions.
    pub(super) expressions: HashMap<&'a str, Option<String>>,
    definitions: Definitions<'a>,
    steps: usize,
}

/// The definitions that references of the new document name.
#[derive(Default)]
struct Definitions<'a> {
    /// By the address of the schema as it was sent.
    names: HashMap<(usize, Part), String>,
    used: HashSet<String>,
    todo: Vec<(String, &'a Value, Part)>,
}

/// A document that is rewritten.
pub(super) struct Rewritten {
    pub(super) schema: Value,
    pub(super) not_enforced: NotEnforced,
    pub(super) is_open: bool,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(root: &'a Value, enforcement: Enforcement, defines_root: bool) -> Self {
        Self {
            root,
            defines_root,
            enforcement,
            references: References::new(root),
            comparer: Comparer::new(root),
            not_enforced: NotEnforced::default(),
            is_open: false,
            sequences: 0,
            classes: 0,
            expressions: HashMap::new(),
            definitions: Definitions::default(),
            steps: 0,
        }
    }

    /// The whole document.
    ///
    /// # Errors
    /// Why it cannot be enforced.
    pub(super) fn document(mut self) -> Result<Rewritten, String> {
        let mut schema = self.schema(self.root, Part::Whole, 0)?;
        let mut definitions = Map::new();
        while let Some((name, target, part)) = self.definitions.todo.pop() {
            let written = self.schema(target, part, 0)?;
            definitions.insert(name, written);
        }
        let Some(map) = schema.as_object_mut() else {
            return Err("nothing is valid by it".to_owned());
        };
        if let Some(draft @ Value::String(_)) = self.root.get("$schema") {
            map.insert("$schema".to_owned(), draft.clone());
        }
        if !definitions.is_empty() {
            map.insert("$defs".to_owned(), Value::Object(definitions));
        }
        // Control characters of listed values can only be spelled by numbers.
        let is_open = self.is_open && !lists_controls(&schema);
        Ok(Rewritten { schema, not_enforced: self.not_enforced, is_open })
    }

    /// Counts work, which is bounded over the document.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), String> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return Err(format!(
                "it takes more than {MAX_STEPS} steps to read with its references resolved"
            ));
        }
        Ok(())
    }

    /// The schema that a reference names. Its length is counted: one long reference can stand in many places.
    pub(super) fn find(&mut self, reference: &str) -> Result<Option<&'a Value>, String> {
        self.spend(reference.len() / 64)?;
        Ok(self.references.find(reference))
    }

    /// What cannot be enforced: noted or refused.
    pub(super) fn cannot(&mut self, keyword: Keyword) -> Result<(), String> {
        if self.enforcement == Enforcement::Strict {
            return Err(format!("its '{}' is not supported", keyword.name()));
        }
        self.not_enforced.add(keyword);
        Ok(())
    }

    /// A schema.
    pub(super) fn schema(
        &mut self,
        sent: &'a Value,
        part: Part,
        depth: usize,
    ) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        self.spend(1)?;
        match sent {
            Value::Bool(_) => Ok(sent.clone()),
            Value::Object(map) if self.is_none(map) => Ok(Value::Bool(false)),
            Value::Object(map) => self.keywords(map, part, depth).map(Value::Object),
            _ => Err("a schema is an object".to_owned()),
        }
    }

    /// Whether nothing is valid by a schema, because it says so.
    fn is_none(&self, sent: &Map<String, Value>) -> bool {
        let counts =
            !self.references.draft().references_stand_alone() || !sent.contains_key("$ref");
        counts && sent.get("not").is_some_and(is_any)
    }

    fn keywords(
        &mut self,
        sent: &'a Map<String, Value>,
        part: Part,
        depth: usize,
    ) -> Result<Map<String, Value>, String> {
        let mut out = Map::new();
        if self.references.draft().references_stand_alone()
            && let Some(reference) = sent.get("$ref")
        {
            self.reference("$ref", reference, part, &mut out)?;
            return Ok(out);
        }
        let (closing, inner) = self.closing(sent, part)?;
        for (key, value) in sent {
            self.spend(1)?;
            match key.as_str() {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    self.reference(key, value, inner, &mut out)?;
                }
                "properties" | "patternProperties" => {
                    let written = self.named(key, value, depth)?;
                    out.insert(key.clone(), written);
                }
                "items" | "prefixItems" | "additionalItems" | "additionalProperties" => {
                    let written = match value {
                        Value::Array(_) => self.each(value, Part::Whole, depth)?,
                        one => self.schema(one, Part::Whole, depth + 1)?,
                    };
                    out.insert(key.clone(), written);
                }
                "allOf" => {
                    if let Value::Array(members) = self.each(value, inner, depth)? {
                        members.into_iter().for_each(|member| also(&mut out, member));
                    }
                }
                "anyOf" | "oneOf" => {
                    let mut options = self.each(value, inner, depth)?;
                    closing.options(key, &mut options);
                    match key.as_str() {
                        "oneOf" => self.one_of(sent, inner, options, &mut out)?,
                        _ => alternatives(&mut out, options),
                    }
                }
                key if COPIED.contains(&key) => {
                    out.insert(key.to_owned(), value.clone());
                }
                _ => {}
            }
        }
        let count = |map: &Map<String, Value>| {
            map.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len)
        };
        if count(&out) < count(sent) {
            // Names by an expression that is left out may be any.
            out.insert("additionalProperties".to_owned(), Value::Bool(true));
            self.is_open = true;
        }
        self.relax(sent, (part, inner), depth, &mut out)?;
        close(sent, part, &closing, &mut out);
        self.count_properties(sent, &mut out)?;
        if self.type_is_implied(sent)? {
            // Beside it the compiler would have to copy what a reference names, and a circle has no end.
            out.shift_remove("type");
        }
        Ok(out)
    }

    /// Whether a schema's `type` says nothing that the schemas it holds do not say.
    fn type_is_implied(&mut self, sent: &'a Map<String, Value>) -> Result<bool, String> {
        const ALONE: [&str; 12] = [
            "type",
            "$ref",
            "anyOf",
            "oneOf",
            "allOf",
            "title",
            "description",
            "default",
            "$schema",
            "$comment",
            "$defs",
            "definitions",
        ];
        match sent.get("type") {
            Some(types) if sent.keys().all(|key| ALONE.contains(&key.as_str())) => {
                self.holds_only(sent, types, 0)
            }
            _ => Ok(false),
        }
    }

    /// Whether the schemas that a schema holds for the same value allow these types alone.
    fn holds_only(
        &mut self,
        sent: &'a Map<String, Value>,
        types: &Value,
        depth: usize,
    ) -> Result<bool, String> {
        let target = sent.get("$ref").and_then(Value::as_str);
        if let Some(name) = target
            && let Some(target) = self.find(name)?
            && self.allows_only(target, types, depth + 1)?
        {
            return Ok(true);
        }
        for (key, every) in [("anyOf", true), ("oneOf", true), ("allOf", false)] {
            let Some(Value::Array(all)) = sent.get(key) else { continue };
            let mut only = all.iter().map(|one| self.allows_only(one, types, depth + 1));
            // The first that decides it.
            let decides = only.find(|only| only.as_ref().map_or(true, |only| *only != every));
            if !all.is_empty() && decides.transpose()?.unwrap_or(every) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn allows_only(
        &mut self,
        sent: &'a Value,
        types: &Value,
        depth: usize,
    ) -> Result<bool, String> {
        self.spend(1)?;
        let Value::Object(map) = sent else { return Ok(*sent == Value::Bool(false)) };
        let allowed = |one: &Value| match types {
            Value::Array(all) => all.contains(one),
            single => single == one,
        };
        let only = match map.get("type") {
            Some(Value::Array(all)) => all.iter().all(allowed),
            Some(one) => allowed(one),
            None => false,
        };
        if only || depth > 2 { Ok(only) } else { self.holds_only(map, types, depth) }
    }

    /// The schemas of an array.
    pub(super) fn each(
        &mut self,
        sent: &'a Value,
        part: Part,
        depth: usize,
    ) -> Result<Value, String> {
        let Value::Array(all) = sent else { return Ok(sent.clone()) };
        let each = all.iter().map(|one| self.schema(one, part, depth + 1));
        each.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    /// The schemas of properties, by name or by an expression for names.
    fn named(&mut self, key: &str, sent: &'a Value, depth: usize) -> Result<Value, String> {
        let Value::Object(all) = sent else { return Ok(sent.clone()) };
        let mut out = Map::new();
        for (name, below) in all {
            let written = self.schema(below, Part::Whole, depth + 1)?;
            let name = match key {
                "patternProperties" => self.expression(name, Keyword::PatternProperties)?,
                _ => Some(name.clone()),
            };
            if let Some(name) = name {
                out.insert(name, written);
            }
        }
        Ok(Value::Object(out))
    }

    /// A reference, to a definition of the new document.
    fn reference(
        &mut self,
        key: &str,
        sent: &'a Value,
        part: Part,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        match key {
            "$dynamicRef" => self.cannot(Keyword::DynamicRef)?,
            "$recursiveRef" => self.cannot(Keyword::RecursiveRef)?,
            _ => {}
        }
        let Value::String(name) = sent else { return Err(format!("its '{key}' is no text")) };
        let whole = part == Part::Whole && !self.defines_root;
        let written = match self.find(name)? {
            None if self.enforcement == Enforcement::Strict => {
                return Err(format!("only '{key}' within the schema is supported"));
            }
            None => {
                self.is_open = true;
                return self.cannot(Keyword::Ref);
            }
            Some(target) if std::ptr::eq(target, self.root) && whole => "#".to_owned(),
            Some(target) => self.definitions.name(name, target, part),
        };
        match out.contains_key("$ref") {
            true => also(out, json!({"$ref": written})),
            false => {
                out.insert("$ref".to_owned(), written.into());
            }
        }
        Ok(())
    }
}

impl<'a> Definitions<'a> {
    /// A reference to a definition, which is written if it is not yet.
    fn name(&mut self, reference: &str, target: &'a Value, part: Part) -> String {
        let key = (std::ptr::from_ref(target).addr(), part);
        if let Some(name) = self.names.get(&key) {
            return format!("#/$defs/{name}");
        }
        // Messages of the compiler name it: as the client does, where that is a plain word.
        let last = reference.rsplit(['/', '#']).next().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let fits = (1..=64).contains(&last.len()) && last.chars().all(plain);
        let base = if fits { last } else { "schema" };
        let mut name = base.to_owned();
        if self.used.contains(&name) {
            name = format!("{base}-{}", self.used.len());
        }
        while !self.used.insert(name.clone()) {
            name.push('-');
        }
        self.names.insert(key, name.clone());
        self.todo.push((name.clone(), target, part));
        format!("#/$defs/{name}")
    }
}

/// Adds a schema that has to match as well.
pub(super) fn also(out: &mut Map<String, Value>, schema: Value) {
    match out.entry("allOf").or_insert_with(|| json!([])) {
        Value::Array(all) => all.push(schema),
        other => *other = json!([schema]),
    }
}

/// Adds schemas of which one has to match.
pub(super) fn alternatives(out: &mut Map<String, Value>, options: Value) {
    match out.contains_key("anyOf") {
        true => also(out, json!({"anyOf": options})),
        false => {
            out.insert("anyOf".to_owned(), options);
        }
    }
}

/// Whether a value that a written schema lists has a control character without a short escape.
fn lists_controls(schema: &Value) -> bool {
    let has = |text: &str| {
        text.chars().any(|c| c < ' ' && !matches!(c, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r'))
    };
    let (mut todo, mut listed) = (vec![(schema, false)], false);
    while let Some((value, is_listed)) = todo.pop() {
        match value {
            Value::String(text) => listed |= is_listed && has(text),
            Value::Array(all) => todo.extend(all.iter().map(|below| (below, is_listed))),
            Value::Object(map) => todo.extend(map.iter().map(|(key, below)| {
                listed |= is_listed && has(key);
                (below, is_listed || matches!(key.as_str(), "enum" | "const"))
            })),
            _ => {}
        }
    }
    listed
}
