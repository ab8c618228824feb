//! Delimiters of a tool call format as patterns, matched one character at a time.

use crate::tool_call_format::PROBE_ID;

/// A delimiter in which white space does not count, a number stands for any number, and the probe's id for any id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Element>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Char(char),
    /// A number.
    Digits,
    /// An id, which may be empty.
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
            let after_id = rest.strip_prefix(PROBE_ID);
            rest = after_id.unwrap_or(&rest[c.len_utf8()..]);
            match c {
                _ if after_id.is_some() => elements.push(Element::Id),
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

    /// Whether every text starts with it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How far a text matches a pattern.
#[derive(Debug, Clone, Copy, Default)]
struct PatternMatcher {
    /// Elements that are matched.
    at: usize,
    /// Whether a part of the element at `at` is matched.
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

impl PatternMatcher {
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

/// Matches several patterns and chooses the longest that matches; of equally long ones the first.
#[derive(Debug, Clone)]
pub(crate) struct PatternSet {
    /// Those that may still match, by their numbers.
    possible: Vec<(usize, PatternMatcher)>,
    /// The longest complete one, and how many bytes were read after it.
    best: Option<(usize, usize)>,
}

/// The pattern that a text starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// More text decides.
    Pending,
    /// The pattern with this number, without the last `back` bytes that were read.
    Matched { which: usize, back: usize },
    /// No pattern.
    None,
}

impl PatternSet {
    pub(crate) fn new<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let mut found = Self { possible: Vec::new(), best: None };
        for (which, pattern) in patterns.enumerate() {
            if !pattern.is_empty() {
                found.possible.push((which, PatternMatcher::default()));
            } else if found.best.is_none() {
                found.best = Some((which, 0));
            }
        }
        found
    }

    /// Reads the next character. `pattern` returns the pattern with a number.
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
        self.possible.retain_mut(|(which, matcher)| match matcher.step(pattern(*which), c) {
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
        if self.possible.is_empty() { self.choice() } else { Choice::Pending }
    }

    /// Decides at the end of the text.
    pub(crate) fn finish<'p>(&mut self, pattern: impl Fn(usize) -> &'p Pattern) -> Choice {
        let complete =
            self.possible.iter().find(|(which, matcher)| matcher.is_complete(pattern(*which)));
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

    /// The number of the pattern that the text starts with, and the bytes that it matches.
    fn choose(patterns: &[&str], text: &str) -> Option<(usize, usize)> {
        let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern::new(text)).collect();
        let mut set = PatternSet::new(patterns.iter());
        let (mut read, mut choice) = (0, Choice::Pending);
        for c in text.chars() {
            read += c.len_utf8();
            choice = set.step(|which| &patterns[which], c);
            if choice != Choice::Pending {
                break;
            }
        }
        if choice == Choice::Pending {
            choice = set.finish(|which| &patterns[which]);
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
        let id = format!("id={PROBE_ID}, ");
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
