//! OpenAI's `/v1/responses`.

pub mod encode;
