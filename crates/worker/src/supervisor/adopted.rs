//! Taking over a machine that an earlier worker launched and that ran on without it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use host_network::{KeptNic, LinkName};
use ipam::Wish;
use machine_host::{Adopted, MachineHandle};
use tokio::time::timeout;
use tracing::{info, warn};
use vm_model::{Footprint, MachinePhase, NetworkName, NicMismatch, VmId, VmNic, VmStatus};

use super::Target;
use super::context::HostContext;
use super::limiting::limits_of;
use super::live::LiveMachine;
use super::look_ahead::load;
use super::notes::{MachineNotes, NotedNic, NotesError};
use super::step::{DefinitionNumber, RunState, Vcpus};
use super::task::{InForce, Task};
use super::trial::Trial;
use crate::definition::{Description, is_same_definition};
use crate::failure::chain;
use crate::records::{LeaseBooks, NicWish, RunCounts, VmRecord};

/// A store that does not answer keeps the VM's supervisor waiting for no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A machine that runs already, and what was noted with it.
#[derive(Debug)]
pub(crate) struct RunningMachine {
    pub(super) handle: MachineHandle,
    pub(crate) notes: MachineNotes,
    launched_ago: Duration,
    /// The process that runs it.
    pub(crate) pid: u32,
}

impl RunningMachine {
    /// What `adopted` is, where its notes can be used.
    pub(crate) fn of(adopted: Adopted) -> Result<Self, (VmId, NotesError)> {
        let Adopted { handle, notes, launched_ago, pid } = adopted;
        match MachineNotes::parse(handle.id(), &notes) {
            Ok(notes) => Ok(Self { handle, notes, launched_ago, pid }),
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

    /// The number of its definition where it is handed over late: see [`super::Supervisor::hand_over`].
    pub(super) fn number_under(&self, target: &Target) -> DefinitionNumber {
        if is_same_definition(&target.assignment, &self.notes.assignment) {
            target.stamp.definition
        } else {
            DefinitionNumber::default().next()
        }
    }

    /// Makes `record` say which definition the machine runs by, and since when: a worker may have ended between a launch and
    /// the record, and one beside which the machine ran may have forgotten it. Whether that changes it.
    pub(crate) fn correct(&self, record: &mut VmRecord) -> bool {
        let before = (record.in_force.take(), record.running_since);
        let is_newest = is_same_definition(&record.assignment, &self.notes.assignment);
        record.in_force = (!is_newest).then(|| self.notes.assignment.clone());
        record.running_since.get_or_insert(self.notes.launched_at);
        before != (record.in_force.clone(), record.running_since)
    }

    /// Whether it is rather the VM's machine than `other`: one that runs, or else the one launched last.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        let rank = |machine: &Self| (!machine.has_ended(), machine.notes.launched_at);
        rank(self) > rank(other)
    }

    /// Sees to it that nobody else is given its addresses, whatever became of the file of leases.
    pub(crate) fn hold_addresses(&self, leases: &LeaseBooks) {
        let vm = &self.notes.assignment.id;
        let wish = |noted: &NotedNic| Wish { ip: Some(noted.nic.address), mac: Some(noted.nic.mac) };
        // In a network that there is no more, nobody is given any.
        let nics = self.notes.nics.iter().filter(|noted| leases.book(&noted.nic.network).is_some());
        let wishes: Vec<NicWish<'_>> = nics
            .map(|noted| NicWish { nic: &noted.nic.id, network: &noted.nic.network, wish: wish(noted) })
            .collect();
        if let Err(problem) = leases.ensure(vm, &wishes) {
            warn!(vm_id = %vm, error = chain(&problem), "the addresses of the running VM may be given to another");
        }
    }

    /// Its interfaces, as its worker attached them, each with the network that it is in.
    pub(crate) fn kept_nics(&self) -> Vec<(NetworkName, KeptNic)> {
        let kept = self.notes.nics.iter().filter_map(|NotedNic { nic, mask, mtu }| {
            // A name that is none is of no TAP of ours.
            let tap = LinkName::parse(nic.tap.as_deref()?).ok()?;
            let (vm, nic_name) = (self.notes.assignment.id.clone(), nic.id.clone());
            let kept = KeptNic {
                vm,
                nic: nic_name,
                mac: nic.mac,
                address: nic.address,
                mask: *mask,
                mtu: *mtu,
                tap,
                access: nic.access.clone(),
            };
            Some((nic.network.clone(), kept))
        });
        kept.collect()
    }
}

/// What an operator is told of an interface of a running machine that does not fit its network.
pub(super) fn misfit_warning(nic: &VmNic) -> Option<String> {
    let VmNic { id, network, address, ipv6, .. } = nic;
    Some(match nic.mismatch.as_ref()? {
        NicMismatch::NetworkRemoved => format!(
            "its interface {id} is in the network \"{network}\", which is not configured any more: nobody looks after it, and the \
             VM does not start again until it is, or until the VM needs it no more"
        ),
        NicMismatch::AddressOutside { subnet } => format!(
            "its interface {id} has {address}, and its network \"{network}\" is {subnet} now: it gets another address when the \
             VM starts again"
        ),
        NicMismatch::Ipv6Changed { given } => match (ipv6, given) {
            (Some(now), _) => format!(
                "the IPv6 addresses of the network \"{network}\" were changed: its interface {id} has {now} once its guest asks \
                 again"
            ),
            (None, Some(given)) => format!(
                "the IPv6 addresses of the network \"{network}\" were taken away: its interface {id} reaches nobody by {given}, \
                 which its guest still has"
            ),
            (None, None) => return None,
        },
    })
}

impl Task {
    /// Begins with a machine that runs. Its end, should it have ended meanwhile, is seen like any other.
    /// Its definition has the number `runs`.
    pub(super) fn begin_with(&mut self, machine: RunningMachine, runs: DefinitionNumber) {
        let is_on_trial = machine.is_on_trial(self.record.value());
        let RunningMachine { handle, notes, launched_ago, pid } = machine;
        let counted = notes.counted;
        self.history.go_on(counted.failures_in_a_row);
        self.show_failures();
        let footprint = notes.footprint.unwrap_or_else(|| Footprint::of_memory(notes.memory));
        let share = self.context.capacity.resume(&footprint);
        self.restart = notes.restart.unwrap_or(self.context.lifecycle.restart);
        let (phase, resets) = {
            let status = handle.status();
            let status = status.borrow();
            (status.phase.clone(), status.resets)
        };
        let (vcpus, status) = match phase {
            MachinePhase::Paused => (Vcpus::Parked, VmStatus::Paused),
            MachinePhase::Booting => (Vcpus::Running, VmStatus::Booting),
            MachinePhase::Running | MachinePhase::Stopping | MachinePhase::Exited(_) => {
                (Vcpus::Running, VmStatus::Running)
            }
        };
        self.unwatched = notes.health;
        let networks = &self.context.networks;
        let nics: Vec<_> = notes.nics.into_iter().map(|noted| networks.of_running(noted.nic)).collect();
        info!(vm_id = %self.id, phase = status.phase_name(), pid, launched_at = %notes.launched_at, "the VM ran on and is taken over");
        self.info.begin_with(|info| {
            info.status = status;
            info.starts = counted.starts.saturating_add(resets.total()).saturating_add(1);
            info.restarts = counted.restarts.saturating_add(resets.by_guest);
            info.resets = counted.resets.saturating_add(resets.total());
            info.failures = counted.failures;
            info.started_at = Some(notes.launched_at);
            info.nics.clone_from(&nics);
            info.machine = Some(notes.shape);
            info.warnings = notes.warnings;
            info.warnings.extend(nics.iter().filter_map(misfit_warning));
            info.unverified = notes.unverified;
            info.timings = notes.timings;
        });
        self.slot.put(handle.clone());
        let booted = Instant::now().checked_sub(launched_ago).unwrap_or_else(Instant::now);
        let rollout = self.record.value().rollout.as_deref().filter(|_| is_on_trial);
        self.trial = rollout.map(|rollout| Trial::recalled(rollout, booted));
        self.in_force =
            Some(InForce { number: runs, assignment: Arc::new(notes.assignment), description: None });
        let machine = LiveMachine::resumed(handle, nics, share, notes.launched_at, booted);
        let stamp = self.target.borrow().stamp;
        // Nothing new was asked since it was launched: its earlier failures count on.
        self.stamp = stamp;
        self.state = RunState::Up { stamp, runs, vcpus, machine };
    }

