//! How one speaks with a VM's supervisor: orders go in, what is known of the VM comes out.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use vm_model::{Assignment, DesiredState, Generation, OperatorOrder};

use super::adopted::RunningMachine;
use super::context::HostContext;
use super::machine_slot::MachineSlot;
use super::step::{DefinitionNumber, Goal, OrderNumber, Stamp};
use super::target::{Freshness, Patience, Target, stamp_after};
use super::task::Task;
use crate::definition::{Description, is_same_definition};
use crate::records::VmRecord;
use crate::vms::VmInfo;

/// How one speaks with a VM's supervisor. Dropping it ends the supervisor and kills the VM's machine.
#[derive(Debug)]
pub(crate) struct Supervisor {
    target: watch::Sender<Target>,
    info: watch::Receiver<VmInfo>,
    machine: MachineSlot,
    /// Takes the VM's machine while another process holds the VM.
    late: mpsc::Sender<RunningMachine>,
    held: watch::Receiver<Option<String>>,
    /// The order that the supervisor follows.
    followed: watch::Receiver<OrderNumber>,
    task: JoinHandle<()>,
}

/// A supervisor's ends of the channels to whoever speaks with it.
pub(super) struct Ends {
    pub(super) target: watch::Receiver<Target>,
    pub(super) info: watch::Sender<VmInfo>,
    pub(super) late: Option<mpsc::Receiver<RunningMachine>>,
    pub(super) held: watch::Sender<Option<String>>,
    pub(super) followed: watch::Sender<OrderNumber>,
}

impl Supervisor {
    /// Starts the supervisor of a VM that has no machine yet.
    pub(crate) fn spawn(runtime: &Handle, context: Arc<HostContext>, birth: Birth) -> Self {
        let Birth { assignment, generation, origin } = birth;
        let (goal, stamp, info) = match &origin {
            Origin::New | Origin::After(_) => {
                let info = VmInfo::new(assignment.clone(), generation);
                (Goal::Be(assignment.desired), Stamp::default(), info)
            }
            // Nobody has asked for it yet.
            Origin::Record(record) => (
                Goal::Suspended,
                stamp_after(DefinitionNumber::default(), record),
                VmInfo::new(record.newest().clone(), generation),
            ),
            // It goes on as it was last wanted.
            Origin::Running(record, machine) => (
                Goal::Be(assignment.desired),
                stamp_after(machine.number(record), record),
                VmInfo::new(record.newest().clone(), generation),
            ),
        };
        let target = Target {
            assignment: Arc::new(assignment),
            generation,
            goal,
            number: OrderNumber::default(),
            order: None,
            patience: Patience::Full,
            stamp,
        };
        let (info_sender, info) = watch::channel(info);
        let (target, target_receiver) = watch::channel(target);
        let (held_sender, held) = watch::channel(None);
        let (followed_sender, followed) = watch::channel(OrderNumber::default());
        let (late, receiver, held) = match &origin {
            // A machine that is found late is its predecessor's, which is in the way as long as it is held.
            Origin::After(predecessor) => (predecessor.late.clone(), None, predecessor.held.clone()),
            Origin::New | Origin::Record(_) | Origin::Running(..) => {
                let (late, receiver) = mpsc::channel(1);
                (late, Some(receiver), held)
            }
        };
        let machine = MachineSlot::default();
        let ends = Ends {
            target: target_receiver,
            info: info_sender,
            late: receiver,
            held: held_sender,
            followed: followed_sender,
        };
        let task = Task::new(context, ends, machine.clone(), origin);
        Self { target, info, machine, late, held, followed, task: runtime.spawn(task.run()) }
    }

    /// What is known of the VM now, and whenever it changes.
    pub(crate) fn info(&self) -> watch::Receiver<VmInfo> {
        self.info.clone()
    }

    /// What the VM is told, now and later.
    pub(crate) fn targets(&self) -> watch::Receiver<Target> {
        self.target.subscribe()
    }

    /// The order that the supervisor follows: what it does and publishes from then on is of that one or of a newer one.
    pub(crate) fn followed(&self) -> watch::Receiver<OrderNumber> {
        self.followed.clone()
    }

    /// Tells the VM something of where it should be.
    fn tell(&self, change: impl FnOnce(&mut Target)) {
        self.target.send_modify(|target| {
            change(target);
            target.number = target.number.next();
        });
    }

    /// The VM's newest machine.
    pub(crate) fn machine(&self) -> MachineSlot {
        self.machine.clone()
    }

