//! KV states as llama.cpp writes them, rewritten for another number of streams: whatever the bytes,
//! what can be rewritten comes back when it is rewritten the other way.

use forebay_engine::fuzzing::{of_one_stream, of_streams};

pub fn run(data: &[u8]) {
    let Some((&[kind, streams], bytes)) = data.split_first_chunk::<2>() else { return };
    let streams = u32::from(streams);
    // Mostly a state with the count that is asked for.
    let bytes = match kind % 4 {
        0 => bytes.to_vec(),
        _ => [&bytes[..bytes.len().min(8)], &streams.to_ne_bytes(), &bytes[bytes.len().min(8)..]]
            .concat(),
    };
    if let Some(one) = of_one_stream(bytes.clone(), streams) {
        assert!(one.len() <= bytes.len());
        assert_eq!(one.len() + 4 * (streams as usize - 1), bytes.len());
        assert_eq!(of_one_stream(one.clone(), 1).as_ref(), Some(&one), "one stream stays as it is");
        // Where there are no cells, no data should follow: a count of 0 is that of another stream.
        let cells = one[12..16] != [0; 4] || one.len() == 16;
        for other in [1, 2, streams, 64].into_iter().filter(|_| cells) {
            let many = of_streams(&one, other);
            let back = of_one_stream(many, other);
            assert_eq!(back.as_ref(), Some(&one), "as of {other} streams and back");
        }
    }
    for other in [0, 1, streams] {
        assert!(of_streams(&bytes, other).len() <= bytes.len() + 4 * other as usize);
    }
}
