//! Asking the host's own name servers on behalf of a guest.
//!
//! Each question goes out from a port of its own, which the kernel draws, under a random number, and only what comes back
//! from the asked server, with that number and that question, is an answer (RFC 5452 §9).

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{timeout, timeout_at};

use super::message::{Query, is_answer_to, renumber, truncated};

/// The port of name servers.
pub(super) const PORT: u16 = 53;
/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most servers that are asked for one question.
const SERVERS_MOST: usize = 3;
/// The longest answer that is passed on in a datagram.
const DATAGRAM_BYTES: usize = 4096;
/// How old what is known of the host's servers may be.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// Where a host's name servers stand. Other than guests, this host reaches one on its own loopback.
const RESOLVER_FILE: &str = "/etc/resolv.conf";

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) enum Servers {
    /// These.
    Fixed(Vec<IpAddr>),
    /// Those of the host, read again now and then.
    Host {
        /// Our own address, which must not be asked.
        own: Ipv4Addr,
        known: Vec<IpAddr>,
        read_at: Option<Instant>,
    },
}

impl Servers {
    /// Who is to be asked now, in this order. Reads a small file now and then.
    pub(super) fn now(&mut self) -> Vec<IpAddr> {
        match self {
            Self::Fixed(servers) => servers.clone(),
            Self::Host { own, known, read_at } => {
                if read_at.is_none_or(|read_at| read_at.elapsed() > KNOWN_FOR) {
                    let text = fs::read_to_string(RESOLVER_FILE).unwrap_or_default();
                    *known = name_servers(&text, *own);
                    *read_at = Some(Instant::now());
                }
                known.clone()
            }
        }
    }
}

/// The name servers in the text of a `resolv.conf`, in order, but for `own`. An address with a scope is passed over.
fn name_servers(resolv_conf: &str, own: Ipv4Addr) -> Vec<IpAddr> {
    let named = resolv_conf.lines().filter_map(|line| {
        let server = line.trim_start().strip_prefix("nameserver")?.split_whitespace().next()?;
        match server.parse().ok()? {
            IpAddr::V4(address) if address.is_unspecified() => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            IpAddr::V6(address) if address.is_unspecified() => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            address => (address != IpAddr::V4(own)).then_some(address),
        }
    });
    named.take(SERVERS_MOST).collect()
}

/// Asks one server after the other by datagrams; `None` where none of them answers.
pub(super) async fn ask_by_datagram(
    message: &[u8],
    query: &Query<'_>,
    servers: &[IpAddr],
) -> Option<Vec<u8>> {
    for server in servers.iter().take(SERVERS_MOST) {
        if let Ok(mut answer) = ask_one_by_datagram(message, query, *server).await {
            renumber(&mut answer, query.id);
            return Some(answer);
        }
    }
    None
}

async fn ask_one_by_datagram(message: &[u8], query: &Query<'_>, server: IpAddr) -> io::Result<Vec<u8>> {
    let own: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    // From here on the kernel takes datagrams of this server alone.
    socket.connect(SocketAddr::new(server, PORT)).await?;
    let id = random_number()?;
    let mut asked = message.to_vec();
    renumber(&mut asked, id);
    socket.send(&asked).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut buffer = vec![0; DATAGRAM_BYTES + 1];
    loop {
        let length = timeout_at(deadline, socket.recv(&mut buffer)).await??;
        if !is_answer_to(buffer.get(..length).unwrap_or_default(), id, query) {
            continue;
        }
        if length > DATAGRAM_BYTES {
            return Ok(truncated(query));
        }
        buffer.truncate(length);
        return Ok(buffer);
    }
}

/// Asks one server after the other by TCP; `None` where none of them answers.
pub(super) async fn ask_by_stream(message: &[u8], query: &Query<'_>, servers: &[IpAddr]) -> Option<Vec<u8>> {
    for server in servers.iter().take(SERVERS_MOST) {
        if let Ok(Ok(mut answer)) = timeout(PATIENCE, ask_one_by_stream(message, query, *server)).await {
            renumber(&mut answer, query.id);
            return Some(answer);
        }
    }
    None
}

async fn ask_one_by_stream(message: &[u8], query: &Query<'_>, server: IpAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(SocketAddr::new(server, PORT)).await?;
    let id = random_number()?;
    let mut asked = message.to_vec();
    renumber(&mut asked, id);
    write_message(&mut stream, &asked).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if is_answer_to(&answer, id, query) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Writes a message with its length before it (RFC 1035 §4.2.2).
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes).await
}

/// A number that nobody can foretell.
fn random_number() -> io::Result<u16> {
    let mut bytes = [0; 2];
    // It never waits once the host has booted.
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u16::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_loopback_will_do_and_ours_will_not() {
        let text = "search lan\nnameserver 10.100.0.1\nnameserver 127.0.0.53\n nameserver fe80::1%eth0\nnameserver ::1 # x\n\
                    nameserver\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n";
        let servers: Vec<String> =
            name_servers(text, Ipv4Addr::new(10, 100, 0, 1)).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53", "::1", "192.0.2.53"]);
    }
}
