//! Waiting until a VM is where it was told to be. Nothing here tells a VM anything.
//!
//! What a VM is told reaches its supervisor a moment later, and the supervisor may be in the middle of what it was told
//! before. So a phase counts only once the supervisor follows the order that is waited for, or a newer one that comes to
//! the same; and whoever waits for an order that another one has overtaken is told so at once.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use vm_model::{DesiredState, StopMethod, VmId, VmStatus};

use super::control::Shared;
use super::registry::Registry;
use super::{VmInfo, VmManagerError};
use crate::supervisor::{Goal, OrderNumber, Target};

/// Longest wait for a VM to start: hashing and copying a large artifact takes its time.
pub(super) const START: Duration = Duration::from_secs(600);
/// Longest wait for vCPUs to be parked or to go on.
pub(super) const PARK: Duration = Duration::from_secs(30);
/// What stopping may take beyond the guest's own time: killing it, giving its resources back, deleting disks.
pub(super) const AFTER_STOP: Duration = Duration::from_secs(60);

/// The order that was given last of a VM, and how far its supervisor is with it.
pub(super) struct LatestOrder {
    id: VmId,
    number: OrderNumber,
    news: watch::Receiver<VmInfo>,
    targets: watch::Receiver<Target>,
    followed: watch::Receiver<OrderNumber>,
}

impl LatestOrder {
    /// What VM `id` was told last. Called after it was told that.
    pub(super) fn of(registry: &Registry, id: &VmId) -> Result<Self, VmManagerError> {
        let (news, targets, followed) = registry.watch_orders(id)?;
        let number = targets.borrow().number;
        Ok(Self { id: id.clone(), number, news, targets, followed })
    }

    /// Waits until `is_done` says so of what is known of the VM and of whether its supervisor follows the order. The order
    /// is to bring the VM to `wanted` and `stands` for as long as its goal comes to that.
    async fn until(
        mut self,
        wanted: &'static str,
        limit: Duration,
        mut is_done: impl FnMut(&VmInfo, bool) -> bool,
        stands: impl Fn(Goal) -> bool,
    ) -> Result<VmInfo, VmManagerError> {
        let (id, phase) = (self.id.clone(), self.news.clone());
        let done = async {
            loop {
                let follows = *self.followed.borrow_and_update() >= self.number;
                let info = self.news.borrow_and_update().clone();
                if is_done(&info, follows) {
                    return Ok(info);
                }
                // All arms only wait, so losing any loses nothing.
                tokio::select! {
                    changed = self.news.changed() => if changed.is_err() {
                        return Err(VmManagerError::NoSuchVm { id: self.id });
                    },
                    Ok(()) = self.followed.changed() => {}
                    Ok(target) = self.targets.wait_for(|target| !stands(target.goal)) => {
                        let by = target.goal.name();
                        return Err(VmManagerError::Overtaken { id: self.id, wanted, by });
                    }
                }
            }
        };
        match timeout(limit, done).await {
            Ok(done) => done,
            Err(_late) => {
                let phase = phase.borrow().status.phase_name();
                Err(VmManagerError::Late { id, phase, wanted, waited: limit })
            }
        }
    }

    /// Waits until the VM runs, or has started or failed once more than `before`.
    pub(super) async fn started(self, before: Count) -> Result<(), VmManagerError> {
        self.started_within("running", START, before, |info| info.status == VmStatus::Running).await
    }

    /// Waits until the VM, whose guest has `stop_timeout` to switch itself off first, has started or failed once more than
    /// `before`.
    pub(super) async fn restarted(self, before: Count, stop_timeout: Duration) -> Result<(), VmManagerError> {
        self.started_within("started again", stop_timeout + AFTER_STOP + START, before, |_| false).await
    }

    async fn started_within(
        self,
        wanted: &'static str,
        limit: Duration,
        before: Count,
        is_there: impl Fn(&VmInfo) -> bool,
    ) -> Result<(), VmManagerError> {
        let id = self.id.clone();
        let is_done = |info: &VmInfo, follows| before.is_over(info) || (follows && is_there(info));
        let stands = |goal| matches!(goal, Goal::Be(DesiredState::Running | DesiredState::Paused));
        before.verdict(&id, self.until(wanted, limit, is_done, stands).await?)
    }

    /// Waits until the vCPUs of the VM are parked or go on: until it is `wanted`.
    pub(super) async fn parked(self, desired: DesiredState, wanted: VmStatus) -> Result<(), VmManagerError> {
        let name = wanted.phase_name();
        let is_done = |info: &VmInfo, follows| follows && info.status == wanted;
        self.until(name, PARK, is_done, |goal| goal == Goal::Be(desired)).await.map(drop)
    }

    /// Waits until the VM is off, and tells what ended it since it was as in `before`.
    pub(super) async fn stopped(
        self,
        shared: &Shared,
        before: &VmInfo,
    ) -> Result<StopMethod, VmManagerError> {
        let id = self.id.clone();
        let is_done = |info: &VmInfo, follows| follows && is_off(info);
        let stands = |goal| !matches!(goal, Goal::Be(DesiredState::Running | DesiredState::Paused));
        let limit = shared.config.stop_timeout + AFTER_STOP;
        let info = unless_held(shared, &id, self.until("stopped", limit, is_done, stands)).await?;
        let was_off = is_off(before) && info.starts == before.starts;
        Ok(info.last_stop.filter(|_| !was_off).unwrap_or(StopMethod::AlreadyStopped))
    }
}

/// Whether a VM has no machine and stays so.
pub(super) fn is_off(info: &VmInfo) -> bool {
    matches!(info.status, VmStatus::Stopped | VmStatus::Failed(_))
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

/// What `waiting` for VM `id` comes to, unless another process holds the VM: nothing comes of waiting then.
pub(super) async fn unless_held<T>(
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

/// Waits until VM `id` is as `wanted`, whatever it is told meanwhile, and tells how it is then.
pub(super) async fn wait(
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
