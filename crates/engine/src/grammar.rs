//! Answers that follow a grammar: compiled once, kept, and asked before each token which ones may
//! come next.
//!
//! llguidance does the work: an Earley parser over lexemes, on a trie of the vocabulary. A grammar
//! is compiled where requests are checked, so one that cannot be enforced is refused before
//! anything runs; each answer gets a copy of the compiled one. What a source may cost is checked
//! before it is compiled (`limits.rs`), and what a token may cost while it is (`time_limit.rs`).

mod expression;
mod kept;
mod lark_cost;
mod limits;
mod number_bound;
mod schema_cost;
#[cfg(test)]
mod tests;
mod time_limit;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{CancellationHandle, Matcher, ParserFactory};
use serde::{Deserialize, Serialize};

pub use self::expression::{MAX_EXPRESSION, reads_expression, some_text_matches, unicode_classes};
use self::kept::Kept;
use self::limits::Cost;
pub use self::limits::{MAX_SOURCE, check_source};
use self::number_bound::{Digits, NumberBound};
use crate::Token;
use crate::lock::lock;
use crate::vocab::{ParseSpecial, Vocab};

/// Symbols of a compiled grammar's productions. The largest schemas we know have 200,000.
const MAX_SIZE: usize = 250_000;
/// States of its lexer: one to two kilobytes each.
const MAX_LEXER_STATES: usize = 50_000;
/// The longest that the first token's mask may take when a grammar is compiled. Times are those on
/// a CPU.
const FIRST_MASK: Duration = Duration::from_secs(1);
/// The longest that one question to a grammar may take while an answer grows. Real schemas need
/// one to ten milliseconds.
const QUESTION: Duration = Duration::from_millis(150);
/// What all questions about an answer may take: so much at first, and more with each token.
const ANSWER: Duration = Duration::from_secs(1);
const EACH_TOKEN: Duration = Duration::from_millis(10);
/// The longest message about a grammar, in characters: the compiler repeats whole expressions.
const MAX_MESSAGE: usize = 300;

/// What an answer has to be. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Grammar {
    /// JSON that is valid by this JSON Schema.
    JsonSchema(Arc<str>),
    /// A text that this regular expression matches as a whole (without look-around).
    Regex(Arc<str>),
    /// A text by this grammar, in Lark's notation as llguidance reads it.
    Lark(Arc<str>),
}

/// Why a grammar cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

/// A model's compiled grammars.
pub struct Grammars {
    vocab: Vocab,
    /// The vocabulary's trie: made when the first grammar comes.
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    /// For grammars of JSON: made when the first one comes.
    numbers: OnceLock<Arc<NumberBound>>,
    kept: Kept,
}

/// A grammar that answers can follow. Cheap to clone.
#[derive(Clone)]
pub struct CompiledGrammar {
    matcher: Arc<Mutex<Matcher>>,
    /// Of JSON.
    numbers: Option<Arc<NumberBound>>,
}

/// Where one answer stands in its grammar.
pub(crate) struct Constraint {
    grammar: CompiledGrammar,
    /// The answer's own copy of the parser. It can take tens of milliseconds to make, so it is
    /// made where masks are prepared, beside the model's step.
    matching: Option<Matching>,
    mask: Option<Mask>,
    /// Tokens that the answer has already and the parser has not seen.
    before: Vec<Token>,
    /// The number that the answer ends with.
    digits: Digits,
    /// What questions may still take.
    left: Duration,
}

struct Matching {
    matcher: Matcher,
    cancel: CancellationHandle,
}

/// The tokens that may come next.
#[derive(Debug)]
pub(crate) struct Mask(SimpleVob);

/// The grammar needs more than its limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooComplex;

// === impl Grammars ===

impl Grammars {
    /// For a vocabulary.
    pub fn new(vocab: Vocab) -> Self {
        let (factory, numbers) = (OnceLock::new(), OnceLock::new());
        Self { vocab, factory, numbers, kept: Kept::default() }
    }

