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

/// Looks for a marker in a [`TextBuffer`] and tells how much of the text in front of it is safe to
/// emit: not the white space before the marker, and nothing that may be the marker's beginning.
///
/// Each character is looked at once however long the text that is held back becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MarkerSearch {
    /// Bytes at the front of the unread text that are known to be white space before anything else.
    space: usize,
}

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SafePrefix {
    /// Bytes that are safe to emit; the caller consumes them.
    pub(crate) len: usize,
    /// Where the marker begins, if it is there.
    pub(crate) marker: Option<usize>,
}

impl MarkerSearch {
    /// Searches `rest`, which begins where it began in the last call but for what was safe to emit.
    pub(crate) fn search(&mut self, rest: &str, marker: &str) -> SafePrefix {
        let fresh = &rest[self.space..];
        let found = fresh.find(marker);
        let end = self.space + found.unwrap_or_else(|| fresh.len() - partial(fresh, marker));
        let trimmed = rest[self.space..end].trim_end().len();
        let len = if trimmed == 0 { 0 } else { self.space + trimmed };
        self.space = if found.is_some() { 0 } else { end - len };
        SafePrefix { len, marker: found.map(|_| end) }
    }
}

/// Length of the longest beginning of `marker`, not all of it, that `text` ends with.
pub(crate) fn partial(text: &str, marker: &str) -> usize {
    let mut ends = marker.char_indices().map(|(at, _)| at).rev();
    ends.find(|&at| text.ends_with(&marker[..at])).unwrap_or(0)
}

/// The text cut at these places, as near as characters allow.
#[cfg(test)]
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
        assert_eq!(partial("x<｜t", "<｜tool"), 5);
        assert_eq!(partial("x<｜", "<｜tool"), 4);
        assert_eq!(partial("x", "<｜tool"), 0);
        assert_eq!(partial("aab", "aabaac"), 3);
    }
}
