//! A sequence's state as llama.cpp writes it, so that one context can take what another wrote.
//!
//! llama.cpp restores a sequence only into a KV cache with as many streams as the one it was saved from, although all
//! streams but one are written as empty:
//!
//! ```text
//! u32 magic | i32 sequence | caches
//! cache: u32 streams | for each stream: u32 cells, and if there are any, data
//! ```
//!
//! (`llama_kv_cache::state_write` and `state_read` in `src/llama-kv-cache.cpp`.) There is one such
//! cache, or one for all tokens and one for a sliding window (`llama-kv-cache-iswa.cpp`), or one
//! before a recurrent state (`llama-memory-hybrid.cpp`), or that state alone
//! (`llama-memory-recurrent.cpp`), which knows no streams. Here a state is kept as of one stream.
//!
//! Bytes that are not such a state are refused or come back changed in their counts alone: nothing
//! here panics, takes more memory than the bytes and the streams need, or longer than they are.

use std::ops::Range;

/// Magic and sequence.
const HEADER: usize = 8;
const NUMBER: usize = 4;

/// The caches in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StateLayout {
    /// One cache.
    Cells,
    /// A cache of this many bytes for all tokens, and one for a window.
    Windowed(usize),
    /// A cache of this many bytes, and a recurrent state.
    Hybrid(usize),
    /// A recurrent state.
    Recurrent,
}

impl StateLayout {
    /// The caches' ranges in a state of `len` bytes; `None` if they exceed it.
    fn caches(self, len: usize) -> Option<Vec<Range<usize>>> {
        let end = |first: usize| HEADER.checked_add(first).filter(|&end| end <= len);
        let (first, second) = match self {
            Self::Cells => (Some(HEADER..len), None),
            Self::Windowed(first) => (Some(HEADER..end(first)?), Some(end(first)?..len)),
            Self::Hybrid(first) => (Some(HEADER..end(first)?), None),
            Self::Recurrent => (None, None),
        };
        Some([first, second].into_iter().flatten().collect())
    }

    /// The same layout with another size of the first cache.
    fn with_first(self, first: usize) -> Self {
        match self {
            Self::Windowed(_) => Self::Windowed(first),
            Self::Hybrid(_) => Self::Hybrid(first),
            Self::Cells | Self::Recurrent => self,
        }
    }
}

/// Rewrites a state of caches with `streams` streams to one stream. `None` if it is not of such caches, or not of one
/// sequence.
pub(crate) fn of_one_stream(
    mut bytes: Vec<u8>,
    shape: StateLayout,
    streams: u32,
) -> Option<(Vec<u8>, StateLayout)> {
    let mut first = 0;
    // From the last cache, so that earlier ranges stay valid.
    for cache in shape.caches(bytes.len())?.into_iter().rev() {
        let len = cache.len();
        let others = strip(&mut bytes, cache, streams)?;
        first = len - others;
    }
    Some((bytes, shape.with_first(first)))
}

/// Removes the empty streams of a cache. Returns the number of removed bytes.
fn strip(bytes: &mut Vec<u8>, cache: Range<usize>, streams: u32) -> Option<usize> {
    let of = bytes.get(cache.clone())?;
    if number(of, 0)? != streams {
        return None;
    }
    let others = streams.checked_sub(1)? as usize;
    let count = |i: usize| number(of, NUMBER.checked_mul(i)?.checked_add(NUMBER)?);
    let before = (0..others).take_while(|&i| count(i) == Some(0)).count();
    let after = others.checked_sub(before)?.checked_mul(NUMBER)?;
    let data = NUMBER + before * NUMBER..of.len().checked_sub(after)?;
    if data.len() < NUMBER || of.get(data.end..)?.iter().any(|&byte| byte != 0) {
        return None;
    }
    bytes.drain(cache.start + data.end..cache.end);
    bytes.drain(cache.start + NUMBER..cache.start + data.start);
    bytes[cache.start..cache.start + NUMBER].copy_from_slice(&1_u32.to_ne_bytes());
    Some(others * NUMBER)
}

