//! OpenAI's `/v1/responses`.

pub mod encode;
pub mod items;
pub mod request;
