//! Taking over a machine that an earlier worker launched and that ran on without it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use machine_host::{Adopted, MachineHandle};
use tracing::{info, warn};
use vm_model::{MachinePhase, VmId, VmStatus};

use super::context::HostContext;
use super::live::LiveMachine;
use super::notes::{MachineNotes, NotesError};
use super::stage::load;
use super::step::{DefinitionNumber, RunState, Vcpus};
use super::task::{InForce, Task};
use super::trial::Trial;
use crate::definition::{Description, is_same_definition};
use crate::records::VmRecord;

/// A machine that runs already, and what was noted with it.
#[derive(Debug)]
pub(crate) struct RunningMachine {
    pub(super) handle: MachineHandle,
    pub(crate) notes: MachineNotes,
    launched_ago: Duration,
}

impl RunningMachine {
    /// What `adopted` is, where its notes can be used.
    pub(crate) fn of(adopted: Adopted) -> Result<Self, (VmId, NotesError)> {
        let Adopted { handle, notes, launched_ago } = adopted;
        match MachineNotes::parse(handle.id(), &notes) {
            Ok(notes) => Ok(Self { handle, notes, launched_ago }),
            Err(problem) => Err((handle.id().clone(), problem)),
        }
    }

    /// Whether it has ended, and its host only waits for that to be noticed.
    pub(crate) fn has_ended(&self) -> bool {
        self.handle.status().borrow().phase.exit().is_some()
    }

    /// Whether it has ended and `record` tells so: there is nothing left to do.
    pub(crate) fn is_done(&self, record: &VmRecord) -> bool {
        record.running_since.is_none() && self.has_ended()
    }

    /// Whether its definition is on trial according to `record`, or is refused and to be taken back.
    fn is_on_trial(&self, record: &VmRecord) -> bool {
        record.rollout.as_deref().is_some_and(|rollout| rollout.tries(&self.notes.assignment))
    }

    /// The number of its definition, below which there is one to go back to where it is on trial.
    pub(super) fn number(&self, record: &VmRecord) -> DefinitionNumber {
        let first = DefinitionNumber::default();
        if self.is_on_trial(record) { first.next() } else { first }
    }

    /// Makes `record` say which definition the machine runs by. A worker may have ended between a launch and the record.
    pub(crate) fn correct(&self, record: &mut VmRecord) {
        let is_newest = is_same_definition(&record.assignment, &self.notes.assignment);
        record.in_force = (!is_newest).then(|| self.notes.assignment.clone());
    }
}

impl Task {
    /// Begins with a machine that runs. Its end, should it have ended meanwhile, is seen like any other.
    pub(super) fn begin_with(&mut self, machine: RunningMachine) {
        let runs = machine.number(self.record.value());
        let is_on_trial = machine.is_on_trial(self.record.value());
        let RunningMachine { handle, notes, launched_ago } = machine;
        let share = self.context.capacity.resume(&notes.memory);
        self.restart = notes.restart.unwrap_or(self.context.lifecycle.restart);
        let phase = handle.status().borrow().phase.clone();
        let (vcpus, status) = match phase {
            MachinePhase::Paused => (Vcpus::Parked, VmStatus::Paused),
            MachinePhase::Booting => (Vcpus::Running, VmStatus::Booting),
            MachinePhase::Running | MachinePhase::Stopping | MachinePhase::Exited(_) => {
                (Vcpus::Running, VmStatus::Running)
            }
        };
        self.unwatched = notes.health;
        let nics: Vec<_> = notes.nics.into_iter().map(|noted| noted.nic).collect();
        info!(vm_id = %self.id, phase = status.phase_name(), launched_at = %notes.launched_at, "the VM ran on and is taken over");
        self.info.send_modify(|info| {
            info.status = status;
            info.starts = 1;
            info.started_at = Some(notes.launched_at);
            info.nics.clone_from(&nics);
            info.machine = Some(notes.shape);
            info.warnings = notes.warnings;
            info.unverified = notes.unverified;
            info.timings = notes.timings;
        });
        self.slot.put(handle.clone());
        let booted = Instant::now().checked_sub(launched_ago).unwrap_or_else(Instant::now);
        if let (true, Some(rollout)) = (is_on_trial, self.record.value().rollout.as_deref()) {
            self.trial = Some(Trial::recalled(rollout, booted));
        }
        if let Some(in_force) = &mut self.in_force {
            in_force.number = runs;
        }
        let machine = LiveMachine::resumed(handle, nics, share, notes.launched_at, booted);
        let stamp = self.target.borrow().stamp;
        self.state = RunState::Up { stamp, runs, vcpus, machine };
    }

    /// What the machine that runs is made by, found out again; and what a start that was cut short left is put in order.
    pub(super) async fn look_into_running(&mut self) {
        let launched_with = self.unwatched.take();
        let Some(InForce { assignment, .. }) = &self.in_force else { return };
        let (context, uuid) = (Arc::clone(&self.context), self.record.uuid());
        let (assignment, id) = (Arc::clone(assignment), self.id.clone());
        let described = tokio::task::spawn_blocking(move || describe(&context, &assignment, uuid)).await;
        match described {
            Ok(Ok(description)) => {
                let description = Arc::new(description);
                self.watch_guest_anew(description.health.clone());
                self.slot.describe(Arc::clone(&description));
                if let Some(in_force) = &mut self.in_force {
                    in_force.description = Some(description);
                }
            }
            Ok(Err(problem)) => {
                warn!(vm_id = %id, problem, "what the running VM is made by is not known: another definition restarts it");
                self.watch_guest_anew(launched_with);
            }
            Err(lost) => {
                warn!(vm_id = %id, error = %lost, "what the running VM is made by was not found out");
            }
        }
        if self.trial.is_none() {
            let disks = self.writable_disks();
            self.settle_volumes(disks).await;
        }
    }

    /// The disks that the guest of the machine may write to.
    pub(super) fn writable_disks(&self) -> Vec<String> {
        self.info.borrow().machine.as_ref().map_or_else(Vec::new, |machine| {
            let written = machine.disks.iter().filter(|disk| disk.policy.is_some());
            written.map(|disk| disk.id.clone()).collect()
        })
    }
}

/// What `assignment` makes of its artifact.
fn describe(
    context: &HostContext,
    assignment: &vm_model::Assignment,
    uuid: uuid::Uuid,
) -> Result<Description, String> {
    match load(context, assignment, uuid) {
        Ok(artifact) => Ok(Description::of(assignment, &artifact)),
        Err(reason) => Err(reason.message),
    }
}
