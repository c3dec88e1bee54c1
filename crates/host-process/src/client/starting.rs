//! Starts a host process.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fail_points::{FailPoint, pass};
use thiserror::Error;
use tokio::time::timeout;
use vm_model::VmId;

use super::conversation::{Conversation, Link};
use super::directory::SocketDirectory;
use super::handshake::{HandshakeError, handshake};
use super::line::ProcessLine;
use super::placement::command_line;
use super::pool::{Pool, ProcessKey};
use super::process::WatchedProcess;
use crate::wire::{Connection, Listener, packet_pair};

/// How long a process may take from its start to its welcome, with what a service manager does for it on a busy host.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Why a host process was not started. Nothing of it is left.
#[derive(Debug, Error)]
pub(super) enum StartError {
    #[error("no machine is taken in any more")]
    Closed,
    #[error("cannot {operation} for a host process")]
    Prepare {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the host process {program:?}")]
    Spawn {
        program: OsString,
        #[source]
        source: io::Error,
    },
    #[error("the host process {pid} was started, and cannot be spoken with")]
    Handshake {
        pid: u32,
        #[source]
        source: HandshakeError,
    },
}

/// A process that was just started: it is killed and collected where this is dropped.
struct Started {
    child: Option<Child>,
    ours: Option<OwnedFd>,
    listener: Option<Listener<OwnedFd>>,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It has no machines and its connection is closed: it is about to end by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process, for the machines `assigned`, which are on their way to it, and where it `takes_more` for others.
pub(super) async fn start(
    pool: &Arc<Pool>,
    assigned: BTreeSet<VmId>,
    takes_more: bool,
) -> Result<(ProcessKey, Arc<ProcessLine>), StartError> {
    let failed = |operation| move |source| StartError::Prepare { operation, source };
    let (name, spawner) = (SocketDirectory::new_name(), pool.clone());
    let name_there = name.clone();
    let started = tokio::task::spawn_blocking(move || spawn(&spawner, &name_there)).await;
    let mut started = started.map_err(|error| failed("run a thread")(io::Error::other(error)))??;
    let outcome = introduce(&mut started).await;
    let (process, connection) = match outcome {
        Ok(introduced) => introduced,
        Err(error) => {
            pool.directory.remove(&name);
            return Err(error);
        }
    };
    pass(FailPoint::HostProcessGreeted);
    let (line, requests) = ProcessLine::new();
    let line = Arc::new(line);
    // Where the pool was closed, the connection is dropped here and the process ends by itself.
    let key = pool.add(&line, assigned, takes_more);
    let conversation = Conversation::new(pool.clone(), key, line.clone(), name, process);
    match key {
        Some(key) => {
            tokio::spawn(conversation.run(Link::up(connection), requests));
            Ok((key, line))
        }
        None => {
            tokio::spawn(conversation.run(Link::closed(), requests));
            Err(StartError::Closed)
        }
    }
}

/// Says hello to the process.
async fn introduce(started: &mut Started) -> Result<(WatchedProcess, Connection), StartError> {
    let failed = |operation| move |source| StartError::Prepare { operation, source };
    let no_connection = || io::Error::from(io::ErrorKind::NotConnected);
    let ours = started.ours.take().ok_or_else(|| failed("keep a connection")(no_connection()))?;
    let connection = Connection::new(ours).map_err(failed("watch a connection"))?;
    let pid = started.child.as_ref().map_or(0, Child::id);
    let shaken = timeout(START_PATIENCE, handshake(&connection, started.listener.take())).await;
    shaken
        .unwrap_or(Err(HandshakeError::Silent { patience: START_PATIENCE }))
        .and_then(|welcome| welcome.check(pid))
        .map_err(|source| StartError::Handshake { pid, source })?;
    let child = started.child.take().ok_or_else(|| failed("keep a process")(no_connection()))?;
    let process = WatchedProcess::child(child).map_err(failed("watch a process"))?;
    Ok((process, connection))
}

/// Starts the program with one end of a connection as its standard input.
fn spawn(pool: &Pool, name: &str) -> Result<Started, StartError> {
    let failed = |operation| move |source| StartError::Prepare { operation, source };
    let (ours, theirs) = packet_pair().map_err(failed("make a connection"))?;
    let directory = pool.directory.share().map_err(failed("share the directory of sockets"))?;
    let socket = pool.directory.bind(name).map_err(failed("bind a socket"))?;
    pass(FailPoint::HostProcessBound);
    let command_line = command_line(&pool.options.program, &pool.options.placement, name);
    let (program, arguments) = command_line.split_first().ok_or_else(|| {
        failed("find a program")(io::Error::new(io::ErrorKind::InvalidInput, "the command line is empty"))
    })?;
    // Nothing here may make the standard library fork in place of posix_spawn(3), as a working directory does in a static
    // program: the page tables of this process would be copied, and each page copied that it writes meanwhile.
    let spawned = Command::new(program)
        .args(arguments)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        // What takes a backtrace opens files, which the threads that guests run on may not.
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn();
    match spawned {
        Ok(child) => {
            pass(FailPoint::HostProcessSpawned);
            let listener = Listener { socket, directory, name: name.to_owned() };
            Ok(Started { child: Some(child), ours: Some(ours), listener: Some(listener) })
        }
        Err(source) => {
            pool.directory.remove(name);
            Err(StartError::Spawn { program: program.clone(), source })
        }
    }
}
