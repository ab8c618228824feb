//! A schema as it was sent to one that the grammar compiler reads in the same sense.
//!
//! The schema is written anew: what its root reaches, without annotations, with references to definitions of
//! our own. So a definition can be written twice: closed if it alone describes an object, open if others
//! describe it as well (`closing.rs`). What cannot be enforced is refused, or left out and noted
//! (`substitutes.rs`). Each definition is visited twice at most, within one budget of steps.

use forebay_chat::is_any;
use serde_json::{Map, Value};

use super::build::{object, push_all_of, push_any_of, set};
use super::closing::close;
use super::enforcement::Enforcement;
use super::keywords::Keywords;
use super::not_enforced::{Keyword, NotEnforced};
use super::rewriter::{Rewriter, SchemaRole};
use super::values::lists_controls;

/// How deep schemas may be nested.
const MAX_DEPTH: usize = 64;
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

/// A rewritten document.
pub(super) struct Rewritten {
    pub(super) schema: Map<String, Value>,
    pub(super) not_enforced: NotEnforced,
    pub(super) is_open: bool,
}

impl<'a> Rewriter<'a> {
    /// Rewrites the whole document.
    ///
    /// # Errors
    /// Why it cannot be enforced.
    pub(super) fn rewrite_document(mut self) -> Result<Rewritten, String> {
        let schema = self.rewrite_schema(self.root, SchemaRole::Whole, 0)?;
        let mut definitions = Map::new();
        while let Some((name, target, role)) = self.definitions.todo.pop() {
            let written = self.rewrite_schema(target, role, 0)?;
            definitions.insert(name, written);
        }
        let Value::Object(mut schema) = schema else {
            return Err("nothing is valid by it".to_owned());
        };
        if let Some(draft @ Value::String(_)) = Keywords::of(self.root).and_then(Keywords::dialect)
        {
            set(&mut schema, "$schema", draft.clone());
        }
        if !definitions.is_empty() {
            set(&mut schema, "$defs", definitions);
        }
        // Control characters of listed values can only be escaped by number.
        let is_open = self.is_open && !lists_controls(&schema);
        Ok(Rewritten { schema, not_enforced: self.not_enforced, is_open })
    }

