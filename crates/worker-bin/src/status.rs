//! What the worker tells of itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use admin::{
    AssignmentsState, AssignmentsView, DamagedVm, DirectoriesView, Listening, MasterState, MasterView,
    NetworkView, StatusSource, StatusView,
};
use host_network::NetworkConfig;
use syscall_filter::Mode;
use tokio::sync::watch;
use vm_model::{HeldSet, SourceKind, Timestamp};
use worker::master::{LinkStatus, MasterLink};
use worker::vms::{NetworkName, NetworkSettings, VmManager};

use crate::assignments::{SourceState, Verdict};
use crate::descriptors::OpenFiles;
use crate::filtering::shortcoming;
use crate::logging;
use crate::reload::Reloaded;

/// What is told beside what the VM manager knows.
pub(crate) struct Told {
    pub(crate) assignments: watch::Receiver<SourceState>,
    pub(crate) master: Option<Master>,
    /// Where clients come in.
    pub(crate) listening: Listening,
    /// What became of the configuration that was read last.
    pub(crate) reloaded: watch::Receiver<Reloaded>,
    pub(crate) files: OpenFiles,
    pub(crate) guests_outlive_worker: bool,
    /// What becomes of system calls that host processes should not make.
    pub(crate) seccomp: Mode,
    /// Where the admin socket lies.
    pub(crate) runtime_dir: PathBuf,
}

/// Where the admin socket gets the worker's status from.
pub(crate) fn source(vm_manager: Arc<VmManager>, told: Told) -> StatusSource {
    let Told { assignments, master, listening, reloaded, files, guests_outlive_worker, seccomp, runtime_dir } =
        told;
    let directories = DirectoriesView {
        state: vm_manager.state_dir().to_owned(),
        runtime: runtime_dir,
        store_roots: vm_manager.config().store_roots.clone(),
    };
    let since = Timestamp::now();
    let node_status = vm_manager.node_status();
    Arc::new(move || {
        let node = node_status.borrow().clone();
        let held = node.held().cloned();
        let file = node.sources.get(&SourceKind::File);
        let damaged = vm_manager.list_damaged().into_iter();
        let Reloaded { refused, for_restart } = reloaded.borrow().clone();
        StatusView {
            access: None,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since,
            assignments: assignments_view(
                assignments.borrow().clone(),
                file.and_then(|file| file.held.as_ref()),
            ),
            generation: node.sources.values().find_map(|source| source.generation),
            held,
            refused_entries: node
                .sources
                .values()
                .flat_map(|source| source.refused_entries.clone())
                .collect(),
            master: master.as_ref().map(Master::view),
            sources: node.sources,
            owners: node.owners,
            unclaimed: node.unclaimed,
            damaged: damaged.map(|(id, problem)| DamagedVm { id, problem }).collect(),
            networks: networks(&vm_manager),
            degradations: degradations(&vm_manager, seccomp, &listening),
            log_lines_dropped: logging::dropped(),
            log_queue_lines: logging::waiting(),
            open_files_limit: files.limit(),
            guests_outlive_worker: Some(guests_outlive_worker),
            refused_configuration: refused,
            settings_for_restart: for_restart.into_iter().map(str::to_owned).collect(),
            directories: Some(directories.clone()),
        }
    })
}

/// The networks of this host.
fn networks(vm_manager: &VmManager) -> Vec<NetworkView> {
    let config = vm_manager.config();
    let configured: BTreeMap<_, _> = config.network_configs().into_iter().collect();
    let present = vm_manager.present_networks();
    let uplink_of = |config: Option<&NetworkConfig>| Some(config?.uplink.as_ref()?.to_string());
    let view = |(name, network): (NetworkName, NetworkSettings)| {
        // One that is not there is told as it is to be.
        let bridge =
            present.get(&name).map_or_else(|| network.bridge.clone(), |config| config.bridge.to_string());
        let next_uplink = uplink_of(configured.get(&name));
        let uplink = present.get(&name).map_or_else(|| next_uplink.clone(), |config| uplink_of(Some(config)));
        NetworkView {
            next_bridge: Some(network.bridge).filter(|next| *next != bridge),
            bridge,
            subnet: network.subnet,
            ipv6_subnet: network.ipv6_subnet.map(|subnet| subnet.to_string()),
            reserved: network.reserved.iter().map(ToString::to_string).collect(),
            next_uplink: next_uplink.filter(|next| uplink.as_ref() != Some(next)),
            uplink,
            name,
        }
    };
    config.all_networks().into_iter().map(view).collect()
}

/// What does not work as it should beside VMs.
fn degradations(vm_manager: &VmManager, seccomp: Mode, listening: &Listening) -> Vec<String> {
    let mut told = vm_manager.network_degradations();
    told.extend(vm_manager.strangers());
    told.extend(vm_manager.unreachable());
    told.extend(vm_manager.safeguards_off());
    told.extend(shortcoming(seccomp).map(str::to_owned));
    told.extend(vm_manager.disk_shortage());
    told.extend(listening.problems());
    told
}

/// The link to a master, as it is told of.
pub(crate) struct Master {
    address: String,
    worker: String,
    status: watch::Receiver<LinkStatus>,
}

impl Master {
    pub(crate) fn of(link: &MasterLink) -> Self {
        let settings = link.settings();
        let (address, worker) = (settings.address().to_owned(), settings.worker().to_owned());
        Self { address, worker, status: link.status() }
    }

    fn view(&self) -> MasterView {
        let view = MasterView {
            address: self.address.clone(),
            worker: self.worker.clone(),
            state: MasterState::Connecting,
            lineage: None,
            since: None,
            next_try_at: None,
            problem: None,
        };
        match self.status.borrow().clone() {
            LinkStatus::Connecting => view,
            LinkStatus::Connected { lineage, since, .. } => MasterView {
                state: MasterState::Connected,
                lineage: Some(lineage),
                since: Some(since),
                ..view
            },
            LinkStatus::Waiting { until, problem } => MasterView {
                state: MasterState::Waiting,
                next_try_at: Some(until),
                problem: Some(problem),
                ..view
            },
            LinkStatus::Ended => MasterView { state: MasterState::Ended, ..view },
        }
    }
}

fn assignments_view(state: SourceState, held: Option<&HeldSet>) -> Option<AssignmentsView> {
    let SourceState { path, read_at, verdict } = state;
    let (state, problem) = match (verdict, held) {
        (Verdict::Pending, _) => (AssignmentsState::Pending, None),
        (Verdict::Taken, None) => (AssignmentsState::InForce, None),
        (Verdict::Taken, Some(held)) => (AssignmentsState::Held, Some(held.reason.clone())),
        (Verdict::Missing(what), _) => (AssignmentsState::Missing, Some(what)),
        (Verdict::Refused(problem), _) => (AssignmentsState::Refused, Some(problem)),
    };
    path.map(|path| AssignmentsView { path, state, problem, read_at })
}
