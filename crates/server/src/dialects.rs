//! Dialects: how each API's requests are read, and how replies are written for its clients.

pub mod chat;
pub mod completions;
pub mod messages;
pub mod responses;
