//! Text to tokens and back.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Token;

/// A model's vocabulary: a table of every token's bytes, and the model's tokeniser.
///
/// Cheap to clone and free of the model's thread: tokenising a long prompt holds up nobody's
/// decoding.
#[derive(Clone)]
pub struct Vocab {
    table: Arc<VocabTable>,
    /// The control tokens that have a name: few of all.
    controls: Arc<[Token]>,
    /// Bytes of the longest token.
    longest: usize,
    names: Arc<ControlNames>,
    tokenizer: Arc<dyn Tokenize>,
}

/// An index of control tokens by name, for searching a text at each of its characters.
#[derive(Default)]
struct ControlNames {
    tokens: HashMap<Box<str>, Token>,
    /// Their lengths in bytes, the longest first.
    lengths: Vec<usize>,
    /// Bytes that a name begins with.
    first: HashSet<u8>,
}

/// Whether text that spells a control token becomes that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParseSpecial {
    /// It does: the text comes from a template or from somebody who writes raw prompts.
    Yes,
    /// It stays text: it comes from a user.
    No,
}

/// A text with more tokens than it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyTokens {
    /// Their number.
    pub count: usize,
    /// Whether there are exactly `count`, or at least.
    pub exact: bool,
}

/// Bytes of a long text that are tokenised at a time to count its tokens.
const SEGMENT: usize = 64 << 10;

/// The part of a vocabulary that needs the model's own code.
pub trait Tokenize: Send + Sync {
    /// Tokens of `text`, without any that mark its beginning or end.
    fn tokenize(&self, text: &str, special: ParseSpecial) -> Vec<Token>;
}

/// What is known of each token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether the tokens' bytes are the text's: none is dropped, and no unknown word is one token.
    pub(crate) lossless: bool,
    /// Names of BOS and EOS for chat templates, empty if there are none.
    pub(crate) bos_text: String,
    pub(crate) eos_text: String,
}

impl Vocab {
    pub(crate) fn new(table: impl Into<Arc<VocabTable>>, tokenizer: Arc<dyn Tokenize>) -> Self {
        let controls = Vec::new().into();
        let (table, names) = (table.into(), Arc::default());
        let mut vocab = Self { table, controls, longest: 1, names, tokenizer };
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
        let ids = (0..vocab.len()).filter_map(|i| Token::try_from(i).ok());
        vocab.longest = ids.map(|t| vocab.piece(t).len()).max().unwrap_or(1).max(1);
        vocab
    }

    /// What is known of its tokens.
    pub(crate) fn table(&self) -> &Arc<VocabTable> {
        &self.table
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

    /// The fewest tokens that a text of so many bytes can have.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        if self.table.lossless { bytes.div_ceil(self.longest) } else { 0 }
    }

    /// Tokens of `text` if they are at most `limit`. A text that has many more is not tokenised
    /// whole: tokenisers take more than a hundred bytes of memory for each byte of it.
    ///
    /// # Errors
    /// [`TooManyTokens`] with as much as is known of their number.
    pub fn tokenize_within(
        &self,
        text: &str,
        special: ParseSpecial,
        limit: usize,
    ) -> Result<Vec<Token>, TooManyTokens> {
        let too_many = |count, exact| Err(TooManyTokens { count, exact });
        let least = self.fewest_tokens(text.len());
        if least > limit {
            return too_many(least, false);
        }
        // Cut anywhere, a text has a few tokens more for each cut, but not twice as many.
        let (mut rest, mut count) = (text, 0);
        while self.table.lossless && text.len() > SEGMENT && !rest.is_empty() {
            let (segment, behind) = rest.split_at(rest.floor_char_boundary(SEGMENT));
            count += self.tokenize(segment, special).len();
            rest = behind;
            if count / 2 > limit {
                return too_many(count / 2, false);
            }
            // What is left cannot be too much.
            if count + rest.len() <= limit {
                break;
            }
        }
        let tokens = self.tokenize(text, special);
        if tokens.len() > limit { too_many(tokens.len(), true) } else { Ok(tokens) }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of up to four bytes; remembers the longest text that it was given.
    #[derive(Default)]
    struct Fours(std::sync::Mutex<usize>);

    impl Tokenize for Fours {
        fn tokenize(&self, text: &str, _: ParseSpecial) -> Vec<Token> {
            let mut longest = self.0.lock().unwrap();
            *longest = (*longest).max(text.len());
            vec![0; text.len().div_ceil(4)]
        }
    }

    fn vocab(tokenizer: &Arc<Fours>) -> Vocab {
        let (bytes, ends) = (b"1234x".to_vec(), vec![4, 5]);
        let table = VocabTable { bytes, ends, lossless: true, ..VocabTable::default() };
        Vocab::new(table, Arc::clone(tokenizer) as Arc<dyn Tokenize>)
    }

    #[test]
    fn a_text_that_is_much_too_long_is_not_tokenised_whole() {
        let tokenizer = Arc::new(Fours::default());
        let vocab = vocab(&tokenizer);
        let within = |bytes: usize, limit: usize| {
            let tokens = vocab.tokenize_within(&"é".repeat(bytes / 2), ParseSpecial::Yes, limit);
            tokens.map(|tokens| tokens.len())
        };
        assert_eq!(vocab.fewest_tokens(9), 3);
        assert_eq!(within(1 << 20, 100), Err(TooManyTokens { count: 1 << 18, exact: false }));
        assert_eq!(*tokenizer.0.lock().unwrap(), 0, "it is clear without the tokeniser");
        assert_eq!(within(400, 100), Ok(100));
        assert_eq!(within(1 << 20, 1 << 18), Ok(1 << 18));
        // A vocabulary whose longest token is no longer typical.
        let lossy = VocabTable { bytes: vec![b'x'; 99], ends: vec![99], ..VocabTable::default() };
        let table = VocabTable { lossless: true, ..lossy };
        let tokenizer = Arc::new(Fours::default());
        let vocab = Vocab::new(table, Arc::clone(&tokenizer) as Arc<dyn Tokenize>);
        let text = "x".repeat(1 << 20);
        let refused = vocab.tokenize_within(&text, ParseSpecial::Yes, 20_000).unwrap_err();
        assert!(!refused.exact && refused.count > 20_000, "{refused:?}");
        assert_eq!(*tokenizer.0.lock().unwrap(), SEGMENT);
    }

    #[cfg(feature = "scripted")]
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