    /// Compiles a grammar, or finds it compiled.
    ///
    /// Not for an async reactor's thread: what is accepted takes up to a second, up to 14 MB of
    /// stack and up to 150 MB of memory meanwhile. It may wait for another thread that compiles
    /// the same source.
    ///
    /// # Errors
    /// [`GrammarError`], which names what cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        // A longer one is neither kept nor compared.
        limits::within(grammar.source().len() as u64, limits::MAX_SOURCE as u64, "bytes")?;
        self.kept.get_or_compile(grammar, || {
            let compiled = catch_unwind(AssertUnwindSafe(|| self.build(grammar)));
            let compiled = compiled.unwrap_or_else(|_| Err(failed()));
            match compiled {
                Ok((compiled, bytes)) => (Ok(compiled), bytes),
                Err(error) => (Err(error), MAX_MESSAGE),
            }
        })
    }

    /// A grammar that was compiled before and is still kept.
    pub fn compiled(&self, grammar: &Grammar) -> Option<CompiledGrammar> {
        self.kept.find(grammar)
    }

    /// Compiles a grammar; with an estimate of its size in bytes.
    fn build(&self, grammar: &Grammar) -> Result<(CompiledGrammar, usize), GrammarError> {
        let Cost { units } = limits::check(grammar)?;
        let parsed = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(
                serde_json::from_str(schema).map_err(|e| GrammarError(e.to_string()))?,
            ),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.to_string()),
        };
        let factory = self.factory.get_or_init(|| factory(&self.vocab)).as_ref();
        let factory = factory.map_err(GrammarError::clone)?;
        let parser = factory.create_parser(parsed);
        let lexer = parser.as_ref().map_or(0, |parser| parser.parser.lexer_stats().num_bytes);
        let mut matching = Matching::new(Matcher::new(parser));
        // What the first token may be is the same for every answer.
        match matching.limited(FIRST_MASK, Matcher::compute_mask).0 {
            Ok(mask) if mask.is_zero() => Err(GrammarError("no text follows it".to_owned())),
            Ok(_) => {
                // A symbol takes some 200 bytes in the compiled grammar, measured.
                let bytes = (16 << 10) + grammar.source().len() + 256 * units as usize + lexer;
                let matcher = Arc::new(Mutex::new(matching.matcher));
                Ok((CompiledGrammar { matcher, numbers: self.numbers(grammar) }, bytes))
            }
            Err(_) if matching.matcher.is_cancelled() => {
                Err(GrammarError("it takes too long to find out what may come first".to_owned()))
            }
            Err(error) => Err(readable(&error.to_string())),
        }
    }
}

impl Grammars {
    /// What bounds the numbers of a grammar, where it is one of JSON.
    fn numbers(&self, grammar: &Grammar) -> Option<Arc<NumberBound>> {
        let is_json = match grammar {
            Grammar::JsonSchema(_) => true,
            Grammar::Regex(_) => false,
            Grammar::Lark(lark) => lark.contains("%json"),
        };
        let numbers = || Arc::new(NumberBound::new(&self.vocab));
        is_json.then(|| Arc::clone(self.numbers.get_or_init(numbers)))
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammar {
    /// As the client wrote it, or as it was written for the client.
    pub(crate) fn source(&self) -> &str {
        let (Self::JsonSchema(source) | Self::Regex(source) | Self::Lark(source)) = self;
        source
    }
}

impl GrammarError {
    /// Nobody is there to compile it.
    pub(crate) fn no_engine() -> Self {
        Self("the model's engine has stopped".to_owned())
    }
}

fn failed() -> GrammarError {
    GrammarError("the compiler fails on it".to_owned())
}

/// The first line of a message, and that which says what is wrong: the others show the parser's
/// inside.
fn readable(message: &str) -> GrammarError {
    if message.starts_with("panic:") {
        tracing::warn!(message = message.lines().next(), "the grammar compiler panicked");
        return failed();
    }
    let mut lines = message.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().trim_end_matches(':');
    let line = match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(why) => format!("{}: {why}", cut(first)),
        None => first.to_owned(),
    };
    GrammarError(cut(&line))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn factory(vocab: &Vocab) -> Result<ParserFactory, GrammarError> {
    let broken = |error: &dyn fmt::Display| GrammarError(format!("the vocabulary: {error}"));
    let ends = vocab.end_of_generation();
    let &end = ends.first().ok_or_else(|| broken(&"it has no token that ends a text"))?;
    let count = u32::try_from(vocab.len()).map_err(|e| broken(&e))?;
    let words: Vec<Vec<u8>> = (0..count).map(|token| word(vocab, token)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(count, end), &words).with_eos_tokens(ends);
    let env: TokEnv = Arc::new(VocabEnv { trie, vocab: vocab.clone() });
    let mut factory = ParserFactory::new_simple(&env).map_err(|error| broken(&error))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        max_grammar_size: MAX_SIZE,
        max_lexer_states: MAX_LEXER_STATES,
        verbose_errors: false,
        ..ParserLimits::default()
    };
    Ok(factory)
}

/// A token's bytes as the trie wants them: control tokens are marked, so that no text spells one.
fn word(vocab: &Vocab, token: Token) -> Vec<u8> {
    let piece = vocab.piece(token);
    let control = vocab.is_control(token) || vocab.end_of_generation().contains(&token);
    let mark = (control && !piece.is_empty()).then_some(TokTrie::SPECIAL_TOKEN_MARKER);
    mark.into_iter().chain(piece.iter().copied()).collect()
}

/// The vocabulary as llguidance sees it.
struct VocabEnv {
    trie: TokTrie,
    vocab: Vocab,
}

impl TokenizerEnv for VocabEnv {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        // Grammars are compiled where the tokeniser is: it answers.
        let tokenize = |text: &str| self.vocab.tokenize(text, ParseSpecial::No).unwrap_or_default();
        self.trie.tokenize_with_greedy_fallback(bytes, tokenize)
    }
}

