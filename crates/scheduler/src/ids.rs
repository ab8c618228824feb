//! Names of requests, sequences, slots, copies, principals and salts: numbers that are compared.

use serde::{Deserialize, Serialize};

/// A token id of a model's vocabulary.
///
/// An alias: token lists cross to llama.cpp, to grammars and to JSON as plain numbers, and a newtype
/// would be converted at each of these borders.
pub type Token = u32;

/// A generation request, as the engine numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The sequence of a request's prompt and one of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId {
    /// The request.
    pub request: RequestId,
    /// Index of the answer, from 0.
    pub choice: u32,
}

/// A sequence of the KV cache, as the engine numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

/// A copy of a slot's state in host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostCopyId(pub u64);

/// Separates prefix caches: a prompt reuses only KV that was computed for the same salt.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Salt(pub u64);

/// The client that a request is charged to: principals share tokens and slots fairly.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Principal(pub u64);
