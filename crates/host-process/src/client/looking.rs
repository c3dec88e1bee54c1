//! Looks at what is behind the sockets of a directory, changing nothing: before processes are taken over, and for whoever
//! wants to know whether they could be.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use vm_model::{VmId, error_chain};

use super::conversation::greet;
use super::directory::{Dialled, SocketDirectory};
use super::process::WatchedProcess;
use crate::credentials::Credentials;
use crate::wire::{Connection, MachineListing, Version, Welcome};

/// How long a process may take to answer a hello.
pub(super) const HELLO_PATIENCE: Duration = Duration::from_secs(2);
/// How long a process that does not speak may take to be gone until it is told of.
const ENDING_PATIENCE: Duration = Duration::from_secs(2);

/// What is behind a socket.
pub(super) enum Found {
    Nobody,
    Process {
        process: WatchedProcess,
        connection: Connection,
        welcome: Box<Welcome>,
    },
    /// No process of ours, or one that cannot be spoken with.
    Stranger {
        pid: Option<u32>,
        problem: String,
    },
}

/// A host process that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenProcess {
    /// Its socket.
    pub place: String,
    /// Its id, where the kernel tells it.
    pub pid: Option<u32>,
    /// Whether this program could take it over.
    pub answer: SeenAnswer,
}

/// What a host process answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenAnswer {
    /// It could be taken over.
    Welcome {
        /// The version that would be spoken.
        version: Version,
        /// Its build.
        build: String,
        /// Its machines.
        machines: Vec<SeenMachine>,
    },
    /// It could not: it is no process of ours, does not answer, or speaks other versions.
    Problem(String),
}

/// A machine in a process that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMachine {
    /// Whose machine it is.
    pub vm: VmId,
    /// What its launcher noted.
    pub notes: String,
    /// Whether its launch is under way: nobody takes over such a machine, and its process gives it up with its worker.
    pub launching: bool,
}

/// Looks at every host process that listens in `directory`, all at the same time; none where there is no such directory.
/// Their worker does not notice. Belongs on a runtime with I/O and time.
///
/// # Errors
/// The directory cannot be read.
pub async fn look_at_processes(directory: &Path) -> io::Result<Vec<SeenProcess>> {
    let Some(directory) = SocketDirectory::open_existing(directory)? else { return Ok(Vec::new()) };
    let directory = std::sync::Arc::new(directory);
    let mut looks = JoinSet::new();
    for name in directory.names()? {
        let directory = directory.clone();
        looks.spawn(async move { (directory.place(&name), look(&directory, &name, HELLO_PATIENCE).await) });
    }
    let mut seen = Vec::new();
    while let Some(look) = looks.join_next().await {
        let (place, found) = look.map_err(io::Error::other)?;
        let (pid, answer) = match found {
            Found::Nobody => continue,
            Found::Stranger { pid, problem } => (pid, SeenAnswer::Problem(problem)),
            Found::Process { process, welcome, .. } => (Some(process.pid()), answer_of(*welcome)),
        };
        seen.push(SeenProcess { place, pid, answer });
    }
    seen.sort_by(|one, other| one.place.cmp(&other.place));
    Ok(seen)
}

fn answer_of(welcome: Welcome) -> SeenAnswer {
    let Welcome { version, build, machines, .. } = welcome;
    let machines = machines.into_iter().filter(|listing| !listing.released);
    let seen = |MachineListing { vm, notes, launching, .. }| SeenMachine { vm, notes, launching };
    SeenAnswer::Welcome { version, build, machines: machines.map(seen).collect() }
}

/// Looks behind one socket; a process may take `patience` to answer. What is no process of ours is left alone.
pub(super) async fn look(directory: &SocketDirectory, name: &str, patience: Duration) -> Found {
    let stranger = |pid: Option<u32>, problem: String| Found::Stranger { pid, problem };
    let socket = match directory.dial(name) {
        Ok(Dialled::Connected(socket)) => socket,
        Ok(Dialled::Abandoned) => return Found::Nobody,
        Err(error) => return stranger(None, format!("it takes no connection: {error}")),
    };
    let told = Credentials::of_peer(socket.as_fd()).and_then(|peer| Ok((peer.pid()?, peer)));
    let (pid, peer) = match told {
        Ok(told) => told,
        Err(error) => return stranger(None, format!("the kernel does not tell who listens: {error}")),
    };
    let own = rustix::process::geteuid();
    // Only this user makes and gives away entries of the directory.
    let is_expected = || directory.owner(name).is_ok_and(|owner| owner == peer.uid);
    if peer.uid != own && !peer.uid.is_root() && !is_expected() {
        return stranger(Some(pid), format!("it is a process of user {}", peer.uid.as_raw()));
    }
    // Watched before it is asked anything: who answers is who listened, or nobody.
    let process = match WatchedProcess::stranger(pid) {
        Ok(process) => process,
        Err(error) => return stranger(Some(pid), format!("process {pid} cannot be watched: {error}")),
    };
    // Losing either loses nothing: the first is given up with its connection, the second only waits.
    let greeted = tokio::select! {
        biased;
        greeted = greet(socket, pid, patience) => greeted,
        () = process.gone() => return Found::Nobody,
    };
    match greeted {
        Ok((connection, welcome)) => Found::Process { process, connection, welcome: Box::new(welcome) },
        Err(error) if error.is_silence() => {
            stranger(Some(pid), format!("process {pid}: {}", error_chain(&error)))
        }
        // One that is about to end says nothing any more. Killed, it leaves its socket.
        Err(_) if timeout(ENDING_PATIENCE, process.gone()).await.is_ok() => Found::Nobody,
        Err(error) => stranger(Some(pid), format!("process {pid}: {}", error_chain(&error))),
    }
}
