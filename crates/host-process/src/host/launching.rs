//! Launches a machine for a worker, and tells of it as long as there is something to tell.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use fail_points::{FailPoint, pass};
use machine_host::{LaunchRequest, MachineHandle, MachineLimits};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;
use vm_model::{Isolation, VmId};

use super::hosted::Hosted;
use super::peer::Peer;
use crate::wire::{FromHost, Launch};

/// How often to look whether a machine is gone whose launch was given up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Launches a machine, unless `is_given_up` resolves before. A launch whose worker is not told of it is given up too.
pub(super) async fn launch(
    host: Rc<Hosted>,
    peer: Rc<Peer>,
    request: Launch<OwnedFd>,
    is_given_up: oneshot::Receiver<()>,
) {
    let Launch { call, vm, spec, verified, initial, resets, console_dir, lock, notes } = request;
    host.keep_directory(&vm, console_dir.as_ref().map(AsFd::as_fd));
    // Whom it shares this process with was decided by whoever chose the process.
    let isolation = Isolation::default();
    let request = LaunchRequest {
        id: vm.clone(),
        spec,
        verified,
        initial,
        resets,
        isolation,
        // And so was what the process may take.
        limits: MachineLimits::default(),
        console_dir,
        lock,
        notes,
    };
    // Both are cancel-safe in that nobody waits for the one that is dropped: a dropped launch kills its machine.
    let outcome = tokio::select! {
        outcome = host.machines.launch(request) => Some(outcome),
        _ = is_given_up => None,
    };
    peer.answered(call);
    match outcome {
        Some(Ok(machine)) => {
            pass(FailPoint::HostLaunched);
            host.note_launched(machine.clone());
            peer.tell(status_of(&machine));
            if peer.tell_launched(call) {
                spawn_local(tell_of(host, machine));
            } else {
                drop(machine);
                host.note_given_up(&vm);
                tell_when_gone(&host, &vm).await;
            }
        }
        Some(Err(failure)) => {
            host.remove(&vm);
            peer.tell(FromHost::Launched { call, failure: Some(failure) });
        }
        None => tell_when_gone(&host, &vm).await,
    }
}

/// Tells every worker what changes of `machine`, until it is released.
async fn tell_of(host: Rc<Hosted>, machine: MachineHandle) {
    let vm = machine.id().clone();
    let (mut status, mut health) = (machine.status(), machine.health());
    status.mark_changed();
    let released = machine.released();
    tokio::pin!(released);
    loop {
        // A channel whose sender is gone has nothing more to tell. All arms are cancel-safe.
        tokio::select! {
            biased;
            Ok(()) = status.changed() => {
                status.mark_unchanged();
                host.tell_all(&status_of(&machine));
            }
            Ok(()) = health.changed() => {
                let health = *health.borrow_and_update();
                host.tell_all(&FromHost::Health { vm: vm.clone(), health });
            }
            () = &mut released => break,
        }
    }
    host.tell_all(&FromHost::Released { vm: vm.clone() });
    host.note_released(&vm);
}

/// What is told of `machine` now: of one that has ended, its last counters too.
fn status_of(machine: &MachineHandle) -> FromHost {
    let status = machine.status().borrow().clone();
    let counters = status.phase.exit().map(|_| Box::new(machine.counters()));
    FromHost::Status { vm: machine.id().clone(), status, counters }
}

/// Waits until nothing is left of a machine whose launch was given up, and tells so.
async fn tell_when_gone(host: &Hosted, vm: &VmId) {
    while host.machines.hosts(vm) {
        sleep(LOOK_EVERY).await;
    }
    host.tell_all(&FromHost::Released { vm: vm.clone() });
    host.remove(vm);
}
