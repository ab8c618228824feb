//! The wire formats of the APIs that Forebay serves: JSON requests, answers, stream events and errors.
//!
//! There is a module for each endpoint: [`chat`], [`completion`], [`responses`], [`messages`]
//! (Anthropic's), [`embedding`], [`rerank`], [`tokenize`] and [`model`]. They share the types of
//! [`tools`], [`structured`] output, [`usage`] and [`error`], the fields of every [`generation`]
//! request, and values with several JSON shapes such as [`TextOr`].
//!
//! A request keeps every field that a client sent: what no struct carries lands in its `extra` map, and
//! the tables of [`fields`] say whether such a field is a hint or refused. `null` means absent,
//! because the SDKs send it for each option that a caller left out. A wrong value is reported with the
//! path to it, so types with several shapes have visitors instead of serde's `untagged`.
//!
//! **Invariant:** no HTTP, no async, no default values and no range checks. The server decides what a
//! request means; this crate only spells it.
//!
//! ```
//! use forebay_protocol::chat::{ChatCompletionRequest, Content};
//! use forebay_protocol::fields::{self, FieldRule};
//!
//! let json = r#"{
//!     "model": "smollm2",
//!     "messages": [{"role": "user", "content": "Hello"}],
//!     "max_tokens": 16,
//!     "temperature": null,
//!     "prompt_cache_key": "a"
//! }"#;
//! let request: ChatCompletionRequest = serde_json::from_str(json)?;
//! assert_eq!(request.messages[0].content, Some(Content::Text("Hello".to_owned())));
//! assert_eq!(request.common().max_tokens, Some(16));
//! assert_eq!(request.temperature, None);
//!
//! let (name, _) = request.extra.first_key_value().expect("a field without a struct");
//! assert!(matches!(fields::lookup(fields::CHAT, name), Some(FieldRule::Hint)));
//! # Ok::<(), serde_json::Error>(())
//! ```

pub mod chat;
pub mod completion;
pub mod embedding;
pub mod error;
pub mod fields;
pub mod generation;
pub mod messages;
pub mod model;
pub mod rerank;
pub mod responses;
pub mod structured;
pub mod tokenize;
pub mod tools;
mod unions;
pub mod usage;

pub use unions::{LogitBias, Stop, TextOr, TextOrObject, TextOrTokens};
