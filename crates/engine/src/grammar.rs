//! Constrained decoding: grammars are compiled once and cached, and give the mask of allowed tokens at each step.
//!
//! llguidance parses: an Earley parser over lexemes, on a trie of the vocabulary. A grammar is compiled when a request
//! is checked, so one that cannot be enforced is refused before anything runs; each answer gets a copy of the compiled
//! grammar. The cost of a source is bounded before it is compiled (`cost.rs`, by `limits.rs`), and the time of each
//! mask while an answer is generated (`time_limit.rs`).

mod cache;
mod constraint;
mod cost;
mod expression;
mod grammars;
mod lark_cost;
mod limits;
mod number_bound;
mod schema_cost;
mod source;
#[cfg(test)]
mod tests;
mod time_limit;

pub use self::constraint::CompiledGrammar;
pub(crate) use self::constraint::{Constraint, Mask, TooComplex};
pub use self::cost::check_source;
pub use self::expression::{MAX_EXPRESSION, reads_expression, some_text_matches, unicode_classes};
pub use self::grammars::Grammars;
pub use self::limits::MAX_SOURCE;
pub(crate) use self::source::GrammarCompiler;
pub use self::source::{Grammar, GrammarError};
