//! Which machines a host has: from before their thread starts until all they held is given back.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;
use vm_model::{MachinePhase, VmId};

use crate::MachineStatus;
use crate::mailbox::KillSwitch;

/// The machines of one host.
pub(crate) struct Registry {
    /// Held for a map operation, and while a thread is started (tens of microseconds): a thread must be in the
    /// map before it can end. Entries go in and out whole: a poisoned lock is used on.
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
}

/// Why a machine is not taken in.
#[derive(Debug)]
pub(crate) enum Refusal<E> {
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
    ) -> Result<(), Refusal<E>> {
        let mut state = self.lock();
        if !state.is_open {
            return Err(Refusal::Closed);
        }
        if state.machines.contains_key(id) {
            return Err(Refusal::Taken);
        }
        if state.machines.len() >= self.limit {
            return Err(Refusal::Full { limit: self.limit });
        }
        let hosted = start().map_err(Refusal::NotStarted)?;
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

    pub(crate) fn counts(&self) -> HostCounts {
        let state = self.lock();
        let has_ended = |hosted: &&Hosted| hosted.status.borrow().phase == MachinePhase::Exited;
        HostCounts { hosted: state.machines.len(), ended: state.machines.values().filter(has_ended).count() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
