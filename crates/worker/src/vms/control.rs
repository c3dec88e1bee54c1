//! What the manager's calls do: tell a supervisor where its VM should be, then wait until it is there ([`super::waiting`]).

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use binary_cache::CollectionMode;
use host_network::TeardownOutcome;
use machine_host::Stranger;
use nix_artifacts::hash_store_path as hash_of;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info};
use vm_model::{
    Assignment, CollectedPath, CollectionRule, DesiredState, NarHash, NetworkName, StopMethod, VmId,
    VmStatus, VolumeInfo,
};

use super::registry::Registry;
use super::waiting::{AFTER_STOP, Count, LatestOrder, PARK, is_off, unless_held, wait};
use super::{VmInfo, VmManagerConfig, VmManagerError};
use crate::failure::chain;
use crate::housekeeping::Cleared;
use crate::supervisor::{Freshness, HostContext};

/// What all calls work on.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: VmManagerConfig,
    pub(crate) registry: Arc<Registry>,
    pub(crate) context: Arc<HostContext>,
    /// Whether the manager is being shut down or left: VMs are looked after no more, and are not gone.
    pub(crate) is_ending: AtomicBool,
    /// Takes over what answers late. Taken out when nothing more is to be taken over; held for that alone.
    pub(crate) late_takeover: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// Takes over no machine any more.
    async fn end_takeover(&self) {
        let task = self.late_takeover.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            // It was told to end, which is an error of its own.
            let _ = task.await;
        }
    }
}

pub(crate) async fn create(shared: Arc<Shared>, assignment: Assignment) -> Result<(), VmManagerError> {
    let id = assignment.id.clone();
    if let Some(present) = shared.registry.define_if_absent(assignment.clone())? {
        if present.hash != assignment.hash || present.store_path != assignment.store_path {
            return Err(VmManagerError::Exists {
                id,
                present: describe(&present),
                offered: describe(&assignment),
            });
        }
        return start(shared, id).await;
    }
    LatestOrder::of(&shared.registry, &id)?.started(Count::default()).await
}

pub(crate) async fn start(shared: Arc<Shared>, id: VmId) -> Result<(), VmManagerError> {
    let (before, freshness) = {
        let news = shared.registry.watch(&id)?;
        let info = news.borrow();
        let freshness = match info.status {
            VmStatus::Stopped | VmStatus::Restarting | VmStatus::Failed(_) | VmStatus::Stopping => {
                Freshness::StartAfresh
            }
            VmStatus::Creating | VmStatus::Booting | VmStatus::Running | VmStatus::Paused => Freshness::Same,
        };
        (Count::of(&info), freshness)
    };
    shared.registry.desire(&id, DesiredState::Running, freshness)?;
    LatestOrder::of(&shared.registry, &id)?.started(before).await
}

pub(crate) async fn stop(shared: Arc<Shared>, id: VmId) -> Result<StopMethod, VmManagerError> {
    let before = shared.registry.watch(&id)?.borrow().clone();
    shared.registry.desire(&id, DesiredState::Stopped, Freshness::Same)?;
    LatestOrder::of(&shared.registry, &id)?.stopped(&shared, &before).await
}

pub(crate) async fn pause(shared: Arc<Shared>, id: VmId) -> Result<(), VmManagerError> {
    park(shared, id, DesiredState::Paused, VmStatus::Paused).await
}

pub(crate) async fn resume(shared: Arc<Shared>, id: VmId) -> Result<(), VmManagerError> {
    park(shared, id, DesiredState::Running, VmStatus::Running).await
}

async fn park(
    shared: Arc<Shared>,
    id: VmId,
    desired: DesiredState,
    wanted: VmStatus,
) -> Result<(), VmManagerError> {
    let before = shared.registry.watch(&id)?.borrow().clone();
    if is_off(&before) {
        return Err(VmManagerError::NotUp { id, phase: before.status.phase_name() });
    }
    shared.registry.desire(&id, desired, Freshness::Same)?;
    LatestOrder::of(&shared.registry, &id)?.parked(desired, wanted).await
}

