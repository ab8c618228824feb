//! Bounds the digits of numbers in JSON.
//!
//! JSON Schema bounds the value of a number, not its number of digits, and small models repeat zeros without end. When a
//! number has as many digits as a 64-bit integer or an `f64` can need, and may end, the mask allows no further digit. A
//! schema whose bounds need more digits gets them.

use llguidance::toktrie::SimpleVob;

use crate::Token;
use crate::vocab::Vocab;

/// The most digits of an integer: those of the largest 64-bit one.
const WHOLE: u32 = 20;
/// The most digits of a fraction: no `f64` needs more.
const FRACTION: u32 = 17;
/// The most digits of an exponent: no `f64` has more.
const EXPONENT: u32 = 3;

/// The tokens that may continue or follow a number.
pub(super) struct NumberBound {
    vocab: Vocab,
    /// Tokens that start with digits, each with their number.
    digits: Vec<(Token, u32)>,
    /// The most digits at the start of a token.
    longest: u32,
    /// Whether a token may follow a number or a part of one, by token.
    follows: Vec<bool>,
}

/// The number at the end of a text, if any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digits {
    part: NumberPart,
    count: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum NumberPart {
    #[default]
    Whole,
    Fraction,
    Exponent,
}

impl Digits {
    /// Appends a token's bytes.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let Self { part, count } = *self;
            *self = match (byte, part) {
                (b'0'..=b'9', _) => Self { part, count: count.saturating_add(1) },
                (b'.', NumberPart::Whole) if count > 0 => {
                    Self { part: NumberPart::Fraction, count: 0 }
                }
                (b'e' | b'E', NumberPart::Whole | NumberPart::Fraction) if count > 0 => {
                    Self { part: NumberPart::Exponent, count: 0 }
                }
                (b'+' | b'-', NumberPart::Exponent) if count == 0 => *self,
                _ => Self::default(),
            };
        }
    }

    /// How many more digits are allowed.
    fn left(self) -> u32 {
        let most = match self.part {
            NumberPart::Whole => WHOLE,
            NumberPart::Fraction => FRACTION,
            NumberPart::Exponent => EXPONENT,
        };
        most.saturating_sub(self.count)
    }
}

impl NumberBound {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let count = Token::try_from(vocab.len()).unwrap_or(Token::MAX);
        let leads = |token: Token| {
            let digits = vocab.piece(token).iter().take_while(|byte| byte.is_ascii_digit());
            u32::try_from(digits.count()).unwrap_or(u32::MAX)
        };
        let digits: Vec<(Token, u32)> = (0..count)
            .map(|token| (token, leads(token)))
            .filter(|(token, digits)| *digits > 0 && !vocab.is_control(*token))
            .collect();
        let follows = |token: Token| {
            vocab.is_control(token)
                || vocab.end_of_generation().contains(&token)
                || vocab.piece(token).first().is_none_or(|byte| b",}] \n\r\t.eE".contains(byte))
        };
        let longest = digits.iter().map(|(_, digits)| *digits).max().unwrap_or(0);
        Self { digits, longest, follows: (0..count).map(follows).collect(), vocab: vocab.clone() }
    }

    /// Appends a token to a text that ends with `digits`.
    pub(super) fn extend(&self, digits: &mut Digits, token: Token) {
        digits.extend(self.vocab.piece(token));
    }

    /// Disallows tokens with which a number that may end would have too many digits.
    pub(super) fn narrow(&self, digits: Digits, mask: &mut SimpleVob) {
        let left = digits.left();
        if left >= self.longest || digits.count == 0 {
            return;
        }
        let is_digits =
            |token: Token| self.vocab.piece(token).first().is_some_and(u8::is_ascii_digit);
        let (mut may_end, mut is_number) = (false, true);
        mask.iter_set_entries(|token| {
            let token = Token::try_from(token).unwrap_or(Token::MAX);
            if !is_digits(token) {
                may_end = true;
                is_number &= self.follows.get(token as usize).copied().unwrap_or(false);
            }
        });
        if may_end && is_number {
            let long = self.digits.iter().filter(|(_, digits)| *digits > left);
            long.for_each(|(token, _)| mask.disallow_token(*token));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::failure::Failure;
    use crate::vocab::{ParseSpecial, Tokenize, VocabTable};

    #[test]
    fn parts_of_numbers_are_counted_by_themselves() {
        let after = |text: &str| {
            let mut digits = Digits::default();
            digits.extend(text.as_bytes());
            (digits.part, digits.count)
        };
        for (text, part, count) in [
            ("{\"a\": -120", NumberPart::Whole, 3),
            ("12.", NumberPart::Fraction, 0),
            ("12.500", NumberPart::Fraction, 3),
            ("1.5e-07", NumberPart::Exponent, 2),
            ("2E+", NumberPart::Exponent, 0),
            ("1, 2", NumberPart::Whole, 1),
            ("1.2.3", NumberPart::Whole, 1),
            ("\"x.e5", NumberPart::Whole, 1),
            ("1}", NumberPart::Whole, 0),
        ] {
            assert_eq!(after(text), (part, count), "{text}");
        }
    }

    #[test]
    fn no_digit_follows_where_a_number_may_end() {
        struct None;
        impl Tokenize for None {
            fn tokenize(&self, _: &[&str], _: ParseSpecial) -> Result<Vec<Vec<Token>>, Failure> {
                Ok(Vec::new())
            }
        }
        let words = ["0", "000", ", ", "a", "</s>"];
        let mut table = VocabTable::default();
        for word in words {
            table.control.push(word == "</s>");
            table.bytes.extend_from_slice(word.as_bytes());
            table.ends.push(u32::try_from(table.bytes.len()).unwrap());
        }
        table.eog = vec![4];
        let bound = NumberBound::new(&Vocab::new(table, Arc::new(None)));
        let narrowed = |count: u32, allowed: &[Token]| -> Vec<Token> {
            let mut mask = SimpleVob::alloc(words.len());
            allowed.iter().for_each(|token| mask.allow_token(*token));
            bound.narrow(Digits { part: NumberPart::Fraction, count }, &mut mask);
            (0..4).filter(|token| mask.is_allowed(*token)).collect()
        };
        assert_eq!(narrowed(FRACTION - 3, &[0, 1, 2]), [0, 1, 2]);
        assert_eq!(narrowed(FRACTION - 2, &[0, 1, 2]), [0, 2]);
        assert_eq!(narrowed(FRACTION + 5, &[0, 1, 2]), [2]);
        assert_eq!(narrowed(FRACTION, &[0, 1]), [0, 1], "it cannot end yet");
        assert_eq!(narrowed(FRACTION, &[0, 1, 3]), [0, 1, 3], "a text goes on");
        assert_eq!(narrowed(0, &[0, 1, 2]), [0, 1, 2]);
    }
}
