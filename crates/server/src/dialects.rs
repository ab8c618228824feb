//! Dialects: how each API's clients ask, and how the replies are spelled for them.

pub mod chat;
pub mod completions;
pub mod messages;
pub mod responses;
