//! Which processes and machines there are, and which process the next machine goes to.
//!
//! A process without machines is idle: `spare` of them are kept ahead. One that becomes idle after it had machines is
//! retired, so that each machine begins in a process nobody else's machine was in, where there is one to a process. A
//! machine that is isolated strictly has such a process for itself in any case: nobody joins it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machine_host::{HostCounts, HostingProcess, LaunchError};
use tokio::time::sleep;
use vm_model::{Isolation, VmId, error_chain};

use super::HostProcessOptions;
use super::directory::{DirectoryError, Renewed, SocketDirectory};
use super::error_output::ErrorOutput;
use super::jailing::Jails;
use super::line::{ProcessLine, ProcessOrder};
use super::remote::RemoteMachine;
use super::starting::{StartError, start};

/// How long an ended machine may take to be released until it counts as unsettled.
const SETTLING: Duration = Duration::from_secs(1);

/// How long after a launch has begun another spare process is started: the two are not to share a processor.
const REPLENISH_DELAY: Duration = Duration::from_millis(50);

/// The processes and machines of one host.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) options: HostProcessOptions,
    pub(super) directory: SocketDirectory,
    /// `None` where processes are not jailed.
    pub(super) jails: Option<Jails>,
    /// What processes have as standard error; none where they have this one's. The newest is for those that are started, the ones
    /// before for processes whose directory was removed. Held to take a handle or to put another there.
    errors: Mutex<Vec<ErrorOutput>>,
    /// Held for map operations, never across an `.await`; a poisoned lock is used on.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    is_open: bool,
    /// Machines that are not released.
    machines: BTreeMap<VmId, Arc<RemoteMachine>>,
    processes: BTreeMap<ProcessKey, Entry>,
    /// Spare processes that are being started.
    starting: usize,
    next_key: u64,
}

/// Names a process among those of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessKey(u64);

#[derive(Debug)]
struct Entry {
    line: Arc<ProcessLine>,
    /// Machines that are there or on their way.
    assigned: BTreeSet<VmId>,
    /// Whether more may come.
    takes_more: bool,
    /// Whether no machine was ever assigned to it.
    is_fresh: bool,
    /// The name of its socket.
    name: String,
    process: HostingProcess,
}

/// How a process is taken in.
#[derive(Debug)]
pub(super) struct Admission {
    /// Whether it takes in more machines than it is taken in with.
    pub(super) takes_more: bool,
    /// The name of its socket.
    pub(super) name: String,
    /// What it says of itself.
    pub(super) process: HostingProcess,
}

/// A machine's name, taken.
#[derive(Debug)]
pub(super) struct Reservation {
    pool: Arc<Pool>,
    vm: VmId,
}

/// A machine's place in a process. A process is retired that becomes idle by losing one.
#[derive(Debug)]
pub(super) struct Assignment {
    pool: Arc<Pool>,
    key: ProcessKey,
    vm: VmId,
    line: Arc<ProcessLine>,
}

impl Pool {
    pub(super) fn new(
        options: HostProcessOptions,
        directory: SocketDirectory,
        errors: Option<ErrorOutput>,
    ) -> Arc<Self> {
        let state = State {
            is_open: true,
            machines: BTreeMap::new(),
            processes: BTreeMap::new(),
            starting: 0,
            next_key: 0,
        };
        let machines = u64::try_from(options.machines_per_process.get()).unwrap_or(u64::MAX);
        let jails = options.jail.map(|settings| Jails::new(settings, machines));
        let errors = Mutex::new(errors.into_iter().collect());
        Arc::new(Self { options, directory, jails, errors, state: Mutex::new(state) })
    }

    /// What a process gets as standard error in place of this one's, if anything.
    pub(super) fn share_errors(&self) -> io::Result<Option<OwnedFd>> {
        self.errors().last().map(ErrorOutput::share).transpose()
    }

    /// Whether processes write to something else than this one's standard error.
    pub(super) fn has_errors(&self) -> bool {
        !self.errors().is_empty()
    }

    fn errors(&self) -> MutexGuard<'_, Vec<ErrorOutput>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directory of sockets again where somebody has removed it. No machine comes to a process any more that had its
    /// socket there: nobody will find it. Blocks.
    pub(super) fn renew_directory(&self) -> Result<(), DirectoryError> {
        match self.directory.renew()? {
            Renewed::No => return Ok(()),
            Renewed::Yes => {}
        }
        tracing::warn!(
            directory = %self.options.directory.display(),
            "the directory for the sockets of host processes was removed, and was made again"
        );
        if self.has_errors() {
            let output = self.directory.replace_standard_error()?;
            self.errors().extend(output);
        }
        let mut state = self.lock();
        for entry in state.processes.values_mut() {
            entry.takes_more = false;
            if entry.assigned.is_empty() {
                entry.line.order_process(ProcessOrder::RetireIdle);
            }
        }
        Ok(())
    }

