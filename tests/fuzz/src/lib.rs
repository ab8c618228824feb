//! What fuzz targets share: how bytes become text, pieces of it and conversations. Each target is in
//! a module of its own, which says what has to hold.

pub mod answers;
pub mod bodies;
pub mod calls;
pub mod channels;
pub mod configuration;
pub mod frames;
pub mod grammars;
pub mod guard;
pub mod learning;
pub mod requests;
pub mod state;
pub mod templates;
pub mod text;
pub mod thoughts;

use arbitrary::Unstructured;

/// The first bytes of an input as numbers, the rest as text. The numbers come first so that a mutation
/// of the text changes nothing else.
pub fn parts<const N: usize>(data: &[u8]) -> Option<([u8; N], String)> {
    let (numbers, text) = data.split_first_chunk::<N>()?;
    Some((*numbers, String::from_utf8_lossy(text).into_owned()))
}

/// The text in pieces, cut where `seed` says: 0 for each character alone.
pub fn pieces(text: &str, seed: u16) -> Vec<&str> {
    let mut random = u32::from(seed) | 0x10000;
    let (mut pieces, mut from) = (Vec::new(), 0);
    for (at, _) in text.char_indices().skip(1) {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Mostly short pieces, as tokens are; with some seeds long ones.
        if seed == 0 || (random >> 16) % (2 + u32::from(seed % 37)) == 0 {
            pieces.push(&text[from..at]);
            from = at;
        }
    }
    pieces.push(&text[from..]);
    pieces
}

/// Whether all of `part` is in `whole`, in this order.
pub fn is_subsequence(part: &str, whole: &str) -> bool {
    let mut rest = whole.chars();
    part.chars().all(|c| rest.any(|other| other == c))
}

/// A text out of `words` and whatever else.
pub fn wild(u: &mut Unstructured<'_>, words: &[&str]) -> String {
    let mut text = String::new();
    for _ in 0..u.int_in_range(0..=8).unwrap_or(0) {
        match u.int_in_range(0..=3_u8).unwrap_or(0) {
            0 | 1 => text.push_str(u.choose(words).copied().unwrap_or_default()),
            // A part of a word: halves are what others complete.
            2 => {
                let word = u.choose(words).copied().unwrap_or_default();
                let borders: Vec<usize> = word.char_indices().map(|(at, _)| at).collect();
                let at = u.choose(&borders).copied().unwrap_or(0);
                let front = u.arbitrary().unwrap_or(false);
                text.push_str(if front { &word[..at] } else { &word[at..] });
            }
            _ => text.push(u.arbitrary().unwrap_or(' ')),
        }
    }
    text
}

/// Where the input that runs is kept: what overflows the stack leaves no other trace.
static LAST: std::sync::LazyLock<Option<std::fs::File>> = std::sync::LazyLock::new(|| {
    let path = std::env::var_os("FUZZ_LAST")?;
    std::fs::File::create(path).ok()
});

/// Runs a target on an input.
pub fn run(data: &[u8], target: impl Fn(&[u8])) {
    use std::os::unix::fs::FileExt;
    if let Some(last) = &*LAST {
        // Shorter than the one before: a length in front says so.
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX).to_ne_bytes();
        let kept = last.write_all_at(&[&len, data].concat(), 0);
        assert!(kept.is_ok(), "the input can be kept");
    }
    target(data);
}
