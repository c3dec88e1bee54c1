//! The front door: one value that stands for all VMs of this host. What it does with their consoles is in `consoles`,
//! what the node asks and has done in `node_calls`, what is kept of removed VMs and of volumes in `kept_calls`.

mod consoles;
mod kept_calls;
mod node_calls;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use host_network::NetworkConfig;
use machine_host::{HostingProcess, Stranger};
use metrics::{WorkerDurations, WorkerMeters};
use tokio::sync::watch;
use vm_model::{Assignment, Bytes, NarHash, NetworkName, NodeStatus, StopMethod, VmId, VmStatus};

use super::control::{self, Shared};
use super::executor::Executor;
use super::misfits::misfits;
use super::startup::LockedState;
use super::{HistoryPoint, MetricsPolling, VmInfo, VmManagerConfig, VmManagerError, VmMetrics, startup};
use crate::events::{EventLog, node_changes};
use crate::records::RecordWriter;

/// The virtual machines of this host.
///
/// There is one a state directory. Dropping it kills what still runs; [`VmManager::shutdown`] lets guests switch
/// themselves off. VMs stay on record either way: the next manager lists them as stopped until they are started,
/// created again, or assigned.
#[derive(Debug)]
pub struct VmManager {
    pub(super) shared: Arc<Shared>,
    pub(super) executor: Executor,
    node_status: watch::Sender<NodeStatus>,
}

impl VmManager {
    /// Opens KVM, sets up the VMs' network, and takes up the VMs on record.
    ///
    /// # Errors
    /// Something of this host or of `config` cannot be used: the error says what and what to do. Nothing is left
    /// behind then.
    pub fn new(config: VmManagerConfig) -> Result<Self, VmManagerError> {
        Executor::refuse_on_runtime("VmManager::new", "VmManager::new_async")?;
        let executor = Executor::new().map_err(VmManagerError::Threads)?;
        let shared = executor.block_on(startup::start(config, executor.handle().clone(), None))?;
        Ok(Self { shared: Arc::new(shared), executor, node_status: watch::Sender::default() })
    }