pub(crate) async fn remove(shared: Arc<Shared>, id: VmId) -> Result<(), VmManagerError> {
    let mut news = shared.registry.watch(&id)?;
    shared.registry.remove(&id)?;
    // A VM's news end when it is gone.
    let gone = wait(&id, &mut news, "gone", shared.config.stop_timeout + AFTER_STOP, |_| false);
    match unless_held(&shared, &id, gone).await {
        Err(VmManagerError::NoSuchVm { .. }) => Ok(()),
        Err(problem) => Err(problem),
        Ok(_) => Ok(()),
    }
}

/// What of the kept things is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptSelection {
    /// All of them.
    All,
    /// Those of one VM, removed or not.
    Vm(VmId),
    /// Those of one disk of a VM; its content in use, too, where that cannot be used and the VM has no machine.
    Volume(VmId, String),
}

pub(crate) async fn hash_store_path(
    shared: Arc<Shared>,
    store_path: PathBuf,
) -> Result<NarHash, VmManagerError> {
    let (context, path) = (Arc::clone(&shared.context), store_path.display().to_string());
    let hashed = context.own_threads.run(&path, "hash", move || {
        let roots = &shared.context.roots;
        hash_of(roots, &store_path, &mut |_| ControlFlow::Continue(())).map(|verified| verified.hash)
    });
    hashed
        .await
        .map_err(|problem| VmManagerError::StorePath(problem.message))?
        .map_err(|problem| VmManagerError::StorePath(chain(&problem)))
}

pub(crate) async fn list_volumes(shared: Arc<Shared>) -> Result<Vec<VolumeInfo>, VmManagerError> {
    let listed = spawn_blocking(move || shared.context.list_volumes());
    listed.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Volumes)
}

pub(crate) async fn delete_kept(
    shared: Arc<Shared>,
    which: KeptSelection,
) -> Result<Cleared, VmManagerError> {
    spare_last_disk(&shared, &which).await?;
    let deleted = spawn_blocking(move || {
        if let KeptSelection::Volume(vm, disk) = &which
            && shared.registry.watch(vm).is_ok_and(|news| has_no_machine(&news.borrow()))
            && let Some(done) = shared.context.set_aside(vm, disk)?
        {
            // What was just set aside, and what is kept beside it, stays for its time.
            return Ok(Cleared::set_aside(done));
        }
        shared.context.delete_selected(&which)
    });
    deleted.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Volumes)
}

/// Refuses to delete the last disk of a removed VM by the disk's name: whoever names one disk does not mean that the VM is not to come
/// back.
async fn spare_last_disk(shared: &Arc<Shared>, which: &KeptSelection) -> Result<(), VmManagerError> {
    let KeptSelection::Volume(vm, disk) = which.clone() else { return Ok(()) };
    let (host, id, name) = (Arc::clone(&shared.context), vm.clone(), disk.clone());
    let looking = spawn_blocking(move || host.is_last_of_removed(&id, &name));
    let is_last = looking.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Volumes)?;
    if is_last { Err(VmManagerError::LastDisk { id: vm, disk }) } else { Ok(()) }
}

pub(crate) async fn show_kept(shared: Arc<Shared>, which: KeptSelection) -> Result<Cleared, VmManagerError> {
    spare_last_disk(&shared, &which).await?;
    let shown = spawn_blocking(move || shared.context.show_selected(&which));
    shown.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Volumes)
}

pub(crate) async fn collect(
    shared: Arc<Shared>,
    rule: CollectionRule,
    mode: CollectionMode,
) -> Result<Vec<CollectedPath>, VmManagerError> {
    let collected = spawn_blocking(move || shared.context.collect(&rule, mode));
    collected.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Collection)
}

fn has_no_machine(info: &VmInfo) -> bool {
    matches!(info.status, VmStatus::Stopped | VmStatus::Failed(_) | VmStatus::Restarting)
}

