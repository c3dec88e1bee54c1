//! Calls that act on a VM's machine as it is, beside where the VM should be: its buttons, its console, a restart.

use std::sync::Arc;
use std::time::Duration;

use machine_host::{MachineHandle, StopPolicy};
use tokio::sync::watch;
use tokio::time::timeout;
use vm_model::{Assignment, DesiredState, FailureKind, FailureReason, StopMethod, VcpuDump, VmId, VmStatus};

use super::control::Shared;
use super::executor::Executor;
use super::waiting::{Count, LatestOrder};
use super::{VmInfo, VmManager, VmManagerError};
use crate::capacity::Demand;
use crate::failure::plain;
use crate::supervisor::{GivenUp, HostContext, Patience, check_content, look_before_restart};

/// How long looking for what a restart needs may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long it may take to hash store paths that are not as they are remembered.
const HASH: Duration = Duration::from_secs(600);

/// Work that ends soon where nobody waits for it any more.
#[derive(Debug, Default)]
struct Abandoned(GivenUp);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// How a machine is ended that is to be replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartMode {
    /// Its guest is asked to switch itself off, and the machine is killed if that takes longer than
    /// [`VmManagerConfig::stop_timeout`](super::VmManagerConfig::stop_timeout).
    #[default]
    Graceful,
    /// It is killed at once, also where a graceful restart or stop is under way.
    Hard,
}

