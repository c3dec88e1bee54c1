//! Which VMs there are: their supervisors by name, and what was sampled of each.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use machine_host::MachineHandle;
use metrics::{Moment, Reading, Sampler, VmMetrics};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use vm_model::{Assignment, DesiredState, Generation, OperatorOrder, VmId};

use super::observed::{observed, promised_to};
use super::roster::{Ending, Roster};
use super::{VmInfo, VmManagerError};
use crate::capacity::Demand;
use crate::node::Observed;
use crate::records::VmRecord;
use crate::supervisor::{
    Birth, Freshness, Goal, HostContext, MachineSlot, OrderNumber, Origin, Patience, RunningMachine,
    Supervisor, Target,
};

/// How long a round of sampling waits for counters of machines in other processes.
const REFRESH: Duration = Duration::from_secs(1);

/// What is known of a VM, what it is told, and the order that its supervisor follows.
pub(crate) type WatchedOrders =
    (watch::Receiver<VmInfo>, watch::Receiver<Target>, watch::Receiver<OrderNumber>);

/// One VM: who looks after it and what it used.
#[derive(Debug)]
struct Entry {
    supervisor: Supervisor,
    sampler: Sampler,
    /// The latest machine whose last counters were sampled.
    sampled_to_its_end: Option<u64>,
}

/// The VMs of a host.
#[derive(Debug)]
pub(crate) struct Registry {
    runtime: Handle,
    context: Arc<HostContext>,
    /// VMs whose record on disk cannot be used, and why. Their directories are left alone.
    damaged: BTreeMap<VmId, String>,
    /// Protects the list. Held for moments, never while anything is waited for.
    entries: Mutex<Roster<Entry>>,
    /// What was known of them last, where they are looked after no longer.
    left: OnceLock<Vec<VmInfo>>,
}

impl Ending for Entry {
    fn has_ended(&self) -> bool {
        self.supervisor.is_finished()
    }
}

impl Registry {
    pub(crate) fn new(runtime: Handle, context: Arc<HostContext>, damaged: BTreeMap<VmId, String>) -> Self {
        Self { runtime, context, damaged, entries: Mutex::default(), left: OnceLock::new() }
    }

    /// The VMs, without those that are gone.
    fn entries(&self) -> MutexGuard<'_, Roster<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to look after a VM, or makes one of the same name what `assignment` says. One on its way out goes first.
    ///
    /// # Errors
    /// There are remains of a VM of that name that cannot be read and are not ours to delete.
    pub(crate) fn define(
        &self,
        assignment: Assignment,
        generation: Generation,
    ) -> Result<(), VmManagerError> {
        let mut entries = self.entries_for(&assignment.id)?;
        match entries.get(&assignment.id) {
            Some(Entry { supervisor, .. }) if !matches!(supervisor.target().goal, Goal::Gone) => {
                supervisor.redefine(assignment, generation);
            }
            Some(_) | None => self.put(&mut entries, assignment, generation),
        }
        Ok(())
    }

    /// Starts to look after a VM, unless there is one of that name that is to stay: that one's assignment is
    /// answered.
    ///
    /// # Errors
    /// As those of [`Registry::define`].
    pub(crate) fn define_if_absent(
        &self,
        assignment: Assignment,
    ) -> Result<Option<Arc<Assignment>>, VmManagerError> {
        let mut entries = self.entries_for(&assignment.id)?;
        let present = entries.get(&assignment.id).map(|entry| entry.supervisor.target());
        if let Some(target) = present
            && !matches!(target.goal, Goal::Gone)
        {
            return Ok(Some(target.assignment));
        }
        self.put(&mut entries, assignment, Generation::default());
        Ok(None)
    }