    /// The VMs in processes whose sockets are gone, by name: nobody who comes later will find these.
    pub(super) fn unreachable(&self) -> Vec<VmId> {
        let state = self.lock();
        let with_machines: Vec<_> = state
            .processes
            .values()
            .filter(|entry| !entry.assigned.is_empty())
            .map(|entry| (entry.name.clone(), entry.assigned.clone()))
            .collect();
        drop(state);
        let lost = with_machines.into_iter().filter(|(name, _)| !self.directory.holds(name));
        let vms: BTreeSet<VmId> = lost.flat_map(|(_, vms)| vms).collect();
        vms.into_iter().collect()
    }

    /// Takes the name of `machine`, if it is free.
    pub(super) fn reserve(
        self: &Arc<Self>,
        machine: &Arc<RemoteMachine>,
    ) -> Result<Reservation, LaunchError> {
        let vm = machine.id.clone();
        let mut state = self.lock();
        if !state.is_open {
            return Err(LaunchError::ShuttingDown { vm });
        }
        if let Some(before) = state.machines.get(&vm) {
            let Some(waited) = before.ended_for() else { return Err(LaunchError::AlreadyHosted { vm }) };
            let obstacle = before.obstacle().unwrap_or_else(|| state.silence_of(&vm));
            return Err(LaunchError::Unsettled { vm, obstacle, waited });
        }
        state.machines.insert(vm.clone(), machine.clone());
        Ok(Reservation { pool: self.clone(), vm })
    }

    /// A place for one more machine, for which a process is started where none has room.
    pub(super) async fn assign(
        self: &Arc<Self>,
        vm: &VmId,
        isolation: Isolation,
    ) -> Result<Assignment, LaunchError> {
        let (pool, problem) = (self.clone(), |problem| LaunchError::Host { vm: vm.clone(), problem });
        let renewed = tokio::task::spawn_blocking(move || pool.renew_directory()).await;
        let renewed = renewed.map_err(|lost| problem(error_chain(&lost)))?;
        renewed.map_err(|refused| problem(error_chain(&refused)))?;
        let found = self.find_room(vm, isolation);
        self.replenish();
        if let Some(assignment) = found {
            return Ok(assignment);
        }
        // A task of its own: a process is not abandoned half-way where the launch is given up.
        let started = tokio::spawn(start_assigned(self.clone(), vm.clone(), isolation)).await;
        match started {
            Ok(Ok(assignment)) => Ok(assignment),
            Ok(Err(error)) => Err(problem(error_chain(&error))),
            Err(_) => Err(problem("starting its host process failed".to_owned())),
        }
    }

    /// The fullest process that has room, and no ended machine of the same VM; for a machine that is isolated strictly, one
    /// that never had any and gets no other.
    fn find_room(self: &Arc<Self>, vm: &VmId, isolation: Isolation) -> Option<Assignment> {
        let limit = self.options.machines_per_process.get();
        let mut state = self.lock();
        let with_room = state.processes.iter_mut().filter(|(_, entry)| {
            let has_room = entry.assigned.len() < limit && !entry.assigned.contains(vm);
            entry.takes_more && has_room && (isolation == Isolation::Shared || entry.is_fresh)
        });
        let (key, entry) = with_room.max_by_key(|(_, entry)| entry.assigned.len())?;
        entry.assigned.insert(vm.clone());
        entry.is_fresh = false;
        entry.takes_more = takes_more(isolation);
        Some(Assignment { pool: self.clone(), key: *key, vm: vm.clone(), line: entry.line.clone() })
    }

    /// Starts spare processes until there are as many as there are to be.
    pub(super) fn replenish(self: &Arc<Self>) {
        let missing = {
            let mut state = self.lock();
            let is_idle = |entry: &&Entry| entry.takes_more && entry.assigned.is_empty();
            let ahead = state.processes.values().filter(is_idle).count() + state.starting;
            let missing = if state.is_open { self.options.spare.saturating_sub(ahead) } else { 0 };
            state.starting += missing;
            missing
        };
        for _ in 0..missing {
            let pool = self.clone();
            tokio::spawn(async move {
                sleep(REPLENISH_DELAY).await;
                let started = start(&pool, BTreeSet::new(), true).await;
                pool.lock().starting -= 1;
                if let Err(error) = started {
                    tracing::warn!(error = error_chain(&error), "no spare host process can be started");
                }
            });
        }
    }