    /// Rewrites a schema.
    pub(super) fn rewrite_schema(
        &mut self,
        sent: &'a Value,
        role: SchemaRole,
        depth: usize,
    ) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        self.spend(1)?;
        match sent {
            Value::Bool(_) => Ok(sent.clone()),
            Value::Object(map) => {
                let keywords = Keywords::new(map);
                match self.matches_nothing(keywords) {
                    true => Ok(Value::Bool(false)),
                    false => self.rewrite_keywords(keywords, role, depth).map(Value::Object),
                }
            }
            _ => Err("a schema is an object".to_owned()),
        }
    }

    /// Whether a schema is the negation of any value.
    fn matches_nothing(&self, sent: Keywords<'_>) -> bool {
        let is_read =
            !self.references.draft().references_stand_alone() || sent.reference().is_none();
        is_read && sent.not().is_some_and(is_any)
    }

    fn rewrite_keywords(
        &mut self,
        sent: Keywords<'a>,
        role: SchemaRole,
        depth: usize,
    ) -> Result<Map<String, Value>, String> {
        let mut out = Map::new();
        if self.references.draft().references_stand_alone()
            && let Some(reference) = sent.reference()
        {
            self.rewrite_reference("$ref", reference, role, &mut out)?;
            return Ok(out);
        }
        let (closing, inner) = self.closing(sent, role)?;
        for (key, value) in sent.iter() {
            self.spend(1)?;
            match key {
                "$ref" | "$dynamicRef" | "$recursiveRef" => {
                    self.rewrite_reference(key, value, inner, &mut out)?;
                }
                "properties" | "patternProperties" => {
                    set(&mut out, key, self.rewrite_by_name(key, value, depth)?);
                }
                "items" | "prefixItems" | "additionalItems" | "additionalProperties" => {
                    let written = match value {
                        Value::Array(_) => self.rewrite_list(value, SchemaRole::Whole, depth)?,
                        one => self.rewrite_schema(one, SchemaRole::Whole, depth + 1)?,
                    };
                    set(&mut out, key, written);
                }
                "allOf" => {
                    if let Value::Array(members) = self.rewrite_list(value, inner, depth)? {
                        members.into_iter().for_each(|member| push_all_of(&mut out, member));
                    }
                }
                "anyOf" | "oneOf" => {
                    let mut options = self.rewrite_list(value, inner, depth)?;
                    closing.close_options(key, &mut options);
                    match key {
                        "oneOf" => self.write_one_of(sent, inner, options, &mut out)?,
                        _ => push_any_of(&mut out, options),
                    }
                }
                key if COPIED.contains(&key) => set(&mut out, key, value.clone()),
                _ => {}
            }
        }
        if Keywords::new(&out).count_pattern_properties() < sent.count_pattern_properties() {
            // An expression that is left out matches any name.
            set(&mut out, "additionalProperties", true);
            self.is_open = true;
        }
        self.substitute(sent, (role, inner), depth, &mut out)?;
        close(sent, role, &closing, &mut out);
        self.count_properties(sent, &mut out)?;
        if self.type_is_implied(sent)? {
            // With both, the compiler would have to copy what a reference names, and a circle has no end.
            out.shift_remove("type");
        }
        Ok(out)
    }

    /// Whether the schemas that a schema holds imply its `type`.
    fn type_is_implied(&mut self, sent: Keywords<'a>) -> Result<bool, String> {
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
        match sent.types() {
            Some(types) if sent.has_only(&ALONE) => self.holds_only(sent, types, 0),
            _ => Ok(false),
        }
    }

    /// Whether the schemas that a schema holds in place allow these types alone.
    fn holds_only(
        &mut self,
        sent: Keywords<'a>,
        types: &Value,
        depth: usize,
    ) -> Result<bool, String> {
        if let Some(name) = sent.target()
            && let Some(target) = self.resolve(name)?
            && self.allows_only(target, types, depth + 1)?
        {
            return Ok(true);
        }
        for (key, every) in [("anyOf", true), ("oneOf", true), ("allOf", false)] {
            let Some(Value::Array(all)) = sent.value(key) else { continue };
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
        let Some(sent) = Keywords::of(sent) else { return Ok(*sent == Value::Bool(false)) };
        let allowed = |one: &Value| match types {
            Value::Array(all) => all.contains(one),
            single => single == one,
        };
        let only = match sent.types() {
            Some(Value::Array(all)) => all.iter().all(allowed),
            Some(one) => allowed(one),
            None => false,
        };
        if only || depth > 2 { Ok(only) } else { self.holds_only(sent, types, depth) }
    }

    /// Rewrites the schemas of an array.
    pub(super) fn rewrite_list(
        &mut self,
        sent: &'a Value,
        role: SchemaRole,
        depth: usize,
    ) -> Result<Value, String> {
        let Value::Array(all) = sent else { return Ok(sent.clone()) };
        let each = all.iter().map(|one| self.rewrite_schema(one, role, depth + 1));
        each.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    /// Rewrites the schemas of properties, by name or by an expression for names.
    fn rewrite_by_name(
        &mut self,
        key: &str,
        sent: &'a Value,
        depth: usize,
    ) -> Result<Value, String> {
        let Value::Object(all) = sent else { return Ok(sent.clone()) };
        let mut out = Map::new();
        for (name, below) in all {
            let written = self.rewrite_schema(below, SchemaRole::Whole, depth + 1)?;
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

    /// Rewrites a reference to one of the new document's definitions.
    fn rewrite_reference(
        &mut self,
        key: &str,
        sent: &'a Value,
        role: SchemaRole,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        match key {
            "$dynamicRef" => self.leave_out(Keyword::DynamicRef)?,
            "$recursiveRef" => self.leave_out(Keyword::RecursiveRef)?,
            _ => {}
        }
        let Value::String(name) = sent else { return Err(format!("its '{key}' is no text")) };
        let whole = role == SchemaRole::Whole && !self.defines_root;
        let written = match self.resolve(name)? {
            None if self.enforcement == Enforcement::Strict => {
                return Err(format!("only '{key}' within the schema is supported"));
            }
            None => {
                self.is_open = true;
                return self.leave_out(Keyword::Ref);
            }
            Some(target) if std::ptr::eq(target, self.root) && whole => "#".to_owned(),
            Some(target) => self.definitions.name(name, target, role),
        };
        match out.contains_key("$ref") {
            true => push_all_of(out, object([("$ref", written.into())])),
            false => set(out, "$ref", written),
        }
        Ok(())
    }
}
