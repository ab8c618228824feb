//! Anthropic's `/v1/messages`.

pub mod encode;
pub mod request;
