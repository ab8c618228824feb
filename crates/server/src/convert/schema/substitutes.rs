//! Keywords that the grammar compiler does not support: each is written in others of the same meaning, or
//! left out, which allows more, and noted.

use forebay_chat::{Draft, is_any};
use serde_json::{Map, Value};

use super::build::{object, one_matches, push_all_of, set, string_matching, without_property};
use super::enforcement::Enforcement;
use super::formats::{EnforcedFormat, enforced_format};
use super::keywords::Keywords;
use super::not_enforced::Keyword;
use super::rewriter::{Rewriter, SchemaRole};
use super::values::size;
use crate::error::shown;

/// Properties on which others depend: each doubles the alternatives.
const MAX_DEPENDENCIES: usize = 4;
/// Alternatives times properties that dependencies may make.
const MAX_DEPENDENT: usize = 1_024;

impl<'a> Rewriter<'a> {
    /// Writes substitutes of the keywords that are not copied; `role` is the schema's, `inner` that of the schemas
    /// that it holds in place.
    ///
    /// # Errors
    /// If a keyword is invalid, or a strict schema has one that cannot be enforced.
    pub(super) fn substitute(
        &mut self,
        sent: Keywords<'a>,
        (role, inner): (SchemaRole, SchemaRole),
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        self.write_text_keywords(sent, out)?;
        self.write_unique_items(sent, out)?;
        if let Some(not) = sent.not() {
            self.negate(not, sent, out)?;
        }
        self.write_dependencies(sent, depth, out)?;
        if self.references.draft() >= Draft::Draft6 {
            if let Some(names) = sent.property_names() {
                self.write_property_names(names, sent, inner, out)?;
            }
            // Any number of items may match.
            let is_void = self.references.draft() >= Draft::Draft201909
                && sent.min_contains() == Some(&Value::from(0))
                && !sent.has("maxContains");
            if sent.has("contains") && !is_void {
                self.leave_out(Keyword::Contains)?;
            }
        }
        let is_branched = sent.has_any(&["then", "else"]);
        if self.references.draft() >= Draft::Draft7 && sent.has("if") && is_branched {
            self.leave_out(Keyword::If)?;
        }
        if self.references.draft() >= Draft::Draft201909 {
            self.write_unevaluated(sent, (role, inner), out)?;
        }
        Ok(())
    }

