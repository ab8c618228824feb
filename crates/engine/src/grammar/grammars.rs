//! Compiling grammars for a vocabulary.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};

use super::cache::GrammarCache;
use super::constraint::{CompiledGrammar, Matching};
use super::cost;
use super::limits::{Cost, MAX_SOURCE, within};
use super::number_bound::NumberBound;
use super::source::{Grammar, GrammarCompiler, GrammarError};
use crate::Token;
use crate::failure::Failure;
use crate::vocab::{ParseSpecial, Vocab};

/// The most symbols of a compiled grammar's productions. The largest known schemas have 200,000.
const MAX_SIZE: usize = 250_000;
/// The most states of its lexer: one to two kilobytes each.
const MAX_LEXER_STATES: usize = 50_000;
/// The most CPU time of the first token's mask when a grammar is compiled.
const FIRST_MASK: Duration = Duration::from_secs(1);
/// The longest error message, in characters: the compiler repeats whole expressions.
const MAX_MESSAGE: usize = 300;

/// A model's compiled grammars.
pub struct Grammars {
    vocab: Vocab,
    /// Made from the vocabulary's trie for the first grammar.
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    /// The bound of numbers, made for the first grammar of JSON.
    numbers: OnceLock<Arc<NumberBound>>,
    cache: GrammarCache,
}

// === impl Grammars ===

impl Grammars {
    /// An empty cache of grammars for a vocabulary.
    pub fn new(vocab: Vocab) -> Self {
        let (factory, numbers) = (OnceLock::new(), OnceLock::new());
        Self { vocab, factory, numbers, cache: GrammarCache::default() }
    }

    /// Compiles a grammar, or finds it in the cache.
    ///
    /// Not for an async reactor's thread: it takes up to a second, 14 MB of stack and 150 MB of memory. It may wait for
    /// another thread that compiles the same source.
    ///
    /// # Errors
    /// [`GrammarError`], which names what cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        // A longer source is neither cached nor compared.
        within(grammar.source().len() as u64, MAX_SOURCE as u64, "bytes")?;
        self.cache.get_or_compile(grammar, || {
            let compiled = catch_unwind(AssertUnwindSafe(|| self.build(grammar)));
            let compiled = compiled.unwrap_or_else(|_| Err(failed()));
            match compiled {
                Ok((compiled, bytes)) => (Ok(compiled), bytes),
                Err(error) => (Err(error), MAX_MESSAGE),
            }
        })
    }

    /// A compiled grammar from the cache.
    pub fn compiled(&self, grammar: &Grammar) -> Option<CompiledGrammar> {
        self.cache.find(grammar)
    }

    /// Compiles a grammar. Also returns an estimate of its size in bytes.
    fn build(&self, grammar: &Grammar) -> Result<(CompiledGrammar, usize), GrammarError> {
        let Cost { units } = cost::check(grammar)?;
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
        // The mask of the first token is the same for every answer.
        match matching.limited(FIRST_MASK, Matcher::compute_mask).0 {
            Ok(mask) if mask.is_zero() => Err(GrammarError("no text follows it".to_owned())),
            Ok(_) => {
                // A symbol takes about 200 bytes in the compiled grammar, measured.
                let bytes = (16 << 10) + grammar.source().len() + 256 * units as usize + lexer;
                let matcher = Arc::new(Mutex::new(matching.matcher));
                Ok((CompiledGrammar { matcher, numbers: self.numbers(grammar) }, bytes))
            }
            Err(_) if matching.matcher.is_cancelled() => {
                Err(GrammarError("the mask of its first token takes too long".to_owned()))
            }
            Err(error) => Err(readable(&error.to_string())),
        }
    }

    /// The bound of a grammar's numbers, if it is one of JSON.
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

impl GrammarCompiler for Grammars {
    fn compile(&self, grammar: &Grammar) -> Result<Result<(), GrammarError>, Failure> {
        Ok(Grammars::compile(self, grammar).map(drop))
    }

    fn has_compiled(&self, grammar: &Grammar) -> bool {
        self.compiled(grammar).is_some()
    }
}

fn failed() -> GrammarError {
    GrammarError("the compiler fails on it".to_owned())
}

/// The first line of the compiler's message, and its `error:` line: the others show the parser's state.
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

/// A token's bytes in the trie: control tokens are marked, so that no text spells one.
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
        // Grammars are compiled in the tokeniser's process: it does not fail.
        let tokenize = |text: &str| self.vocab.tokenize(text, ParseSpecial::No).unwrap_or_default();
        self.trie.tokenize_with_greedy_fallback(bytes, tokenize)
    }
}
