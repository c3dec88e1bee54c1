//! At most one worker on a bridge and on a packet filter table.
//!
//! Two would give the same addresses to different VMs, and the one that ends first would take the other's rules away. So
//! each holds a listening Unix socket under a name in the abstract namespace, which belongs to the network namespace as
//! bridge and table do. It goes with the process that opened it, however that ends.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::{NetworkConfig, NetworkError};

/// What one worker alone may use, until dropped.
#[derive(Debug)]
pub(crate) struct Exclusive {
    _sockets: [UnixListener; 2],
}

impl Exclusive {
    /// Takes the bridge and the table of `config` for this process.
    ///
    /// # Errors
    /// If another process has one of them; the error names it.
    pub(crate) fn take(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let bridge = hold(format!("bridge {}", config.bridge))?;
        let table = hold(format!("nftables table {}", config.nft_table))?;
        Ok(Self { _sockets: [bridge, table] })
    }
}

fn hold(what: String) -> Result<UnixListener, NetworkError> {
    let name = format!("procurator-{}", what.replace(' ', "-"));
    let address = SocketAddr::from_abstract_name(&name);
    match address.and_then(|address| UnixListener::bind_addr(&address)) {
        Ok(listener) => Ok(listener),
        Err(cause) => {
            let holder = match cause.kind() {
                io::ErrorKind::AddrInUse => holder(&name),
                _ => "nobody is known to use it, but it cannot be reserved".to_owned(),
            };
            Err(NetworkError::InUse { what, holder, cause })
        }
    }
}

/// Who listens under `name`, in words.
fn holder(name: &str) -> String {
    let Ok(peer) = peer(name) else {
        return "another process uses it".to_owned();
    };
    let pid = peer.pid.as_raw_nonzero();
    let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let user = peer.uid.as_raw();
    match program.trim() {
        "" => format!("process {pid} of user {user} uses it"),
        program => format!("process {pid} ({program}) of user {user} uses it"),
    }
}

fn peer(name: &str) -> rustix::io::Result<rustix::net::UCred> {
    // It must not wait: nobody takes connections, and those of earlier questions fill the queue.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    sockopt::socket_peercred(&socket)
}
