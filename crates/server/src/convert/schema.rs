//! JSON Schema as clients send it to what the engine's grammar compiler reads.

mod build;
mod closing;
mod disjoint;
mod document;
mod enforcement;
mod formats;
mod keywords;
mod negation;
mod not_enforced;
mod one_of;
mod pattern;
mod property_count;
mod rewriter;
mod substitutes;
#[cfg(test)]
mod tests;
mod unique_items;
mod values;

use forebay_engine::Grammar;
use serde_json::Value;

use self::build::set;
pub(super) use self::build::{any_object, any_string, members, object, string_matching};
use self::document::Rewritten;
pub(super) use self::enforcement::Enforcement;
pub use self::not_enforced::NotEnforced;
use self::rewriter::Rewriter;

/// The compiler's keyword for options of a schema.
const GUIDANCE: &str = "x-guidance";

/// A schema for the grammar compiler.
#[derive(Debug, Clone)]
pub(super) struct Enforceable {
    /// With the spelling of its JSON.
    pub(super) schema: Value,
    /// Keywords that its output may violate.
    pub(super) not_enforced: NotEnforced,
}

/// Rewrites a schema so that the compiler reads it in the sense that the client means.
///
/// # Errors
/// Why it cannot be enforced.
pub(super) fn enforceable(schema: &Value, enforcement: Enforcement) -> Result<Enforceable, String> {
    rewrite(schema, enforcement, false)
}

/// Rewrites a schema of which each property becomes a document of its own, with its `$defs`: there `#` is another
/// schema, so the whole is one of the definitions.
///
/// # Errors
/// Why it cannot be enforced.
pub(super) fn enforceable_apart(
    schema: &Value,
    enforcement: Enforcement,
) -> Result<Enforceable, String> {
    rewrite(schema, enforcement, true)
}

fn rewrite(schema: &Value, enforcement: Enforcement, apart: bool) -> Result<Enforceable, String> {
    let rewriter = match schema {
        Value::Object(_) => Rewriter::new(schema, enforcement, apart),
        Value::Bool(true) => return rewrite(&object([]), enforcement, apart),
        Value::Bool(false) => return Err("nothing is valid by it".to_owned()),
        _ => return Err("a schema is an object".to_owned()),
    };
    let Rewritten { mut schema, not_enforced, is_open } = rewriter.rewrite_document()?;
    set(&mut schema, GUIDANCE, spelling(is_open));
    Ok(Enforceable { schema: Value::Object(schema), not_enforced })
}

impl Enforceable {
    /// Its grammar.
    pub(super) fn grammar(&self) -> Grammar {
        Grammar::JsonSchema(self.schema.to_string().into())
    }
}

/// A schema with the spelling of its JSON, unless it has one.
pub(super) fn spelled(mut schema: Value) -> Value {
    if let Value::Object(schema) = &mut schema {
        schema.entry(GUIDANCE).or_insert_with(|| spelling(false));
    }
    schema
}

/// How JSON is spelled: one space after `,` and `:` and none elsewhere. Models write it so most often, it excludes
/// endless white space, and most of it need not be sampled. If an object may have names that its schema does not,
/// no letter may be escaped by number: `n\u0061me` would be another `name`.
fn spelling(has_free_names: bool) -> Value {
    let escapes = if has_free_names { "nrbtf\\\"" } else { "nrbtf\\\"u" };
    object([
        ("whitespace_flexible", false.into()),
        ("item_separator", ", ".into()),
        ("key_separator", ": ".into()),
        ("coerce_one_of", false.into()),
        ("lenient", false.into()),
        ("json_allowed_escapes", escapes.into()),
    ])
}