    /// Takes in a process with the machines `assigned`. `None` where the host was closed meanwhile.
    pub(super) fn add(
        &self,
        line: &Arc<ProcessLine>,
        assigned: BTreeSet<VmId>,
        Admission { takes_more, name, process }: Admission,
    ) -> Option<ProcessKey> {
        let mut state = self.lock();
        if !state.is_open {
            return None;
        }
        let key = ProcessKey(state.next_key);
        state.next_key += 1;
        let is_fresh = assigned.is_empty();
        let line = line.clone();
        let entry = Entry { line, assigned, takes_more, is_fresh, name, process };
        state.processes.insert(key, entry);
        Some(key)
    }

    /// The assignment of a machine that `add` counted.
    pub(super) fn assignment_of(
        self: &Arc<Self>,
        key: ProcessKey,
        vm: VmId,
        line: Arc<ProcessLine>,
    ) -> Assignment {
        Assignment { pool: self.clone(), key, vm, line }
    }

    /// Whether the process has no machine, and none on its way; from now on none comes.
    pub(super) fn retire(&self, key: ProcessKey) -> bool {
        match self.lock().processes.get_mut(&key) {
            Some(entry) if !entry.assigned.is_empty() => false,
            Some(entry) => {
                entry.takes_more = false;
                true
            }
            None => true,
        }
    }

    /// The process is gone.
    pub(super) fn remove(&self, key: ProcessKey) {
        self.lock().processes.remove(&key);
    }

    /// The line to the process that the machine of `vm` has for itself. `None` where others are in it, or may come.
    pub(super) fn line_of(&self, vm: &VmId) -> Option<Arc<ProcessLine>> {
        let state = self.lock();
        let entry = state.processes.values().find(|entry| entry.assigned.contains(vm))?;
        let may_be_joined = entry.takes_more && self.options.machines_per_process.get() > 1;
        (entry.assigned.len() == 1 && !may_be_joined).then(|| entry.line.clone())
    }

    /// What the process said of itself that runs the machine of `vm`.
    pub(super) fn process_of(&self, vm: &VmId) -> Option<HostingProcess> {
        let state = self.lock();
        let entry = state.processes.values().find(|entry| entry.assigned.contains(vm))?;
        Some(entry.process.clone())
    }

    pub(super) fn counts(&self) -> HostCounts {
        let wanted = self.options.filter();
        let state = self.lock();
        let machines = |which: &dyn Fn(&Entry) -> bool| {
            state.processes.values().filter(|entry| which(entry)).map(|entry| entry.assigned.len()).sum()
        };
        let ended = || state.machines.values().filter_map(|machine| machine.ended_for());
        HostCounts {
            hosted: state.machines.len(),
            unjailed: machines(&|entry| self.jails.is_some() && entry.process.jail.is_none()),
            unfiltered: machines(&|entry| entry.process.filter < wanted),
            ended: ended().count(),
            unsettled: ended().filter(|&ended| ended > SETTLING).count(),
        }
    }

    /// Takes nothing in any more, and has every process told `order`. Answers who is there.
    pub(super) fn close(&self, order: ProcessOrder) -> (Vec<Arc<RemoteMachine>>, Vec<Arc<ProcessLine>>) {
        let mut state = self.lock();
        state.is_open = false;
        let lines: Vec<_> = state.processes.values().map(|entry| entry.line.clone()).collect();
        let machines = state.machines.values().cloned().collect();
        drop(state);
        for line in &lines {
            line.order_process(order);
        }
        (machines, lines)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Why the ended machine of `vm` is not released, where its process has not told.
    fn silence_of(&self, vm: &VmId) -> String {
        match self.processes.values().find(|entry| entry.assigned.contains(vm)) {
            Some(entry) => {
                format!("its host process {} has not given back what it held", entry.process.pid)
            }
            None => "its host process has not ended".to_owned(),
        }
    }
}

/// Whether others may join a machine with this isolation.
fn takes_more(isolation: Isolation) -> bool {
    match isolation {
        Isolation::Shared => true,
        Isolation::Strict => false,
    }
}

async fn start_assigned(pool: Arc<Pool>, vm: VmId, isolation: Isolation) -> Result<Assignment, StartError> {
    let (key, line) = start(&pool, BTreeSet::from([vm.clone()]), takes_more(isolation)).await?;
    Ok(pool.assignment_of(key, vm, line))
}

impl Assignment {
    pub(super) fn line(&self) -> &Arc<ProcessLine> {
        &self.line
    }
}

impl Drop for Assignment {
    fn drop(&mut self) {
        if let Some(entry) = self.pool.lock().processes.get_mut(&self.key) {
            entry.assigned.remove(&self.vm);
        }
        self.line.order_process(ProcessOrder::RetireIdle);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.pool.lock().machines.remove(&self.vm);
    }
}