    /// [`VmManager::new`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn new_async(config: VmManagerConfig) -> Result<Self, VmManagerError> {
        Self::start(config, None).await
    }

    /// [`VmManager::new_async`] with the state directory of `config`, which is `locked` already: for who has to know that no
    /// other manager works there before it does something else.
    ///
    /// # Errors
    /// As there.
    pub async fn new_locked_async(
        config: VmManagerConfig,
        locked: LockedState,
    ) -> Result<Self, VmManagerError> {
        Self::start(config, Some(locked)).await
    }

    async fn start(config: VmManagerConfig, locked: Option<LockedState>) -> Result<Self, VmManagerError> {
        let executor = Executor::new().map_err(VmManagerError::Threads)?;
        let handle = executor.handle().clone();
        let shared = executor.run(startup::start(config, handle, locked)).await??;
        Ok(Self { shared: Arc::new(shared), executor, node_status: watch::Sender::default() })
    }

    /// Samples all VMs' counters at the configured interval for as long as the returned value lives.
    ///
    /// # Panics
    /// If the host refuses one more thread.
    pub fn start_metrics_polling(&self) -> MetricsPolling {
        MetricsPolling::start(Arc::downgrade(&self.shared.registry), self.shared.config.metrics_poll_interval)
            .expect("a host that runs virtual machines can start one more thread")
    }

    /// Runs VM `id` from the artifact at `store_path`, whose content has `hash` (SRI form, `sha256-…=`). Returns
    /// when its first vCPU has started.
    ///
    /// Creating a VM again from the same artifact starts it if it is off.
    ///
    /// # Errors
    /// The VM did not start: the reason says why. It is listed as failed then, or tried again where that can help,
    /// until it is removed; it holds neither addresses nor other resources of the host. A VM of that name that has
    /// another artifact is left alone.
    pub fn create_vm(&self, id: VmId, hash: &str, store_path: &Path) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::create_vm", "VmManager::create_vm_async")?;
        self.executor
            .block_on(control::create(Arc::clone(&self.shared), Assignment::new(id, hash, store_path)))
    }

    /// [`VmManager::create_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn create_vm_async(
        &self,
        id: VmId,
        hash: &str,
        store_path: &Path,
    ) -> Result<(), VmManagerError> {
        let assignment = Assignment::new(id, hash, store_path);
        self.executor.run(control::create(Arc::clone(&self.shared), assignment)).await?
    }

    /// Stops VM `id` and removes it: machine, interfaces, and at once or, where it has volumes that hold data, after
    /// [`VmManagerConfig::removal_grace`] its volumes, addresses and record. Creating it again within that time brings it
    /// back with its data. Returns when the VM is gone.
    ///
    /// # Errors
    /// There is no such VM, or it has not gone in time; its removal goes on then.
    pub fn remove_vm(&self, id: &VmId) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::remove_vm", "VmManager::remove_vm_async")?;
        self.executor.block_on(control::remove(Arc::clone(&self.shared), id.clone()))
    }

    /// [`VmManager::remove_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn remove_vm_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.executor.run(control::remove(Arc::clone(&self.shared), id.clone())).await?
    }

    /// Starts VM `id` if it is off, also one that failed or whose guest switched itself off.
    ///
    /// # Errors
    /// There is no such VM, or it did not start.
    pub fn start_vm(&self, id: &VmId) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::start_vm", "VmManager::start_vm_async")?;
        self.executor.block_on(control::start(Arc::clone(&self.shared), id.clone()))
    }

    /// [`VmManager::start_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn start_vm_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.executor.run(control::start(Arc::clone(&self.shared), id.clone())).await?
    }

    /// Stops VM `id`: presses its power button, and kills it if it has not obeyed within
    /// [`VmManagerConfig::stop_timeout`]. Its disks and addresses stay. Tells what ended it.
    ///
    /// # Errors
    /// There is no such VM, or it is still not off; stopping goes on then.
    pub fn stop_vm(&self, id: &VmId) -> Result<StopMethod, VmManagerError> {
        Executor::refuse_on_runtime("VmManager::stop_vm", "VmManager::stop_vm_async")?;
        self.executor.block_on(control::stop(Arc::clone(&self.shared), id.clone()))
    }

    /// [`VmManager::stop_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn stop_vm_async(&self, id: &VmId) -> Result<StopMethod, VmManagerError> {
        self.executor.run(control::stop(Arc::clone(&self.shared), id.clone())).await?
    }

    /// Parks VM `id`'s vCPUs.
    ///
    /// # Errors
    /// There is no such VM, or it is not paused in time.
    pub fn pause_vm(&self, id: &VmId) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::pause_vm", "VmManager::pause_vm_async")?;
        self.executor.block_on(control::pause(Arc::clone(&self.shared), id.clone()))
    }

    /// [`VmManager::pause_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn pause_vm_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.executor.run(control::pause(Arc::clone(&self.shared), id.clone())).await?
    }

    /// Lets VM `id`'s vCPUs go on.
    ///
    /// # Errors
    /// There is no such VM, or it does not run in time.
    pub fn resume_vm(&self, id: &VmId) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::resume_vm", "VmManager::resume_vm_async")?;
        self.executor.block_on(control::resume(Arc::clone(&self.shared), id.clone()))
    }

    /// [`VmManager::resume_vm`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn resume_vm_async(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.executor.run(control::resume(Arc::clone(&self.shared), id.clone())).await?
    }

    /// Stops every guest as [`VmManager::stop_vm`] does and takes down what was set up on the host: TAPs, the
    /// bridge, the packet filter's table. VMs stay on record. The manager is of no use afterwards.
    ///
    /// # Errors
    /// Something did not go away in time: the error names it.
    pub fn shutdown(&self) -> Result<(), VmManagerError> {
        Executor::refuse_on_runtime("VmManager::shutdown", "VmManager::shutdown_async")?;
        self.executor.block_on(control::shut_down(Arc::clone(&self.shared)))
    }

    /// [`VmManager::shutdown`] for use on an asynchronous runtime.
    ///
    /// # Errors
    /// As there.
    pub async fn shutdown_async(&self) -> Result<(), VmManagerError> {
        self.executor.run(control::shut_down(Arc::clone(&self.shared))).await?
    }

    /// Whether VMs go on when this process ends: then [`VmManager::leave_async`] is an alternative to
    /// [`VmManager::shutdown_async`].
    pub fn vms_outlive_it(&self) -> bool {
        self.shared.context.machines.machines_outlive_it()
    }

    /// Lets go of all VMs, which go on as they are; the next manager of the same state directory takes them over. VMs in
    /// this process end. The manager is of no use afterwards.
    ///
    /// # Errors
    /// The network could not be let go of in order.
    pub async fn leave_async(&self) -> Result<(), VmManagerError> {
        self.executor.run(control::leave(Arc::clone(&self.shared))).await?
    }

    /// Whether it is being shut down or left. Its VMs are looked after no more then, which is not to say that they are gone.
    pub fn is_ending(&self) -> bool {
        self.shared.is_ending.load(Ordering::Relaxed)
    }

    /// What runs on this host and could not be taken over, a sentence each.
    pub fn strangers(&self) -> Vec<String> {
        let sentence = |stranger: &Stranger| {
            let vms: Vec<&str> = stranger.vms.iter().map(VmId::as_str).collect();
            let process = stranger.pid.map(|pid| format!("process {pid}"));
            let vms = (!vms.is_empty()).then(|| format!("VMs: {}", vms.join(", ")));
            let known: Vec<String> = process.into_iter().chain(vms).collect();
            let which = if known.is_empty() { String::new() } else { format!(" ({})", known.join("; ")) };
            let end = stranger.pid.map(|pid| format!(" (`kill {pid}` ends it)")).unwrap_or_default();
            format!("{}{which} runs on and was not taken over{end}: {}", stranger.place, stranger.problem)
        };
        let strangers = self.shared.context.strangers.borrow();
        strangers.iter().filter(|stranger| stranger.may_run()).map(sentence).collect()
    }

    /// Which VMs run on when this process ends and are not taken over by the next one, and what to do, in a sentence.
    pub fn unreachable(&self) -> Option<String> {
        let vms = self.shared.context.machines.unreachable();
        let names: Vec<&str> = vms.iter().map(VmId::as_str).collect();
        (!names.is_empty()).then(|| {
            format!(
                "the sockets were removed by which the next worker would take over these VMs: {}; `restart` gives each a process \
                 that it finds",
                names.join(", ")
            )
        })
    }

    /// Kills every machine at once, for who cannot wait for a [`VmManager::shutdown`] under way. Starts nothing any
    /// more, waits for nothing.
    pub fn kill_all(&self) {
        self.shared.context.machines.kill_all();
    }

    /// All VMs, ordered by name.
    pub fn list_vms(&self) -> Vec<VmInfo> {
        self.shared.registry.list()
    }

    /// VMs whose record on disk cannot be used, and why. They are left alone and not listed among the others.
    pub fn list_damaged(&self) -> BTreeMap<VmId, String> {
        self.shared.registry.damaged().clone()
    }

    /// All that is known of VM `id`.
    ///
    /// # Errors
    /// There is no such VM.
    pub fn get_vm(&self, id: &VmId) -> Result<VmInfo, VmManagerError> {
        self.shared.registry.watch(id).map(|info| info.borrow().clone())
    }

    /// Where VM `id` is in its life.
    ///
    /// # Errors
    /// There is no such VM.
    pub fn get_vm_status(&self, id: &VmId) -> Result<VmStatus, VmManagerError> {
        self.shared.registry.watch(id).map(|info| info.borrow().status.clone())
    }

    /// What is known of VM `id` now and whenever it changes; the channel closes when the VM is gone.
    ///
    /// # Errors
    /// There is no such VM.
    pub fn watch_vm(&self, id: &VmId) -> Result<watch::Receiver<VmInfo>, VmManagerError> {
        self.shared.registry.watch(id)
    }

    /// A count that grows whenever what is known of any VM changes, and when one comes or goes.
    pub fn watch_changes(&self) -> watch::Receiver<u64> {
        self.shared.context.changes.watch()
    }

    /// What VM `id` has used, as sampled last.
    ///
    /// # Errors
    /// There is no such VM, or it has not run yet.
    pub fn get_vm_metrics(&self, id: &VmId) -> Result<VmMetrics, VmManagerError> {
        self.shared.registry.metrics(id)
    }

    /// All VMs, ordered by name, each with what it has used where it has run.
    pub fn list_vms_with_metrics(&self) -> Vec<(VmInfo, Option<VmMetrics>)> {
        self.shared.registry.list_with_metrics()
    }

    /// Where what is done with this manager is measured.
    pub(crate) fn meters(&self) -> &WorkerMeters {
        &self.shared.context.meters
    }

    /// The process that runs VM `id`, and what it is kept to; `None` where no process of its own does.
    pub fn process_of(&self, id: &VmId) -> Option<HostingProcess> {
        self.shared.context.machines.process_of(id)
    }

    /// What each volume of VM `id` took of the host's disk when it was looked at last, some seconds ago; none where there is
    /// no such VM.
    pub fn disk_use(&self, id: &VmId) -> BTreeMap<String, Bytes> {
        self.shared.context.disk_use.of(id)
    }

    /// How long what this manager does has taken so far.
    pub fn durations(&self) -> WorkerDurations {
        self.shared.context.meters.read()
    }

    /// The newest samples of VM `id`, oldest first.
    ///
    /// # Errors
    /// There is no such VM.
    pub fn get_vm_metrics_history(&self, id: &VmId) -> Result<Vec<HistoryPoint>, VmManagerError> {
        self.shared.registry.history(id)
    }

    /// The settings this manager was made with.
    pub fn config(&self) -> &VmManagerConfig {
        &self.shared.config
    }

    /// The directory of what is common to all VMs.
    pub fn state_dir(&self) -> &Path {
        self.shared.config.state_dir()
    }

    /// The hash of the store path at `store_path`, as an assignment needs it.
    ///
    /// # Errors
    /// It lies outside the configured store roots, or cannot be read.
    pub async fn hash_store_path_async(&self, store_path: &Path) -> Result<NarHash, VmManagerError> {
        self.executor.run(control::hash_store_path(Arc::clone(&self.shared), store_path.to_owned())).await?
    }

    /// How this host stands to the desired state it was given last.
    pub fn node_status(&self) -> watch::Receiver<NodeStatus> {
        self.node_status.subscribe()
    }

    pub(crate) fn tell_node_status(&self, change: impl FnOnce(&mut NodeStatus)) {
        let mut happened = Vec::new();
        self.node_status.send_modify(|status| {
            let before = status.clone();
            change(status);
            happened = node_changes(&before, status);
        });
        happened.into_iter().for_each(|event| self.events().record(None, event));
    }

    /// What happened lately to VMs and to this host.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.shared.context.events
    }

    /// What writes records to stable storage.
    pub(crate) fn record_writer(&self) -> RecordWriter {
        self.shared.context.writer.clone()
    }

    /// What is wrong with the VMs' networks at this moment and cannot be mended by itself, and which VMs run in networks that were
    /// configured anew: a sentence each.
    pub fn network_degradations(&self) -> Vec<String> {
        let mut told = self.shared.context.networks.degradations();
        told.extend(misfits(&self.list_vms()));
        told
    }

    /// The networks that are there, each as it is at this moment: one that is held back is not as it is configured.
    pub fn present_networks(&self) -> BTreeMap<NetworkName, NetworkConfig> {
        let networks = self.shared.context.networks.all();
        networks
            .filter_map(|(name, network)| Some((name.clone(), network.configs().into_iter().next()?)))
            .collect()
    }

    /// Which networks are not as they are configured, because of this host or of VMs that run: a sentence each.
    pub(crate) fn pending_networks(&self) -> Vec<String> {
        self.shared.context.networks.pending()
    }

    /// That the disk of the state directory is full, in a sentence, where it is.
    pub fn disk_shortage(&self) -> Option<String> {
        self.shared.context.writer.shortage()
    }

    /// Whether VM `id` is being removed.
    pub fn is_being_removed(&self, id: &VmId) -> bool {
        self.shared.registry.is_being_removed(id)
    }
}