impl VmManager {
    /// Stops VM `id` and starts it again by the same definition, with a new machine. Where it should be stays as it is: a
    /// paused VM is paused again. One that is off although it should not be is started. Returns when the new machine has
    /// started.
    ///
    /// What the next machine needs is looked for first, and store paths that are not as they are remembered are hashed. Where
    /// something is missing or has another content, the machine goes on.
    ///
    /// # Errors
    /// There is no such VM, it should be off, something is in the way of its next machine, or it did not start again.
    pub fn restart_vm(&self, id: &VmId, mode: RestartMode) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::restart_vm", "VmManager::restart_vm_async")?;
        self.executor.block_on(restart(Arc::clone(&self.shared), id.clone(), mode))
    }

    /// [`VmManager::restart_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn restart_vm_async(&self, id: &VmId, mode: RestartMode) -> Result<(), VmManagerError> {
        self.executor.run(restart(Arc::clone(&self.shared), id.clone(), mode)).await?
    }

    /// Stops VM `id` by killing its machine, also where [`VmManager::stop_vm`] is under way and its guest takes its time.
    /// Tells what ended it.
    ///
    /// # Errors
    /// There is no such VM, or it is still not off; stopping goes on then.
    pub fn force_stop_vm(&self, id: &VmId) -> Result<StopMethod, VmManagerError> {
        Executor::refuse_on_runtime("VmManager::force_stop_vm", "VmManager::force_stop_vm_async")?;
        self.executor.block_on(force_stop(Arc::clone(&self.shared), id.clone()))
    }

    /// [`VmManager::force_stop_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn force_stop_vm_async(&self, id: &VmId) -> Result<StopMethod, VmManagerError> {
        self.executor.run(force_stop(Arc::clone(&self.shared), id.clone())).await?
    }

    /// Waits until VM `id`, which was `before` when somebody told it to start, runs or has started or failed once more.
    ///
    /// # Errors
    /// There is no such VM, it has failed, it was told something else, or it takes longer than a start may.
    pub async fn await_start_async(&self, id: &VmId, before: &VmInfo) -> Result<(), VmManagerError> {
        let (shared, id, before) = (Arc::clone(&self.shared), id.clone(), Count::of(before));
        let waiting = async move { LatestOrder::of(&shared.registry, &id)?.started(before).await };
        self.executor.run(waiting).await?
    }

    /// Waits until VM `id`, which was `before` when somebody told it to stop, is off. Tells what ended it.
    ///
    /// # Errors
    /// There is no such VM, it was told something else, or it takes longer than a stop may.
    pub async fn await_stop_async(&self, id: &VmId, before: VmInfo) -> Result<StopMethod, VmManagerError> {
        let (shared, id) = (Arc::clone(&self.shared), id.clone());
        let waiting = async move { LatestOrder::of(&shared.registry, &id)?.stopped(&shared, &before).await };
        self.executor.run(waiting).await?
    }

    /// Waits until VM `id`, which somebody told to be paused or to go on, is `desired`.
    ///
    /// # Errors
    /// There is no such VM, it was told something else, or it takes longer than that may.
    pub async fn await_parked_async(&self, id: &VmId, desired: DesiredState) -> Result<(), VmManagerError> {
        let (shared, id) = (Arc::clone(&self.shared), id.clone());
        let status = match desired {
            DesiredState::Running => VmStatus::Running,
            DesiredState::Paused => VmStatus::Paused,
            DesiredState::Stopped => VmStatus::Stopped,
        };
        let waiting = async move { LatestOrder::of(&shared.registry, &id)?.parked(desired, status).await };
        self.executor.run(waiting).await?
    }

    /// Presses the reset button of VM `id`'s machine, which is rebuilt in place and runs, also where it was paused: its
    /// guest's memory is lost, its definition is not read again. Returns when the old machine has ended.
    ///
    /// # Errors
    /// There is no such VM, it has no machine, or its machine's resets are not carried out in place.
    pub async fn reset_vm_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        let machine = self.machine_of(id)?;
        self.executor.run(async move { machine.reset().await }).await?.map_err(VmManagerError::Machine)
    }

    /// Presses the ACPI power button of VM `id`'s machine and leaves it at that. A guest that obeys is off until it is
    /// started; [`VmManager::stop_vm`] waits, and insists.
    ///
    /// # Errors
    /// There is no such VM, or it has no machine that runs.
    pub async fn press_power_button_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        let machine = self.machine_of(id)?;
        let pressing = async move { machine.press_power_button().await };
        self.executor.run(pressing).await?.map_err(VmManagerError::Machine)
    }

    /// Queues a non-maskable interrupt on every vCPU of VM `id`. A Linux guest with `kernel.unknown_nmi_panic` makes a
    /// crash dump of it.
    ///
    /// # Errors
    /// There is no such VM, it has no machine, or a vCPU did not take it in time.
    pub async fn inject_nmi_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        let machine = self.machine_of(id)?;
        self.executor.run(async move { machine.inject_nmi().await }).await?.map_err(VmManagerError::Machine)
    }

    /// Where every vCPU of VM `id` is, by index; the machine goes on. One that does not leave the guest or a device within a
    /// second is reported as silent.
    ///
    /// # Errors
    /// There is no such VM, it has no machine, or there was no answer in time.
    pub async fn dump_vcpus_async(&self, id: &VmId) -> Result<Vec<VcpuDump>, VmManagerError> {
        let machine = self.machine_of(id)?;
        self.executor.run(async move { machine.dump_vcpus().await }).await?.map_err(VmManagerError::Machine)
    }

    /// Types into VM `id`'s console; answers how many of `bytes`, from the front, there was room for. The rest can be
    /// offered again when the guest has read some.
    ///
    /// # Errors
    /// There is no such VM, or it has no machine.
    pub async fn write_console_async(&self, id: &VmId, bytes: Vec<u8>) -> Result<usize, VmManagerError> {
        let machine = self.machine_of(id)?;
        let writing = async move { machine.write_console(bytes).await };
        self.executor.run(writing).await?.map_err(VmManagerError::Machine)
    }

    /// Tells VM `id`'s guest the size of the terminal behind its virtio console.
    ///
    /// # Errors
    /// There is no such VM, or it has no machine with such a console.
    pub async fn resize_console_async(
        &self,
        id: &VmId,
        columns: u16,
        rows: u16,
    ) -> Result<(), VmManagerError> {
        let machine = self.machine_of(id)?;
        let resizing = async move { machine.resize_console(columns, rows).await };
        self.executor.run(resizing).await?.map_err(VmManagerError::Machine)
    }

    fn machine_of(&self, id: &VmId) -> Result<MachineHandle, VmManagerError> {
        machine_of(&self.shared, id)
    }
}

/// The machine of `id` that has not ended.
fn machine_of(shared: &Shared, id: &VmId) -> Result<MachineHandle, VmManagerError> {
    let machine = shared.registry.machine(id)?.get().map(|(_, machine)| machine);
    let machine = machine.filter(|machine| machine.status().borrow().phase.exit().is_none());
    match machine {
        Some(machine) => Ok(machine),
        None => {
            let phase = shared.registry.watch(id)?.borrow().status.phase_name();
            Err(VmManagerError::NotUp { id: id.clone(), phase })
        }
    }
}

