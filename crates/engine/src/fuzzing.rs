//! Access to private items for fuzz targets. Not in a shipped build.

use crate::detokenize::Utf8Assembler;
use crate::grammar::CompiledGrammar;
use crate::sequence_state::StateLayout;
use crate::stop_strings::{StopMatcher, Verdict};
use crate::vocab::Vocab;

/// The vocabulary of scripted models: all bytes and a few control tokens.
pub fn vocab() -> Vocab {
    crate::scripted::vocab()
}

/// A state of a cache with `streams` streams as of one, if it is that. The first cache has `first`
/// bytes and a window's follows, or it is all there is.
pub fn of_one_stream(
    bytes: Vec<u8>,
    first: Option<usize>,
    streams: u32,
) -> Option<(Vec<u8>, Option<usize>)> {
    let (bytes, shape) = crate::sequence_state::of_one_stream(bytes, shape(first), streams)?;
    let first = if let StateLayout::Windowed(first) = shape { Some(first) } else { None };
    Some((bytes, first))
}

/// A state of one stream as of a cache with `streams` streams.
pub fn of_streams(bytes: &[u8], first: Option<usize>, streams: u32) -> Vec<u8> {
    crate::sequence_state::of_streams(bytes, shape(first), streams)
}

fn shape(first: Option<usize>) -> StateLayout {
    first.map_or(StateLayout::Cells, StateLayout::Windowed)
}

/// The text of tokens with these bytes.
pub fn detokenize(pieces: &[&[u8]]) -> String {
    let (mut assembler, mut out) = (Utf8Assembler::default(), String::new());
    for piece in pieces {
        assembler.push(piece, &mut out);
    }
    assembler.finish(&mut out);
    out
}

/// What stop strings leave of a text that comes in pieces, the index of the one that matched, and how many
/// pieces that took.
pub fn stopped(stops: Vec<String>, pieces: &[&str]) -> (String, Option<usize>, usize) {
    let (mut matcher, mut out) = (StopMatcher::new(stops), String::new());
    for (index, piece) in pieces.iter().enumerate() {
        if let Verdict::Matched(stop) = matcher.push(piece, &mut out) {
            return (out, Some(stop), index + 1);
        }
    }
    matcher.flush(&mut out);
    (out, None, pieces.len())
}

/// What comes over the socket between a parent and a child, to either.
///
/// # Panics
/// When a message changes when it is encoded again, or exceeds what its reader accepts.
pub fn frames(to_child: bool, bytes: &[u8]) {
    match to_child {
        true => crate::process::fuzzing::to_child(bytes),
        false => crate::process::fuzzing::from_child(bytes),
    }
}

/// An answer that follows a grammar; `choices` select among the allowed tokens. Forced tokens are appended as the engine
/// appends them.
///
/// # Panics
/// When an allowed or forced token is refused although the grammar is within the parser's limits.
pub fn follow(grammar: &CompiledGrammar, choices: &[u8]) -> Vec<crate::Token> {
    let count = u32::try_from(vocab().len()).unwrap_or(u32::MAX);
    let (mut constraint, mut tokens) = (grammar.start(), Vec::new());
    for &choice in choices {
        if constraint.is_complete() {
            break;
        }
        let forced = constraint.forced();
        assert_eq!(constraint.count_allowed(&forced), forced.len(), "what is forced is allowed");
        let Ok(mask) = constraint.mask() else { break };
        let allowed: Vec<_> = (0..count).filter(|&token| mask.allows(token)).collect();
        assert!(!allowed.is_empty(), "an answer that is not complete goes on");
        let token = *forced.first().unwrap_or(&allowed[usize::from(choice) % allowed.len()]);
        assert!(allowed.contains(&token), "what is forced is in the mask");
        if constraint.consume(token).is_err() {
            break;
        }
        tokens.push(token);
    }
    tokens
}
