//! What comes over the socket between the server and an engine's process, to either of them: whatever
//! the bytes, there is an end to it, and what makes sense is the same when it is sent on.

use forebay_engine::fuzzing::frames;

pub fn run(data: &[u8]) {
    let Some((&side, bytes)) = data.split_first() else { return };
    frames(side % 2 == 0, bytes);
}