async fn restart(shared: Arc<Shared>, id: VmId, mode: RestartMode) -> Result<(), VmManagerError> {
    let news = shared.registry.watch(&id)?;
    let info = news.borrow().clone();
    look_first(&shared, &info).await?;
    let before = Count::of(&info);
    let patience = match mode {
        RestartMode::Graceful => Patience::Full,
        RestartMode::Hard => Patience::None,
    };
    if !shared.registry.restart(&id, patience)? {
        let phase = DesiredState::Stopped.name();
        return Err(VmManagerError::NotUp { id, phase });
    }
    let order = LatestOrder::of(&shared.registry, &id)?;
    if mode == RestartMode::Hard {
        end_stop_under_way(&shared, &id, &news).await;
    }
    order.restarted(before, shared.config.stop_timeout).await
}

/// Makes sure that nothing is in the way of the next machine of a VM, where one runs that would be stopped for it.
async fn look_first(shared: &Shared, info: &VmInfo) -> Result<(), VmManagerError> {
    match info.status {
        VmStatus::Booting | VmStatus::Running | VmStatus::Paused => {}
        VmStatus::Creating
        | VmStatus::Stopping
        | VmStatus::Stopped
        | VmStatus::Restarting
        | VmStatus::Failed(_) => return Ok(()),
    }
    let (id, context) = (info.id.clone(), Arc::clone(&shared.context));
    let assignment = Arc::new(next_definition(info).clone());
    let promised = shared.registry.promised(&id)?;
    let looked = look(&context, assignment, promised).await;
    looked.map_err(|reason| VmManagerError::NotRestarted { id, reason })
}

/// Makes sure that nothing is in the way of a machine of `assignment` in place of the one that has `promised` of the host, and that its
/// content is what was assigned.
async fn look(
    context: &Arc<HostContext>,
    assignment: Arc<Assignment>,
    promised: Option<Demand>,
) -> Result<(), FailureReason> {
    let vm = assignment.id.clone();
    let (host, definition) = (Arc::clone(context), Arc::clone(&assignment));
    let looking = move || look_before_restart(&host, &definition, promised);
    let artifact = within(LOOK, context.own_threads.run(vm.as_str(), "look", looking)).await?;
    let abandoned = Abandoned::default();
    let (host, given_up) = (Arc::clone(context), abandoned.0.clone());
    let hashing = move || check_content(&host, &assignment, &artifact, &given_up);
    within(HASH, context.own_threads.run(vm.as_str(), "hash", hashing)).await
}

/// What `work` comes to, where it does within `patience`.
async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<Result<T, FailureReason>, FailureReason>>,
) -> Result<T, FailureReason> {
    let Ok(done) = timeout(patience, work).await else {
        let seconds = patience.as_secs();
        let silent =
            format!("its store, or a file of the host that it names, has not answered for {seconds} s");
        return Err(plain(FailureKind::Host, silent));
    };
    done?
}

/// What the next machine of a VM is made by: the newest definition, unless that was refused.
fn next_definition(info: &VmInfo) -> &Assignment {
    let newest = info.wanted.as_ref().filter(|wanted| wanted.refusal.is_none());
    newest.map_or(&info.assignment, |wanted| &wanted.assignment)
}

async fn force_stop(shared: Arc<Shared>, id: VmId) -> Result<StopMethod, VmManagerError> {
    let news = shared.registry.watch(&id)?;
    let before = news.borrow().clone();
    shared.registry.stop_now(&id)?;
    let order = LatestOrder::of(&shared.registry, &id)?;
    end_stop_under_way(&shared, &id, &news).await;
    order.stopped(&shared, &before).await
}

/// Kills the machine of `id` if its guest is being waited for. A supervisor that has not begun to stop it yet kills it itself.
async fn end_stop_under_way(shared: &Shared, id: &VmId, news: &watch::Receiver<VmInfo>) {
    let is_stopping = news.borrow().status == VmStatus::Stopping;
    if is_stopping && let Ok(machine) = machine_of(shared, id) {
        // What became of it is seen in the VM's status, which the caller waits for.
        let _ = machine.stop(StopPolicy::KILL).await;
    }
}
