//! An index of the names of a vocabulary's control tokens. The time to search a text does not depend on how many there are:
//! some vocabularies have thousands.

use std::collections::HashSet;

/// The names of two characters or more; shorter ones cannot be put together from parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlNames {
    all: HashSet<String>,
    sorted: Vec<String>,
    /// The lengths of names in bytes, ascending, each once.
    lengths: Vec<usize>,
    longest: usize,
    /// A bit for each pair of bytes that a name starts with.
    first_bytes: Vec<u64>,
    /// Proper prefixes of names.
    prefixes: HashSet<String>,
    /// Proper suffixes of names, sorted.
    suffixes: Vec<String>,
}

impl ControlNames {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let all: HashSet<String> = names.into_iter().filter(|n| n.chars().count() > 1).collect();
        let mut found = Self { first_bytes: vec![0; 1 << 10], ..Self::default() };
        for name in &all {
            found.lengths.push(name.len());
            found.longest = found.longest.max(name.len());
            if let Some((word, bit)) = first_bytes_bit(name) {
                found.first_bytes[word] |= bit;
            }
            for (at, _) in name.char_indices().skip(1) {
                found.prefixes.insert(name[..at].to_owned());
                found.suffixes.push(name[at..].to_owned());
            }
            found.sorted.push(name.clone());
        }
        for list in [&mut found.sorted, &mut found.suffixes] {
            list.sort_unstable();
            list.dedup();
        }
        found.lengths.sort_unstable();
        found.lengths.dedup();
        Self { all, ..found }
    }

    /// The length of the longest name, in bytes.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a text starts with a name.
    pub(crate) fn is_name_at_start(&self, text: &str) -> bool {
        let may =
            first_bytes_bit(text).is_some_and(|(word, bit)| self.first_bytes[word] & bit != 0);
        may && self.lengths.iter().any(|&len| text.get(..len).is_some_and(|t| self.all.contains(t)))
    }

    /// Whether a text ends with a proper prefix of a name, which a text after it could complete.
    pub(crate) fn can_start_in(&self, text: &str) -> bool {
        self.prefixes_at_end(text).next().is_some()
    }

    /// Whether a text starts with a proper suffix of a name, or is the start of one: with a text before it, and perhaps
    /// one after it, it could make the name.
    pub(crate) fn can_end_in(&self, text: &str) -> bool {
        let ends = |len| {
            text.get(..len)
                .is_some_and(|t| self.suffixes.binary_search_by(|r| (**r).cmp(t)).is_ok())
        };
        (1..self.longest).any(ends) || !text.is_empty() && is_prefix_of_any(&self.suffixes, text)
    }

    /// A copy of a text with `sentinel` in every name, and where a name could arise from it and the texts beside it.
    pub(crate) fn insert_sentinels(&self, text: &str, sentinel: char) -> String {
        // After the first character of each name, overlapping ones included.
        let names = text.char_indices().filter(|(at, _)| self.is_name_at_start(&text[*at..]));
        let mut cuts: Vec<usize> = names.map(|(at, c)| at + c.len_utf8()).collect();
        cuts.extend(self.edges(text));
        cuts.sort_unstable();
        cuts.dedup();
        insert_at(text, &cuts, sentinel)
    }

    /// The bytes at which a name could arise from a text and the texts before and after it, ascending: none, one or two.
    /// White space at its ends is outside of them, since a template may trim it.
    pub(crate) fn edges(&self, text: &str) -> impl Iterator<Item = usize> {
        let (head, tail) = (text.len() - text.trim_start().len(), text.trim_end().len());
        // Also without white space at the end, which a template may trim.
        let closes = self.can_end_in(&text[head..]) || self.can_end_in(text[head..].trim_end());
        let opens = self.can_start_in(&text[..tail]);
        [closes.then_some(head), opens.then_some(tail)].into_iter().flatten()
    }

    /// Whether a name starts in `text` and ends in `more`, or could end in the text after `more`.
    pub(crate) fn can_span(&self, text: &str, more: &str) -> bool {
        let mut more_end = more.len().min(self.longest);
        while !more.is_char_boundary(more_end) {
            more_end += 1;
        }
        self.prefixes_at_end(text).any(|front| {
            let both = format!("{front}{}", &more[..more_end]);
            let whole = |&len: &usize| both.get(..len).is_some_and(|text| self.all.contains(text));
            let longer = self.lengths.iter().filter(|&&len| len > front.len());
            is_prefix_of_any(&self.sorted, &both) || longer.into_iter().any(whole)
        })
    }

    /// The proper prefixes of names that a text ends with.
    fn prefixes_at_end<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let ends = (1..self.longest).filter_map(|len| text.get(text.len().checked_sub(len)?..));
        ends.filter(|end| self.prefixes.contains(*end))
    }
}

/// A copy of a text with `c` inserted at each of these bytes, which are ascending.
pub(crate) fn insert_at(text: &str, places: &[usize], c: char) -> String {
    let mut out = String::with_capacity(text.len() + places.len() * c.len_utf8());
    let mut from = 0;
    for &place in places {
        out.push_str(&text[from..place]);
        out.push(c);
        from = place;
    }
    out.push_str(&text[from..]);
    out
}

/// The word and the bit of a text's first two bytes.
fn first_bytes_bit(text: &str) -> Option<(usize, u64)> {
    let &[a, b] = text.as_bytes().first_chunk()?;
    let pair = usize::from(u16::from_be_bytes([a, b]));
    Some((pair / 64, 1 << (pair % 64)))
}

/// Whether one of a sorted list starts with `text`.
fn is_prefix_of_any(sorted: &[String], text: &str) -> bool {
    let at = sorted.partition_point(|one| one.as_str() < text);
    sorted.get(at).is_some_and(|one| one.starts_with(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_found_as_one_by_one(
            all in proptest::collection::vec("[<|>aé]{1,4}", 0..5),
            text in "[<|>aé]{0,6}",
            more in "[<|>aé]{0,6}",
        ) {
            let names = ControlNames::new(all.clone());
            let all: Vec<&String> = all.iter().filter(|name| name.chars().count() > 1).collect();
            let borders = || {
                let each = |name: &&String| {
                    let name = (*name).clone();
                    let ats: Vec<usize> = name.char_indices().skip(1).map(|(at, _)| at).collect();
                    ats.into_iter().map(move |at| (name[..at].to_owned(), name[at..].to_owned()))
                };
                all.iter().flat_map(each).collect::<Vec<_>>()
            };
            prop_assert_eq!(names.is_name_at_start(&text), all.iter().any(|name| text.starts_with(*name)));
            prop_assert_eq!(names.can_start_in(&text), borders().iter().any(|(front, _)| text.ends_with(front)));
            let within = |rest: &str| text.starts_with(rest) || !text.is_empty() && rest.starts_with(&text);
            prop_assert_eq!(names.can_end_in(&text), borders().iter().any(|(_, rest)| within(rest)));
            let meets = |(front, rest): &(String, String)| {
                text.ends_with(front) && (more.starts_with(rest) || rest.starts_with(&more))
            };
            prop_assert_eq!(names.can_span(&text, &more), borders().iter().any(meets));
        }
    }
}