    /// The VMs, where one of the name `id` may be put among them.
    fn entries_for(&self, id: &VmId) -> Result<MutexGuard<'_, Roster<Entry>>, VmManagerError> {
        match self.damaged.get(id) {
            Some(problem) => Err(VmManagerError::Damaged { id: id.clone(), problem: problem.clone() }),
            None => Ok(self.entries()),
        }
    }

    fn put(&self, entries: &mut Roster<Entry>, assignment: Assignment, generation: Generation) {
        let origin = match entries.take(&assignment.id) {
            None => Origin::New,
            Some(Entry { supervisor, .. }) => Origin::After(Box::new(supervisor)),
        };
        self.insert(entries, Birth { assignment, generation, origin }, Sampler::new());
    }

    /// Takes up a VM that was on record. It stays off until something is desired of it.
    pub(crate) fn restore(&self, record: VmRecord) {
        let sampler = sampler_after(&record);
        self.take_up(record.assignment.clone(), Origin::Record(Box::new(record)), sampler);
    }

    /// Takes up a VM that was on record and whose machine runs already. It goes on as it was last wanted.
    pub(crate) fn resume(&self, record: VmRecord, machine: RunningMachine) {
        let sampler = sampler_after(&record);
        let assignment = record.assignment.clone();
        self.take_up(assignment, Origin::Running(Box::new(record), Box::new(machine)), sampler);
    }

    /// Hands over a machine that was found late to the VM that waits for it.
    ///
    /// # Errors
    /// There is none. The machine is given back.
    pub(crate) fn hand_over(&self, machine: RunningMachine) -> Result<(), Box<RunningMachine>> {
        match self.entries().get(&machine.notes.assignment.id) {
            Some(entry) => entry.supervisor.hand_over(machine),
            None => Err(Box::new(machine)),
        }
    }

    /// What keeps `id` from being stopped or removed, while another process holds it.
    pub(crate) fn held(&self, id: &VmId) -> Result<watch::Receiver<Option<String>>, VmManagerError> {
        self.with(id, |entry| entry.supervisor.held())
    }

    fn take_up(&self, assignment: Assignment, origin: Origin, sampler: Sampler) {
        let birth = Birth { assignment, generation: Generation::default(), origin };
        self.insert(&mut self.entries(), birth, sampler);
    }

    /// These VMs are part of the desired state `generation`.
    pub(crate) fn number<'a>(&self, vms: impl Iterator<Item = &'a VmId>, generation: Generation) {
        let entries = self.entries();
        for entry in vms.filter_map(|id| entries.get(id)) {
            entry.supervisor.number(generation);
        }
    }

    /// These are all orders of operators that are in force.
    pub(crate) fn tell_orders(&self, orders: &BTreeMap<VmId, OperatorOrder>) {
        for (id, entry) in self.entries().living().iter() {
            entry.supervisor.tell_order(orders.get(id));
        }
    }

    fn insert(&self, entries: &mut Roster<Entry>, birth: Birth, sampler: Sampler) {
        let id = birth.assignment.id.clone();
        let supervisor = Supervisor::spawn(&self.runtime, Arc::clone(&self.context), birth);
        entries.insert(id, Entry { supervisor, sampler, sampled_to_its_end: None });
    }

    /// What each VM is, with the state it is meant to be in now. VMs on their way out are left out.
    pub(crate) fn observe(&self) -> Observed {
        let mut entries = self.entries();
        let present = entries
            .living()
            .iter()
            .filter_map(|(id, entry)| Some((id.clone(), observed(&entry.supervisor)?)));
        present.collect()
    }

    /// VMs whose record on disk cannot be used, and why.
    pub(crate) fn damaged(&self) -> &BTreeMap<VmId, String> {
        &self.damaged
    }

    /// All VMs as they are now.
    pub(crate) fn list(&self) -> Vec<VmInfo> {
        self.list_with_metrics().into_iter().map(|(info, _)| info).collect()
    }

    /// All VMs as they are now, each with what it used where that is known; see [`Registry::metrics`].
    pub(crate) fn list_with_metrics(&self) -> Vec<(VmInfo, Option<VmMetrics>)> {
        let mut entries = self.entries();
        let vms = entries.living().values_mut();
        let vms = vms.map(|entry| (entry.supervisor.info().borrow().clone(), entry.metrics())).collect();
        drop(entries);
        self.left.get().map_or(vms, |left| left.iter().map(|info| (info.clone(), None)).collect())
    }

    /// Every VM's news.
    pub(crate) fn watch_all(&self) -> Vec<watch::Receiver<VmInfo>> {
        self.entries().living().values().map(|entry| entry.supervisor.info()).collect()
    }

    /// What is known of `id`, and its news.
    pub(crate) fn watch(&self, id: &VmId) -> Result<watch::Receiver<VmInfo>, VmManagerError> {
        self.with(id, |entry| entry.supervisor.info())
    }

    /// What is known of `id`, what it is told, and how far its supervisor is with that.
    pub(crate) fn watch_orders(&self, id: &VmId) -> Result<WatchedOrders, VmManagerError> {
        self.with(id, |entry| {
            (entry.supervisor.info(), entry.supervisor.targets(), entry.supervisor.followed())
        })
    }

    /// What of the host is promised to the machine of `id`; `None` where that is not known.
    pub(crate) fn promised(&self, id: &VmId) -> Result<Option<Demand>, VmManagerError> {
        self.with(id, |entry| promised_to(&entry.supervisor))
    }

    /// The newest machine of `id`.
    pub(crate) fn machine(&self, id: &VmId) -> Result<MachineSlot, VmManagerError> {
        self.with(id, |entry| entry.supervisor.machine())
    }

    /// Where `id` should be from now on.
    pub(crate) fn desire(
        &self,
        id: &VmId,
        desired: DesiredState,
        freshness: Freshness,
    ) -> Result<(), VmManagerError> {
        self.with(id, |entry| entry.supervisor.desire(desired, freshness))
    }

    /// `id` should be where it should be, whatever kept it from there so far.
    pub(crate) fn start_afresh(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.with(id, |entry| match entry.supervisor.target().goal {
            Goal::Be(desired) => entry.supervisor.desire(desired, Freshness::StartAfresh),
            Goal::Suspended | Goal::Gone => {}
        })
    }

    /// The machine of `id` should be replaced by a new one of the same definition; whether the VM should have one.
    pub(crate) fn restart(&self, id: &VmId, patience: Patience) -> Result<bool, VmManagerError> {
        self.with(id, |entry| entry.supervisor.restart(patience))
    }

    /// `id` should be off, and its machine killed.
    pub(crate) fn stop_now(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.with(id, |entry| entry.supervisor.stop_now())
    }

    /// These VMs should be where their records say, as far as nothing was desired of them since the worker started.
    pub(crate) fn bring_back<'a>(&self, vms: impl Iterator<Item = &'a VmId>) {
        let entries = self.entries();
        for entry in vms.filter_map(|id| entries.get(id)) {
            let target = entry.supervisor.target();
            if target.goal == Goal::Suspended {
                entry.supervisor.desire(target.assignment.desired, Freshness::Same);
            }
        }
    }

    /// `id` should be in this state, as far as nothing was desired of it since the worker started. No plan says so of a VM that
    /// is off and should be: a machine of it that is taken over late must not take it for one that should run.
    pub(crate) fn settle(&self, id: &VmId, desired: DesiredState) {
        if let Some(entry) = self.entries().get(id)
            && entry.supervisor.target().goal == Goal::Suspended
        {
            entry.supervisor.desire(desired, Freshness::Same);
        }
    }

    /// Whether `id` is there and should be gone.
    pub(crate) fn is_being_removed(&self, id: &VmId) -> bool {
        self.entries().get(id).is_some_and(|entry| entry.supervisor.target().goal == Goal::Gone)
    }

    /// `id` should be gone.
    pub(crate) fn remove(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.with(id, |entry| entry.supervisor.remove())
    }

    /// All machines should stop, their VMs stay on record.
    pub(crate) fn suspend_all(&self) {
        self.entries().living().values().for_each(|entry| entry.supervisor.suspend());
    }

    /// Looks after nothing any more. What still runs is killed. Answers what ends when nobody does. Lists have from here on what
    /// was known last.
    pub(crate) fn abandon_all(&self) -> Vec<JoinHandle<()>> {
        // There is nobody left to abandon the second time.
        let _ = self.left.set(self.list());
        let entries = std::mem::take(self.entries().living());
        entries.into_values().map(|entry| entry.supervisor.abandon()).collect()
    }

    /// Reads every machine's counters.
    pub(crate) fn sample_all(&self) {
        let begun = Instant::now();
        self.refresh_counters();
        for entry in self.entries().living().values_mut() {
            sample(entry);
        }
        self.context.meters.sampling.record(begun.elapsed());
    }

    /// Asks machines in other processes for their counters, all at once, so that one that does not answer delays nobody.
    fn refresh_counters(&self) {
        let machines: Vec<_> =
            self.entries().living().values().filter_map(|entry| entry.supervisor.machine().get()).collect();
        let (done, finished) = sync_channel::<()>(0);
        self.runtime.spawn(async move {
            let mut refreshing = JoinSet::new();
            for (_, machine) in machines {
                refreshing.spawn(async move { machine.refresh_counters().await });
            }
            refreshing.join_all().await;
            drop(done);
        });
        // It ends by being dropped, by the runtime's end too.
        let _ = finished.recv_timeout(REFRESH);
    }

    /// What `id` used, as sampled last; sampled now if it never was, or if its machine has ended since.
    pub(crate) fn metrics(&self, id: &VmId) -> Result<VmMetrics, VmManagerError> {
        self.with(id, Entry::metrics)?.ok_or_else(|| VmManagerError::NeverRan { id: id.clone() })
    }

    /// The short history of `id`, oldest first.
    pub(crate) fn history(&self, id: &VmId) -> Result<Vec<metrics::HistoryPoint>, VmManagerError> {
        self.with(id, |entry| entry.sampler.history().points().cloned().collect())
    }

    fn with<T>(&self, id: &VmId, action: impl FnOnce(&mut Entry) -> T) -> Result<T, VmManagerError> {
        match self.entries().get_mut(id) {
            Some(entry) => Ok(action(entry)),
            None => Err(VmManagerError::NoSuchVm { id: id.clone() }),
        }
    }
}

