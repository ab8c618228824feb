//! Token bytes to text, and stop strings: however bytes are cut into tokens, the text is the same; no
//! text that is let through holds a stop string, and what is let through begins the text.

use forebay_engine::fuzzing::{detokenize, stopped};

pub fn run(data: &[u8]) {
    let Some((&[a, b, count], rest)) = data.split_first_chunk::<3>() else { return };
    let seed = u16::from_be_bytes([a, b]);
    // Stop strings first, each behind its length.
    let (mut rest, mut stops) = (rest, Vec::new());
    for _ in 0..count % 5 {
        let Some((&len, behind)) = rest.split_first() else { break };
        let (stop, behind) = behind.split_at((usize::from(len) % 24).min(behind.len()));
        rest = behind;
        stops.push(String::from_utf8_lossy(stop).into_owned());
    }
    stops.retain(|stop| !stop.is_empty());
    let text = String::from_utf8_lossy(rest).into_owned();
    let each: Vec<&[u8]> = rest.chunks(1).collect();
    let some: Vec<&[u8]> = rest.chunks(1 + usize::from(seed % 7)).collect();
    for tokens in [vec![rest], each, some] {
        assert_eq!(detokenize(&tokens), text);
    }
    for pieces in [vec![text.as_str()], crate::pieces(&text, 0), crate::pieces(&text, seed)] {
        let (out, matched, count) = stopped(stops.clone(), &pieces);
        assert!(text.starts_with(&out));
        assert!(stops.iter().all(|stop| !out.contains(stop)), "{out:?} holds one of {stops:?}");
        match matched {
            Some(index) => assert!(text[out.len()..].starts_with(&stops[index])),
            None => assert_eq!(out, text, "nothing is lost"),
        }
        // The first to begin, of those that are complete.
        let so_far = pieces[..count].concat();
        let first = stops.iter().filter_map(|stop| so_far.find(stop)).min();
        assert_eq!(out.len(), first.unwrap_or(text.len()), "{stops:?} in {so_far:?}");
        assert_eq!(matched.is_some(), stops.iter().any(|stop| text.contains(stop)));
        if let [stop] = stops.as_slice() {
            assert_eq!(out, text.split(stop).next().unwrap_or_default());
        }
    }
}
