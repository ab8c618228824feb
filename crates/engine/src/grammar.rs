//! Answers that follow a grammar: compiled once, kept, and asked before each token which ones may
//! come next.
//!
//! llguidance does the work: an Earley parser over lexemes, on a trie of the vocabulary. A grammar
//! is compiled where requests are checked, so one that cannot be enforced is refused before
//! anything runs; each answer gets a copy of the compiled one. What a source may cost is checked
//! before it is compiled (`limits.rs`), and what a token may cost while it is (`time_limit.rs`).

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
