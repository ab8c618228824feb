//! `not`: what it excludes by name.

use serde_json::{Map, Value};

use super::build::{one_matches, push_all_of, set, without_property};
use super::keywords::Keywords;
use super::not_enforced::Keyword;
use super::rewriter::Rewriter;
use super::values::{are_equal, size};

/// Alternatives of a `not` that each exclude properties.
const MAX_EXCLUSIVE: usize = 32;
/// Properties that a `not` excludes together.
const MAX_TOGETHER: usize = 4;

impl<'a> Rewriter<'a> {
    /// `not`: enforced if it excludes properties, values or a type by name.
    pub(super) fn negate(
        &mut self,
        not: &'a Value,
        sent: Keywords<'a>,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        if *not == Value::Bool(false) {
            return Ok(());
        }
        let Some(negated) = Keywords::of(not) else { return self.leave_out(Keyword::Not) };
        let is_untyped = negated.types().is_none();
        if let Some(groups) = forbidden_properties(negated) {
            for names in groups {
                self.spend(names.len())?;
                let mut forbids = match names.as_slice() {
                    [name] => without_property(name),
                    names => {
                        let each = names.iter().map(|name| without_property(name).into());
                        one_matches(each.collect())
                    }
                };
                if is_untyped {
                    // A value that is no object matches `required`, and so not its negation.
                    set(&mut forbids, "type", "object");
                }
                push_all_of(out, Value::Object(forbids));
            }
            return Ok(());
        }
        if let Some(types) = other_types(negated, sent) {
            set(out, "type", types);
            return Ok(());
        }
        if let (Some(values), Some(Value::Array(all)), 1) =
            (negated.listed(), out.get_mut("enum"), negated.len())
            && sent.enumeration().is_some()
        {
            self.spend(all.len().saturating_mul(values.iter().map(size).sum()))?;
            all.retain(|value| !values.iter().any(|other| are_equal(value, other)));
            return Ok(());
        }
        self.leave_out(Keyword::Not)
    }
}

/// The groups of properties that a `not` excludes: no object has all of a group.
fn forbidden_properties(not: Keywords<'_>) -> Option<Vec<Vec<&str>>> {
    let untyped = |one: &Value| Keywords::of(one).is_none_or(|one| one.types().is_none());
    match (not.any_of(), not.all_of()) {
        (Some(Value::Array(all)), None) if not.len() == 1 && all.len() <= MAX_EXCLUSIVE => {
            all.iter().map(|one| required_by(one).filter(|_| untyped(one))).collect()
        }
        (None, Some(Value::Array(all))) if not.len() == 1 && all.iter().all(untyped) => {
            let names: Option<Vec<_>> = all.iter().map(required_by).collect();
            Some(vec![names?.concat()])
        }
        _ => Some(vec![only_required(not)?]),
    }
    .filter(|groups| groups.iter().all(|names| (1..=MAX_TOGETHER).contains(&names.len())))
}

/// The types that are left by a `not` that excludes one.
fn other_types(not: Keywords<'_>, sent: Keywords<'_>) -> Option<Value> {
    const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
    let kind = not.types().filter(|_| not.len() == 1)?;
    let without = kind.as_str().filter(|name| TYPES.contains(name))?;
    let left = |name: &str| name != without && (without != "number" || name != "integer");
    let types: Vec<&str> = match sent.types() {
        None => TYPES.to_vec(),
        Some(Value::String(one)) => vec![one],
        Some(all) => all.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?,
    };
    let types: Vec<&str> = types.into_iter().filter(|name| left(name)).collect();
    (!types.is_empty()).then(|| types.into())
}

fn required_by(schema: &Value) -> Option<Vec<&str>> {
    Keywords::of(schema).and_then(only_required)
}

/// The names that a schema requires, if that is its only constraint.
pub(super) fn only_required(schema: Keywords<'_>) -> Option<Vec<&str>> {
    const ONLY: [&str; 5] = ["required", "title", "description", "$comment", "type"];
    let is_only = schema.has_only(&ONLY) && schema.types().is_none_or(|kind| kind == "object");
    let names = schema.required()?.as_array().filter(|_| is_only)?;
    names.iter().map(Value::as_str).collect()
}
