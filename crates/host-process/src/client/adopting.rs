//! Finds host processes that a worker before this one left, and takes their machines over.

use std::collections::BTreeSet;
use std::sync::Arc;

use machine_host::{Adopted, Adoption, Stranger};
use tokio::task::JoinSet;
use vm_model::{VmId, error_chain};

use super::conversation::{Conversation, Link};
use super::launching::Place;
use super::line::ProcessLine;
use super::looking::{Found, look};
use super::pool::Pool;
use super::process::WatchedProcess;
use super::remote::RemoteMachine;
use crate::wire::{Connection, MachineListing, Welcome};

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
        looks.spawn(async move {
            let found = look(&pool.directory, &name).await;
            (name, found)
        });
    }
    while let Some(found) = looks.join_next().await {
        match found {
            Ok((name, Found::Nobody)) => pool.directory.remove(&name),
            Ok((name, Found::Stranger { problem, .. })) => {
                let place = pool.directory.place(&name);
                adoption.strangers.push(Stranger { vms: Vec::new(), place, problem });
            }
            Ok((name, Found::Process { process, connection, welcome })) => {
                take_over(pool, name, process, connection, welcome, &mut adoption).await;
            }
            Err(error) => tracing::error!(%error, "looking for a host process failed"),
        }
    }
    adoption
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
        let MachineListing { vm, status, counters, health, notes, launched_ago, released: is_released } =
            listing;
        let machine = RemoteMachine::new(vm.clone(), status, health);
        if let Some(counters) = counters {
            machine.set_counters(*counters);
        }
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
    conversation.note_released(released, &mut link).await;
    tokio::spawn(conversation.run(link, requests));
}
