//! Which machines a host has: from before their thread starts until all they held is given back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vm_model::{MachinePhase, MachineStatus, VmId};

use crate::heartbeat::{Health, Heartbeat, Standstill, judge};
use crate::mailbox::KillSwitch;

/// The machines of one host.
pub(crate) struct Registry {
    /// Held for a map operation, a look at each machine, and while a thread is started (tens of microseconds): a
    /// thread must be in the map before it can end. Entries go in and out whole: a poisoned lock is used on.
    state: Mutex<State>,
    limit: usize,
}

struct State {
    is_open: bool,
    machines: BTreeMap<VmId, Hosted>,
}

/// One machine, as its host knows it.
pub(crate) struct Hosted {
    /// Taken by who joins it.
    pub(crate) thread: Option<JoinHandle<()>>,
    pub(crate) kill_switch: KillSwitch,
    pub(crate) status: watch::Receiver<MachineStatus>,
    pub(crate) released: watch::Receiver<bool>,
    pub(crate) vitals: Vitals,
}

/// How a machine's thread is found to stand still, and where that is told.
pub(crate) struct Vitals {
    pub(crate) heartbeat: Arc<Heartbeat>,
    /// For [`MachineStatus::hung`] alone; everything else in it has the machine's thread as its one writer.
    pub(crate) status: watch::Sender<MachineStatus>,
    pub(crate) standstill: Option<Standstill>,
}

/// Why a machine is not taken in.
#[derive(Debug)]
pub(crate) enum RegistryRefusal<E> {
    Closed,
    Taken,
    Full { limit: usize },
    NotStarted(E),
}

/// How many machines a host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Machines that are not released yet, ended ones among them.
    pub hosted: usize,
    /// Machines that have ended and are not released yet.
    pub ended: usize,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::new(State { is_open: true, machines: BTreeMap::new() }), limit }
    }

    /// Takes a machine in, if it may be, by starting it.
    pub(crate) fn admit<E>(
        &self,
        id: &VmId,
        start: impl FnOnce() -> Result<Hosted, E>,
    ) -> Result<(), RegistryRefusal<E>> {
        let mut state = self.lock();
        if !state.is_open {
            return Err(RegistryRefusal::Closed);
        }
        if state.machines.contains_key(id) {
            return Err(RegistryRefusal::Taken);
        }
        if state.machines.len() >= self.limit {
            return Err(RegistryRefusal::Full { limit: self.limit });
        }
        let hosted = start().map_err(RegistryRefusal::NotStarted)?;
        state.machines.insert(id.clone(), hosted);
        Ok(())
    }

    /// The thread of the machine `id`, to be joined.
    pub(crate) fn thread_of(&self, id: &VmId) -> Option<JoinHandle<()>> {
        self.lock().machines.get_mut(id)?.thread.take()
    }

    pub(crate) fn remove(&self, id: &VmId) {
        let removed = self.lock().machines.remove(id);
        // Outside of the lock.
        drop(removed);
    }

    /// Takes no machine in any more and kills those there are; answers when each is released.
    pub(crate) fn close(&self) -> Vec<(VmId, watch::Receiver<bool>)> {
        let mut state = self.lock();
        state.is_open = false;
        state
            .machines
            .iter()
            .map(|(id, hosted)| {
                hosted.kill_switch.pull();
                (id.clone(), hosted.released.clone())
            })
            .collect()
    }

    /// Looks at every machine once and tells in its status whether its thread stands still with work to do, for longer
    /// than `patience`.
    pub(crate) fn look_after_machines(&self, now: Instant, patience: Duration) {
        let mut told = Vec::new();
        for (id, hosted) in &mut self.lock().machines {
            let status = hosted.status.borrow();
            let hung = match status.phase {
                // A machine's building is not made of turns: how long it took says nothing of the turns after it.
                MachinePhase::Booting | MachinePhase::Exited => {
                    hosted.vitals.standstill = None;
                    false
                }
                MachinePhase::Running | MachinePhase::Paused | MachinePhase::Stopping => {
                    let look = hosted.vitals.heartbeat.look(hosted.kill_switch.rings());
                    let (health, standstill) = judge(hosted.vitals.standstill, look, now, patience);
                    hosted.vitals.standstill = standstill;
                    health == Health::Hung
                }
            };
            if status.hung != hung {
                told.push((id.clone(), hosted.vitals.status.clone(), hung));
            }
        }
        // Outside of the lock.
        for (id, status, hung) in told {
            tell(&id, &status, hung);
        }
    }

    pub(crate) fn counts(&self) -> HostCounts {
        let state = self.lock();
        let has_ended = |hosted: &&Hosted| hosted.status.borrow().phase == MachinePhase::Exited;
        HostCounts { hosted: state.machines.len(), ended: state.machines.values().filter(has_ended).count() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(id: &VmId, status: &watch::Sender<MachineStatus>, hung: bool) {
    let changed = status.send_if_modified(|status| {
        // It may have ended meanwhile, which is the last word, or be made anew.
        let hung = hung && !matches!(status.phase, MachinePhase::Exited | MachinePhase::Booting);
        std::mem::replace(&mut status.hung, hung) != hung
    });
    if changed && hung {
        tracing::error!(vm_id = %id, "the machine's thread has work to do and stands still");
    } else if changed {
        tracing::info!(vm_id = %id, "the machine's thread does not stand still any more");
    }
}
