//! A process that says it is a host process, and is the test itself.

use std::os::fd::OwnedFd;
use std::time::Duration;

use host_process::wire::{Connection, FromHost, MachineListing, ToHost, Version, Welcome};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::net::{accept_with, bind, listen, socket_with};
use tempfile::TempDir;
use vm_model::{MachinePhase, MachineStatus, ThreadHealth, VmId};

use super::{host, options, within};

pub(crate) fn new_socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket")
}

/// A process that says it is a host process: this one.
pub(crate) struct Pretender {
    listener: OwnedFd,
}

impl Pretender {
    pub(crate) fn new(directory: &TempDir) -> Self {
        Self::named(directory, "pretender")
    }

    pub(crate) fn named(directory: &TempDir, name: &str) -> Self {
        // Made by the worker as it is to be.
        drop(host(options(directory)));
        let listener = new_socket();
        let path = directory.path().join(format!("processes/{name}.sock"));
        bind(&listener, &SocketAddrUnix::new(path).expect("a short path")).expect("it can be bound");
        listen(&listener, 4).expect("it listens");
        Self { listener }
    }

    pub(crate) async fn accept(&self) -> Connection {
        let listener = self.listener.try_clone().expect("it can be duplicated");
        let accepted = tokio::task::spawn_blocking(move || accept_with(&listener, SocketFlags::CLOEXEC));
        Connection::new(within(accepted).await.expect("no panic").expect("a connection"))
            .expect("it can be watched")
    }

    /// Welcomes whoever comes next.
    pub(crate) async fn welcome(&self, welcome: Welcome) -> Connection {
        let connection = self.accept().await;
        let hello = within(connection.receive::<ToHost<OwnedFd>>()).await.expect("a hello");
        assert!(matches!(hello, ToHost::Hello(_)), "{hello:?}");
        connection.try_send(FromHost::Welcome(welcome)).expect("it is sent");
        connection
    }
}

pub(crate) fn running() -> MachineStatus {
    MachineStatus { phase: MachinePhase::Running, ..MachineStatus::booting() }
}

pub(crate) fn welcome_of_this_process(status: Option<MachineStatus>) -> Welcome {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc is mounted");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    let start_time = fields.split(' ').nth(19).expect("22 fields").parse().expect("a number");
    let listing = |status| MachineListing {
        vm: VmId::new("vm"),
        status,
        counters: None,
        health: ThreadHealth::Turning,
        notes: "notes".to_owned(),
        launched_ago: Duration::from_secs(60),
        released: false,
        launching: false,
    };
    Welcome {
        version: Version(1),
        pid: std::process::id(),
        start_time,
        build: "test".to_owned(),
        jail: None,
        is_filtered: false,
        filter: None,
        machines: status.map(listing).into_iter().collect(),
    }
}