    /// `format` and `pattern`.
    fn write_text_keywords(
        &mut self,
        sent: Keywords<'a>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        if !allows(sent, "string") {
            return Ok(());
        }
        match sent.pattern() {
            None => {}
            Some(Value::String(pattern)) => {
                if let Some(pattern) = self.expression(pattern, Keyword::Pattern)? {
                    set(out, "pattern", pattern);
                }
            }
            Some(_) => return Err("its 'pattern' is no text".to_owned()),
        }
        let name = match sent.format() {
            None => return Ok(()),
            Some(Value::String(name)) => name,
            Some(_) => return Err("its 'format' is no text".to_owned()),
        };
        match enforced_format(name) {
            EnforcedFormat::Unknown if self.enforcement == Enforcement::Strict => {
                return Err(format!("unknown format: {}", shown(name)));
            }
            EnforcedFormat::Unknown => self.not_enforced.add(Keyword::Format),
            EnforcedFormat::Known => {
                set(out, "format", name.as_str());
            }
            EnforcedFormat::Pattern(pattern) if out.contains_key("pattern") => {
                push_all_of(out, string_matching(pattern));
            }
            EnforcedFormat::Pattern(pattern) => {
                set(out, "pattern", pattern);
            }
        }
        Ok(())
    }

    /// Properties on which others depend: they are missing, or the others match.
    fn write_dependencies(
        &mut self,
        sent: Keywords<'a>,
        depth: usize,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let mut written = Vec::new();
        for (key, keyword) in [
            ("dependencies", Keyword::Dependencies),
            ("dependentRequired", Keyword::DependentRequired),
            ("dependentSchemas", Keyword::DependentSchemas),
        ] {
            let known = key == "dependencies" || self.references.draft() >= Draft::Draft201909;
            let Some(Value::Object(all)) = sent.value(key).filter(|_| known) else { continue };
            let properties = sent.properties().map_or(0, Map::len);
            let bears = |below: &Value| !matches!(below, Value::Array(names) if names.is_empty());
            let count = written.len() + all.values().filter(|below| bears(below)).count();
            if count > MAX_DEPENDENCIES || (1 << count) * (1 + properties) > MAX_DEPENDENT {
                self.leave_out(keyword)?;
                continue;
            }
            for (name, below) in all.iter().filter(|(_, below)| bears(below)) {
                let needs = match below {
                    Value::Array(_) => object([("required", below.clone())]),
                    schema => self.rewrite_schema(schema, SchemaRole::Conjunct, depth + 1)?,
                };
                written.push(one_matches(vec![without_property(name).into(), needs]).into());
            }
        }
        written.into_iter().for_each(|one| push_all_of(out, one));
        Ok(())
    }

    /// `propertyNames` of a map: written as properties, or as an expression for names.
    fn write_property_names(
        &mut self,
        names: &'a Value,
        sent: Keywords<'a>,
        inner: SchemaRole,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let Some(names) = Keywords::of(names) else {
            return if *names == Value::Bool(true) {
                Ok(())
            } else {
                self.leave_out(Keyword::PropertyNames)
            };
        };
        let constrains = |key: &str| !matches!(key, "type" | "title" | "description" | "$comment");
        let constraints: Vec<_> = names.iter().filter(|(key, _)| constrains(key)).collect();
        let is_map = !sent.has_any(&["properties", "patternProperties"]);
        let constraint = match constraints.as_slice() {
            [] => return Ok(()),
            [one] if inner != SchemaRole::Conjunct && is_map => *one,
            _ => return self.leave_out(Keyword::PropertyNames),
        };
        let value = Keywords::new(out).additional_properties().cloned();
        let value = value.unwrap_or(Value::Bool(true));
        match constraint {
            ("pattern", Value::String(pattern)) => {
                let Some(pattern) = self.expression(pattern, Keyword::PropertyNames)? else {
                    return Ok(());
                };
                set(out, "patternProperties", object([(pattern.as_str(), value)]));
            }
            ("enum", Value::Array(all)) if all.len() <= 64 && all.iter().all(Value::is_string) => {
                // Each name gets a copy, and such schemas may be nested.
                self.spend(size(&value).saturating_mul(all.len()))?;
                let each = all.iter().filter_map(Value::as_str);
                let properties: Map<String, Value> =
                    each.map(|name| (name.to_owned(), value.clone())).collect();
                set(out, "properties", properties);
            }
            _ => return self.leave_out(Keyword::PropertyNames),
        }
        set(out, "additionalProperties", false);
        Ok(())
    }

    /// `unevaluatedProperties` and `unevaluatedItems`: enforced if closing does that, else noted.
    fn write_unevaluated(
        &mut self,
        sent: Keywords<'a>,
        (role, inner): (SchemaRole, SchemaRole),
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        if sent.unevaluated_items().is_some_and(|items| !is_any(items)) {
            self.leave_out(Keyword::UnevaluatedItems)?;
        }
        match sent.unevaluated_properties() {
            None => Ok(()),
            Some(value) if is_any(value) => Ok(()),
            Some(Value::Bool(false)) if inner == SchemaRole::Whole => {
                out.entry("additionalProperties").or_insert(Value::Bool(false));
                Ok(())
            }
            Some(Value::Bool(false)) if role == SchemaRole::Whole => Ok(()),
            Some(_) => self.leave_out(Keyword::UnevaluatedProperties),
        }
    }
}

/// Whether a schema allows values of a type.
fn allows(sent: Keywords<'_>, kind: &str) -> bool {
    match sent.types() {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(all)) => all.iter().any(|one| one == kind),
        _ => true,
    }
}