// === impl CompiledGrammar ===

impl CompiledGrammar {
    /// The beginning of an answer.
    pub(crate) fn start(&self) -> Constraint {
        let (matching, mask, before, digits) = (None, None, Vec::new(), Digits::default());
        Constraint { grammar: self.clone(), matching, mask, before, digits, left: ANSWER }
    }

    fn copy(&self) -> Matching {
        Matching::new(lock(&self.matcher).deep_clone())
    }
}

impl fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompiledGrammar")
    }
}

// === impl Constraint ===

impl Constraint {
    /// Computes what [`Constraint::mask`] will say, if it is not known yet: for the time in which
    /// the model computes.
    pub(crate) fn prepare(&mut self) {
        if self.mask.is_none() {
            let mask = self.ask(|matcher| matcher.compute_mask_or_eos().ok()).flatten();
            self.mask = mask.map(|mut mask| {
                if let Some(numbers) = &self.grammar.numbers {
                    numbers.narrow(self.digits, &mut mask);
                }
                Mask(mask)
            });
        }
    }

    /// Goes on behind tokens that another parser of the same grammar has taken.
    pub(crate) fn resume(&mut self, tokens: Vec<Token>) {
        tokens.iter().for_each(|token| self.count_digits(*token));
        self.before = tokens;
    }

    /// The tokens that may come next.
    pub(crate) fn mask(&mut self) -> Result<&Mask, TooComplex> {
        self.prepare();
        self.mask.as_ref().ok_or(TooComplex)
    }

    /// Goes on with a token that may come next.
    pub(crate) fn take(&mut self, token: Token) -> Result<(), TooComplex> {
        self.mask = None;
        self.count_digits(token);
        self.left = (self.left + EACH_TOKEN).min(ANSWER);
        self.ask(|matcher| matcher.consume_token(token).ok()).flatten().ok_or(TooComplex)
    }

    fn count_digits(&mut self, token: Token) {
        if let Some(numbers) = &self.grammar.numbers {
            numbers.extend(&mut self.digits, token);
        }
    }

    /// Whether nothing may follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matching.as_ref().is_some_and(|matching| matching.matcher.is_stopped())
    }

    /// The tokens that must come next, whatever the model says.
    pub(crate) fn forced(&mut self) -> Vec<Token> {
        self.ask(Matcher::compute_ff_tokens).unwrap_or_default()
    }

    /// How many of these tokens may come next, one after the other.
    pub(crate) fn allowed(&mut self, tokens: &[Token]) -> usize {
        self.ask(|matcher| matcher.validate_tokens(tokens).unwrap_or(0)).unwrap_or(0)
    }

    /// Asks the parser something; `None` where the answer's time is used up. A question that takes
    /// too long ends the parser, and all that follow fail.
    fn ask<T>(&mut self, question: impl FnOnce(&mut Matcher) -> T) -> Option<T> {
        let limit = self.left.min(QUESTION);
        if limit.is_zero() {
            return None;
        }
        let matching = self.matching.get_or_insert_with(|| self.grammar.copy());
        for token in self.before.drain(..) {
            // One that fails shows in the next answer.
            let _ = matching.limited(QUESTION, |matcher| matcher.consume_token(token));
        }
        let (answer, took) = matching.limited(limit, question);
        self.left = self.left.saturating_sub(took);
        Some(answer)
    }
}

impl Matching {
    fn new(matcher: Matcher) -> Self {
        let matcher = matcher.into_cancellable();
        let cancel = matcher.cancellation_handle().unwrap_or_default();
        Self { matcher, cancel }
    }

    fn limited<T>(
        &mut self,
        limit: Duration,
        question: impl FnOnce(&mut Matcher) -> T,
    ) -> (T, Duration) {
        time_limit::limited(&self.cancel, limit, || question(&mut self.matcher))
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("mask", &self.mask.is_some()).finish_non_exhaustive()
    }
}

// === impl Mask ===

impl Mask {
    /// Whether a token may come next.
    pub(crate) fn allows(&self, token: Token) -> bool {
        (token as usize) < self.0.len() && self.0.is_allowed(token)
    }

    /// The logits of tokens that may come next, minus infinity for all others.
    pub(crate) fn apply(&self, logits: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.resize(logits.len(), f32::NEG_INFINITY);
        self.0.iter_set_entries(|token| {
            if let (Some(to), Some(&from)) = (out.get_mut(token), logits.get(token)) {
                *to = from;
            }
        });
    }
}
