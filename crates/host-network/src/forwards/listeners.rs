//! Which ports of the host its own programs listen on: the kernel's tables of sockets (Linux
//! `Documentation/networking/proc_net_tcp.rst`).
//!
//! A forwarded port goes before a program's: what comes from elsewhere reaches the VM and no longer the program.
//!
//! A socket of IPv6 that is open to every address takes connections by IPv4 too unless it was told not to, which the tables do not
//! show: whether it has the port of IPv4 is tried.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use vm_model::{PortForward, Transport};

/// Where the tables are, of the network namespace of the thread that looks.
const TABLES: &str = "/proc/thread-self/net";
/// States of a socket: it listens, or, of UDP, takes what anybody sends.
const TCP_LISTEN: &str = "0A";
const UDP_OPEN: &str = "07";
/// The most lines of a table that are looked at.
const LINES_MOST: usize = 65_536;

/// A port that a program of the host listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    transport: Transport,
    /// `None` is each address.
    pub(super) address: Option<Ipv4Addr>,
    pub(super) port: u16,
    /// The number of its socket.
    pub(super) inode: u64,
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, port, .. } = self;
        match address {
            Some(address) => write!(formatter, "{address}:{port}/{transport}"),
            None => write!(formatter, "port {port}/{transport}"),
        }
    }
}

impl Listener {
    /// Whether connections to it go to a VM once `forward` is there.
    pub(crate) fn is_hidden_by(&self, forward: &PortForward) -> bool {
        let share_an_address = match (self.address, forward.address) {
            (Some(own), Some(forwarded)) => own == forwarded,
            (None, _) | (_, None) => true,
        };
        self.transport == forward.transport && self.port == forward.host_port.get() && share_an_address
    }
}

/// Everything that is listened on by IPv4, also through sockets of IPv6. A table that cannot be read counts as empty. Blocks.
pub(crate) fn observe_listeners() -> Vec<Listener> {
    let tables = [
        ("tcp", Transport::Tcp),
        ("tcp6", Transport::Tcp),
        ("udp", Transport::Udp),
        ("udp6", Transport::Udp),
    ];
    let listed = tables.into_iter().flat_map(|(table, transport)| {
        let file = File::open(Path::new(TABLES).join(table));
        let read = file.and_then(|file| read_table(BufReader::new(file), transport)).unwrap_or_default();
        let is_ipv6 = table.ends_with('6');
        read.into_iter().filter(move |it| !is_ipv6 || it.address.is_some() || has_ipv4_port(it))
    });
    listed.collect()
}

/// Whether no other socket can have the listener's port at each IPv4 address. Nothing is listened on.
fn has_ipv4_port(listener: &Listener) -> bool {
    let kind = match listener.transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let Ok(socket) = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None) else {
        return true;
    };
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, listener.port)).is_err()
}

fn read_table(table: impl BufRead, transport: Transport) -> io::Result<Vec<Listener>> {
    let wanted = match transport {
        Transport::Tcp => TCP_LISTEN,
        Transport::Udp => UDP_OPEN,
    };
    let mut listeners = Vec::new();
    for line in table.lines().skip(1).take(LINES_MOST) {
        let line = line?;
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(local), _, Some(state)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if state == wanted {
            // After the state: queues, a timer, retransmissions, the user and a timeout.
            let inode = words.nth(5).and_then(|inode| inode.parse().ok()).unwrap_or_default();
            listeners.extend(read_socket(local, transport, inode));
        } else if transport == Transport::Tcp {
            // Those that listen come first, and there may be very many others.
            break;
        }
    }
    Ok(listeners)
}

/// A socket from `ADDRESS:PORT` in hexadecimal, the address as words in the order of the host's bytes; `None` where nothing by
/// IPv4 reaches it.
fn read_socket(local: &str, transport: Transport, inode: u64) -> Option<Listener> {
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let last = address.get(address.len().checked_sub(8)?..)?;
    let last = Ipv4Addr::from(u32::from_str_radix(last, 16).ok()?.to_ne_bytes());
    let is_mapped = || address.starts_with("0000000000000000") && address.get(16..24) == Some("FFFF0000");
    let is_open = address.bytes().all(|digit| digit == b'0');
    match address.len() {
        8 | 32 if is_open => Some(Listener { transport, address: None, port, inode }),
        8 => Some(Listener { transport, address: Some(last), port, inode }),
        32 if is_mapped() => Some(Listener { transport, address: Some(last), port, inode }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n";

    fn read(lines: &str, transport: Transport) -> Vec<Listener> {
        read_table(format!("{HEAD}{lines}").as_bytes(), transport).unwrap()
    }

    #[test]
    fn what_listens_is_told_from_what_is_connected() {
        let listeners = read(
            "   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 7001 1\n   1: 00000000:0016 00000000:0000 0A 0:0 0:0 0 0 0 7002 1\n   2: 0100007F:1F91 0100007F:9999 01 0:0\n",
            Transport::Tcp,
        );
        let listener = |address: Option<[u8; 4]>, port, inode| Listener {
            transport: Transport::Tcp,
            address: address.map(Ipv4Addr::from),
            port,
            inode,
        };
        assert_eq!(listeners, [listener(Some([127, 0, 0, 1]), 8080, 7001), listener(None, 22, 7002)]);
        let hidden = |forward: &str| {
            let forward = forward.parse().unwrap();
            listeners.iter().any(|listener| listener.is_hidden_by(&forward))
        };
        assert!(hidden("8080:80") && hidden("127.0.0.1:8080:80") && hidden("192.0.2.1:22:22"));
        assert!(!hidden("192.0.2.1:8080:80") && !hidden("22:22/udp") && !hidden("23:22"));
    }

    #[test]
    fn sockets_of_ipv6_count_where_ipv4_reaches_them() {
        let open = read("0: 00000000000000000000000000000000:0035 0:0 07\n", Transport::Udp);
        assert_eq!(open, [Listener { transport: Transport::Udp, address: None, port: 53, inode: 0 }]);
        let mapped = read("0: 0000000000000000FFFF00000100007F:0035 0:0 07\n", Transport::Udp);
        assert_eq!(mapped[0].address, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(read("0: 00000000000000000000000001000000:0035 0:0 07\n", Transport::Udp), []);
        assert_eq!(read("nonsense\n\n0: x:y z 07\n", Transport::Udp), []);
    }
}
