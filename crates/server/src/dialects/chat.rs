//! OpenAI's `/v1/chat/completions`.

pub mod encode;
pub mod request;
