//! Values that OpenAI lets a client spell in several ways.
//!
//! Each is deserialised by a visitor instead of serde's `untagged`, which would answer a bad
//! value with "data did not match any variant" and lose the path to it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

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

/// `prompt` of `/v1/completions`: text or token ids, one prompt or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One prompt as text.
    Text(String),
    /// Several prompts as text.
    Texts(Vec<String>),
    /// One prompt as token ids.
    Tokens(Vec<u32>),
    /// Several prompts as token ids.
    TokenLists(Vec<Vec<u32>>),
}

/// `input` of `/v1/embeddings`: text or token ids, one input or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingInput {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One input as token ids.
    Tokens(Vec<u32>),
    /// Several inputs as token ids.
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
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<TextOr<T>, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(TextOr::Parts(parts))
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
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Stop::Many(items))
            }
        }
        deserializer.deserialize_any(StopVisitor)
    }
}

// === impl Prompt, EmbeddingInput ===

/// The four shapes that `prompt` and `input` share.
enum TextOrTokens {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// One element of the outer array.
enum Element {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ElementVisitor;
        impl<'de> Visitor<'de> for ElementVisitor {
            type Value = Element;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id or an array of token ids")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Element, E> {
                Ok(Element::Text(v.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Element, E> {
                u32::try_from(v)
                    .map(Element::Token)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(v), &"a token id"))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Element, E> {
                Err(E::invalid_value(de::Unexpected::Signed(v), &"a token id"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Element::Tokens(ids))
            }
        }
        deserializer.deserialize_any(ElementVisitor)
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
                    Some(Element::Text(s)) => TextOrTokens::Texts(vec![s]),
                    Some(Element::Token(t)) => TextOrTokens::Tokens(vec![t]),
                    Some(Element::Tokens(t)) => TextOrTokens::TokenLists(vec![t]),
                };
                while let Some(element) = seq.next_element()? {
                    match (&mut out, element) {
                        (TextOrTokens::Texts(v), Element::Text(s)) => v.push(s),
                        (TextOrTokens::Tokens(v), Element::Token(t)) => v.push(t),
                        (TextOrTokens::TokenLists(v), Element::Tokens(t)) => v.push(t),
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

macro_rules! text_or_tokens {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                TextOrTokens::deserialize(deserializer).map(|v| match v {
                    TextOrTokens::Text(v) => Self::Text(v),
                    TextOrTokens::Texts(v) => Self::Texts(v),
                    TextOrTokens::Tokens(v) => Self::Tokens(v),
                    TextOrTokens::TokenLists(v) => Self::TokenLists(v),
                })
            }
        }
    };
}
text_or_tokens!(Prompt);
text_or_tokens!(EmbeddingInput);

// === impl LogitBias ===

impl<'de> Deserialize<'de> for LogitBias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BiasVisitor;
        impl<'de> Visitor<'de> for BiasVisitor {
            type Value = LogitBias;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from token id to a number")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LogitBias, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    out.insert(key, value);
                }
                Ok(LogitBias(out))
            }
        }
        deserializer.deserialize_any(BiasVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn input(json: &str) -> Result<EmbeddingInput, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn input_shapes_are_told_apart() {
        assert_eq!(input(r#""a""#), Ok(EmbeddingInput::Text("a".into())));
        assert_eq!(input(r#"["a"]"#), Ok(EmbeddingInput::Texts(vec!["a".into()])));
        assert_eq!(input("[1,2]"), Ok(EmbeddingInput::Tokens(vec![1, 2])));
        assert_eq!(input("[[1],[2,3]]"), Ok(EmbeddingInput::TokenLists(vec![vec![1], vec![2, 3]])));
        assert_eq!(input("[]"), Ok(EmbeddingInput::Texts(vec![])));
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
