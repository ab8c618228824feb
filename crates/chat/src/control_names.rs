//! An index of the names of a vocabulary's control tokens: searching a text for them takes no longer
//! where there are thousands, as in some vocabularies.

use std::collections::HashSet;

/// Names of two characters or more: shorter ones have no parts that could be put together.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlNames {
    all: HashSet<String>,
    sorted: Vec<String>,
    /// The different lengths of names, in bytes, the shortest first.
    lengths: Vec<usize>,
    longest: usize,
    /// The first two bytes of every name, as bits.
    starts: Vec<u64>,
    /// Proper prefixes of names.
    fronts: HashSet<String>,
    /// Proper suffixes of names, sorted.
    rests: Vec<String>,
}

impl ControlNames {
    pub(crate) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let all: HashSet<String> = names.into_iter().filter(|n| n.chars().count() > 1).collect();
        let mut found = Self { starts: vec![0; 1 << 10], ..Self::default() };
        for name in &all {
            found.lengths.push(name.len());
            found.longest = found.longest.max(name.len());
            if let Some((word, bit)) = start(name) {
                found.starts[word] |= bit;
            }
            for (at, _) in name.char_indices().skip(1) {
                found.fronts.insert(name[..at].to_owned());
                found.rests.push(name[at..].to_owned());
            }
            found.sorted.push(name.clone());
        }
        for list in [&mut found.sorted, &mut found.rests] {
            list.sort_unstable();
            list.dedup();
        }
        found.lengths.sort_unstable();
        found.lengths.dedup();
        Self { all, ..found }
    }

    /// Bytes of the longest name: no more of a text's end or beginning can matter.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a text begins with a name.
    pub(crate) fn begins(&self, text: &str) -> bool {
        let may = start(text).is_some_and(|(word, bit)| self.starts[word] & bit != 0);
        may && self.lengths.iter().any(|&len| text.get(..len).is_some_and(|t| self.all.contains(t)))
    }

    /// Whether a text ends with a proper prefix of a name, which a text after it could complete.
    pub(crate) fn opens(&self, text: &str) -> bool {
        self.open(text).next().is_some()
    }

    /// Whether a text begins with a proper suffix of a name, or all of it is the beginning of one: with
    /// a text before it, and perhaps one after it, it could make the name.
    pub(crate) fn closes(&self, text: &str) -> bool {
        let ends = |len| {
            text.get(..len).is_some_and(|t| self.rests.binary_search_by(|r| (**r).cmp(t)).is_ok())
        };
        (1..self.longest).any(ends) || !text.is_empty() && begins_one(&self.rests, text)
    }

    /// `text` with `mark` in every name, and where it must be kept apart from what comes beside it.
    pub(crate) fn apart(&self, text: &str, mark: char) -> String {
        // Behind the first character of each name, overlapping ones included.
        let spelled = text.char_indices().filter(|(at, _)| self.begins(&text[*at..]));
        let mut cuts: Vec<usize> = spelled.map(|(at, c)| at + c.len_utf8()).collect();
        cuts.extend(self.edges(text));
        cuts.sort_unstable();
        cuts.dedup();
        with_marks(text, &cuts, mark)
    }

    /// Where a text must be kept apart from what comes before and behind it, in bytes, if anywhere, in this
    /// order. Space at its ends may go before that comes, and so is left outside.
    pub(crate) fn edges(&self, text: &str) -> impl Iterator<Item = usize> {
        let (head, tail) = (text.len() - text.trim_start().len(), text.trim_end().len());
        // Up to the end of the text: space behind it may go.
        let closes = self.closes(&text[head..]) || self.closes(text[head..].trim_end());
        let opens = self.opens(&text[..tail]);
        [closes.then_some(head), opens.then_some(tail)].into_iter().flatten()
    }

    /// Whether a name begins in `text` and ends in `more`, or could end in what follows `more`.
    pub(crate) fn meet(&self, text: &str, more: &str) -> bool {
        let mut more_end = more.len().min(self.longest);
        while !more.is_char_boundary(more_end) {
            more_end += 1;
        }
        self.open(text).any(|front| {
            let both = format!("{front}{}", &more[..more_end]);
            let whole = |&len: &usize| both.get(..len).is_some_and(|text| self.all.contains(text));
            let longer = self.lengths.iter().filter(|&&len| len > front.len());
            begins_one(&self.sorted, &both) || longer.into_iter().any(whole)
        })
    }

    /// The proper prefixes of names that a text ends with.
    fn open<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let ends = (1..self.longest).filter_map(|len| text.get(text.len().checked_sub(len)?..));
        ends.filter(|end| self.fronts.contains(*end))
    }
}

/// `text` with a character at each of these places, which are sorted.
pub(crate) fn with_marks(text: &str, places: &[usize], mark: char) -> String {
    let mut out = String::with_capacity(text.len() + places.len() * mark.len_utf8());
    let mut from = 0;
    for &place in places {
        out.push_str(&text[from..place]);
        out.push(mark);
        from = place;
    }
    out.push_str(&text[from..]);
    out
}

/// Where the bit of a text's first two bytes is.
fn start(text: &str) -> Option<(usize, u64)> {
    let &[a, b] = text.as_bytes().first_chunk()?;
    let pair = usize::from(u16::from_be_bytes([a, b]));
    Some((pair / 64, 1 << (pair % 64)))
}

/// Whether one of a sorted list begins with `text`.
fn begins_one(sorted: &[String], text: &str) -> bool {
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
            prop_assert_eq!(names.begins(&text), all.iter().any(|name| text.starts_with(*name)));
            prop_assert_eq!(names.opens(&text), borders().iter().any(|(front, _)| text.ends_with(front)));
            let within = |rest: &str| text.starts_with(rest) || !text.is_empty() && rest.starts_with(&text);
            prop_assert_eq!(names.closes(&text), borders().iter().any(|(_, rest)| within(rest)));
            let meets = |(front, rest): &(String, String)| {
                text.ends_with(front) && (more.starts_with(rest) || rest.starts_with(&more))
            };
            prop_assert_eq!(names.meet(&text, &more), borders().iter().any(meets));
        }
    }
}
