//! Text that grows at its end and is read once from its front.

/// A queue of text: consuming from the front costs no more than what is consumed.
#[derive(Debug, Clone, Default)]
pub(crate) struct TextBuffer {
    text: String,
    /// Where the unread text begins in `text`.
    start: usize,
    /// Bytes consumed since the buffer was made.
    consumed: usize,
}

impl TextBuffer {
    /// Appends text.
    pub(crate) fn push(&mut self, more: &str) {
        // Moving the rest forward costs less than what was consumed since the last move.
        if self.start > self.text.len() / 2 {
            self.text.drain(..self.start);
            self.start = 0;
        }
        self.text.push_str(more);
    }

    /// The unread text.
    pub(crate) fn rest(&self) -> &str {
        &self.text[self.start..]
    }

    /// The character that begins `at` bytes into the unread text.
    pub(crate) fn char_at(&self, at: usize) -> Option<char> {
        self.text.get(self.start + at..)?.chars().next()
    }

    /// Removes the first `len` bytes of the unread text, whole characters.
    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(self.rest().is_char_boundary(len));
        self.consumed += len;
        self.start += len;
        if self.start >= self.text.len() {
            self.text.clear();
            self.start = 0;
        }
    }

    /// Removes the first `len` bytes of the unread text and returns them.
    pub(crate) fn take(&mut self, len: usize) -> String {
        let taken = self.rest()[..len].to_owned();
        self.consume(len);
        taken
    }

    /// Removes all unread text and returns it.
    pub(crate) fn take_all(&mut self) -> String {
        self.take(self.rest().len())
    }

    /// Removes all unread text.
    pub(crate) fn clear(&mut self) {
        self.consume(self.rest().len());
    }

    /// Bytes consumed since the buffer was made.
    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }
}

/// Searches a [`TextBuffer`] for a marker and returns the safe prefix: the text before it without trailing white space,
/// and without what may be the beginning of the marker.
///
/// Each character is searched once, however long the held text becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MarkerSearch {
    /// Bytes at the front of the unread text that are known to be white space.
    space: usize,
}

/// The result of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SafePrefix {
    /// Bytes that are safe to emit; the caller consumes them.
    pub(crate) len: usize,
    /// Where the marker begins, in bytes; `None` if it is not there.
    pub(crate) marker: Option<usize>,
}

impl MarkerSearch {
    /// Searches `rest`, the unread text. Between two calls exactly the safe prefix is consumed.
    pub(crate) fn search(&mut self, rest: &str, marker: &str) -> SafePrefix {
        let fresh = &rest[self.space..];
        let found = fresh.find(marker);
        let end = self.space + found.unwrap_or_else(|| fresh.len() - partial_marker(fresh, marker));
        let trimmed = rest[self.space..end].trim_end().len();
        let len = if trimmed == 0 { 0 } else { self.space + trimmed };
        self.space = if found.is_some() { 0 } else { end - len };
        SafePrefix { len, marker: found.map(|_| end) }
    }
}

/// Length of the longest proper prefix of `marker` that `text` ends with, in bytes.
pub(crate) fn partial_marker(text: &str, marker: &str) -> usize {
    let mut ends = marker.char_indices().map(|(at, _)| at).rev();
    ends.find(|&at| text.ends_with(&marker[..at])).unwrap_or(0)
}

/// Texts cut into pieces: what parsers read must not depend on the cuts.
#[cfg(test)]
pub(crate) mod cuts {
    use std::fmt::Debug;

    /// The text cut at these bytes, or the character boundaries before them.
    pub(crate) fn pieces<'t>(text: &'t str, cuts: &[usize]) -> Vec<&'t str> {
        let mut cuts = cuts.to_vec();
        cuts.sort_unstable();
        let (mut pieces, mut from) = (Vec::new(), 0);
        for cut in cuts.into_iter().map(|cut| text.floor_char_boundary(cut)).chain([text.len()]) {
            pieces.push(&text[from..cut]);
            from = cut;
        }
        pieces
    }

    /// The text's characters.
    pub(crate) fn characters(text: &str) -> Vec<&str> {
        text.split("").filter(|piece| !piece.is_empty()).collect()
    }

    /// Parses the text whole, in two pieces cut at each character, and character by character.
    #[track_caller]
    pub(crate) fn check_cuts<T: PartialEq + Debug>(
        text: &str,
        expected: &T,
        parse: impl Fn(&[&str]) -> T,
    ) {
        assert_eq!(&parse(&[text]), expected, "{text}");
        for (at, _) in text.char_indices() {
            let (a, b) = text.split_at(at);
            assert_eq!(&parse(&[a, b]), expected, "{a:?} {b:?}");
        }
        assert_eq!(&parse(&characters(text)), expected, "{text} by characters");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_and_partial_markers_are_held_back() {
        let (mut buffer, mut search, mut out) =
            (TextBuffer::default(), MarkerSearch::default(), Vec::new());
        for piece in ["a  ", " ", "<", "b <", "m", ">c"] {
            buffer.push(piece);
            let found = search.search(buffer.rest(), "<m>");
            out.push((buffer.take(found.len), found.marker.map(|at| at - found.len)));
        }
        let text = |text: &str| (text.to_owned(), None);
        let marker = (String::new(), Some(1));
        assert_eq!(out, [text("a"), text(""), text(""), text("   <b"), text(""), marker]);
    }

    #[test]
    fn markers_of_many_bytes() {
        assert_eq!(partial_marker("x<｜t", "<｜tool"), 5);
        assert_eq!(partial_marker("x<｜", "<｜tool"), 4);
        assert_eq!(partial_marker("x", "<｜tool"), 0);
        assert_eq!(partial_marker("aab", "aabaac"), 3);
    }
}
