//! What the manager's calls do: tell a supervisor where its VM should be, then wait until it is there.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix_artifacts::hash_store_path as hash_of;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info};
use vm_model::{Assignment, DesiredState, NarHash, StopMethod, VmId, VmStatus, VolumeInfo};

use super::registry::Registry;
use super::{VmInfo, VmManagerConfig, VmManagerError};
use crate::failure::chain;
use crate::supervisor::{Freshness, HostContext};

/// Longest wait for a VM to start: hashing and copying a large artifact takes its time.
const START: Duration = Duration::from_secs(600);
/// Longest wait for vCPUs to be parked or to go on.
const PARK: Duration = Duration::from_secs(30);
/// What stopping may take beyond the guest's own time: killing it, giving its resources back, deleting disks.
const AFTER_STOP: Duration = Duration::from_secs(60);

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
    let news = shared.registry.watch(&id)?;
    run_or_reason(&id, news, Count::default()).await
}

pub(crate) async fn start(shared: Arc<Shared>, id: VmId) -> Result<(), VmManagerError> {
    let news = shared.registry.watch(&id)?;
    let (before, freshness) = {
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
    run_or_reason(&id, news, before).await
}

pub(crate) async fn stop(shared: Arc<Shared>, id: VmId) -> Result<StopMethod, VmManagerError> {
    let news = shared.registry.watch(&id)?;
    if matches!(news.borrow().status, VmStatus::Stopped | VmStatus::Failed(_)) {
        shared.registry.desire(&id, DesiredState::Stopped, Freshness::Same)?;
        return Ok(StopMethod::AlreadyStopped);
    }
    shared.registry.desire(&id, DesiredState::Stopped, Freshness::Same)?;
    stopped(&shared, &id, news).await
}

/// Waits until VM `id`, which was told to stop, is off. Tells what ended it.
pub(super) async fn stopped(
    shared: &Shared,
    id: &VmId,
    mut news: watch::Receiver<VmInfo>,
) -> Result<StopMethod, VmManagerError> {
    let is_off = |info: &VmInfo| matches!(info.status, VmStatus::Stopped | VmStatus::Failed(_));
    let off = wait(id, &mut news, "stopped", shared.config.stop_timeout + AFTER_STOP, is_off);
    let info = unless_held(shared, id, off).await?;
    Ok(info.last_stop.unwrap_or(StopMethod::AlreadyStopped))
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
    let mut news = shared.registry.watch(&id)?;
    let phase = news.borrow().status.phase_name();
    if matches!(news.borrow().status, VmStatus::Stopped | VmStatus::Failed(_)) {
        return Err(VmManagerError::NotUp { id, phase });
    }
    shared.registry.desire(&id, desired, Freshness::Same)?;
    wait(&id, &mut news, wanted.phase_name(), PARK, |info| info.status == wanted).await.map(drop)
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
    let hashed = spawn_blocking(move || {
        let roots = &shared.context.roots;
        hash_of(roots, &store_path, &mut |_| ControlFlow::Continue(())).map(|verified| verified.hash)
    });
    hashed
        .await
        .map_err(VmManagerError::TaskLost)?
        .map_err(|problem| VmManagerError::StorePath(chain(&problem)))
}

pub(crate) async fn list_volumes(shared: Arc<Shared>) -> Result<Vec<VolumeInfo>, VmManagerError> {
    let listed = spawn_blocking(move || shared.context.list_volumes());
    listed.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Volumes)
}

pub(crate) async fn delete_kept(
    shared: Arc<Shared>,
    which: KeptSelection,
) -> Result<Vec<String>, VmManagerError> {
    let deleted = spawn_blocking(move || {
        if let KeptSelection::Volume(vm, disk) = &which
            && shared.registry.watch(vm).is_ok_and(|news| is_off(&news.borrow()))
            && let Some(done) = shared.context.set_aside(vm, disk)?
        {
            // What was just set aside, and what is kept beside it, stays for its time.
            return Ok(vec![done]);
        }
        shared.context.delete_selected(&which)
    });
    deleted.await.map_err(VmManagerError::TaskLost)?.map_err(VmManagerError::Volumes)
}

fn is_off(info: &VmInfo) -> bool {
    matches!(info.status, VmStatus::Stopped | VmStatus::Failed(_) | VmStatus::Restarting)
}

