//! `oneOf`: alternatives of which no two match the same value.

use serde_json::{Map, Value};

use super::build::{object, push_any_of, set};
use super::disjoint::TooMany;
use super::enforcement::Enforcement;
use super::keywords::Keywords;
use super::negation::only_required;
use super::not_enforced::Keyword;
use super::rewriter::{Rewriter, SchemaRole};

/// Schemas of a `oneOf` that each require another property.
const MAX_EXCLUSIVE: usize = 32;

impl<'a> Rewriter<'a> {
    /// `oneOf`: exactly one schema matches. If no two of them can match a value, it is `anyOf`.
    pub(super) fn write_one_of(
        &mut self,
        sent: Keywords<'a>,
        inner: SchemaRole,
        mut written: Value,
        out: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let Some(Value::Array(options)) = sent.one_of() else {
            set(out, "oneOf", written);
            return Ok(());
        };
        if !exclude_others(options, &mut written) {
            let disjoint =
                match self.comparer.are_disjoint(options, sent, inner == SchemaRole::Whole) {
                    Err(TooMany) if self.enforcement == Enforcement::Strict => {
                        return Err(TooMany::why());
                    }
                    Err(TooMany) => false,
                    Ok(disjoint) => disjoint,
                };
            if !disjoint && self.enforcement == Enforcement::Strict {
                return Err("'oneOf' is only possible where no two of its schemas can match the \
                            same value, such as by a property with different 'const' values"
                    .to_owned());
            }
            if !disjoint {
                self.not_enforced.add(Keyword::OneOf);
            }
        }
        push_any_of(out, written);
        Ok(())
    }
}

/// The property that a schema requires, if that is its only constraint.
fn required_property(schema: &Value) -> Option<&str> {
    let names = Keywords::of(schema).and_then(only_required)?;
    (names.len() == 1).then(|| names[0])
}

/// If each schema of a `oneOf` only requires a property of its own, makes each exclude those of the others. Returns
/// whether it did.
fn exclude_others(sent: &[Value], written: &mut Value) -> bool {
    if !(2..=MAX_EXCLUSIVE).contains(&sent.len()) {
        return false;
    }
    let names: Option<Vec<&str>> = sent.iter().map(required_property).collect();
    let (Some(names), Value::Array(written)) = (names, written) else { return false };
    if names.iter().enumerate().any(|(at, name)| names[..at].contains(name)) {
        return false;
    }
    for (option, own) in written.iter_mut().zip(&names) {
        let Value::Object(option) = option else { continue };
        let properties = option.entry("properties").or_insert_with(|| object([]));
        if let Value::Object(properties) = properties {
            names
                .iter()
                .filter(|name| *name != own)
                .for_each(|other| set(properties, other, false));
        }
        // All of them match a value that is no object.
        set(option, "type", "object");
    }
    true
}