/// Rewrites a state of one stream to caches with `streams` streams.
pub(crate) fn of_streams(bytes: &[u8], shape: StateLayout, streams: u32) -> Vec<u8> {
    let others = streams.saturating_sub(1) as usize * NUMBER;
    let caches = shape.caches(bytes.len()).unwrap_or_default();
    let mut all = Vec::with_capacity(bytes.len() + others * caches.len());
    let mut done = 0;
    for cache in caches {
        let start = all.len() + cache.start.saturating_sub(done);
        all.extend_from_slice(bytes.get(done..cache.end).unwrap_or_default());
        done = cache.end;
        if let Some(count) = all.get_mut(start..start + NUMBER) {
            count.copy_from_slice(&streams.to_ne_bytes());
        }
        all.resize(all.len() + others, 0);
    }
    all.extend_from_slice(bytes.get(done..).unwrap_or_default());
    all
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..at.checked_add(NUMBER)?)?;
    Some(u32::from_ne_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    fn one(bytes: Vec<u8>, streams: u32) -> Option<Vec<u8>> {
        of_one_stream(bytes, StateLayout::Cells, streams).map(|(bytes, _)| bytes)
    }

    #[test]
    fn streams_that_hold_nothing_come_and_go() {
        let alone = state(&[77, 2, 1, 3, 11, 0, 0]);
        for streams in [
            state(&[77, 2, 4, 0, 0, 3, 11, 0, 0, 0]),
            state(&[77, 2, 4, 3, 11, 0, 0, 0, 0, 0]),
            state(&[77, 2, 4, 0, 0, 0, 3, 11, 0, 0]),
        ] {
            assert_eq!(one(streams, 4).unwrap(), alone);
        }
        assert_eq!(one(alone.clone(), 1).unwrap(), alone);
        assert_eq!(of_streams(&alone, StateLayout::Cells, 1), alone);
        let three = of_streams(&alone, StateLayout::Cells, 3);
        assert_eq!(three, state(&[77, 2, 3, 3, 11, 0, 0, 0, 0]));
        assert_eq!(one(three, 3).unwrap(), alone);
    }

    #[test]
    fn each_cache_of_a_state_has_its_streams() {
        let split = state(&[77, 2, 3, 0, 2, 11, 12, 0, 3, 0, 1, 13, 0]);
        let windowed = (state(&[77, 2, 1, 2, 11, 12, 1, 1, 13]), StateLayout::Windowed(16));
        assert_eq!(
            of_one_stream(split.clone(), StateLayout::Windowed(24), 3),
            Some(windowed.clone())
        );
        let back = of_streams(&windowed.0, windowed.1, 3);
        assert_eq!(back, state(&[77, 2, 3, 2, 11, 12, 0, 0, 3, 1, 13, 0, 0]));
        assert_eq!(of_one_stream(back, StateLayout::Windowed(24), 3), Some(windowed));
        // What follows is a recurrent state: it stays as it is.
        let hybrid = (state(&[77, 2, 1, 2, 11, 12, 3, 0, 1, 13, 0]), StateLayout::Hybrid(16));
        assert_eq!(of_one_stream(split.clone(), StateLayout::Hybrid(24), 3), Some(hybrid.clone()));
        assert_eq!(of_streams(&hybrid.0, hybrid.1, 1), hybrid.0);
        assert_eq!(of_streams(&hybrid.0, hybrid.1, 2)[8..28], state(&[2, 2, 11, 12, 0]));
        let recurrent = (split.clone(), StateLayout::Recurrent);
        assert_eq!(of_one_stream(split.clone(), StateLayout::Recurrent, 3), Some(recurrent));
        assert_eq!(of_streams(&split, StateLayout::Recurrent, 7), split);
    }

    #[test]
    fn what_is_not_such_a_state_is_none() {
        assert_eq!(one(state(&[77, 2, 3, 1, 1, 1, 1]), 3), None, "no empty streams");
        assert_eq!(one(state(&[77, 2, 2, 1, 0]), 3), None, "other streams");
        assert_eq!(one(state(&[77]), 3), None);
        assert_eq!(of_one_stream(state(&[77, 2, 1, 0]), StateLayout::Windowed(99), 1), None);
        assert_eq!(of_one_stream(state(&[77, 2, 1, 0]), StateLayout::Hybrid(usize::MAX), 1), None);
    }

    fn shapes() -> impl Strategy<Value = StateLayout> {
        let first = prop_oneof![0_usize..100, Just(usize::MAX)];
        (0..4, first).prop_map(|(kind, first)| match kind {
            0 => StateLayout::Cells,
            1 => StateLayout::Windowed(first),
            2 => StateLayout::Hybrid(first),
            _ => StateLayout::Recurrent,
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_rewritten_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            zeros in 0_usize..80, streams in prop_oneof![0_u32..20, any::<u32>()],
            shape in shapes(), at in 0_usize..100,
        ) {
            bytes.resize(bytes.len() + zeros, 0);
            let all = bytes.len();
            for at in [HEADER, HEADER.saturating_add(at)] {
                if let Some(count) = bytes.get_mut(at..at + NUMBER) {
                    count.copy_from_slice(&streams.to_ne_bytes());
                }
            }
            let few = streams.min(50);
            prop_assert!(of_streams(&bytes, shape, few).len() <= all + 8 * few as usize);
            if let Some((one, as_one)) = of_one_stream(bytes, shape, streams) {
                prop_assert!(one.len() <= all);
                // The round trip returns the same state, unless a cache is marked empty and is not.
                let caches = as_one.caches(one.len()).unwrap();
                let empty = caches.iter().any(|c| number(&one, c.start + NUMBER) == Some(0));
                let many = of_streams(&one, as_one, streams);
                prop_assert_eq!(many.len(), all);
                let back = of_one_stream(many, shape, streams);
                prop_assert!(empty || back == Some((one, as_one)));
            }
        }
    }
}