pub(crate) async fn shut_down(shared: Arc<Shared>) -> Result<(), VmManagerError> {
    shared.is_ending.store(true, Ordering::Relaxed);
    shared.end_takeover().await;
    shared.registry.suspend_all();
    let begun = Instant::now();
    let limit = shared.config.stop_timeout + AFTER_STOP;
    let is_off = |info: &VmInfo| matches!(info.status, VmStatus::Stopped | VmStatus::Failed(_));
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
        shared.context.network.take_down().await
    } else {
        // Its guest goes on, and so does its network.
        shared.context.network.leave().await.map(|()| None)
    };
    if let Some(problem) = first_problem {
        return Err(problem);
    }
    if !machines.remaining.is_empty() {
        return Err(VmManagerError::MachinesRemain { vms: machines.remaining });
    }
    match network {
        Ok(outcome) => {
            info!(?outcome, "the VMs' network was taken down");
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
    // Each ends after the step that it is in.
    for supervisor in shared.registry.abandon_all() {
        let _ = timeout(PARK.saturating_sub(begun.elapsed()), supervisor).await;
    }
    shared.context.machines.leave();
    match shared.context.network.leave().await {
        Ok(()) => Ok(()),
        Err(problem) => Err(VmManagerError::NetworkRemains(Box::new(problem))),
    }
}

/// How often a VM has started and failed: what is waited for is that it does either once more.
#[derive(Clone, Copy, Default)]
pub(super) struct Count {
    starts: u64,
    failures: u64,
}

impl Count {
    pub(super) fn of(info: &VmInfo) -> Self {
        Self { starts: info.starts, failures: info.failures }
    }

    /// Whether it has done either since. A start that is counted may be over already: a guest can switch itself off at once.
    fn is_over(self, info: &VmInfo) -> bool {
        info.failures > self.failures || info.starts > self.starts
    }

    /// Whether VM `id`, of which `info` is known by now, failed since.
    fn verdict(self, id: &VmId, info: VmInfo) -> Result<(), VmManagerError> {
        match info.last_failure {
            Some(reason) if info.failures > self.failures => {
                Err(VmManagerError::Failed { id: id.clone(), reason })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Waits until VM `id` runs, or fails once more than `before`.
pub(super) async fn run_or_reason(
    id: &VmId,
    mut news: watch::Receiver<VmInfo>,
    before: Count,
) -> Result<(), VmManagerError> {
    let decided = |info: &VmInfo| before.is_over(info) || info.status == VmStatus::Running;
    let info = wait(id, &mut news, "running", START, decided).await?;
    before.verdict(id, info)
}

/// Waits until VM `id`, whose guest has `stop_timeout` to switch itself off first, has started or failed once more than
/// `before`.
pub(super) async fn restarted_or_reason(
    id: &VmId,
    mut news: watch::Receiver<VmInfo>,
    before: Count,
    stop_timeout: Duration,
) -> Result<(), VmManagerError> {
    let limit = stop_timeout + AFTER_STOP + START;
    let info = wait(id, &mut news, "started again", limit, |info| before.is_over(info)).await?;
    before.verdict(id, info)
}

/// What `waiting` for VM `id` comes to, unless another process holds the VM: nothing comes of waiting then.
async fn unless_held<T>(
    shared: &Shared,
    id: &VmId,
    waiting: impl Future<Output = Result<T, VmManagerError>>,
) -> Result<T, VmManagerError> {
    let Ok(mut held) = shared.registry.held(id) else { return waiting.await };
    let is_held = async {
        let problem = held.wait_for(Option::is_some).await.ok().and_then(|problem| problem.clone());
        match problem {
            Some(problem) => problem,
            // The VM is gone, which ends the other wait.
            None => std::future::pending().await,
        }
    };
    // Losing either loses nothing: both only wait.
    tokio::select! {
        biased;
        done = waiting => done,
        problem = is_held => Err(VmManagerError::RunsElsewhere { id: id.clone(), problem }),
    }
}

/// Waits until VM `id` is as `wanted`, and tells how it is then.
async fn wait(
    id: &VmId,
    news: &mut watch::Receiver<VmInfo>,
    name: &'static str,
    limit: Duration,
    wanted: impl FnMut(&VmInfo) -> bool,
) -> Result<VmInfo, VmManagerError> {
    match timeout(limit, news.wait_for(wanted)).await {
        Ok(Ok(info)) => return Ok(info.clone()),
        Ok(Err(_gone)) => return Err(VmManagerError::NoSuchVm { id: id.clone() }),
        Err(_late) => {}
    }
    let phase = news.borrow().status.phase_name();
    Err(VmManagerError::Late { id: id.clone(), phase, wanted: name, waited: limit })
}

fn describe(assignment: &Assignment) -> String {
    format!("{} ({})", assignment.store_path.display(), assignment.hash)
}
