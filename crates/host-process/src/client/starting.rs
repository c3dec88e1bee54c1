//! Starts a host process.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fail_points::{FailPoint, pass};
use jail::{Extent, Gap, JailReport, Layer, TakenUser};
use machine_host::HostingProcess;
use thiserror::Error;
use tokio::time::timeout;
use vm_model::VmId;

use super::conversation::{Conversation, Known, Link};
use super::directory::SocketDirectory;
use super::handshake::{HandshakeError, handshake};
use super::jailing::{self, JailError, Jails};
use super::line::ProcessLine;
use super::own_process::{OwnProcess, Succession, succession};
use super::placement::command_line;
use super::pool::{Admission, Pool, ProcessKey};
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
    #[error("the jail of a host process is not as it should be")]
    Jail {
        #[source]
        source: Box<JailError>,
    },
    #[error("the host process {pid} was started, and cannot be spoken with")]
    Handshake {
        pid: u32,
        #[source]
        source: HandshakeError,
    },
}

/// A program that was just started: its process is killed and collected where this is dropped.
struct Started {
    program: OwnProcess,
    /// Where it says which process goes on, if that may be another.
    told: Option<OwnedFd>,
    user: Option<TakenUser>,
    ours: OwnedFd,
    listener: Listener<OwnedFd>,
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
    let started = started.map_err(|error| failed("run a thread")(io::Error::other(error)))??;
    let Introduced { process, predecessor, connection, told, user } = match introduce(pool, started).await {
        Ok(introduced) => introduced,
        Err(error) => {
            pool.directory.remove(&name);
            return Err(error);
        }
    };
    pass(FailPoint::HostProcessGreeted);
    let (groups, name_there, pid) = (pool.clone(), name.clone(), process.pid());
    // In its group before it is told of any machine, alone.
    let confining = move || {
        // It has nothing left to do, and whatever keeps it from its end keeps nobody here.
        drop(predecessor);
        groups.options.groups.confine(&name_there, pid)
    };
    let confinement = tokio::task::spawn_blocking(confining).await;
    let confinement = confinement.map_err(|error| failed("run a thread")(io::Error::other(error)))?;
    let (line, requests) = ProcessLine::new(user.as_ref().map(TakenUser::number), confinement);
    let line = Arc::new(line);
    // Where the pool was closed, the connection is dropped here and the process ends by itself.
    let key = pool.add(&line, assigned, Admission { takes_more, name: name.clone(), process: told });
    let conversation = Conversation::new(pool.clone(), line.clone(), Known { key, name, process, user });
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

/// A process that answered.
struct Introduced {
    process: WatchedProcess,
    /// The process that was started, where another goes on in its place.
    predecessor: Option<OwnProcess>,
    connection: Connection,
    told: HostingProcess,
    user: Option<TakenUser>,
}

/// Says hello to the process that goes on as the program that was started.
async fn introduce(pool: &Pool, started: Started) -> Result<Introduced, StartError> {
    let failed = |operation| move |source| StartError::Prepare { operation, source };
    let Started { program, told, user, ours, listener } = started;
    let connection = Connection::new(ours).map_err(failed("watch a connection"))?;
    let pid = program.pid();
    let silence = HandshakeError::Silent { patience: START_PATIENCE };
    let introducing = async {
        let Succession { process, predecessor } =
            succession(program, told).await.map_err(HandshakeError::Successor)?;
        let welcome = handshake(&connection, Some(listener)).await?.check(process.pid())?;
        Ok((process, predecessor, welcome))
    };
    let introduced = timeout(START_PATIENCE, introducing).await.unwrap_or(Err(silence));
    let (process, predecessor, welcome) =
        introduced.map_err(|source| StartError::Handshake { pid, source })?;
    let user = check_jail(pool, user, welcome.jail.as_ref())
        .map_err(|source| StartError::Jail { source: Box::new(source) })?;
    let process = WatchedProcess::own(process).map_err(failed("watch a process"))?;
    Ok(Introduced { process, predecessor, connection, told: welcome.process(), user })
}

/// The user that the process has become, of the one it was given; whether its jail will do.
fn check_jail(
    pool: &Pool,
    given: Option<TakenUser>,
    told: Option<&JailReport>,
) -> Result<Option<TakenUser>, JailError> {
    let Some(jails) = &pool.jails else { return Ok(None) };
    let silent = || {
        let problem = "the program says nothing of it".to_owned();
        JailReport { user: None, gaps: vec![Gap { layer: Layer::Unknown, problem, extent: Extent::Whole }] }
    };
    let report = told.cloned().unwrap_or_else(silent);
    jails.judge(&report)?;
    Ok(given.filter(|user| report.user == Some(user.number())))
}

/// Starts the program with one end of a connection as its standard input, and where it says which process goes on as its
/// standard output.
fn spawn(pool: &Pool, name: &str) -> Result<Started, StartError> {
    let failed = |operation| move |source| StartError::Prepare { operation, source };
    let (ours, theirs) = packet_pair().map_err(failed("make a connection"))?;
    let jail = pool.jails.as_ref().map(Jails::next).transpose();
    let jail = jail.map_err(|source| StartError::Jail { source: Box::new(source) })?;
    // A process in a jail has no use for it.
    let directory = match jail {
        Some(_) => None,
        None => Some(pool.directory.share().map_err(failed("share the directory of sockets"))?),
    };
    let errors = pool.share_errors();
    let errors = errors.map_err(failed("share standard error"))?.map_or_else(Stdio::inherit, Stdio::from);
    let socket = pool.directory.bind(name).map_err(failed("bind a socket"))?;
    pass(FailPoint::HostProcessBound);
    let user = jail.as_ref().and_then(|jail| jail.order.user);
    let given = user.map_or(Ok(()), |user| pool.directory.give(name, user));
    given.map_err(|source| {
        pool.directory.remove(name);
        failed("give a socket away")(source)
    })?;
    let output = if jail.is_some() { Stdio::piped() } else { Stdio::null() };
    let command_line = command_line(&pool.options.program, &pool.options.placement, name);
    let (program, arguments) = command_line.split_first().ok_or_else(|| {
        failed("find a program")(io::Error::new(io::ErrorKind::InvalidInput, "the command line is empty"))
    })?;
    // Nothing here may make the standard library fork in place of posix_spawn(3), as a working directory does in a static
    // program: the page tables of this process would be copied, and each page copied that it writes meanwhile.
    let spawned = Command::new(program)
        .args(arguments)
        .args(jail.iter().flat_map(|jail| jailing::arguments(&jail.order)))
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        // What takes a backtrace opens files, which the threads that guests run on may not.
        .env_remove("RUST_BACKTRACE")
        .env_remove("RUST_LIB_BACKTRACE")
        .stdin(Stdio::from(theirs))
        .stdout(output)
        .stderr(errors)
        .spawn();
    match spawned {
        Ok(mut child) => {
            pass(FailPoint::HostProcessSpawned);
            let told = child.stdout.take().map(OwnedFd::from);
            let program = OwnProcess::of(child);
            let listener = Listener { socket, directory, name: name.to_owned() };
            let user = jail.and_then(|jail| jail.user);
            Ok(Started { program, told, user, ours, listener })
        }
        Err(source) => {
            pool.directory.remove(name);
            Err(StartError::Spawn { program: program.clone(), source })
        }
    }
}
