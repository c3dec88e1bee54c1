//! Which machines a host has: from before their thread starts until all they held is given back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vm_model::{MachineStatus, ThreadHealth, VmId};

use crate::heartbeat::{Heartbeat, Standstill, judge};
use crate::mailbox::KillSwitch;

/// The machines of one host.
pub(crate) struct HostedMachines {
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
    pub(crate) health: watch::Sender<ThreadHealth>,
    pub(crate) standstill: Option<Standstill>,
}

/// Why a machine is not taken in.
#[derive(Debug)]
pub(crate) enum HostRefusal<E> {
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

impl HostedMachines {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::new(State { is_open: true, machines: BTreeMap::new() }), limit }
    }

    /// Takes a machine in, if it may be, by starting it.
    pub(crate) fn admit<E>(
        &self,
        id: &VmId,
        start: impl FnOnce() -> Result<Hosted, E>,
    ) -> Result<(), HostRefusal<E>> {
        let mut state = self.lock();
        if !state.is_open {
            return Err(HostRefusal::Closed);
        }
        if state.machines.contains_key(id) {
            return Err(HostRefusal::Taken);
        }
        if state.machines.len() >= self.limit {
            return Err(HostRefusal::Full { limit: self.limit });
        }
        let hosted = start().map_err(HostRefusal::NotStarted)?;
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

    /// Looks at every machine once and tells whether its thread stands still with work to do, for longer than
    /// `patience`.
    pub(crate) fn update_health(&self, now: Instant, patience: Duration) {
        let mut changed = Vec::new();
        for (id, hosted) in &mut self.lock().machines {
            let health = hosted.health(now, patience);
            if hosted.vitals.health.send_if_modified(|told| std::mem::replace(told, health) != health) {
                changed.push((id.clone(), health));
            }
        }
        // Outside of the lock.
        for (id, health) in changed {
            match health {
                ThreadHealth::Hung => {
                    tracing::error!(vm = %id, "the machine's thread has work to do and stands still");
                }
                ThreadHealth::Turning => {
                    tracing::info!(vm = %id, "the machine's thread does not stand still any more");
                }
            }
        }
    }

    pub(crate) fn counts(&self) -> HostCounts {
        let state = self.lock();
        let has_ended = |hosted: &&Hosted| hosted.status.borrow().phase.exit().is_some();
        HostCounts { hosted: state.machines.len(), ended: state.machines.values().filter(has_ended).count() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosted {
    /// How the machine's thread is at `now`. A look while it has no event loop forgets what was seen before.
    fn health(&mut self, now: Instant, patience: Duration) -> ThreadHealth {
        if !self.status.borrow().phase.has_event_loop() {
            self.vitals.standstill = None;
            return ThreadHealth::Turning;
        }
        let look = self.vitals.heartbeat.look(self.kill_switch.rings());
        let (health, standstill) = judge(self.vitals.standstill, look, now, patience);
        self.vitals.standstill = standstill;
        health
    }
}
