//! Answers that follow a grammar: compiled once, kept, and asked before each token which ones may
//! come next.
//!
//! llguidance does the work: an Earley parser over lexemes, on a trie of the vocabulary. A grammar
//! is compiled where requests are checked, so one that cannot be enforced is refused before
//! anything runs; each answer gets a copy of the compiled one.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use lru::LruCache;

use crate::Token;
use crate::vocab::{ParseSpecial, Vocab};

/// The longest source of a grammar, in bytes.
const MAX_SOURCE: usize = 256 << 10;
/// Symbols of a compiled grammar's productions. The largest schemas we know have 200,000.
const MAX_SIZE: usize = 250_000;
/// States of its lexer: one to two kilobytes each.
const MAX_LEXER_STATES: usize = 50_000;
/// Compiled grammars that are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// JSON that is valid by this JSON Schema.
    JsonSchema(String),
    /// A text that this regular expression matches as a whole (without look-around).
    Regex(String),
    /// A text by this grammar, in Lark's notation as llguidance reads it.
    Lark(String),
}

/// Why a grammar cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

/// A model's compiled grammars.
pub struct Grammars {
    vocab: Vocab,
    /// The vocabulary's trie: made when the first grammar comes.
    factory: OnceLock<Result<ParserFactory, GrammarError>>,
    kept: Mutex<LruCache<Grammar, CompiledGrammar>>,
}

/// A grammar that answers can follow. Cheap to clone.
#[derive(Clone)]
pub struct CompiledGrammar(Arc<Mutex<Matcher>>);

/// Where one answer stands in its grammar.
pub(crate) struct Constraint {
    matcher: Matcher,
    mask: Option<Mask>,
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
        Self { vocab, factory: OnceLock::new(), kept: Mutex::new(LruCache::new(KEPT)) }
    }

    /// Compiles a grammar, or finds it compiled. It can take tens of milliseconds: not for an
    /// async reactor's thread. What it may take is limited by the size of the source and of what
    /// comes of it.
    ///
    /// # Errors
    /// [`GrammarError`], which names what cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        if let Some(compiled) = self.compiled(grammar) {
            return Ok(compiled);
        }
        let compiled = self.build(grammar)?;
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(grammar.clone(), compiled.clone());
        Ok(compiled)
    }

    /// A grammar that was compiled before and is still kept.
    pub fn compiled(&self, grammar: &Grammar) -> Option<CompiledGrammar> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(grammar).cloned()
    }

    fn build(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        let (Grammar::JsonSchema(source) | Grammar::Regex(source) | Grammar::Lark(source)) =
            grammar;
        if source.len() > MAX_SOURCE {
            let message = format!("it has {} bytes; the most is {MAX_SOURCE}", source.len());
            return Err(GrammarError(message));
        }
        let parsed = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(
                serde_json::from_str(schema).map_err(|e| GrammarError(e.to_string()))?,
            ),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        };
        let factory = self.factory.get_or_init(|| factory(&self.vocab)).as_ref();
        let factory = factory.map_err(GrammarError::clone)?;
        let mut matcher = Matcher::new(factory.create_parser(parsed));
        // What the first token may be is the same for every answer.
        match matcher.compute_mask() {
            Ok(mask) if mask.is_zero() => Err(GrammarError("no text follows it".to_owned())),
            Ok(_) => Ok(CompiledGrammar(Arc::new(Mutex::new(matcher)))),
            Err(error) => Err(GrammarError(one_line(&error.to_string()))),
        }
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// The first line of a message, and that which says what was wrong: the others show the parser's
/// inside.
fn one_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim);
    let first = lines.next().unwrap_or_default().trim_end_matches(':');
    match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(why) => format!("{first}: {why}"),
        None => first.to_owned(),
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
        let tokenize = |text: &str| self.vocab.tokenize(text, ParseSpecial::No);
        self.trie.tokenize_with_greedy_fallback(bytes, tokenize)
    }
}

// === impl CompiledGrammar ===

impl CompiledGrammar {
    /// The beginning of an answer.
    pub(crate) fn start(&self) -> Constraint {
        let matcher = self.0.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Constraint { matcher, mask: None }
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
            self.mask = self.matcher.compute_mask_or_eos().ok().map(Mask);
        }
    }

    /// The tokens that may come next.
    pub(crate) fn mask(&mut self) -> Result<&Mask, TooComplex> {
        self.prepare();
        self.mask.as_ref().ok_or(TooComplex)
    }

    /// Goes on with a token that may come next.
    pub(crate) fn take(&mut self, token: Token) -> Result<(), TooComplex> {
        self.mask = None;
        self.matcher.consume_token(token).map_err(|_| TooComplex)
    }

    /// Whether nothing may follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// The tokens that must come next, whatever the model says.
    pub(crate) fn forced(&mut self) -> Vec<Token> {
        self.matcher.compute_ff_tokens()
    }

    /// How many of these tokens may come next, one after the other.
    pub(crate) fn allowed(&mut self, tokens: &[Token]) -> usize {
        self.matcher.validate_tokens(tokens).unwrap_or(0)
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
