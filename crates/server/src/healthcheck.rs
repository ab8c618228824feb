//! `forebay healthcheck`: asks the server of a configuration whether it can serve, for containers without
//! curl.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use crate::config::Settings;

/// The longest that each network operation may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Asks the server on this machine for `/health`, by the admin listener if there is one.
///
/// # Errors
/// Why it cannot serve, or that it does not answer.
pub(crate) fn run(settings: &Settings) -> Result<(), String> {
    let (host, port) = match settings.admin.port {
        0 => (&settings.server.host, settings.server.port),
        port => (&settings.admin.host, port),
    };
    let failed = |why: std::io::Error| format!("no answer on port {port}: {why}");
    let addresses = (host.as_str(), port).to_socket_addrs().map_err(failed)?;
    let mut address = addresses.into_iter().next().ok_or("the host has no address")?;
    // A server on every interface is also at the loopback address.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
    let request = format!("GET /health HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer).map_err(failed)?;
    let status = answer.split_whitespace().nth(1).unwrap_or("nothing");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if status == "200" { Ok(()) } else { Err(format!("{status}: {body}")) }
}
