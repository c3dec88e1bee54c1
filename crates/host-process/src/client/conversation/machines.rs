//! The machines of one host process: what it tells of them, and what follows.

mod news;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;
use vm_model::{Command, MachineExit, ThreadHealth, VmId};

use super::{Conversation, KILL_PATIENCE, Link};
use crate::client::launching::Place;
use crate::client::remote::RemoteMachine;
use crate::wire::{CallId, ToHost, Welcome};
use news::Then;

/// The machines of one process, until they are forgotten.
#[derive(Debug, Default)]
pub(super) struct Machines(BTreeMap<VmId, Tracked>);

#[derive(Debug)]
struct Tracked {
    machine: Arc<RemoteMachine>,
    place: Place,
    stage: Stage,
    /// The call that launched it, unless it was adopted.
    launched_by: Option<CallId>,
    has_handle: bool,
    /// Whether it was told to end at once, and when its process is if it does not.
    kill: Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Launching,
    /// Nobody waits for its launch any more; what comes of it ends.
    GivenUp,
    Launched,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kill {
    NotAsked,
    Asked {
        by: Instant,
    },
    /// Asked, and its time is over.
    Overdue,
}

impl Machines {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn is_known(&self, vm: &VmId) -> bool {
        self.0.contains_key(vm)
    }

    pub(super) fn is_running(&self, vm: &VmId) -> bool {
        self.0.get(vm).is_some_and(|tracked| !tracked.machine.has_ended())
    }

    /// A launch is asked for.
    pub(super) fn begin(&mut self, machine: Arc<RemoteMachine>, place: Place, call: CallId) {
        self.insert(machine, place, Stage::Launching, Some(call));
    }

    fn insert(&mut self, machine: Arc<RemoteMachine>, place: Place, stage: Stage, by: Option<CallId>) {
        let (vm, kill) = (machine.id.clone(), Kill::NotAsked);
        let tracked = Tracked { machine, place, stage, launched_by: by, has_handle: true, kill };
        self.0.insert(vm, tracked);
    }

    pub(super) fn let_go(&mut self, vm: &VmId) {
        if let Some(tracked) = self.0.get_mut(vm) {
            tracked.has_handle = false;
        }
    }

    /// Nothing is known of launches that are under way: what comes of them is to end.
    pub(super) fn lose_launches(&mut self) {
        for tracked in self.0.values_mut().filter(|tracked| tracked.stage == Stage::Launching) {
            tracked.stage = Stage::GivenUp;
        }
    }

    pub(super) fn set_health(&self, health: ThreadHealth) {
        for tracked in self.0.values() {
            tracked.machine.set_health(health);
        }
    }

    /// Their process does not answer, or does again.
    pub(super) fn set_silent(&self, is_silent: bool) {
        for tracked in self.0.values() {
            tracked.machine.set_silent(is_silent);
        }
    }

    /// When the next machine is overdue that was told to end.
    pub(super) fn kill_by(&self) -> Option<Instant> {
        let by = |tracked: &Tracked| match tracked.kill {
            Kill::Asked { by } if !tracked.machine.has_ended() => Some(by),
            Kill::Asked { .. } | Kill::NotAsked | Kill::Overdue => None,
        };
        self.0.values().filter_map(by).min()
    }

    /// Whether a machine has become overdue.
    pub(super) fn take_overdue_kills(&mut self, now: Instant) -> bool {
        let mut any = false;
        for tracked in self.0.values_mut().filter(|tracked| !tracked.machine.has_ended()) {
            if matches!(tracked.kill, Kill::Asked { by } if by <= now) {
                tracked.kill = Kill::Overdue;
                any = true;
            }
        }
        any
    }

    /// Whether every machine has ended or was told to.
    pub(super) fn are_all_to_die(&self) -> bool {
        self.0.values().all(|tracked| tracked.machine.has_ended() || tracked.kill != Kill::NotAsked)
    }

    /// The process is gone, and with it everything: machines that nobody had told to end ended like `exit`.
    pub(super) fn settle(&mut self, exit: &MachineExit) {
        for tracked in std::mem::take(&mut self.0).into_values() {
            tracked.settle(exit.clone());
        }
    }
}

impl Tracked {
    fn settle(self, exit: MachineExit) {
        let exit = match (self.kill, self.stage) {
            (Kill::NotAsked, Stage::Launched) => exit,
            (Kill::Asked { .. } | Kill::Overdue, _) | (_, Stage::Launching | Stage::GivenUp) => {
                MachineExit::Killed
            }
        };
        self.machine.end(exit);
        // Its name is free before anybody learns that it is released.
        drop(self.place);
        self.machine.release();
    }
}

impl Conversation {
    /// Takes a machine over that runs already.
    pub(in crate::client) fn adopt(&mut self, machine: Arc<RemoteMachine>, place: Place) {
        self.machines.insert(machine, place, Stage::Launched, None);
    }

