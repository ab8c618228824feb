//! HTTP/2 clients: as many streams as a test wants, read or not.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A connection. It answers pings until the server closes it, which ends `closed`.
pub(crate) struct Http2 {
    send: SendRequest<Bytes>,
    pub(crate) closed: JoinHandle<()>,
}

impl Http2 {
    /// Connects; each stream's window is `window`.
    pub(crate) async fn open(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let closed = tokio::spawn(async move { drop(connection.await) });
        Self { send, closed }
    }

    /// Whether the server closes it within this time.
    pub(crate) async fn closes_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, &mut self.closed).await.is_ok()
    }

    /// Posts JSON; returns the answer's status and its body, unread.
    pub(crate) async fn post(&mut self, path: &str, body: String) -> (u16, RecvStream) {
        let (answer, mut send) = {
            let mut ready = self.send.clone().ready().await.unwrap();
            ready.send_request(request("POST", path), false).unwrap()
        };
        send.send_data(body.into(), true).unwrap();
        let (head, body) = answer.await.unwrap().into_parts();
        (head.status.as_u16(), body)
    }

    /// Posts and leaves at once.
    pub(crate) async fn post_and_reset(&mut self, path: &str) -> Result<(), h2::Error> {
        let mut ready = self.send.clone().ready().await?;
        let (_, mut send) = ready.send_request(request("POST", path), false)?;
        send.send_reset(Reason::CANCEL);
        Ok(())
    }
}

fn request(method: &str, path: &str) -> http::Request<()> {
    let uri = format!("http://t{path}");
    let request = http::Request::builder().method(method).uri(uri);
    request.header("content-type", "application/json").body(()).unwrap()
}

/// Reads to the end, as text.
pub(crate) async fn read(mut body: RecvStream) -> Result<String, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        drop(body.flow_control().release_capacity(data.len()));
        all.extend_from_slice(&data);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}
