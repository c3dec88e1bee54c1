//! Whatever runs machines, as those see it who want some run.

use std::future::{pending, ready};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vm_model::{ResourceLimits, VmId};

use crate::{BoxFuture, HostingProcess, LaunchError, LaunchRequest, MachineHandle, MachineLimits};

/// Runs machines. Shared by all who launch any.
///
/// Whether machines outlive their host differs. Those in this process end with it, and one whose last handle is dropped is
/// killed. Those in processes of their own go on: dropping handles, or [`MachineHost::leave`], lets go of them.
pub trait MachineHost: Send + Sync {
    /// Launches a machine, and returns when its first vCPU is entered, or parked where it was to begin paused.
    ///
    /// A launch that is given up (its future dropped) kills its machine.
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<MachineHandle, LaunchError>>;

    /// Finds the machines that run already and takes those over that `recognize` accepts. Called once, before the first
    /// launch. Returns soon also where a process does not answer: see [`MachineHost::adopt_late`].
    fn adopt(&self, recognize: Recognize) -> BoxFuture<'_, Adoption>;

    /// Goes on asking the processes that [`MachineHost::adopt`] could not take over. Returns what was taken over since, and
    /// every stranger that is left, whenever either has changed; never where there is nobody to ask. Waited for by one caller
    /// at a time. What was taken over is lost where the future is dropped after that and before it returns.
    fn adopt_late(&self) -> BoxFuture<'_, Adoption> {
        Box::pin(pending())
    }

    /// How many machines there are.
    fn counts(&self) -> HostCounts;

    /// Takes no machine in any more and kills those there are. Waits for nothing; see [`MachineHost::shut_down`].
    fn kill_all(&self);

    /// Takes no machine in any more, kills those there are, and waits until they are released.
    ///
    /// Guests that are to end in order are stopped before, through their handles.
    fn shut_down(&self, deadline: Duration) -> BoxFuture<'_, ShutdownReport>;

    /// Lets go of machines that go on without this process, for another to adopt. Takes no machine in any more.
    fn leave(&self);

    /// Whether machines go on when this process ends.
    fn machines_outlive_it(&self) -> bool;

    /// Whether a machine can have a process of its own ([`vm_model::Isolation::Strict`]). Where not, no such machine may be
    /// launched here.
    fn isolates(&self) -> bool;

    /// What of `limits` cannot be put in force here, whatever the machine, and why; `None` where all of it can.
    fn cannot_limit(&self, limits: &ResourceLimits) -> Option<String> {
        (!limits.is_empty()).then(|| "VMs have no processes of their own".to_owned())
    }

    /// The process that runs the machine of `vm`; `None` where it is this one, or there is no such machine.
    fn process_of(&self, vm: &VmId) -> Option<HostingProcess> {
        let _ = vm;
        None
    }

    /// Makes sure that what a launch needs of this host beside its request is there; what somebody has removed of it is made again.
    /// Called before a machine is stopped for another. Blocks.
    ///
    /// # Errors
    /// What is not there, in words.
    fn check_place(&self) -> Result<(), String> {
        Ok(())
    }

    /// The machines that would outlive this host and that nobody will find who comes after it. Looks at files.
    fn unreachable(&self) -> Vec<VmId> {
        Vec::new()
    }

    /// Limits the machine of `vm` anew, while it runs. Answers what could not be done, in words.
    fn limit(&self, vm: &VmId, limits: MachineLimits) -> BoxFuture<'_, Vec<String>> {
        let _ = vm;
        Box::pin(ready(self.cannot_limit(&limits.values).into_iter().collect()))
    }
}

/// Says whether a machine that was found is to be taken over, or why not. What is refused is left alone. Asked before the
/// machine's name is taken, so that of two machines of one name the right one gets it.
pub type Recognize = Arc<dyn Fn(&FoundMachine<'_>) -> Result<(), String> + Send + Sync>;

/// A machine that was found and is not taken over yet.
#[derive(Clone, Copy, Debug)]
pub struct FoundMachine<'a> {
    /// Whose machine it is, by its name.
    pub vm: &'a VmId,
    /// What its launcher noted: see [`LaunchRequest::notes`].
    pub notes: &'a str,
    /// The process that runs it.
    pub pid: u32,
    /// Whether it has ended, and its process only waits for that to be noticed.
    pub has_ended: bool,
}

/// What was found running.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Machines that were taken over. Some may have ended meanwhile: their status tells how.
    pub machines: Vec<Adopted>,
    /// Processes that may run machines and could not be taken over. They are left alone.
    pub strangers: Vec<Stranger>,
}

/// A machine that was taken over.
#[derive(Debug)]
pub struct Adopted {
    /// The machine.
    pub handle: MachineHandle,
    /// What its launcher noted: see [`LaunchRequest::notes`].
    pub notes: String,
    /// How long ago it was launched.
    pub launched_ago: Duration,
    /// The process that runs it.
    pub pid: u32,
}

/// A process that may run machines and could not be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Which VMs it runs, as far as that is known.
    pub vms: Vec<VmId>,
    /// Its id, where the kernel tells it.
    pub pid: Option<u32>,
    /// Where it was found.
    pub place: String,
    /// What kept it from being taken over.
    pub problem: String,
}

impl Stranger {
    /// Whether its process is still there, as far as that is known: one that has answered is not asked again.
    pub fn may_run(&self) -> bool {
        self.pid.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists())
    }
}

/// How many machines a host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostCounts {
    /// Machines that are not released yet, ended ones among them.
    pub hosted: usize,
    /// Machines that have ended and are not released yet.
    pub ended: usize,
    /// Those of them that the host's kernel keeps: a disk that does not answer, a file that is not closed. Each has a
    /// thread that waits for it.
    pub unsettled: usize,
    /// Machines in processes without a jail, where there are to be jails: earlier workers started them.
    pub unjailed: usize,
    /// Machines in processes whose system calls are filtered less than those of new ones: earlier workers started them.
    pub unfiltered: usize,
}

/// How a shutdown went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Machines that were there and are released.
    pub released: Vec<VmId>,
    /// Machines that were not released in time. They were killed; their threads are stuck.
    pub remaining: Vec<VmId>,
}
