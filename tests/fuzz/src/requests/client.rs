//! HTTP/1.1 as a client writes and reads it: one connection for several requests.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// No answer takes this long: scripted models are fast, machines that do other things are not.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In small letters.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The id of what was made.
    pub fn id(&self) -> Option<String> {
        let at = ["\"resp_", "\"conv_"].iter().filter_map(|begin| self.body.find(begin)).min()?;
        let rest = &self.body[at + 1..];
        Some(rest[..rest.find('"')?].to_owned())
    }
}

pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends a request and reads its answer; none where the server closed instead.
    pub fn exchange(&mut self, method: &str, path: &str, body: Option<&str>) -> Option<Answer> {
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = self.stream.take().unwrap_or_else(|| connect(self.address));
        stream.write_all(request.as_bytes()).ok()?;
        let mut bytes = Vec::new();
        let head_end = until(&mut stream, &mut bytes, |bytes| find(bytes, b"\r\n\r\n"))?;
        let head = String::from_utf8_lossy(&bytes[..head_end]).to_lowercase();
        let rest = &mut bytes.split_off(head_end + 4);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let body = if field("transfer-encoding: ").is_some_and(|value| value.contains("chunked")) {
            chunked(&mut stream, rest)
        } else {
            let len =
                field("content-length: ").map_or(0, |len| len.trim().parse().expect("a number"));
            until(&mut stream, rest, |bytes| (bytes.len() >= len).then_some(len))
                .map(|len| rest[..len].to_vec())
        };
        let body = body.unwrap_or_else(|| panic!("{method} {path} breaks off: {head}"));
        if field("connection: ").is_none_or(|value| value != "close") {
            self.stream = Some(stream);
        }
        let body = String::from_utf8(body).unwrap_or_else(|error| panic!("{path}: {error}"));
        Some(Answer { status, head, body })
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// Reads until `done`; none where the connection ends before.
fn until<T>(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    done: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    loop {
        if let Some(done) = done(bytes) {
            return Some(done);
        }
        let mut more = [0; 4096];
        match stream.read(&mut more) {
            Ok(0) => return None,
            Ok(count) => bytes.extend_from_slice(&more[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("no answer in {PATIENCE:?}")
            }
            // libFuzzer looks at its clock by signals.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn chunked(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = until(stream, rest, |bytes| find(bytes, b"\r\n"))?;
        let size = std::str::from_utf8(&rest[..line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        rest.drain(..line + 2);
        until(stream, rest, |bytes| (bytes.len() >= size + 2).then_some(()))?;
        body.extend_from_slice(&rest[..size]);
        rest.drain(..size + 2);
        if size == 0 {
            return Some(body);
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Bytes that may be no HTTP, and whatever comes back.
pub fn raw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = connect(address);
    if stream.write_all(bytes).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        let mut answer = Vec::new();
        until(&mut stream, &mut answer, |_| None::<()>);
    }
}

/// What may stand in a request's line: the rest is spelled as URLs spell it.
pub fn target(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}
