//! Text to tokens and back.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::Token;

/// A model's vocabulary: a table of every token's bytes, and the model's tokeniser.
///
/// Cheap to clone and free of the model's thread: tokenising a long prompt holds up nobody's
/// decoding. (In a child-process engine the parent would load the vocabulary alone.)
#[derive(Clone)]
pub struct Vocab {
    table: Arc<VocabTable>,
    /// The control tokens that have a name: few of all.
    controls: Arc<[Token]>,
    names: Arc<ControlNames>,
    tokenizer: Arc<dyn Tokenize>,
}

/// Control tokens by name: text is searched for them at each character.
#[derive(Default)]
struct ControlNames {
    tokens: HashMap<Box<str>, Token>,
    /// Their lengths in bytes, the longest first.
    lengths: Vec<usize>,
    /// Bytes that a name begins with.
    first: HashSet<u8>,
}

/// Whether text that spells a control token becomes that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseSpecial {
    /// It does: the text comes from a template or from somebody who writes raw prompts.
    Yes,
    /// It stays text: it comes from a user.
    No,
}

/// The part of a vocabulary that needs the model's own code.
pub trait Tokenize: Send + Sync {
    /// Tokens of `text`, without any that mark its beginning or end.
    fn tokenize(&self, text: &str, special: ParseSpecial) -> Vec<Token>;
}

/// What is known of each token.
#[derive(Debug, Default)]
pub(crate) struct VocabTable {
    /// All tokens' bytes, one after the other.
    pub(crate) bytes: Vec<u8>,
    /// Where each token's bytes end.
    pub(crate) ends: Vec<u32>,
    /// Whether each token is a control token: it has a name but no text.
    pub(crate) control: Vec<bool>,
    /// The tokens that end a generation.
    pub(crate) eog: Vec<Token>,
    /// The tokens that belong in front of every prompt (BOS, CLS), if the model wants any there.
    pub(crate) prefix: Vec<Token>,
    /// The tokens that belong behind every embedding input (SEP, EOS), if it wants any there.
    pub(crate) suffix: Vec<Token>,
    /// Names of BOS and EOS for chat templates, empty if there are none.
    pub(crate) bos_text: String,
    pub(crate) eos_text: String,
}

impl Vocab {
    pub(crate) fn new(table: VocabTable, tokenizer: Arc<dyn Tokenize>) -> Self {
        let controls = Vec::new().into();
        let mut vocab = Self { table: Arc::new(table), controls, names: Arc::default(), tokenizer };
        let all = (0..vocab.len()).filter_map(|i| Token::try_from(i).ok());
        let named = all.filter(|&t| vocab.is_control(t) && !vocab.piece(t).is_empty());
        vocab.controls = named.collect();
        let mut names = ControlNames::default();
        for (token, name) in vocab.controls().filter(|(_, name)| !name.is_empty()) {
            names.tokens.insert(name.into(), token);
            names.lengths.push(name.len());
            names.first.extend(name.bytes().next());
        }
        names.lengths.sort_unstable_by(|a, b| b.cmp(a));
        names.lengths.dedup();
        vocab.names = Arc::new(names);
        vocab
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.table.ends.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.table.ends.is_empty()
    }

    /// Tokens of `text`. It can take long for long text: not for an async reactor's thread.
    pub fn tokenize(&self, text: &str, special: ParseSpecial) -> Vec<Token> {
        self.tokenizer.tokenize(text, special)
    }

    /// `tokens` between the markers that the model wants, as far as they are not there yet.
    pub fn with_markers(&self, tokens: Vec<Token>) -> Vec<Token> {
        let mut tokens = self.with_prefix(tokens);
        if !tokens.ends_with(&self.table.suffix) {
            tokens.extend_from_slice(&self.table.suffix);
        }
        tokens
    }

    /// `tokens` behind the marker that the model wants in front, if it is not there yet.
    pub fn with_prefix(&self, mut tokens: Vec<Token>) -> Vec<Token> {
        if !tokens.starts_with(&self.table.prefix) {
            tokens.splice(0..0, self.table.prefix.iter().copied());
        }
        tokens
    }

    /// The markers that [`Vocab::with_markers`] puts behind.
    pub fn suffix(&self) -> &[Token] {
        &self.table.suffix
    }

    /// A token's bytes, a control token's name included; none for an id that does not exist.
    pub fn piece(&self, token: Token) -> &[u8] {
        let at = token as usize;
        let Some(&end) = self.table.ends.get(at) else { return &[] };
        let start = at.checked_sub(1).map_or(0, |before| self.table.ends[before]);
        &self.table.bytes[start as usize..end as usize]
    }

    /// The bytes that a token adds to an answer: none for a control token.
    pub fn text_piece(&self, token: Token) -> &[u8] {
        if self.is_control(token) { &[] } else { self.piece(token) }
    }

    /// Whether the token has a name but no text.
    pub fn is_control(&self, token: Token) -> bool {
        self.table.control.get(token as usize).copied().unwrap_or(false)
    }

    /// The tokens that end a generation.
    pub fn end_of_generation(&self) -> &[Token] {
        &self.table.eog
    }

    /// All control tokens with their names.
    pub fn controls(&self) -> impl Iterator<Item = (Token, &str)> {
        let named = |&t: &Token| Some((t, std::str::from_utf8(self.piece(t)).ok()?));
        self.controls.iter().filter_map(named)
    }

    /// The control token whose name a text begins with, the longest one, and that name's bytes.
    pub fn control_at(&self, text: &str) -> Option<(Token, usize)> {
        let ControlNames { tokens, lengths, first } = &*self.names;
        if !text.bytes().next().is_some_and(|byte| first.contains(&byte)) {
            return None;
        }
        lengths.iter().find_map(|&len| Some((*tokens.get(text.get(..len)?)?, len)))
    }

    /// The BOS token's name, empty if there is none.
    pub fn bos_text(&self) -> &str {
        &self.table.bos_text
    }

    /// The EOS token's name, empty if there is none.
    pub fn eos_text(&self) -> &str {
        &self.table.eos_text
    }
}

impl fmt::Debug for Vocab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocab").field("tokens", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(all(test, feature = "scripted"))]
mod tests {
    #[test]
    fn the_longest_control_name_is_found() {
        let vocab = crate::scripted::vocab();
        assert_eq!(vocab.control_at("<s> and on"), Some((256, 3)));
        assert_eq!(vocab.control_at("</s>"), Some((257, 4)));
        assert_eq!(vocab.control_at("<|x|>y"), Some((258, 5)));
        for text in ["", "<", "<s", "é<s>", " <s>", "<é>"] {
            assert_eq!(vocab.control_at(text), None, "{text}");
        }
    }
}