    /// Ends a machine now.
    pub(super) async fn kill(&mut self, vm: &VmId, link: &mut Link) {
        let Some(tracked) = self.machines.0.get_mut(vm).filter(|tracked| !tracked.machine.has_ended()) else {
            return;
        };
        if tracked.kill == Kill::NotAsked {
            tracked.kill = Kill::Asked { by: Instant::now() + KILL_PATIENCE };
        }
        let (call, vm, command) = (self.line.new_call(), vm.clone(), Command::Kill);
        self.send(ToHost::Call { call, vm, command }, link).await;
    }

    /// Nobody waits for a launch any more.
    pub(super) async fn give_up_launch(&mut self, call: CallId, vm: &VmId, link: &mut Link) {
        drop(self.calls.take_launch(call));
        let Some(tracked) = self.machines.0.get_mut(vm) else { return };
        if tracked.launched_by != Some(call) {
            return;
        }
        tracked.has_handle = false;
        if tracked.stage == Stage::Launched {
            return self.kill(vm, link).await;
        }
        tracked.stage = Stage::GivenUp;
        tracked.kill = Kill::Asked { by: Instant::now() + KILL_PATIENCE };
        self.send(ToHost::Cancel { call }, link).await;
    }

    /// All that a machine held is given back.
    async fn released(&mut self, vm: &VmId, link: &mut Link) {
        let Some(tracked) = self.machines.0.get_mut(vm) else { return };
        if tracked.stage == Stage::Launched {
            // Its process has told how it ended, or never will.
            tracked.machine.end(MachineExit::Killed);
            // Its name is free before anybody learns that it is released.
            drop(tracked.place.reservation.take());
            tracked.machine.release();
            self.forget_if_over(vm, link).await;
        } else if let Some(tracked) = self.machines.0.remove(vm) {
            tracked.settle(MachineExit::Killed);
            self.send(ToHost::Forget { vm: vm.clone() }, link).await;
        }
    }

    /// Has the process forget a machine that is released and that nobody holds.
    pub(super) async fn forget_if_over(&mut self, vm: &VmId, link: &mut Link) {
        let is_over = |tracked: &Tracked| tracked.machine.is_released() && !tracked.has_handle;
        if self.machines.0.get(vm).is_some_and(is_over) {
            // Told before its place is free: nobody is launched there in between.
            self.send(ToHost::Forget { vm: vm.clone() }, link).await;
            drop(self.machines.0.remove(vm));
        }
    }

    /// Brings what is known up to what a process says that was out of reach.
    pub(super) async fn compare(&mut self, welcome: Welcome, link: &mut Link) {
        let mut listed: BTreeMap<_, _> =
            welcome.machines.into_iter().map(|listing| (listing.vm.clone(), listing)).collect();
        let tracked: Vec<VmId> = self.machines.0.keys().cloned().collect();
        for vm in tracked {
            let Some(listing) = listed.remove(&vm) else {
                if let Some(tracked) = self.machines.0.remove(&vm) {
                    let pid = self.process.pid();
                    let problem = format!("its host process {pid} does not know it any more");
                    tracked.settle(MachineExit::HostLost(problem));
                }
                continue;
            };
            self.note_status(&vm, listing.status, listing.counters);
            let Some(tracked) = self.machines.0.get(&vm) else { continue };
            tracked.machine.set_health(listing.health);
            if listing.released {
                self.act(Then::Released(vm), link).await;
            } else if tracked.kill != Kill::NotAsked || tracked.stage == Stage::GivenUp {
                self.kill(&vm, link).await;
            }
        }
        for vm in listed.keys() {
            let pid = self.process.pid();
            tracing::error!(vm_id = %vm, pid, "a host process has a machine that nobody knows; it is left alone");
        }
    }

    /// Takes note of machines that were found released.
    pub(in crate::client) async fn note_released(&mut self, released: Vec<VmId>, link: &mut Link) {
        for vm in released {
            self.act(Then::Released(vm), link).await;
        }
    }
}
