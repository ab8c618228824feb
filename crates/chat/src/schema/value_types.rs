//! The JSON types that an argument's schemas allow. If arguments come one by one, a text is written as it is, and all
//! else as JSON.

use serde_json::Value;

use super::references::References;

/// Schemas, listed values and parts of references that one search visits. Beyond that a schema counts as allowing
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

/// Whether an argument is written as a text or as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArgumentKind {
    /// Its schema allows texts only.
    Text,
    /// Its schema allows no texts.
    Json,
    /// Its schema allows texts and other values.
    Either,
}

/// An argument's schemas, all of which have to match, and the document of their references.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Argument<'r, 's> {
    pub(crate) schemas: &'r [&'s Value],
    pub(crate) references: &'r References<'s>,
}

/// A set of JSON types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonTypes(u8);

impl JsonTypes {
    /// None of them.
    pub(crate) const NONE: Self = Self(0);
    /// All of them.
    pub(crate) const ANY: Self = Self(ANY);

    /// The union.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// How a value of one of these types is written.
    pub(crate) fn kind(self) -> ArgumentKind {
        match self.0 {
            STRING => ArgumentKind::Text,
            types if types & STRING == 0 => ArgumentKind::Json,
            _ => ArgumentKind::Either,
        }
    }

    /// JSON Schema's names of the types other than texts.
    pub(crate) fn other_names(self) -> impl Iterator<Item = &'static str> {
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
    /// The types that the argument may have; all of them if that is not known. Adds the schemas and values visited to
    /// `spent`.
    pub(crate) fn all_types(self, spent: &mut usize) -> JsonTypes {
        let mut steps = 0;
        let each = self.schemas.iter().map(|schema| self.types(schema, 0, &mut steps));
        let types = each.fold(ANY, |types, one| types & one);
        *spent += steps;
        JsonTypes(types)
    }

    /// Whether a schema allows texts. Adds the schemas and values visited to `steps`.
    pub(crate) fn allows_texts(self, schema: &'s Value, depth: usize, steps: &mut usize) -> bool {
        self.types(schema, depth, steps) & STRING != 0
    }

    /// The types that a schema allows, as bits; all of them if that is not known.
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
            types &= type_of(value);
        }
        if let Some(Value::Array(all)) = map.get("enum")
            && types.count_ones() > 1
        {
            *steps += all.len();
            let listed = all.iter().take(MAX_STEPS).fold(0, |types, value| types | type_of(value));
            types &= if *steps > MAX_STEPS { ANY } else { listed };
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(all)) = map.get(key) {
                let mut each = 0;
                for one in all {
                    each |= self.types(one, depth + 1, steps);
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
        // A schema of an object's or an array's parts without a type is meant for objects or arrays.
        if types == ANY && has(&["properties", "patternProperties"]) {
            types = OBJECT;
        } else if types == ANY && has(&["items", "prefixItems"]) {
            types = ARRAY;
        }
        types
    }
}

/// Whether the keyword `type` with this value allows texts.
pub(crate) fn type_allows_texts(names: &Value) -> bool {
    types_named(names) & STRING != 0
}

