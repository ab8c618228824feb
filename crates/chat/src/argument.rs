//! What an argument's schema allows, where arguments come one by one: a text, which is spelled as it
//! is, or JSON. The grammar of forced calls and the reader of calls both use it; the reader sees the schema as
//! it was sent.

use std::collections::HashMap;

use serde_json::Value;

use crate::parameters::Parameters;
use crate::references::References;

/// Schemas, listed values and parts of references that one walk visits; beyond it a schema counts as allowing
/// anything.
pub(crate) const MAX_STEPS: usize = 4_096;
/// How deep schemas for the same value are followed.
pub(crate) const MAX_DEPTH: usize = 16;

const NULL: u8 = 1;
const BOOLEAN: u8 = 1 << 1;
const NUMBER: u8 = 1 << 2;
const STRING: u8 = 1 << 3;
const ARRAY: u8 = 1 << 4;
const OBJECT: u8 = 1 << 5;
const ANY: u8 = (1 << 6) - 1;

/// How an argument is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its schema allows texts alone.
    Text,
    /// It allows none.
    Json,
    /// It allows texts and others.
    Either,
}

/// An argument's schemas, which have to match together, and what their references name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument<'r, 's> {
    pub(crate) schemas: &'r [&'s Value],
    pub(crate) references: &'r References<'s>,
}

/// Types of JSON values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    /// None of them.
    pub(crate) const NONE: Self = Self(0);
    /// All of them.
    pub(crate) const ANY: Self = Self(ANY);

    /// Those of either.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// How a value of one of these types is spelled.
    pub(crate) fn kind(self) -> Kind {
        match self.0 {
            STRING => Kind::Text,
            types if types & STRING == 0 => Kind::Json,
            _ => Kind::Either,
        }
    }

    /// Their names besides that of texts, as JSON Schema has them.
    pub(crate) fn others(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(u8, &str); 5] = [
            (OBJECT, "object"),
            (ARRAY, "array"),
            (NUMBER, "number"),
            (BOOLEAN, "boolean"),
            (NULL, "null"),
        ];
        NAMES.iter().filter(move |(one, _)| self.0 & one != 0).map(|(_, name)| *name)
    }
}

impl<'s> Argument<'_, 's> {
    /// The types that it allows; all of them where that is not known. `spent` counts work.
    pub(crate) fn all_types(self, spent: &mut usize) -> Types {
        let mut steps = 0;
        let each = self.schemas.iter().map(|schema| self.types(schema, 0, &mut steps));
        let types = each.fold(ANY, |types, one| types & one);
        *spent += steps;
        Types(types)
    }

    /// Whether a schema allows texts; `steps` counts what is visited.
    pub(crate) fn allows_texts(self, schema: &'s Value, depth: usize, steps: &mut usize) -> bool {
        self.types(schema, depth, steps) & STRING != 0
    }

    /// The types that a schema allows, as bits; all of them where that is not known.
    fn types(self, schema: &'s Value, depth: usize, steps: &mut usize) -> u8 {
        *steps += 1;
        let map = match schema {
            Value::Object(map) if *steps <= MAX_STEPS && depth <= MAX_DEPTH => map,
            Value::Bool(false) => return 0,
            _ => return ANY,
        };
        let (names, alone) = self.references.applying(map);
        let mut types = ANY;
        for name in names {
            *steps += name.len() / 16;
            let target = self.references.find(name);
            types &= target.map_or(ANY, |to| self.types(to, depth + 1, steps));
        }
        if alone {
            return types;
        }
        types &= map.get("type").map_or(ANY, types_named);
        if let Some(value) = map.get("const") {
            types &= of(value);
        }
        if let Some(Value::Array(all)) = map.get("enum")
            && types.count_ones() > 1
        {
            *steps += all.len();
            let listed = all.iter().take(MAX_STEPS).fold(0, |types, value| types | of(value));
            types &= if *steps > MAX_STEPS { ANY } else { listed };
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(all)) = map.get(key) {
                let mut each = 0;
                for one in all {
                    each |= self.types(one, depth + 1, steps);
                    // Nothing more can be added.
                    if each & types == types {
                        break;
                    }
                }
                types &= each;
            }
        }
        for one in map.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            types &= self.types(one, depth + 1, steps);
            if *steps > MAX_STEPS {
                break;
            }
        }
        let has = |keys: &[&str]| keys.iter().any(|key| map.contains_key(*key));
        // What describes parts of one kind of value alone is meant to describe that kind.
        if types == ANY && has(&["properties", "patternProperties"]) {
            types = OBJECT;
        } else if types == ANY && has(&["items", "prefixItems"]) {
            types = ARRAY;
        }
        types
    }
}

