//! The text completions API: prompts in, their continuations out.

pub mod encode;
pub mod request;
