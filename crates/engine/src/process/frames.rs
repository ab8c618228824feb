//! Frames on a socket between two processes: four bytes of length (big-endian), then a message as
//! postcard spells it. [`LengthDelimitedCodec`] reads the same.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::LengthDelimitedCodec;

/// The longest frame, in bytes: the largest messages are the vectors and the log probabilities of a
/// request.
const LONGEST: usize = 256 << 20;

/// Reads and writes frames asynchronously.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(LONGEST).new_codec()
}

/// A message as the inside of a frame.
pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(invalid)
}

/// The message in a frame.
pub(super) fn decode<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    postcard::from_bytes(frame).map_err(invalid)
}

/// Writes a frame; waits while the socket is full.
pub(super) fn write<T: Serialize>(to: &mut impl Write, message: &T) -> io::Result<()> {
    let body = encode(message)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= LONGEST);
    let length = length.ok_or_else(|| invalid("a frame is too long"))?;
    // In one piece: a frame is one system call, as a rule.
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Reads a frame; `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_be_bytes(length);
    if length as usize > LONGEST {
        return Err(invalid("a frame is too long"));
    }
    // What has not come takes no memory.
    let mut body = Vec::new();
    from.take(length.into()).read_to_end(&mut body)?;
    if body.len() < length as usize {
        return Ok(None);
    }
    decode(&body).map(Some)
}

/// An error of the other end.
pub(super) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
