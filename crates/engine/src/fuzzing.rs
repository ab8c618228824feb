//! What reads bytes that others wrote, for fuzz targets: each function checks what must hold.

use crate::detokenize::Utf8Assembler;
use crate::state::{of_one_stream, of_streams};
use crate::stop::{StopMatcher, Verdict};

/// Rewrites a KV state between caches of one and several streams.
///
/// # Panics
/// If a state that was accepted does not survive the way there and back.
pub fn state(bytes: &[u8], streams: u16) {
    let streams = u32::from(streams);
    drop(of_streams(bytes, streams));
    let Some(one) = of_one_stream(bytes.to_vec(), streams) else { return };
    assert!(one.len() <= bytes.len());
    // A state that begins with a stream without cells could be any of the streams.
    let begins_empty = one.get(12..16) == Some(&[0; 4]);
    let back = of_one_stream(of_streams(&one, streams), streams);
    assert!(begins_empty || back == Some(one));
}

/// Joins tokens' bytes to text.
///
/// # Panics
/// If the text is not that of all bytes at once.
pub fn detokenize(pieces: &[&[u8]]) {
    let (mut assembler, mut text) = (Utf8Assembler::default(), String::new());
    for piece in pieces {
        assembler.push(piece, &mut text);
    }
    assembler.finish(&mut text);
    assert_eq!(text, String::from_utf8_lossy(&pieces.concat()));
}

/// Looks for stop strings in text that comes in parts.
///
/// # Panics
/// If what is let through is not the text up to the first stop string.
pub fn stop(stops: &[&str], chunks: &[&str]) {
    let stops: Vec<&str> = stops.iter().copied().filter(|stop| !stop.is_empty()).collect();
    let mut matcher = StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect());
    let (mut out, mut text, mut matched) = (String::new(), String::new(), false);
    for chunk in chunks {
        text.push_str(chunk);
        if matcher.push(chunk, &mut out) != Verdict::Continue {
            matched = true;
            break;
        }
    }
    let first = stops.iter().filter_map(|stop| text.find(stop)).min();
    assert_eq!(matched, first.is_some());
    if !matched {
        matcher.flush(&mut out);
    }
    assert_eq!(out, text[..first.unwrap_or(text.len())]);
}