impl Entry {
    /// What it used, as sampled last; sampled now if it never was, or if its machine has ended since. `None` where it never ran.
    fn metrics(&mut self) -> Option<VmMetrics> {
        if self.sampler.latest(Moment::now()).is_none() || self.has_unsampled_end() {
            sample(self);
        }
        self.sampler.latest(Moment::now())
    }

    /// Whether its machine has ended since its counters were sampled.
    fn has_unsampled_end(&self) -> bool {
        let newest = self.supervisor.machine().get();
        newest.is_some_and(|(run, machine)| self.sampled_to_its_end != Some(run) && has_ended(&machine))
    }
}

/// What samples a VM whose totals go on from those on record.
fn sampler_after(record: &VmRecord) -> Sampler {
    match record.past_use.as_deref() {
        Some(past) => Sampler::going_on_from(past, Moment::now()),
        None => Sampler::new(),
    }
}

fn sample(entry: &mut Entry) {
    for (run, counters) in entry.supervisor.machine().take_ended() {
        entry.sampler.finish(run, &counters);
    }
    if let Some((run, machine)) = entry.supervisor.machine().get() {
        // Asked first: the counters of a machine that has ended are its last ones.
        if has_ended(&machine) {
            entry.sampled_to_its_end = Some(run);
        }
        entry.sampler.record(&Reading { at: Moment::now(), run, counters: machine.counters() });
    }
}

fn has_ended(machine: &MachineHandle) -> bool {
    machine.status().borrow().phase.exit().is_some()
}