    /// What is counted of the VM, for whoever looks after it next.
    pub(super) fn counted(&self) -> RunCounts {
        let info = self.info.borrow();
        RunCounts {
            starts: info.starts,
            restarts: info.restarts,
            resets: info.resets,
            failures: info.failures,
            failures_in_a_row: self.history.failures_in_a_row(),
        }
    }

    /// What the machine that runs is made by, found out again; and what a start that was cut short left is put in order.
    pub(super) async fn look_into_running(&mut self) {
        let launched_with = self.unwatched.take();
        let Some(InForce { assignment, .. }) = &self.in_force else { return };
        let (context, uuid) = (Arc::clone(&self.context), self.record.uuid());
        let (assignment, id) = (Arc::clone(assignment), self.id.clone());
        let describing = move || describe(&context, &assignment, uuid);
        let described = self.context.own_threads.run(self.id.as_str(), "look", describing);
        let described = match timeout(PATIENCE, described).await {
            Ok(Ok(described)) => described,
            Ok(Err(problem)) => Err(problem.message),
            Err(_) => Err(format!("its store did not answer within {} s", PATIENCE.as_secs())),
        };
        match described {
            Ok(description) => {
                let description = Arc::new(description);
                self.watch_guest_anew(description.health.clone());
                self.slot.describe(Arc::clone(&description));
                if !limits_of(&self.context.limits, &description).is_empty() {
                    self.limit_anew(&description).await;
                }
                if let Some(in_force) = &mut self.in_force {
                    in_force.description = Some(description);
                }
            }
            Err(problem) => {
                warn!(vm_id = %id, problem, "what the running VM is made by is not known: another definition restarts it");
                self.watch_guest_anew(launched_with);
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
    match load(&context.roots, assignment, uuid) {
        Ok(artifact) => Ok(Description::of(assignment, &artifact)),
        Err(reason) => Err(reason.message),
    }
}