pub(crate) async fn shut_down(shared: Arc<Shared>) -> Result<(), VmManagerError> {
    shared.is_ending.store(true, Ordering::Relaxed);
    shared.end_takeover().await;
    shared.registry.suspend_all();
    let begun = Instant::now();
    let limit = shared.config.stop_timeout + AFTER_STOP;
    let (mut first_problem, mut is_all_ours) = (None, true);
    for mut news in shared.registry.watch_all() {
        let id = news.borrow().id.clone();
        // All of them stop at the same time.
        let left = limit.saturating_sub(begun.elapsed());
        match unless_held(&shared, &id, wait(&id, &mut news, "stopped", left, is_off)).await {
            Ok(_) | Err(VmManagerError::NoSuchVm { .. }) => {}
            Err(problem @ VmManagerError::RunsElsewhere { .. }) => {
                error!(vm_id = %id, error = chain(&problem), "the VM was not stopped");
                is_all_ours = false;
                first_problem = first_problem.or(Some(problem));
            }
            Err(problem) => first_problem = first_problem.or(Some(problem)),
        }
    }
    let supervisors = shared.registry.abandon_all();
    let machines = shared.context.machines.shut_down(AFTER_STOP).await;
    for supervisor in supervisors {
        // Now that no machine is left, only one that still deletes a large disk takes its time; that ends with the
        // process. One that panicked has said so.
        let _ = timeout(PARK.saturating_sub(begun.elapsed()), supervisor).await;
    }
    let network = if is_all_ours {
        shared.context.networks.take_down().await
    } else {
        // Its guest goes on, and so does its network.
        shared.context.networks.leave().await.map(|()| BTreeMap::new())
    };
    if let Some(problem) = first_problem {
        return Err(problem);
    }
    if !machines.remaining.is_empty() {
        return Err(VmManagerError::MachinesRemain { vms: machines.remaining });
    }
    match network {
        Ok(outcome) => {
            info!(networks = told(&outcome), "the VMs' network was taken down");
            Ok(())
        }
        Err(problem) => Err(VmManagerError::NetworkRemains(Box::new(problem))),
    }
}

/// Lets go of VMs that go on without this process. Nothing is stopped, and the host stays as it is.
pub(crate) async fn leave(shared: Arc<Shared>) -> Result<(), VmManagerError> {
    shared.is_ending.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    shared.end_takeover().await;
    let carries_vms = carries_vms(&shared);
    // Each ends after the step that it is in.
    for supervisor in shared.registry.abandon_all() {
        let _ = timeout(PARK.saturating_sub(begun.elapsed()), supervisor).await;
    }
    shared.context.machines.leave();
    let networks = &shared.context.networks;
    let left = if carries_vms {
        networks.leave().await.map(|()| BTreeMap::new())
    } else {
        networks.take_down().await
    };
    match left {
        Ok(outcome) if outcome.is_empty() => Ok(()),
        Ok(outcome) => {
            info!(networks = told(&outcome), "there is no VM: the VMs' network was taken down");
            Ok(())
        }
        Err(problem) => Err(VmManagerError::NetworkRemains(Box::new(problem))),
    }
}

/// What became of each network, for the log.
fn told(outcomes: &BTreeMap<NetworkName, TeardownOutcome>) -> String {
    let one = |(name, outcome): (&NetworkName, &TeardownOutcome)| match outcome {
        TeardownOutcome::Kept => format!("{name} kept"),
        TeardownOutcome::Removed => format!("{name} removed"),
        TeardownOutcome::Adopted => format!("{name} given back"),
        TeardownOutcome::InUse { ports } => format!("{name} in use by {}", ports.join(" ")),
    };
    outcomes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Whether there is, or may be, a VM that needs the network of this host after this process.
fn carries_vms(shared: &Shared) -> bool {
    !shared.registry.list().is_empty()
        || !shared.registry.damaged().is_empty()
        || shared.context.strangers.borrow().iter().any(Stranger::may_run)
        || shared.context.networks.has_unknown_nics()
}

fn describe(assignment: &Assignment) -> String {
    format!("{} ({})", assignment.store_path.display(), assignment.hash)
}
