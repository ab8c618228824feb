//! Whether the parser of calls takes each argument of a tool for a text or for JSON, by the tool's schema.

use std::collections::HashMap;

use serde_json::Value;

use super::parameters::Parameters;
use super::references::References;
use super::value_types::{ArgumentKind, JsonTypes};

/// How the parser takes each argument of a tool.
#[derive(Debug)]
pub(crate) struct ArgumentKinds {
    named: HashMap<String, ArgumentKind>,
    /// For all other names.
    others: ArgumentKind,
}

impl ArgumentKinds {
    /// By the schema of a tool's parameters as the client sent it.
    pub(crate) fn of(schema: &Value) -> Self {
        let references = References::new(schema);
        let (named, others) = Parameters::of(schema, &references).types(&references);
        let named = named.into_iter().map(|(name, types)| (name.to_owned(), types.kind()));
        Self {
            named: named.collect(),
            others: others.map_or(ArgumentKind::Either, JsonTypes::kind),
        }
    }

    /// The kind of the argument with this name.
    pub(crate) fn get(&self, name: &str) -> ArgumentKind {
        self.named.get(name).copied().unwrap_or(self.others)
    }

    /// The kind of arguments whose names the schema does not have.
    pub(crate) fn others(&self) -> ArgumentKind {
        self.others
    }

    /// The names in the schema of arguments that are texts only while others are not, or the other way round, sorted.
    pub(crate) fn unlike_others(&self) -> Vec<&str> {
        let is_text = |kind: ArgumentKind| kind == ArgumentKind::Text;
        let unlike = self.named.iter().filter(|(_, kind)| is_text(**kind) != is_text(self.others));
        let mut names: Vec<&str> = unlike.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_of_all_alternatives_count() {
        let schema = json!({"anyOf": [{"properties": {"a": {"type": "string"}, "b": {"type": "null"}}},
            {"properties": {"b": {"type": "string"}}}]});
        let kinds = ArgumentKinds::of(&schema);
        let each = ["a", "b", "z"].map(|name| kinds.get(name));
        assert_eq!(each, [ArgumentKind::Text, ArgumentKind::Either, ArgumentKind::Either]);
    }
}
