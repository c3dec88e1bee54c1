//! A VM's newest machine, for those who read of it without asking its supervisor.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use machine_host::MachineHandle;
use vm_model::MachineCounters;

use crate::definition::Description;

/// A VM's newest machine: what is read of it without asking the supervisor.
#[derive(Clone, Debug, Default)]
pub(crate) struct MachineSlot(Arc<Mutex<NewestMachine>>);

/// Ended machines whose figures wait for whoever counts. More than are started between two samples.
const ENDED_KEPT: usize = 16;

#[derive(Debug, Default)]
struct NewestMachine {
    /// It, and how many there were before it; it may have ended.
    machine: Option<(u64, MachineHandle)>,
    /// Whether its end is on record, and what it used with it.
    is_retired: bool,
    /// What the machines before it used in all, as far as nobody has taken it to count it; oldest first.
    ended: VecDeque<(u64, MachineCounters)>,
    /// What it was made by, or what its definition has come to since.
    description: Option<Arc<Description>>,
}

impl MachineSlot {
    /// The newest machine and how many there were before it; it may have ended.
    pub(crate) fn get(&self) -> Option<(u64, MachineHandle)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).machine.clone()
    }

    pub(super) fn put(&self, handle: MachineHandle) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((run, before)) = &slot.machine {
            let ended = (*run, before.counters());
            if slot.ended.len() == ENDED_KEPT {
                slot.ended.pop_front();
            }
            slot.ended.push_back(ended);
        }
        let run = slot.machine.as_ref().map_or(0, |(run, _)| run.saturating_add(1));
        slot.machine = Some((run, handle));
        slot.is_retired = false;
    }

    /// Its newest machine has ended, and that is on record: nothing of its host is held any more.
    pub(super) fn retire(&self) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.is_retired = true;
        if let Some((_, handle)) = &mut slot.machine {
            *handle = handle.ended();
        }
    }

    /// What machines have used that others have followed since this was asked last, so that nothing they did after they were
    /// looked at last is missing.
    pub(crate) fn take_ended(&self) -> VecDeque<(u64, MachineCounters)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).ended)
    }

    /// What its newest machine has used, unless that is on record.
    pub(super) fn unrecorded_use(&self) -> Option<MachineCounters> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, handle) = slot.machine.as_ref().filter(|_| !slot.is_retired)?;
        Some(handle.counters())
    }

    pub(super) fn describe(&self, description: Arc<Description>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).description = Some(description);
    }

    /// What the newest machine is, if there was one under this worker.
    pub(super) fn description(&self) -> Option<Arc<Description>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).description.clone()
    }
}