/// How the reader takes each argument of a tool: as a text, as JSON, or as either.
#[derive(Debug)]
pub(crate) struct Kinds {
    named: HashMap<String, Kind>,
    /// Those with other names.
    others: Kind,
}

impl Kinds {
    /// Those by the schema of a tool's parameters, as it was sent.
    pub(crate) fn of(schema: &Value) -> Self {
        let references = References::new(schema);
        let (named, others) = Parameters::of(schema, &references).types(&references);
        let named = named.into_iter().map(|(name, types)| (name.to_owned(), types.kind()));
        Self { named: named.collect(), others: others.map_or(Kind::Either, Types::kind) }
    }

    /// That of an argument.
    pub(crate) fn get(&self, name: &str) -> Kind {
        self.named.get(name).copied().unwrap_or(self.others)
    }

    /// The names that the schema has of arguments that are read as texts where others are not, or the other
    /// way round, in order.
    pub(crate) fn unlike_others(&self) -> Vec<&str> {
        let is_text = |kind: Kind| kind == Kind::Text;
        let unlike = self.named.iter().filter(|(_, kind)| is_text(**kind) != is_text(self.others));
        let mut names: Vec<&str> = unlike.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// That of arguments whose names the schema does not have.
    pub(crate) fn others(&self) -> Kind {
        self.others
    }
}

/// Whether what a `type` names holds texts.
pub(crate) fn names_texts(names: &Value) -> bool {
    types_named(names) & STRING != 0
}

/// The types that a `type` names.
fn types_named(names: &Value) -> u8 {
    match names {
        Value::Array(all) => all.iter().take(16).fold(0, |types, name| types | type_named(name)),
        name => type_named(name),
    }
}

fn type_named(name: &Value) -> u8 {
    match name.as_str() {
        Some("null") => NULL,
        Some("boolean") => BOOLEAN,
        Some("number" | "integer") => NUMBER,
        Some("string") => STRING,
        Some("array") => ARRAY,
        Some("object") => OBJECT,
        _ => 0,
    }
}

/// A value's type.
fn of(value: &Value) -> u8 {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => BOOLEAN,
        Value::Number(_) => NUMBER,
        Value::String(_) => STRING,
        Value::Array(_) => ARRAY,
        Value::Object(_) => OBJECT,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::texts::texts_of;

    fn kind(schema: &Value) -> Kind {
        let root = json!({"$defs": {"text": {"type": "string", "pattern": "^a"}, "number": {"type": "integer"},
            "circle": {"$ref": "#/$defs/circle"}, "wide": {"anyOf": [{"$ref": "#/$defs/wide"},
            {"$ref": "#/$defs/wide"}, {"type": "string"}]}}});
        kind_in(schema, &root)
    }

    fn kind_in(schema: &Value, root: &Value) -> Kind {
        let references = References::new(root);
        Argument { schemas: &[schema], references: &references }.all_types(&mut 0).kind()
    }

    #[test]
    fn a_schema_without_a_type_is_what_it_allows() {
        for (schema, is) in [
            (json!({"type": "string"}), Kind::Text),
            (json!({"type": "integer"}), Kind::Json),
            (json!({"type": ["string", "null"]}), Kind::Either),
            (json!({"enum": ["1", "2"]}), Kind::Text),
            (json!({"enum": [1, 2]}), Kind::Json),
            (json!({"enum": ["1", 2]}), Kind::Either),
            (json!({"type": "string", "enum": ["1", 2]}), Kind::Text),
            (json!({"const": "1"}), Kind::Text),
            (json!({"const": null}), Kind::Json),
            (json!({"anyOf": [{"const": "a"}, {"type": "string"}]}), Kind::Text),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), Kind::Either),
            (json!({"oneOf": [{"type": "array"}, {"type": "null"}]}), Kind::Json),
            (
                json!({"allOf": [{"type": ["string", "null"]}, {"type": ["string", "array"]}]}),
                Kind::Text,
            ),
            (json!({"$ref": "#/$defs/text"}), Kind::Text),
            (json!({"$ref": "#/$defs/number"}), Kind::Json),
            (json!({"$ref": "#/$defs/none"}), Kind::Either),
            (json!({"$ref": "other.json"}), Kind::Either),
            (json!({"properties": {"a": {}}}), Kind::Json),
            (json!({"items": {}}), Kind::Json),
            (json!({"description": "any"}), Kind::Either),
            (json!(true), Kind::Either),
            (json!({"type": "made up"}), Kind::Json),
        ] {
            assert_eq!(kind(&schema), is, "{schema}");
        }
    }

    #[test]
    fn references_mean_what_the_grammar_takes_them_for() {
        let root = json!({"$id": "https://a.example/s", "$defs": {
            "t": {"$anchor": "text", "type": "string"}, "a b": {"type": "string"},
            "o": {"$id": "other.json", "type": "string"}, "n": {"$dynamicAnchor": "n", "type": "null"}}});
        for (name, is) in [
            ("#text", Kind::Text),
            ("other.json", Kind::Text),
            ("#/$defs/a%20b", Kind::Text),
            ("https://a.example/s#/$defs/t", Kind::Text),
            ("#none", Kind::Either),
            ("https://b.example/s#/$defs/t", Kind::Either),
        ] {
            assert_eq!(kind_in(&json!({"$ref": name}), &root), is, "{name}");
        }
        assert_eq!(kind_in(&json!({"$dynamicRef": "#n"}), &root), Kind::Json);
        // Up to draft 7 nothing counts beside a reference.
        let old = json!({"$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"n": {"type": "integer"}}});
        let both = json!({"$ref": "#/definitions/n", "type": "string"});
        assert_eq!(kind_in(&both, &old), Kind::Json);
    }

    #[test]
    fn circles_and_large_schemas_may_be_anything() {
        assert_eq!(kind(&json!({"$ref": "#/$defs/circle"})), Kind::Either);
        assert_eq!(kind(&json!({"$ref": "#/$defs/wide"})), Kind::Either);
        let many: Vec<Value> = (0..2 * MAX_STEPS).map(|number| json!(number.to_string())).collect();
        assert_eq!(kind(&json!({"enum": many})), Kind::Either);
        assert_eq!(kind(&json!({"type": "string", "enum": many})), Kind::Text);
        let schema = json!({"enum": many});
        let references = References::new(&schema);
        let argument = Argument { schemas: &[&schema], references: &references };
        assert_eq!(texts_of(argument, &mut 0).texts.len(), many.len());
    }

    #[test]
    fn wide_lists_that_refer_to_themselves_are_left_in_time() {
        let again = json!({"$ref": "#/$defs/wide"});
        for key in ["anyOf", "oneOf", "allOf"] {
            let root = json!({"$defs": {"wide": {key: vec![again.clone(); 50_000]}}});
            let begin = std::time::Instant::now();
            for _ in 0..100 {
                let references = References::new(&root);
                let argument = Argument { schemas: &[&again], references: &references };
                assert_eq!(argument.all_types(&mut 0), Types::ANY);
                assert!(!texts_of(argument, &mut 0).texts.is_empty());
            }
            assert!(begin.elapsed().as_secs() < 5, "{key}: {:?}", begin.elapsed());
        }
    }
}
