//! Named access to the keywords of a schema.

use serde_json::{Map, Value};

/// A schema that is an object, read by keyword.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keywords<'a>(&'a Map<String, Value>);

/// Methods that return the value of a keyword, whatever its type.
macro_rules! keywords {
    ($($method:ident: $keyword:literal,)*) => {
        impl<'a> Keywords<'a> {
            $(
                #[doc = concat!("The value of `", $keyword, "`.")]
                pub(super) fn $method(self) -> Option<&'a Value> {
                    self.0.get($keyword)
                }
            )*
        }
    };
}

keywords! {
    additional_properties: "additionalProperties",
    all_of: "allOf",
    any_of: "anyOf",
    constant: "const",
    dialect: "$schema",
    enumeration: "enum",
    format: "format",
    items: "items",
    max_items: "maxItems",
    max_properties: "maxProperties",
    min_contains: "minContains",
    min_items: "minItems",
    min_properties: "minProperties",
    not: "not",
    one_of: "oneOf",
    pattern: "pattern",
    property_names: "propertyNames",
    reference: "$ref",
    required: "required",
    types: "type",
    unevaluated_items: "unevaluatedItems",
    unevaluated_properties: "unevaluatedProperties",
    unique_items: "uniqueItems",
}

impl<'a> Keywords<'a> {
    /// The keywords of an object.
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self(map)
    }

    /// The keywords of a schema; `None` for one that is no object.
    pub(super) fn of(schema: &'a Value) -> Option<Self> {
        schema.as_object().map(Self)
    }

    /// The value of a keyword.
    pub(super) fn value(self, keyword: &str) -> Option<&'a Value> {
        self.0.get(keyword)
    }

    /// Whether the schema has a keyword.
    pub(super) fn has(self, keyword: &str) -> bool {
        self.0.contains_key(keyword)
    }

    /// Whether the schema has one of these keywords.
    pub(super) fn has_any(self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.has(keyword))
    }

    /// Whether the schema has these keywords alone, or none.
    pub(super) fn has_only(self, keywords: &[&str]) -> bool {
        self.0.keys().all(|keyword| keywords.contains(&keyword.as_str()))
    }

    /// The number of keywords.
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    /// The keywords with their values, in order.
    pub(super) fn iter(self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.0.iter().map(|(keyword, value)| (keyword.as_str(), value))
    }

    /// The items of a keyword that is a list; none if it is not.
    pub(super) fn list(self, keyword: &str) -> &'a [Value] {
        items(self.value(keyword))
    }

    /// The names of required properties; what is not a text is among them.
    pub(super) fn required_names(self) -> &'a [Value] {
        items(self.required())
    }

    /// The schemas of properties by name.
    pub(super) fn properties(self) -> Option<&'a Map<String, Value>> {
        self.value("properties").and_then(Value::as_object)
    }

    /// The number of expressions for names of properties.
    pub(super) fn count_pattern_properties(self) -> usize {
        self.value("patternProperties").and_then(Value::as_object).map_or(0, Map::len)
    }

    /// The target of a reference, if that is a text.
    pub(super) fn target(self) -> Option<&'a str> {
        self.reference().and_then(Value::as_str)
    }

    /// The values that `const` or `enum` list, if one of them does.
    pub(super) fn listed(self) -> Option<&'a [Value]> {
        let all = || self.enumeration().and_then(Value::as_array).map(Vec::as_slice);
        self.constant().map(std::slice::from_ref).or_else(all)
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
