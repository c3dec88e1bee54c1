//! Reaching guests over the network, with nothing of the worker's in between.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Guests work on an emulated processor before they answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// The round trip of one ICMP echo.
///
/// # Errors
/// No answer within five seconds.
pub fn ping(address: impl Into<IpAddr>) -> Result<Duration> {
    let address = address.into();
    let output = Command::new("busybox")
        .args([if address.is_ipv4() { "ping" } else { "ping6" }, "-c", "1", "-W", "5", &address.to_string()])
        .output()
        .context("cannot start busybox ping")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{address} does not answer a ping: {}", text.lines().last().unwrap_or_default());
    }
    round_trip(&text).with_context(|| format!("busybox ping prints no time: {text}"))
}

/// The body of a page.
///
/// # Errors
/// No connection, no complete answer, or another status than 200.
pub fn http_get(address: Ipv4Addr, path: &str) -> Result<Vec<u8>> {
    ask(address, path, format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
}

/// The answer to a body that is posted to a page.
///
/// # Errors
/// As for [`http_get`].
pub fn http_post(address: Ipv4Addr, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    let head = format!("POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", body.len());
    ask(address, path, &[head.as_bytes(), body].concat())
}

fn ask(address: Ipv4Addr, path: &str, request: &[u8]) -> Result<Vec<u8>> {
    let peer = SocketAddr::from((address, 80));
    let stream = TcpStream::connect_timeout(&peer, CONNECT_DEADLINE)
        .with_context(|| format!("cannot connect to {peer}"))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE)).context("cannot set a deadline")?;
    stream.set_write_timeout(Some(ANSWER_DEADLINE)).context("cannot set a deadline")?;
    converse(stream, request).with_context(|| format!("{path} from {peer}"))
}

/// The answer to `request`, after which the other side closes `stream`.
pub(crate) fn converse(mut stream: impl Read + Write, request: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(request).context("cannot ask")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("cannot read the answer")?;
    body_of(answer)
}

/// What follows the headers of an answer with status 200.
fn body_of(answer: Vec<u8>) -> Result<Vec<u8>> {
    const END_OF_HEADERS: &[u8] = b"\r\n\r\n";
    let status = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !status.starts_with(b"HTTP/1.") || status.get(9..12) != Some(b"200") {
        bail!("the answer is {:?}", String::from_utf8_lossy(status));
    }
    let end = answer.windows(END_OF_HEADERS.len()).position(|window| window == END_OF_HEADERS);
    let end = end.context("the answer has no end of headers")? + END_OF_HEADERS.len();
    Ok(answer[end..].to_vec())
}

/// Reads `round-trip min/avg/max = 0.1/0.2/0.3 ms`.
fn round_trip(text: &str) -> Option<Duration> {
    let (_, figures) = text.split_once("min/avg/max = ")?;
    let milliseconds: f64 = figures.split('/').next()?.parse().ok()?;
    Duration::try_from_secs_f64(milliseconds / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_what_follows_the_headers() {
        let body = body_of(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nline\r\n\r\nmore".to_vec());
        assert_eq!(body.expect("a page"), b"line\r\n\r\nmore");
        assert!(body_of(b"HTTP/1.0 404 Not Found\r\n\r\n".to_vec()).is_err());
        assert!(body_of(b"".to_vec()).is_err());
        assert!(body_of(b"HTTP/1.0 200 OK\r\ncut".to_vec()).is_err());
    }

    #[test]
    fn the_time_of_a_ping_is_read() {
        let text = "1 packets received\nround-trip min/avg/max = 0.250/0.300/0.400 ms\n";
        assert_eq!(round_trip(text), Some(Duration::from_micros(250)));
        assert_eq!(round_trip("100% packet loss"), None);
    }
}
