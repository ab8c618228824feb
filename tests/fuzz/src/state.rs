//! KV states as llama.cpp writes them, rewritten for another number of streams: whatever the bytes,
//! what can be rewritten comes back when it is rewritten the other way.

use forebay_engine::fuzzing::{of_one_stream, of_streams};

pub fn run(data: &[u8]) {
    let Some((&[kind, streams], bytes)) = data.split_first_chunk::<2>() else { return };
    let streams = u32::from(streams);
    // Mostly a state with the count that is asked for, sometimes with a second cache somewhere in it.
    let mut bytes = match kind % 4 {
        0 => bytes.to_vec(),
        _ => [&bytes[..bytes.len().min(8)], &streams.to_ne_bytes(), &bytes[bytes.len().min(8)..]]
            .concat(),
    };
    let first = (kind % 4 == 3).then_some(usize::from(kind / 4));
    if let Some(count) = first.and_then(|first| bytes.get_mut(8 + first..12 + first)) {
        count.copy_from_slice(&streams.to_ne_bytes());
    }
    let caches = 1 + usize::from(first.is_some());
    if let Some((one, first_of_one)) = of_one_stream(bytes.clone(), first, streams) {
        assert!(one.len() <= bytes.len());
        assert_eq!(one.len() + 4 * caches * (streams as usize - 1), bytes.len());
        let same = Some((one.clone(), first_of_one));
        assert_eq!(of_one_stream(one.clone(), first_of_one, 1), same, "one stream stays as it is");
        // Where there are no cells, no data should follow: a count of 0 is that of another stream.
        let empty =
            |start: usize, end: usize| one[start + 4..start + 8] == [0; 4] && end > start + 8;
        let cells = match first_of_one {
            None => !empty(8, one.len()),
            Some(first) => !empty(8, 8 + first) && !empty(8 + first, one.len()),
        };
        for other in [1, 2, streams, 64].into_iter().filter(|_| cells) {
            let many = of_streams(&one, first_of_one, other);
            let first = first_of_one.map(|first| first + 4 * (other as usize - 1));
            assert_eq!(of_one_stream(many, first, other), same, "as of {other} streams and back");
        }
    }
    for other in [0, 1, streams] {
        assert!(
            of_streams(&bytes, first, other).len() <= bytes.len() + 4 * caches * other as usize
        );
    }
}
