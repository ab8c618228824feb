//! Token bytes to text, at character borders.

/// Decodes UTF-8 bytes to whole characters. A character split over tokens is held until it is complete; invalid bytes
/// become U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Utf8Assembler {
    /// The start of a character, at most 3 bytes.
    pending: Vec<u8>,
}

impl Utf8Assembler {
    /// Adds a token's bytes and appends complete characters to `out`.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    break 0;
                }
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    out.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(len) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            rest = &invalid[len..];
                        }
                        None => break invalid.len(),
                    }
                }
            }
        };
        self.pending.drain(..self.pending.len() - kept);
    }

    /// Signals end of input: an incomplete character becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// Whether a character is incomplete.
    pub(crate) fn is_mid_character(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assemble(pieces: &[&[u8]]) -> (Vec<String>, String) {
        let mut assembler = Utf8Assembler::default();
        let mut chunks = Vec::new();
        for piece in pieces {
            let mut out = String::new();
            assembler.push(piece, &mut out);
            chunks.push(out);
        }
        let mut tail = String::new();
        assembler.finish(&mut tail);
        (chunks, tail)
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let (chunks, tail) = assemble(&[b"a\xF0\x9F", b"\x98", b"\x80b"]);
        assert_eq!(chunks, ["a", "", "\u{1F600}b"]);
        assert_eq!(tail, "");
    }

    #[test]
    fn broken_bytes_become_replacement_characters() {
        let (chunks, tail) = assemble(&[b"\xFFx\xE2\x82", b"y", b"\xC3"]);
        assert_eq!(chunks, ["\u{FFFD}x", "\u{FFFD}y", ""]);
        assert_eq!(tail, "\u{FFFD}");
    }

    proptest! {
        #[test]
        fn any_split_of_valid_text_gives_that_text(text in "\\PC{0,40}", cuts in proptest::collection::vec(0_usize..200, 0..20)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let mut pieces = Vec::new();
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            let (chunks, tail) = assemble(&pieces);
            prop_assert_eq!(chunks.concat() + &tail, text);
        }

        #[test]
        fn any_bytes_in_any_split_decode_as_the_whole_does(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
            let (chunks, tail) = assemble(&pieces);
            prop_assert_eq!(chunks.concat() + &tail, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
