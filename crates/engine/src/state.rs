//! A sequence's state as llama.cpp writes it, so that one context can take what another wrote.
//!
//! llama.cpp restores a sequence only into a KV cache with as many streams as that which it was
//! saved from, though what it writes of all streams but one is that they hold none of it:
//!
//! ```text
//! u32 magic | i32 sequence | u32 streams | for each stream: u32 cells, and if there are any, data
//! ```
//!
//! (`llama_kv_cache::state_write` and `state_read` in `src/llama-kv-cache.cpp`.) Here a state is
//! kept as of one stream.
//!
//! Bytes that are not such a state are refused or come back changed in their head alone: nothing
//! here panics, takes more memory than the bytes and the streams need, or longer than they are.

/// Magic and sequence.
const HEADER: usize = 8;
const NUMBER: usize = 4;

/// The same state as of a cache with one stream. `None` where it is not of a cache with `streams`
/// streams, or not of one sequence.
pub(crate) fn of_one_stream(mut bytes: Vec<u8>, streams: u32) -> Option<Vec<u8>> {
    if number(&bytes, HEADER)? != streams {
        return None;
    }
    let counts = HEADER + NUMBER;
    let others = streams.checked_sub(1)? as usize;
    let before = (0..others).take_while(|i| number(&bytes, counts + i * NUMBER) == Some(0)).count();
    let behind = (others - before) * NUMBER;
    let data = counts + before * NUMBER..bytes.len().checked_sub(behind)?;
    if data.len() < NUMBER || bytes.get(data.end..)?.iter().any(|&byte| byte != 0) {
        return None;
    }
    bytes.truncate(data.end);
    bytes.drain(counts..data.start);
    bytes[HEADER..counts].copy_from_slice(&1_u32.to_ne_bytes());
    Some(bytes)
}

/// A state of one stream as of a cache with `streams` streams.
pub(crate) fn of_streams(bytes: &[u8], streams: u32) -> Vec<u8> {
    let others = streams.saturating_sub(1) as usize * NUMBER;
    let mut all = Vec::with_capacity(bytes.len() + others);
    all.extend_from_slice(bytes);
    if let Some(count) = all.get_mut(HEADER..HEADER + NUMBER) {
        count.copy_from_slice(&streams.to_ne_bytes());
    }
    all.resize(bytes.len() + others, 0);
    all
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let number = bytes.get(at..at + NUMBER)?;
    Some(u32::from_ne_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_ne_bytes()).collect()
    }

    #[test]
    fn streams_that_hold_nothing_come_and_go() {
        let one = state(&[77, 2, 1, 3, 11, 0, 0]);
        for streams in [
            state(&[77, 2, 4, 0, 0, 3, 11, 0, 0, 0]),
            state(&[77, 2, 4, 3, 11, 0, 0, 0, 0, 0]),
            state(&[77, 2, 4, 0, 0, 0, 3, 11, 0, 0]),
        ] {
            assert_eq!(of_one_stream(streams, 4).unwrap(), one);
        }
        assert_eq!(of_one_stream(one.clone(), 1).unwrap(), one);
        assert_eq!(of_streams(&one, 1), one);
        assert_eq!(of_streams(&one, 3), state(&[77, 2, 3, 3, 11, 0, 0, 0, 0]));
        assert_eq!(of_one_stream(of_streams(&one, 3), 3).unwrap(), one);
    }

    #[test]
    fn what_is_not_such_a_state_is_none() {
        assert_eq!(of_one_stream(state(&[77, 2, 3, 1, 1, 1, 1]), 3), None, "no empty streams");
        assert_eq!(of_one_stream(state(&[77, 2, 2, 1, 0]), 3), None, "other streams");
        assert_eq!(of_one_stream(state(&[77]), 3), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_rewritten_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..80),
            zeros in 0_usize..80, streams in prop_oneof![0_u32..20, any::<u32>()],
        ) {
            bytes.resize(bytes.len() + zeros, 0);
            let all = bytes.len();
            if let Some(at) = bytes.get_mut(HEADER..HEADER + NUMBER) {
                at.copy_from_slice(&streams.to_ne_bytes());
            }
            if let Some(one) = of_one_stream(bytes, streams) {
                prop_assert!(one.len() >= HEADER + 2 * NUMBER && one.len() <= all);
                prop_assert_eq!(number(&one, HEADER), Some(1));
                // There and back is the same.
                let back = of_one_stream(of_streams(&one, streams), streams);
                let begins_empty = number(&one, HEADER + NUMBER) == Some(0);
                prop_assert!(begins_empty || back.as_ref() == Some(&one));
            }
        }
    }
}
