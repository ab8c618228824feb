//! OpenAI's `/v1/chat/completions`.

pub mod encode;
