//! Text to tokens and back.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Token;
use crate::failure::Failure;

/// A model's vocabulary: a table of every token's bytes, and the model's tokeniser.
///
/// Cheap to clone and independent of the model's thread: tokenising a long prompt does not delay steps.
#[derive(Clone)]
pub struct Vocab {
    table: Arc<VocabTable>,
    /// The control tokens that have a name.
    controls: Arc<[Token]>,
    /// Bytes of the longest token.
    longest: usize,
    names: Arc<ControlNames>,
    tokenizer: Arc<dyn Tokenize>,
}

/// An index of control tokens by name.
#[derive(Default)]
struct ControlNames {
    tokens: HashMap<Box<str>, Token>,
    /// Lengths of names in bytes, the longest first.
    lengths: Vec<usize>,
    /// First bytes of names.
    first: HashSet<u8>,
}

/// Whether text that spells a control token becomes that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParseSpecial {
    /// It does: the text comes from a template, or is a raw prompt.
    Yes,
    /// It stays text: it comes from a user.
    No,
}

/// Why a text was not tokenised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizeError {
    /// It has too many.
    TooMany {
        /// The number of tokens, the model's prefix included.
        count: usize,
        /// Whether `count` is exact, or a lower bound.
        exact: bool,
    },
    /// The tokeniser's process did not answer.
    Failed(Failure),
}

/// Bytes of text that are tokenised in one call: a segment of a long text, to count its tokens, or several short texts.
const SEGMENT: usize = 64 << 10;

/// The part of a vocabulary that needs the model's own code.
pub trait Tokenize: Send + Sync {
    /// Tokens of each of `texts`, without any that mark its beginning or end.
    ///
    /// # Errors
    /// [`Failure`] if the tokeniser is in another process that does not answer.
    fn tokenize(&self, texts: &[&str], special: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure>;
}

/// The data of each token.
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
    /// The tokens before every prompt (BOS, CLS), if any.
    pub(crate) prefix: Vec<Token>,
    /// The tokens after every embedding input (SEP, EOS), if any.
    pub(crate) suffix: Vec<Token>,
    /// Whether tokenising keeps all bytes of a text: none is dropped, and no unknown word becomes one token.
    pub(crate) lossless: bool,
    /// Names of BOS and EOS for chat templates, empty if there are none.
    pub(crate) bos_text: String,
    pub(crate) eos_text: String,
}

impl VocabTable {
    /// Whether the table is consistent: it may come from a corrupted process.
    pub(crate) fn is_sound(&self) -> bool {
        let Self { bytes, ends, control, eog, prefix, suffix, .. } = self;
        let in_order = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        let whole = ends.last().map_or(0, |&end| end as usize) == bytes.len();
        let known = |token: &Token| (*token as usize) < ends.len();
        let all_known = [eog, prefix, suffix].into_iter().flatten().all(known);
        in_order && whole && control.len() == ends.len() && all_known
    }
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

    /// The data of its tokens.
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
    ///
    /// # Errors
    /// [`Failure`] if the tokeniser is in another process that does not answer.
    pub fn tokenize(&self, text: &str, special: ParseSpecial) -> Result<Vec<Token>, Failure> {
        Ok(self.tokenizer.tokenize(&[text], special)?.pop().unwrap_or_default())
    }

    /// Tokens of each of `texts`, in a few calls: the tokeniser may be in another process.
    ///
    /// # Errors
    /// As [`Vocab::tokenize`].
    pub fn tokenize_all(
        &self,
        texts: &[&str],
        special: ParseSpecial,
    ) -> Result<Vec<Vec<Token>>, Failure> {
        let mut all = Vec::with_capacity(texts.len());
        for texts in groups(texts) {
            all.extend(self.tokenizer.tokenize(texts, special)?);
        }
        Ok(all)
    }

