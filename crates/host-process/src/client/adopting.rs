//! Takes over the machines of a host process that a worker before this one left.

use std::collections::BTreeSet;
use std::sync::Arc;

use machine_host::{Adopted, Adoption, FoundMachine, Recognize, Stranger};
use vm_model::{VmId, error_chain};

use super::conversation::{Conversation, Known, Link};
use super::launching::Place;
use super::line::ProcessLine;
use super::pool::{Admission, Pool, ProcessKey, Reservation};
use super::process::WatchedProcess;
use super::remote::RemoteMachine;
use crate::wire::{Connection, MachineListing, Welcome};

/// A host process that answered.
pub(super) struct Greeted {
    /// The name of its socket.
    pub(super) name: String,
    pub(super) process: WatchedProcess,
    pub(super) connection: Connection,
    pub(super) welcome: Welcome,
}

/// Takes those machines of a process over that `recognize` accepts and whose names are free. The others are strangers, and
/// their process goes on with them.
pub(super) async fn take_over(pool: &Arc<Pool>, found: Greeted, recognize: &Recognize) -> Adoption {
    let Greeted { name, process, connection, mut welcome } = found;
    let mut adoption = Adoption::default();
    let (place, pid) = (pool.directory.place(&name), process.pid());
    let mut wanted = Vec::new();
    for listing in welcome.machines.drain(..) {
        match judge(&listing, pid, recognize) {
            Verdict::TakeOver => wanted.push(listing),
            Verdict::Ends => {}
            Verdict::Leave(problem) => {
                let (vms, place) = (vec![listing.vm], place.clone());
                adoption.strangers.push(Stranger { vms, pid: Some(pid), place, problem });
            }
        }
    }
    if wanted.is_empty() {
        if adoption.strangers.is_empty() {
            forget_at_its_end(pool.clone(), process, name);
        }
        // One that was kept ahead, or whose launch is given up, ends when this connection does.
        return adoption;
    }
    if pool.jails.is_some() && welcome.jail.is_none() {
        tracing::warn!(
            pid,
            "a host process that an earlier worker started is in no jail; its VMs get one when they are started anew"
        );
    }
    let vms: BTreeSet<VmId> = wanted.iter().map(|listing| listing.vm.clone()).collect();
    let (line, requests) = ProcessLine::new(None, pool.options.groups.find(pid));
    let line = Arc::new(line);
    let admission = Admission { takes_more: false, name: name.clone(), process: welcome.process() };
    let Some(key) = pool.add(&line, vms, admission) else {
        return adoption;
    };
    let known = Known { key: Some(key), name, process, user: None };
    let mut conversation = Conversation::new(pool.clone(), line.clone(), known);
    let mut link = Link::up(connection);
    let mut released = Vec::new();
    for listing in wanted {
        if listing.released {
            released.push(listing.vm.clone());
        }
        match adopt(pool, &mut conversation, (key, &line), listing, pid) {
            Ok(adopted) => adoption.machines.push(adopted),
            Err((vm, problem)) => {
                let (vms, place) = (vec![vm], place.clone());
                adoption.strangers.push(Stranger { vms, pid: Some(pid), place, problem });
            }
        }
    }
    conversation.note_released(released, &mut link).await;
    tokio::spawn(conversation.run(link, requests));
    adoption
}

/// Removes the socket `name` of a process that is about to end, and cannot do so itself in its jail.
fn forget_at_its_end(pool: Arc<Pool>, process: WatchedProcess, name: String) {
    tokio::spawn(async move {
        process.gone().await;
        pool.directory.remove(&name);
    });
}

/// What becomes of a machine that a process lists.
enum Verdict {
    TakeOver,
    /// Its launch is under way for a worker that is gone: its process gives it up.
    Ends,
    Leave(String),
}

fn judge(listing: &MachineListing, pid: u32, recognize: &Recognize) -> Verdict {
    if listing.launching {
        tracing::info!(vm_id = %listing.vm, pid, "a launch that the worker before did not see through is given up");
        return Verdict::Ends;
    }
    let has_ended = listing.released || listing.status.phase.exit().is_some();
    let found = FoundMachine { vm: &listing.vm, notes: &listing.notes, pid, has_ended };
    recognize(&found).map_or_else(Verdict::Leave, |()| Verdict::TakeOver)
}

/// Makes the machine one of this host's, unless another has its name.
fn adopt(
    pool: &Arc<Pool>,
    conversation: &mut Conversation,
    (key, line): (ProcessKey, &Arc<ProcessLine>),
    listing: MachineListing,
    pid: u32,
) -> Result<Adopted, (VmId, String)> {
    let MachineListing { vm, status, counters, health, notes, launched_ago, released, launching: _ } =
        listing;
    let machine = RemoteMachine::new(vm.clone(), status, health);
    if let Some(counters) = counters {
        machine.set_counters(*counters);
    }
    let assignment = pool.assignment_of(key, vm.clone(), line.clone());
    let reservation = match name_for(pool, &machine, released) {
        Ok(reservation) => reservation,
        Err(problem) => return Err((vm, problem)),
    };
    conversation.adopt(machine.clone(), Place::new(reservation, assignment));
    let console = (pool.options.consoles)(&vm);
    let handle = machine.handle(line.clone(), console, pool.options.command_deadline);
    Ok(Adopted { handle, notes, launched_ago, pid })
}

/// Takes the name of `machine`. One that is `released` is in nobody's way and needs none.
fn name_for(
    pool: &Arc<Pool>,
    machine: &Arc<RemoteMachine>,
    released: bool,
) -> Result<Option<Reservation>, String> {
    if released {
        return Ok(None);
    }
    pool.reserve(machine).map(Some).map_err(|error| error_chain(&error))
}
