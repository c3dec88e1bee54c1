//! Finds host processes that a worker before this one left, and takes their machines over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use machine_host::{Adopted, Adoption, Stranger};
use rustix::net::sockopt::socket_peercred;
use tokio::task::JoinSet;
use tokio::time::timeout;
use vm_model::{VmId, error_chain};

use super::conversation::{Conversation, Link, greet};
use super::directory::Dialled;
use super::launching::Place;
use super::line::ProcessLine;
use super::pool::Pool;
use super::process::WatchedProcess;
use super::remote::RemoteMachine;
use crate::wire::{Connection, MachineListing, Welcome};

/// How long a process that does not speak may take to be gone until it is told of.
const ENDING_PATIENCE: Duration = Duration::from_secs(2);

/// What is behind a socket.
enum Found {
    Nobody,
    Process { name: String, process: WatchedProcess, connection: Connection, welcome: Welcome },
    Stranger(Stranger),
}

/// Looks behind every socket of the pool's directory, at all of them at the same time.
pub(super) async fn adopt(pool: &Arc<Pool>) -> Adoption {
    let mut adoption = Adoption::default();
    let reader = pool.clone();
    let names = tokio::task::spawn_blocking(move || reader.directory.names()).await;
    let names = match names.map_err(std::io::Error::other).flatten() {
        Ok(names) => names,
        Err(error) => {
            let problem = format!("its sockets cannot be listed: {error}");
            adoption.strangers.push(Stranger { vms: Vec::new(), place: pool.directory.place(""), problem });
            return adoption;
        }
    };
    let mut looks = JoinSet::new();
    for name in names {
        let pool = pool.clone();
        looks.spawn(async move { look(&pool, name).await });
    }
    while let Some(found) = looks.join_next().await {
        match found {
            Ok(Found::Nobody) => {}
            Ok(Found::Stranger(stranger)) => adoption.strangers.push(stranger),
            Ok(Found::Process { name, process, connection, welcome }) => {
                take_over(pool, name, process, connection, welcome, &mut adoption).await;
            }
            Err(error) => tracing::error!(%error, "looking for a host process failed"),
        }
    }
    adoption
}

/// Looks behind one socket. What is no process of ours is left alone.
async fn look(pool: &Pool, name: String) -> Found {
    let stranger = |problem: String| {
        Found::Stranger(Stranger { vms: Vec::new(), place: pool.directory.place(&name), problem })
    };
    let socket = match pool.directory.dial(&name) {
        Ok(Dialled::Connected(socket)) => socket,
        Ok(Dialled::Abandoned) => {
            pool.directory.remove(&name);
            return Found::Nobody;
        }
        Err(error) => return stranger(format!("it takes no connection: {error}")),
    };
    let peer = match socket_peercred(&socket) {
        Ok(peer) => peer,
        Err(errno) => return stranger(format!("the kernel does not tell who listens: {errno}")),
    };
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return stranger(format!("it is a process of user {}", peer.uid.as_raw()));
    }
    // Watched before it is asked anything: who answers is who listened, or nobody.
    let pid = peer.pid.as_raw_pid().unsigned_abs();
    let process = match WatchedProcess::stranger(pid) {
        Ok(process) => process,
        Err(error) => return stranger(format!("process {pid} cannot be watched: {error}")),
    };
    match greet(socket, pid).await {
        Ok((connection, welcome)) => Found::Process { name, process, connection, welcome },
        Err(error) => {
            // One that is about to end says nothing any more. Killed, it leaves its socket.
            if timeout(ENDING_PATIENCE, process.gone()).await.is_ok() {
                pool.directory.remove(&name);
                return Found::Nobody;
            }
            stranger(format!("process {pid}: {}", error_chain(&error)))
        }
    }
}

async fn take_over(
    pool: &Arc<Pool>,
    name: String,
    process: WatchedProcess,
    connection: Connection,
    welcome: Welcome,
    adoption: &mut Adoption,
) {
    let vms: Vec<VmId> = welcome.machines.iter().map(|listing| listing.vm.clone()).collect();
    if vms.is_empty() {
        // It was kept ahead, and ends when this connection does.
        return;
    }
    let place = pool.directory.place(&name);
    let (line, requests) = ProcessLine::new();
    let line = Arc::new(line);
    let Some(key) = pool.add(&line, vms.iter().cloned().collect::<BTreeSet<_>>(), false) else { return };
    let mut conversation = Conversation::new(pool.clone(), Some(key), line.clone(), name, process);
    let mut link = Link::up(connection);
    let mut released = Vec::new();
    for listing in welcome.machines {
        let MachineListing { vm, status, health, notes, launched_ago, released: is_released } = listing;
        let machine = RemoteMachine::new(vm.clone(), status, health);
        let assignment = pool.assignment_of(key, vm.clone(), line.clone());
        let reservation = match pool.reserve(&machine) {
            Ok(reservation) => Some(reservation),
            Err(error) => {
                let problem = error_chain(&error);
                adoption.strangers.push(Stranger { vms: vec![vm], place: place.clone(), problem });
                continue;
            }
        };
        if is_released {
            released.push(vm.clone());
        }
        conversation.adopt(machine.clone(), Place::new(reservation, assignment));
        let console = (pool.options.consoles)(&vm);
        let handle = machine.handle(line.clone(), console, pool.options.command_deadline);
        adoption.machines.push(Adopted { handle, notes, launched_ago });
    }
    conversation.fetch_last_counters(released, &mut link).await;
    tokio::spawn(conversation.run(link, requests));
}