    /// A lower bound of the tokens of a text with so many bytes.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        if self.table.lossless { bytes.div_ceil(self.longest) } else { 0 }
    }

    /// Tokens of consecutive pieces of a text, if they are at most `limit`. A piece with many more is not tokenised
    /// whole: tokenisers take more than a hundred bytes of memory per byte.
    ///
    /// # Errors
    /// [`TokenizeError`], with the number of tokens or a lower bound.
    pub fn tokenize_within(
        &self,
        pieces: &[String],
        special: ParseSpecial,
        limit: usize,
    ) -> Result<Vec<Token>, TokenizeError> {
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (mut tokens, mut total, mut all_exact) = (Vec::new(), 0, true);
        for pieces in groups(&pieces) {
            match self.group_within(pieces, special, limit) {
                Ok(more) => {
                    total += more.len();
                    // Tokens beyond the limit are only counted.
                    if total <= limit {
                        tokens.extend(more);
                    }
                }
                Err(TokenizeError::TooMany { count, exact }) => {
                    total += count;
                    all_exact &= exact;
                }
                Err(failed @ TokenizeError::Failed(_)) => return Err(failed),
            }
        }
        if total <= limit {
            return Ok(tokens);
        }
        let count = total
            + if tokens.starts_with(&self.table.prefix) { 0 } else { self.table.prefix.len() };
        Err(TokenizeError::TooMany { count, exact: all_exact })
    }

    /// Tokens of one piece, or of several short ones, as [`Vocab::tokenize_within`].
    fn group_within(
        &self,
        pieces: &[&str],
        special: ParseSpecial,
        limit: usize,
    ) -> Result<Vec<Token>, TokenizeError> {
        if let &[text] = pieces {
            self.check_long(text, special, limit)?;
        }
        Ok(self.tokenizer.tokenize(pieces, special).map_err(TokenizeError::Failed)?.concat())
    }

    /// Refuses a text that has far more tokens than `limit`.
    fn check_long(
        &self,
        text: &str,
        special: ParseSpecial,
        limit: usize,
    ) -> Result<(), TokenizeError> {
        let too_many = |count| Err(TokenizeError::TooMany { count, exact: false });
        let least = self.fewest_tokens(text.len());
        if least > limit {
            return too_many(least);
        }
        // Each cut adds a few tokens, but not as many as the text has.
        let (mut rest, mut count) = (text, 0);
        while self.table.lossless && text.len() > SEGMENT && !rest.is_empty() {
            let (segment, after) = rest.split_at(rest.floor_char_boundary(SEGMENT));
            count += self.tokenize(segment, special).map_err(TokenizeError::Failed)?.len();
            rest = after;
            if count / 2 > limit {
                return too_many(count / 2);
            }
            // The rest cannot exceed the limit.
            if count + rest.len() <= limit {
                break;
            }
        }
        Ok(())
    }

    /// Adds the model's prefix and suffix to `tokens`, unless they are there.
    pub fn with_markers(&self, tokens: Vec<Token>) -> Vec<Token> {
        let mut tokens = self.with_prefix(tokens);
        if !tokens.ends_with(&self.table.suffix) {
            tokens.extend_from_slice(&self.table.suffix);
        }
        tokens
    }

    /// Adds the model's prefix to `tokens`, unless it is there.
    pub fn with_prefix(&self, mut tokens: Vec<Token>) -> Vec<Token> {
        if !tokens.starts_with(&self.table.prefix) {
            tokens.splice(0..0, self.table.prefix.iter().copied());
        }
        tokens
    }

    /// The suffix that [`Vocab::with_markers`] adds.
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

    /// The longest control token name that a text starts with: the token, and the name's length in bytes.
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

