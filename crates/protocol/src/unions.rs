//! Values that OpenAI accepts in several JSON shapes.
//!
//! Visitors deserialise them instead of serde's `untagged`, which would report a bad value as "data did not match any variant" and lose the path to it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `stop`: one string or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// `"stop": "\n"`
    One(String),
    /// `"stop": ["\n", "END"]`
    Many(Vec<String>),
}

impl Stop {
    /// The stop strings in the order given.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(s) => vec![s],
            Self::Many(v) => v,
        }
    }
}

/// `prompt` of `/v1/completions` and `input` of `/v1/embeddings`: text or token ids, one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TextOrTokens {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One text as token ids.
    Tokens(Vec<u32>),
    /// Several texts as token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// One text, or a list of parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TextOr<T> {
    /// One text.
    Text(String),
    /// Parts.
    Parts(Vec<T>),
}

/// One text, or an object.
#[derive(Debug, Clone, PartialEq)]
pub enum TextOrObject<T> {
    /// One text.
    Text(String),
    /// An object.
    Object(T),
}

/// `logit_bias`: token id (as a JSON object key, hence text) to bias.
#[derive(Debug, Clone, PartialEq, Default, Serialize, ToSchema)]
pub struct LogitBias(pub BTreeMap<String, f32>);

/// The elements of an array.
fn collect<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(seq: A) -> Result<Vec<T>, A::Error> {
    Vec::deserialize(SeqAccessDeserializer::new(seq))
}

// === impl TextOr ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
            type Value = TextOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of objects")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<TextOr<T>, A::Error> {
                collect(seq).map(TextOr::Parts)
            }
        }
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

// === impl TextOrObject ===

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOrObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrObjectVisitor<T> {
            type Value = TextOrObject<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<TextOrObject<T>, E> {
                Ok(TextOrObject::Text(v.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOrObject<T>, A::Error> {
                let object = de::value::MapAccessDeserializer::new(map);
                T::deserialize(object).map(TextOrObject::Object)
            }
        }
        deserializer.deserialize_any(TextOrObjectVisitor(PhantomData))
    }
}

// === impl Stop ===

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;
        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Stop, E> {
                Ok(Stop::One(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Stop, A::Error> {
                collect(seq).map(Stop::Many)
            }
        }
        deserializer.deserialize_any(StopVisitor)
    }
}

// === impl TextOrTokens ===

/// One element of the outer array.
enum ArrayElement {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for ArrayElement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArrayElementVisitor;
        impl<'de> Visitor<'de> for ArrayElementVisitor {
            type Value = ArrayElement;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<ArrayElement, E> {
                Ok(ArrayElement::Text(v.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<ArrayElement, E> {
                u32::try_from(v)
                    .map(ArrayElement::Token)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(v), &"a token id"))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<ArrayElement, E> {
                Err(E::invalid_value(de::Unexpected::Signed(v), &"a token id"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<ArrayElement, A::Error> {
                collect(seq).map(ArrayElement::Tokens)
            }
        }
        deserializer.deserialize_any(ArrayElementVisitor)
    }
}

impl<'de> Deserialize<'de> for TextOrTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OuterVisitor;
        impl<'de> Visitor<'de> for OuterVisitor {
            type Value = TextOrTokens;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a string, an array of strings, an array of token ids or an array of those",
                )
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<TextOrTokens, E> {
                Ok(TextOrTokens::Text(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TextOrTokens, A::Error> {
                let mut out = match seq.next_element()? {
                    None => return Ok(TextOrTokens::Texts(Vec::new())),
                    Some(ArrayElement::Text(s)) => TextOrTokens::Texts(vec![s]),
                    Some(ArrayElement::Token(t)) => TextOrTokens::Tokens(vec![t]),
                    Some(ArrayElement::Tokens(t)) => TextOrTokens::TokenLists(vec![t]),
                };
                while let Some(element) = seq.next_element()? {
                    match (&mut out, element) {
                        (TextOrTokens::Texts(v), ArrayElement::Text(s)) => v.push(s),
                        (TextOrTokens::Tokens(v), ArrayElement::Token(t)) => v.push(t),
                        (TextOrTokens::TokenLists(v), ArrayElement::Tokens(t)) => v.push(t),
                        _ => {
                            return Err(de::Error::custom(
                                "invalid type: array elements must all be strings, all token ids \
                                 or all arrays of token ids",
                            ));
                        }
                    }
                }
                Ok(out)
            }
        }
        deserializer.deserialize_any(OuterVisitor)
    }
}

// === impl LogitBias ===

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BiasVisitor;
        impl<'de> Visitor<'de> for BiasVisitor {
            type Value = LogitBias;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token id to a number")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LogitBias, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(LogitBias)
            }
        }
        deserializer.deserialize_any(BiasVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn input(json: &str) -> Result<TextOrTokens, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn input_shapes_are_told_apart() {
        assert_eq!(input(r#""a""#), Ok(TextOrTokens::Text("a".into())));
        assert_eq!(input(r#"["a"]"#), Ok(TextOrTokens::Texts(vec!["a".into()])));
        assert_eq!(input("[1,2]"), Ok(TextOrTokens::Tokens(vec![1, 2])));
        assert_eq!(input("[[1],[2,3]]"), Ok(TextOrTokens::TokenLists(vec![vec![1], vec![2, 3]])));
        assert_eq!(input("[]"), Ok(TextOrTokens::Texts(vec![])));
    }

    #[test]
    fn mixed_and_wrong_elements_are_errors() {
        for bad in [r#"["a",1]"#, "[1,[2]]", "[-1]", "[1.5]", "[null]", "7", "{}", "[4294967296]"] {
            assert!(input(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stop_is_one_or_many() {
        let one: Stop = serde_json::from_str(r#""x""#).unwrap();
        assert_eq!(one.into_vec(), ["x"]);
        let many: Stop = serde_json::from_str(r#"["x","y"]"#).unwrap();
        assert_eq!(many.into_vec(), ["x", "y"]);
        assert!(serde_json::from_str::<Stop>("[1]").is_err());
    }
}
