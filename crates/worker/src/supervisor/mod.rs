//! One task a VM that brings it where it should be and keeps it there.
//!
//! The task is the only writer of the VM's status and the only one that starts, stops or removes it. It is told
//! *where* the VM should be (a [`Target`]) and finds its own way, one [`step`] at a time, so that orders that
//! come while it is busy are never lost and never overtake each other.

mod acquired;
mod adopted;
mod aftermath;
mod candidate;
mod cloud_init;
mod context;
mod ending;
mod given_up;
mod guest;
mod guest_secrets;
mod held;
mod host_ports;
mod jitter;
mod limiting;
mod live;
mod look_ahead;
mod network;
mod networks;
mod news;
mod nic_wish;
mod nics;
mod notes;
mod policy;
mod prepare;
mod publisher;
mod record;
mod removing;
mod rollout;
mod socket_path;
mod stage;
mod stage_work;
mod start;
mod step;
mod stopping;
mod store_files;
mod taking_back;
mod task;
mod trial;
mod turns;
mod verify;
mod vhost;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use machine_host::MachineHandle;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use vm_model::{Assignment, DesiredState, Generation, MachineCounters, OperatorOrder};

pub(crate) use adopted::RunningMachine;
pub(crate) use context::{HostContext, Lifecycle};
pub(crate) use given_up::GivenUp;
pub(crate) use guest_secrets::read_secrets;
pub(crate) use host_ports::{HostPorts, PortClaims};
pub(crate) use limiting::{check_limits, judge_limits, unenforced};
pub(crate) use look_ahead::{LookedAt, check_listeners, check_reach, load, look_ahead};
pub(crate) use networks::Networks;
pub(crate) use notes::noted_uuid;
pub use notes::{NotesError, check_notes};
pub(crate) use policy::RestartPolicy;
pub(crate) use publisher::Changes;
pub(crate) use stage::volume_requests;
use step::{DefinitionNumber, Stamp};
pub(crate) use step::{Goal, OrderNumber};
pub(crate) use turns::StartTurns;

use crate::definition::{Description, is_same_definition};
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
    /// How often it was told something of where it should be.
    pub(crate) number: OrderNumber,
    /// The operator's order that the goal follows, where it is none of the desired state.
    order: Option<OperatorOrder>,
    /// How much time a machine is given that is to end.
    patience: Patience,
    stamp: Stamp,
}

impl Target {
    /// The VM should be in the state `desired` from now on.
    fn be(&mut self, desired: DesiredState) {
        self.goal = Goal::Be(desired);
        let mut assignment = Assignment::clone(&self.assignment);
        assignment.desired = desired;
        self.assignment = Arc::new(assignment);
    }

    /// Whether it says the same as `other`.
    fn is(&self, other: &Self) -> bool {
        self.goal == other.goal
            && self.stamp == other.stamp
            && self.order == other.order
            && self.patience == other.patience
            && self.generation == other.generation
            && Arc::ptr_eq(&self.assignment, &other.assignment)
    }
}

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

    fn put(&self, handle: MachineHandle) {
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
    fn retire(&self) {
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
    fn unrecorded_use(&self) -> Option<MachineCounters> {
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, handle) = slot.machine.as_ref().filter(|_| !slot.is_retired)?;
        Some(handle.counters())
    }

    fn describe(&self, description: Arc<Description>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).description = Some(description);
    }
}

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
struct Ends {
    target: watch::Receiver<Target>,
    info: watch::Sender<VmInfo>,
    late: Option<mpsc::Receiver<RunningMachine>>,
    held: watch::Sender<Option<String>>,
    followed: watch::Sender<OrderNumber>,
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
        let task = task::Task::new(context, ends, machine.clone(), origin);
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
        self.machine.0.lock().unwrap_or_else(PoisonError::into_inner).description.clone()
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

/// What was asked of a VM on record whose definition in force has the number `in_force`.
fn stamp_after(in_force: DefinitionNumber, record: &VmRecord) -> Stamp {
    let mut stamp = Stamp { definition: in_force, ..Stamp::default() };
    if record.in_force.is_some() {
        // The newest definition is another than the one in force.
        stamp.definition = stamp.definition.next();
    }
    stamp
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

/// Whether an order starts a machine anew although one runs, has failed or has switched itself off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// No.
    Same,
    /// Yes.
    StartAfresh,
}

/// How much time a machine is given that is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Its guest is asked, and has the time that is configured.
    Full,
    /// None: it is killed.
    None,
}