/// The types that the keyword `type` with this value allows.
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
fn type_of(value: &Value) -> u8 {
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
    use crate::schema::allowed_texts::AllowedTexts;

    fn kind(schema: &Value) -> ArgumentKind {
        let root = json!({"$defs": {"text": {"type": "string", "pattern": "^a"}, "number": {"type": "integer"},
            "circle": {"$ref": "#/$defs/circle"}, "wide": {"anyOf": [{"$ref": "#/$defs/wide"},
            {"$ref": "#/$defs/wide"}, {"type": "string"}]}}});
        kind_in(schema, &root)
    }

    fn kind_in(schema: &Value, root: &Value) -> ArgumentKind {
        let references = References::new(root);
        Argument { schemas: &[schema], references: &references }.all_types(&mut 0).kind()
    }

    #[test]
    fn the_kind_of_a_schema_without_a_type_is_what_it_allows() {
        for (schema, is) in [
            (json!({"type": "string"}), ArgumentKind::Text),
            (json!({"type": "integer"}), ArgumentKind::Json),
            (json!({"type": ["string", "null"]}), ArgumentKind::Either),
            (json!({"enum": ["1", "2"]}), ArgumentKind::Text),
            (json!({"enum": [1, 2]}), ArgumentKind::Json),
            (json!({"enum": ["1", 2]}), ArgumentKind::Either),
            (json!({"type": "string", "enum": ["1", 2]}), ArgumentKind::Text),
            (json!({"const": "1"}), ArgumentKind::Text),
            (json!({"const": null}), ArgumentKind::Json),
            (json!({"anyOf": [{"const": "a"}, {"type": "string"}]}), ArgumentKind::Text),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), ArgumentKind::Either),
            (json!({"oneOf": [{"type": "array"}, {"type": "null"}]}), ArgumentKind::Json),
            (
                json!({"allOf": [{"type": ["string", "null"]}, {"type": ["string", "array"]}]}),
                ArgumentKind::Text,
            ),
            (json!({"$ref": "#/$defs/text"}), ArgumentKind::Text),
            (json!({"$ref": "#/$defs/number"}), ArgumentKind::Json),
            (json!({"$ref": "#/$defs/none"}), ArgumentKind::Either),
            (json!({"$ref": "other.json"}), ArgumentKind::Either),
            (json!({"properties": {"a": {}}}), ArgumentKind::Json),
            (json!({"items": {}}), ArgumentKind::Json),
            (json!({"description": "any"}), ArgumentKind::Either),
            (json!(true), ArgumentKind::Either),
            (json!({"type": "made up"}), ArgumentKind::Json),
        ] {
            assert_eq!(kind(&schema), is, "{schema}");
        }
    }

    #[test]
    fn references_name_what_the_grammar_takes_them_for() {
        let root = json!({"$id": "https://a.example/s", "$defs": {
            "t": {"$anchor": "text", "type": "string"}, "a b": {"type": "string"},
            "o": {"$id": "other.json", "type": "string"}, "n": {"$dynamicAnchor": "n", "type": "null"}}});
        for (name, is) in [
            ("#text", ArgumentKind::Text),
            ("other.json", ArgumentKind::Text),
            ("#/$defs/a%20b", ArgumentKind::Text),
            ("https://a.example/s#/$defs/t", ArgumentKind::Text),
            ("#none", ArgumentKind::Either),
            ("https://b.example/s#/$defs/t", ArgumentKind::Either),
        ] {
            assert_eq!(kind_in(&json!({"$ref": name}), &root), is, "{name}");
        }
        assert_eq!(kind_in(&json!({"$dynamicRef": "#n"}), &root), ArgumentKind::Json);
        // Up to draft 7 nothing counts beside a reference.
        let old = json!({"$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"n": {"type": "integer"}}});
        let both = json!({"$ref": "#/definitions/n", "type": "string"});
        assert_eq!(kind_in(&both, &old), ArgumentKind::Json);
    }

    #[test]
    fn circles_and_large_schemas_may_be_anything() {
        assert_eq!(kind(&json!({"$ref": "#/$defs/circle"})), ArgumentKind::Either);
        assert_eq!(kind(&json!({"$ref": "#/$defs/wide"})), ArgumentKind::Either);
        let many: Vec<Value> = (0..2 * MAX_STEPS).map(|number| json!(number.to_string())).collect();
        assert_eq!(kind(&json!({"enum": many})), ArgumentKind::Either);
        assert_eq!(kind(&json!({"type": "string", "enum": many})), ArgumentKind::Text);
        let schema = json!({"enum": many});
        let references = References::new(&schema);
        let argument = Argument { schemas: &[&schema], references: &references };
        assert_eq!(AllowedTexts::of(argument, &mut 0).sets.len(), many.len());
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
                assert_eq!(argument.all_types(&mut 0), JsonTypes::ANY);
                assert!(!AllowedTexts::of(argument, &mut 0).sets.is_empty());
            }
            assert!(begin.elapsed().as_secs() < 5, "{key}: {:?}", begin.elapsed());
        }
    }
}
