//! One task a VM that brings it where it should be and keeps it there.
//!
//! The task is the only writer of the VM's status and the only one that starts, stops or removes it. It is told
//! *where* the VM should be (a [`Target`]) and finds its own way, one [`step`] at a time, so that orders that
//! come while it is busy are never lost and never overtake each other.

mod context;
mod ending;
mod given_up;
mod live;
mod network;
mod news;
mod nic_wish;
mod policy;
mod prepare;
mod record;
mod start;
mod step;
mod takings;
mod task;
mod verify;
mod vhost;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use vm_model::{Assignment, DesiredState, Generation};
use vmm_host::MachineHandle;

pub(crate) use context::{HostContext, Lifecycle, Subnet};
pub(crate) use given_up::GivenUp;
pub(crate) use network::SharedNetwork;
pub(crate) use policy::RestartPolicy;
use step::Revision;
pub(crate) use step::{Addresses, Goal};

use crate::records::VmRecord;
use crate::vms::VmInfo;

/// Where a VM should be, and what it should be.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What it should be.
    pub(crate) assignment: Arc<Assignment>,
    /// The desired state that said so.
    pub(crate) generation: Generation,
    /// Where it should be.
    pub(crate) goal: Goal,
    revision: Revision,
}

impl Target {
    /// Whether it says the same as `other`.
    fn is(&self, other: &Self) -> bool {
        self.goal == other.goal
            && self.revision == other.revision
            && self.generation == other.generation
            && Arc::ptr_eq(&self.assignment, &other.assignment)
    }
}

/// A VM's newest machine: where counters and console are read without asking the supervisor.
#[derive(Clone, Debug, Default)]
pub(crate) struct MachineSlot(Arc<Mutex<Option<(u64, MachineHandle)>>>);

impl MachineSlot {
    /// The newest machine and how many there were before it; it may have ended.
    pub(crate) fn get(&self) -> Option<(u64, MachineHandle)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, handle: MachineHandle) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let run = slot.as_ref().map_or(0, |(run, _)| run.saturating_add(1));
        *slot = Some((run, handle));
    }
}

/// How one speaks with a VM's supervisor. Dropping it ends the supervisor and kills the VM's machine.
#[derive(Debug)]
pub(crate) struct Supervisor {
    target: watch::Sender<Target>,
    info: watch::Receiver<VmInfo>,
    machine: MachineSlot,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts the supervisor of a VM that has no machine yet.
    pub(crate) fn spawn(runtime: &Handle, context: Arc<HostContext>, birth: Birth) -> Self {
        let Birth { assignment, generation, origin } = birth;
        let goal = match origin {
            Origin::New | Origin::After(_) => Goal::Be(assignment.desired),
            // Nobody has asked for it yet.
            Origin::Record(_) => Goal::Suspended,
        };
        let info = VmInfo::new(assignment.clone(), generation);
        let target =
            Target { assignment: Arc::new(assignment), generation, goal, revision: Revision::default() };
        let (info_sender, info) = watch::channel(info);
        let (target, target_receiver) = watch::channel(target);
        let machine = MachineSlot::default();
        let task = task::Task::new(context, target_receiver, info_sender, machine.clone(), origin);
        Self { target, info, machine, task: runtime.spawn(task.run()) }
    }

    /// What is known of the VM now, and whenever it changes.
    pub(crate) fn info(&self) -> watch::Receiver<VmInfo> {
        self.info.clone()
    }

    /// The VM's newest machine.
    pub(crate) fn machine(&self) -> MachineSlot {
        self.machine.clone()
    }

    /// What the VM should be.
    pub(crate) fn target(&self) -> Target {
        self.target.borrow().clone()
    }

    /// Whether the VM and all that belonged to it are gone.
    pub(crate) fn is_finished(&self) -> bool {
        // News end with the task, a moment before the runtime counts it as finished.
        self.info.has_changed().is_err()
    }

    /// The VM should be in this state, whatever keeps it from there so far. A VM on its way out stays so.
    pub(crate) fn desire(&self, desired: DesiredState, freshness: Freshness) {
        self.target.send_modify(|target| {
            if matches!(target.goal, Goal::Gone(_)) {
                return;
            }
            target.goal = Goal::Be(desired);
            let mut assignment = Assignment::clone(&target.assignment);
            assignment.desired = desired;
            target.assignment = Arc::new(assignment);
            match freshness {
                Freshness::Same => {}
                Freshness::StartAfresh => target.revision = target.revision.next(),
            }
        });
    }

    /// The machine should stop now; what was asked for stays on record, for the next worker to bring back.
    pub(crate) fn suspend(&self) {
        self.target.send_modify(|target| {
            if !matches!(target.goal, Goal::Gone(_)) {
                target.goal = Goal::Suspended;
            }
        });
    }

    /// The VM is part of the desired state `generation`.
    pub(crate) fn number(&self, generation: Generation) {
        self.target
            .send_if_modified(|target| std::mem::replace(&mut target.generation, generation) != generation);
    }

    /// The VM should be gone, with everything that belonged to it.
    pub(crate) fn remove(&self, addresses: Addresses) {
        self.target.send_modify(|target| target.goal = Goal::Gone(addresses));
    }

    /// Looks after the VM no longer; answers what ends when its task has.
    pub(crate) fn abandon(self) -> JoinHandle<()> {
        self.task
    }

    /// Waits until the VM is gone. Ends only after [`Supervisor::remove`].
    pub(crate) async fn gone(self) {
        // A supervisor that panicked is gone as well; the panic was logged where it happened.
        let _ = self.task.await;
    }
}

/// What a supervisor starts with.
#[derive(Debug)]
pub(crate) struct Birth {
    /// What the VM should be.
    pub(crate) assignment: Assignment,
    /// The desired state that said so.
    pub(crate) generation: Generation,
    /// Where the VM comes from.
    pub(crate) origin: Origin,
}

/// Where a VM comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// It is new.
    New,
    /// It is new and takes the place of one of the same name, which goes first.
    After(Box<Supervisor>),
    /// It was on record when the worker started.
    Record(VmRecord),
}

/// Whether an order starts a machine anew although one runs, has failed or has switched itself off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// No.
    Same,
    /// Yes.
    StartAfresh,
}