/// Splits texts into groups of up to [`SEGMENT`] bytes; a longer text is alone.
fn groups<'t, 's>(texts: &'t [&'s str]) -> impl Iterator<Item = &'t [&'s str]> {
    let mut rest = texts;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |text: &&&str| {
            bytes += text.len();
            bytes <= SEGMENT
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (group, after) = rest.split_at(count);
        rest = after;
        Some(group).filter(|group| !group.is_empty())
    })
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
        fn tokenize(&self, texts: &[&str], _: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure> {
            let mut longest = self.0.lock().unwrap();
            *longest = (*longest).max(texts.iter().map(|text| text.len()).sum());
            Ok(texts.iter().map(|text| vec![0; text.len().div_ceil(4)]).collect())
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
            let text = ["é".repeat(bytes / 2)];
            let tokens = vocab.tokenize_within(&text, ParseSpecial::Yes, limit);
            tokens.map(|tokens| tokens.len())
        };
        assert_eq!(vocab.fewest_tokens(9), 3);
        assert_eq!(
            within(1 << 20, 100),
            Err(TokenizeError::TooMany { count: 1 << 18, exact: false })
        );
        assert_eq!(*tokenizer.0.lock().unwrap(), 0, "it is clear without the tokeniser");
        assert_eq!(within(400, 100), Ok(100));
        assert_eq!(within(1 << 20, 1 << 18), Ok(1 << 18));
        // A vocabulary whose longest token is no longer typical.
        let lossy = VocabTable { bytes: vec![b'x'; 99], ends: vec![99], ..VocabTable::default() };
        let table = VocabTable { lossless: true, ..lossy };
        let tokenizer = Arc::new(Fours::default());
        let vocab = Vocab::new(table, Arc::clone(&tokenizer) as Arc<dyn Tokenize>);
        let text = "x".repeat(1 << 20);
        let refused = vocab.tokenize_within(&[text], ParseSpecial::Yes, 20_000).unwrap_err();
        let known = matches!(refused, TokenizeError::TooMany { count: 20_001.., exact: false });
        assert!(known, "{refused:?}");
        assert_eq!(*tokenizer.0.lock().unwrap(), SEGMENT);
    }

    #[test]
    fn a_table_whose_parts_do_not_fit_is_noticed() {
        let sound = VocabTable {
            bytes: b"abc".to_vec(),
            ends: vec![1, 1, 3],
            control: vec![false; 3],
            eog: vec![2],
            ..VocabTable::default()
        };
        assert!(sound.is_sound() && VocabTable::default().is_sound());
        let unsound = [
            VocabTable { ends: vec![1, 4, 3], ..sound.clone() },
            VocabTable { ends: vec![1, 1, 4], ..sound.clone() },
            VocabTable { ends: vec![1, 1, 2], ..sound.clone() },
            VocabTable { control: vec![false; 2], ..sound.clone() },
            VocabTable { eog: vec![3], ..sound.clone() },
            VocabTable { prefix: vec![3], ..sound.clone() },
            VocabTable { ends: Vec::new(), control: Vec::new(), eog: Vec::new(), ..sound },
        ];
        assert_eq!(unsound.iter().find(|table| table.is_sound()), None);
    }

    #[test]
    fn short_pieces_are_tokenised_together() {
        let tokenizer = Arc::new(Fours::default());
        let vocab = vocab(&tokenizer);
        let pieces = ["a".repeat(8), String::new(), "b".repeat(9)];
        assert_eq!(vocab.tokenize_within(&pieces, ParseSpecial::Yes, 5).unwrap().len(), 5);
        assert_eq!(*tokenizer.0.lock().unwrap(), 17);
        let refused = vocab.tokenize_within(&pieces, ParseSpecial::Yes, 4);
        assert_eq!(refused, Err(TokenizeError::TooMany { count: 5, exact: true }));
        let short = ["x"; 3];
        let long = "y".repeat(SEGMENT + 1);
        let texts = [&short[..], &[&long], &short].concat();
        let lengths: Vec<usize> = groups(&texts).map(<[_]>::len).collect();
        assert_eq!(lengths, [3, 1, 3]);
        assert_eq!(groups(&[]).count(), 0);
        let all = vocab.tokenize_all(&texts, ParseSpecial::No).unwrap();
        assert_eq!(all.iter().map(Vec::len).sum::<usize>(), 6 + (SEGMENT + 1).div_ceil(4));
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