    /// What the VM's newest machine is, if there was one under this worker.
    pub(crate) fn description(&self) -> Option<Arc<Description>> {
        self.machine.description()
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

    /// The VM should be what `assignment` says, which came with the desired state `generation`. Where that is another
    /// definition than before, it runs on by that one until the new one can be used.
    pub(crate) fn redefine(&self, assignment: Assignment, generation: Generation) {
        self.tell(|target| {
            if matches!(target.goal, Goal::Gone) {
                return;
            }
            target.goal = Goal::Be(assignment.desired);
            target.patience = Patience::Full;
            target.generation = generation;
            if !is_same_definition(&target.assignment, &assignment) {
                target.stamp.definition = target.stamp.definition.next();
            }
            target.assignment = Arc::new(assignment);
        });
    }

    /// The VM should be in this state, whatever keeps it from there so far. A VM on its way out stays so.
    pub(crate) fn desire(&self, desired: DesiredState, freshness: Freshness) {
        self.tell(|target| {
            if matches!(target.goal, Goal::Gone) {
                return;
            }
            target.be(desired);
            target.patience = Patience::Full;
            match freshness {
                Freshness::Same => {}
                Freshness::StartAfresh => target.stamp.revision = target.stamp.revision.next(),
            }
        });
    }

    /// The VM should be off, and its machine killed. A VM on its way out stays so.
    pub(crate) fn stop_now(&self) {
        self.tell(|target| {
            target.patience = Patience::None;
            if !matches!(target.goal, Goal::Gone) {
                target.be(DesiredState::Stopped);
            }
        });
    }

    /// The machine should be replaced by a new one of the same definition; whether the VM should have one.
    pub(crate) fn restart(&self, patience: Patience) -> bool {
        self.target.send_if_modified(|target| {
            let has_machine = matches!(target.goal, Goal::Be(DesiredState::Running | DesiredState::Paused));
            if has_machine {
                target.patience = patience;
                target.stamp.revision = target.stamp.revision.next();
                target.number = target.number.next();
            }
            has_machine
        })
    }

    /// The operator's order that the VM's desired state follows, if there is one.
    pub(crate) fn tell_order(&self, order: Option<&OperatorOrder>) {
        self.target.send_if_modified(|target| {
            let is_other = target.order.as_ref() != order;
            if is_other {
                target.order = order.cloned();
            }
            is_other
        });
    }

    /// The machine should stop now; what was asked for stays on record, for the next worker to bring back.
    pub(crate) fn suspend(&self) {
        self.tell(|target| {
            if !matches!(target.goal, Goal::Gone) {
                target.goal = Goal::Suspended;
                target.patience = Patience::Full;
            }
        });
    }

    /// The VM is part of the desired state `generation`.
    pub(crate) fn number(&self, generation: Generation) {
        self.target
            .send_if_modified(|target| std::mem::replace(&mut target.generation, generation) != generation);
    }

    /// The VM should be gone; its volumes are kept for a while where they hold data.
    pub(crate) fn remove(&self) {
        self.tell(|target| {
            target.goal = Goal::Gone;
            target.patience = Patience::Full;
        });
    }

    /// Hands over the VM's machine, whose process was taken over after the worker had started. The VM goes on as it was last
    /// wanted.
    ///
    /// # Errors
    /// Nobody waits for it: no other process holds the VM. The machine is given back.
    pub(crate) fn hand_over(&self, machine: RunningMachine) -> Result<(), Box<RunningMachine>> {
        let Ok(permit) = self.late.try_reserve() else { return Err(Box::new(machine)) };
        self.tell(|target| {
            if target.goal == Goal::Suspended {
                target.goal = Goal::Be(target.assignment.desired);
            }
            // Below its number there is one to go back to where it is on trial.
            target.stamp.definition = target.stamp.definition.next();
            if !is_same_definition(&target.assignment, &machine.notes.assignment) {
                target.stamp.definition = target.stamp.definition.next();
            }
        });
        permit.send(machine);
        Ok(())
    }

    /// What keeps the VM from being stopped or removed, while another process holds it.
    pub(crate) fn held(&self) -> watch::Receiver<Option<String>> {
        self.held.clone()
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
    /// It is new and takes the place of one of the same name, which is on its way out and goes first.
    After(Box<Supervisor>),
    /// It was on record when the worker started.
    Record(Box<VmRecord>),
    /// It was on record, and its machine runs already.
    Running(Box<VmRecord>, Box<RunningMachine>),
}
