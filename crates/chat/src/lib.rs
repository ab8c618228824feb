//! Chat messages to prompts, by the model's own Jinja template.
//!
//! [`normalise`] makes plain turns out of OpenAI messages, [`ChatTemplate`] renders
//! them. What comes out is a list of pieces: tokenised one by one, with control tokens recognised,
//! they give the prompt; nothing a user wrote can become a control token (`guard.rs`).
//!
//! **Invariant:** no async, no tokens, no clock (`strftime_now` gets the time as an argument), and
//! no names of models.

mod argument;
mod calls;
mod channels;
mod dialect;
mod forced;
mod guard;
mod json;
mod json_scanner;
mod literal;
mod names;
mod parameters;
mod pattern;
mod references;
mod rewriting;
mod template;
mod text_buffer;
mod texts;
mod thoughts;
mod turn;

pub use calls::{CallReader, Part};
pub use channels::ChannelReader;
pub use dialect::Dialect;
pub use forced::{
    CallGrammar, Calls, MAX_GRAMMAR_BYTES, SomeText, Target, ToolShape, Unenforceable,
    between_slashes, escape_regex, grammar as call_grammar, literal,
};
pub use parameters::is_any;
pub use references::{Draft, References};
pub use template::{ChatTemplate, RenderError, RenderOptions, TemplateError};
pub use thoughts::{Said, Thinking, ThoughtReader};
pub use turn::{BadMessage, Call, Turn, name_results, normalise, role};
