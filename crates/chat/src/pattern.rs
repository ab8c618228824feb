//! Text against patterns learned from a template, one character at a time.

use crate::dialect::ID;

/// A piece of a dialect: white space may be more or less, numbers may be other ones, and an id may be
/// any id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Element>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Char(char),
    /// A number.
    Digits,
    /// An id, or nothing.
    Id,
}

impl Element {
    /// Whether `c` can be a part of the number or the id.
    fn repeats(self, c: char) -> bool {
        match self {
            Self::Char(_) => false,
            Self::Digits => c.is_ascii_digit(),
            Self::Id => c.is_alphanumeric() || c == '_',
        }
    }
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Self {
        let (mut elements, mut rest) = (Vec::new(), text);
        while let Some(c) = rest.chars().next() {
            let behind = rest.strip_prefix(ID);
            rest = behind.unwrap_or(&rest[c.len_utf8()..]);
            match c {
                _ if behind.is_some() => elements.push(Element::Id),
                c if c.is_whitespace() => {}
                c if c.is_ascii_digit() => {
                    rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                    elements.push(Element::Digits);
                }
                c => elements.push(Element::Char(c)),
            }
        }
        Self(elements)
    }

    /// Whether every text begins with it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How far a text matches a pattern.
#[derive(Debug, Clone, Copy, Default)]
struct Matcher {
    /// Elements that are matched.
    at: usize,
    /// Whether some of the element at `at` is matched.
    within: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    More,
    /// Complete with this character.
    Complete,
    /// Complete before this character.
    Before,
    Failed,
}

impl Matcher {
    fn step(&mut self, pattern: &Pattern, c: char) -> Match {
        loop {
            let Some(&element) = pattern.0.get(self.at) else { return Match::Before };
            if element.repeats(c) {
                self.within = true;
                return Match::More;
            }
            if !self.within && c.is_whitespace() {
                return Match::More;
            }
            match element {
                Element::Char(wanted) if wanted == c => {
                    self.at += 1;
                    let all = self.at == pattern.0.len();
                    return if all { Match::Complete } else { Match::More };
                }
                Element::Char(_) => return Match::Failed,
                Element::Digits if !self.within => return Match::Failed,
                Element::Digits | Element::Id => *self = Self { at: self.at + 1, within: false },
            }
        }
    }

    /// Whether the pattern is complete if the text ends here.
    fn is_complete(&self, pattern: &Pattern) -> bool {
        let rest = pattern.0.get(self.at..).unwrap_or_default();
        match rest {
            [] | [Element::Id] => true,
            [Element::Digits] => self.within,
            _ => false,
        }
    }
}

/// Finds out which of several patterns a text begins with: the longest that matches, of equally long
/// ones the first.
#[derive(Debug, Clone)]
pub(crate) struct Alternatives {
    /// Those that may still match, by their numbers.
    alive: Vec<(usize, Matcher)>,
    /// The longest complete one, and how many bytes were read behind it.
    best: Option<(usize, usize)>,
}

/// Which of several patterns a text begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// More text has to decide.
    Pending,
    /// The pattern of this number; the last `back` bytes that were read stand behind it.
    Matched { which: usize, back: usize },
    /// None.
    None,
}

impl Alternatives {
    pub(crate) fn new<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let mut found = Self { alive: Vec::new(), best: None };
        for (which, pattern) in patterns.enumerate() {
            if !pattern.is_empty() {
                found.alive.push((which, Matcher::default()));
            } else if found.best.is_none() {
                found.best = Some((which, 0));
            }
        }
        found
    }

    /// Reads the next character; `pattern` returns the patterns by their numbers.
    pub(crate) fn step<'p>(&mut self, pattern: impl Fn(usize) -> &'p Pattern, c: char) -> Choice {
        let len = c.len_utf8();
        if let Some((_, back)) = &mut self.best {
            *back += len;
        }
        let best = &mut self.best;
        let mut complete = |which: usize, back: usize| {
            if best.is_none_or(|(_, longest)| back < longest) {
                *best = Some((which, back));
            }
        };
        self.alive.retain_mut(|(which, matcher)| match matcher.step(pattern(*which), c) {
            Match::More => true,
            Match::Complete => {
                complete(*which, 0);
                false
            }
            Match::Before => {
                complete(*which, len);
                false
            }
            Match::Failed => false,
        });
        if self.alive.is_empty() { self.choice() } else { Choice::Pending }
    }

    /// Decides at the end of the text.
    pub(crate) fn finish<'p>(&mut self, pattern: impl Fn(usize) -> &'p Pattern) -> Choice {
        let complete =
            self.alive.iter().find(|(which, matcher)| matcher.is_complete(pattern(*which)));
        if let Some((which, _)) = complete {
            return Choice::Matched { which: *which, back: 0 };
        }
        self.choice()
    }

    fn choice(&self) -> Choice {
        self.best.map_or(Choice::None, |(which, back)| Choice::Matched { which, back })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which pattern the text begins with, and how long that is.
    fn choose(patterns: &[&str], text: &str) -> Option<(usize, usize)> {
        let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern::new(text)).collect();
        let mut alternatives = Alternatives::new(patterns.iter());
        let (mut read, mut choice) = (0, Choice::Pending);
        for c in text.chars() {
            read += c.len_utf8();
            choice = alternatives.step(|which| &patterns[which], c);
            if choice != Choice::Pending {
                break;
            }
        }
        if choice == Choice::Pending {
            choice = alternatives.finish(|which| &patterns[which]);
        }
        match choice {
            Choice::Matched { which, back } => Some((which, read - back)),
            Choice::Pending | Choice::None => None,
        }
    }

    #[test]
    fn space_numbers_and_ids_are_free() {
        assert_eq!(choose(&["<a>\n<b"], " <a>  <b>"), Some((0, 8)));
        assert_eq!(choose(&[":0<x>"], ":17 <x>y"), Some((0, 7)));
        assert_eq!(choose(&[":0<x>"], ":<x>"), None);
        let id = format!("id={ID}, ");
        assert_eq!(choose(&[&id], "id=call_77, y"), Some((0, 11)));
        assert_eq!(choose(&[&id], "id=, y"), Some((0, 4)));
        assert_eq!(choose(&["n1"], "n234"), Some((0, 4)));
        assert_eq!(choose(&["n1"], "n234x"), Some((0, 4)));
        assert_eq!(choose(&["é\u{3000}ü"], "éü"), Some((0, 4)));
    }

    #[test]
    fn the_longest_is_chosen() {
        assert_eq!(choose(&["a", "a  b"], "a   b"), Some((1, 5)));
        assert_eq!(choose(&["a", "a  b"], "a   c"), Some((0, 1)));
        assert_eq!(choose(&["a", "a  b"], "a   "), Some((0, 1)));
        assert_eq!(choose(&["ab", "ab"], "ab"), Some((0, 2)));
        assert_eq!(choose(&["", "ab"], "ax"), Some((0, 0)));
        assert_eq!(choose(&["", "ab"], "ab"), Some((1, 2)));
        assert_eq!(choose(&["x", "y"], "z"), None);
    }
}
