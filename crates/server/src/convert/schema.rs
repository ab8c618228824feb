//! JSON Schema as clients send it, to what the engine's grammar compiler reads.

mod build;
mod closing;
mod disjoint;
mod formats;
mod not_enforced;
mod pattern;
mod relax;
mod rewrite;
#[cfg(test)]
mod tests;

use forebay_engine::Grammar;
use serde_json::{Map, Value, json};

pub(super) use self::build::{any_object, any_string, members, object, string_matching};
pub use self::not_enforced::NotEnforced;
use self::rewrite::{Rewriter, Rewritten};

/// What becomes of a schema that cannot be enforced as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enforcement {
    /// It is refused, by the name of the keyword.
    Strict,
    /// What can be enforced of it is, and the other keywords are noted.
    Nearest,
    /// The same without regular expressions: for schemas whose expressions cost the compiler too
    /// much.
    Loosest,
}

/// A schema for the grammar compiler.
#[derive(Debug, Clone)]
pub(super) struct Enforceable {
    /// With our spelling.
    pub(super) schema: Value,
    /// What an answer by it may violate.
    pub(super) not_enforced: NotEnforced,
}

impl Enforcement {
    /// What a `strict` field asks for; a request that has none is content with less.
    pub(super) fn of(strict: Option<bool>) -> Self {
        if strict == Some(true) { Self::Strict } else { Self::Nearest }
    }

    /// What to try where the compiler refuses the grammar that this makes.
    pub(super) fn weaker(self) -> Option<Self> {
        (self == Self::Nearest).then_some(Self::Loosest)
    }
}

/// The schema as the compiler reads it as it is meant.
///
/// # Errors
/// Why it cannot be enforced.
pub(super) fn enforceable(schema: &Value, enforcement: Enforcement) -> Result<Enforceable, String> {
    written(schema, enforcement, false)
}

/// The same for a schema of which each property becomes a document of its own, with its `$defs`:
/// there `#` is another schema, so the whole is one of the definitions.
///
/// # Errors
/// Why it cannot be enforced.
pub(super) fn enforceable_apart(
    schema: &Value,
    enforcement: Enforcement,
) -> Result<Enforceable, String> {
    written(schema, enforcement, true)
}

fn written(schema: &Value, enforcement: Enforcement, apart: bool) -> Result<Enforceable, String> {
    let rewriter = match schema {
        Value::Object(_) => Rewriter::new(schema, enforcement, apart),
        Value::Bool(true) => return written(&json!({}), enforcement, apart),
        Value::Bool(false) => return Err("nothing is valid by it".to_owned()),
        _ => return Err("a schema is an object".to_owned()),
    };
    let Rewritten { mut schema, not_enforced, is_open } = rewriter.document()?;
    schema["x-guidance"] = Value::Object(spelling(is_open));
    Ok(Enforceable { schema, not_enforced })
}

impl Enforceable {
    /// Its grammar.
    pub(super) fn grammar(&self) -> Grammar {
        Grammar::JsonSchema(self.schema.to_string().into())
    }
}

/// A schema of our own with our spelling.
pub(super) fn spelled(mut schema: Value) -> Value {
    if schema.get("x-guidance").is_none() {
        schema["x-guidance"] = Value::Object(spelling(false));
    }
    schema
}

/// What every JSON answer is spelled like: one space behind `,` and `:` and none elsewhere. What
/// models write most, it leaves no room for endless white space, and most of it need not be sampled.
/// Where an object may have names that its schema does not, no letter is spelled by its number:
/// `n\u0061me` would be another `name`.
fn spelling(has_free_names: bool) -> Map<String, Value> {
    let escapes = if has_free_names { "nrbtf\\\"" } else { "nrbtf\\\"u" };
    let options = json!({
        "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
        "coerce_one_of": false, "lenient": false, "json_allowed_escapes": escapes,
    });
    options.as_object().cloned().unwrap_or_default()
}
