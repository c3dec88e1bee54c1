//! Bringing a manager up: host first, then the VMs on record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use health::ProbePermits;
use host_network::Teardown;
use hypervisor::Hypervisor;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{info, warn};
use vm_model::{NetworkName, RemovedVm, VmId};

use super::checks::{check_directories, check_jail, check_numbers, refused, store_roots};
use super::control::Shared;
use super::network_plan::{PlannedNetwork, plan_networks};
use super::network_setup::NetworkSetup;
use super::network_start::{open_leases, start_networks, tend_networks};
use super::placing::{jail_gaps, machine_host};
use super::registry::Registry;
use super::takeover::{KnownVms, hold_addresses, restore, take_over, take_over_late};
use super::{NetworkSettings, VmManagerConfig, VmManagerError};
use crate::capacity::{Capacity, CapacityRules};
use crate::collecting::collect_by_rule;
use crate::events::EventLog;
use crate::failure::chain;
use crate::fetching::Fetching;
use crate::gc_roots::{FetchedInto, GcRoots};
use crate::housekeeping::{DiskUse, RemovedVms, account_disk_use, keep_house};
use crate::huge_pages;
use crate::own_threads::OwnThreads;
use crate::records::{
    LeaseBooks, LockError, RecordStore, RecordWriter, Removal, RemovalStage, StateLock, VerifiedPaths,
    VmRecord, make_private, sweep_networks,
};
use crate::supervisor::{
    Changes, HostContext, HostPorts, Lifecycle, Networks, RestartPolicy, RunningMachine, StartTurns,
};
use crate::verification::Verifications;
use crate::volumes::VolumeStore;

/// How long a lock of the state directory may be held by what is left of a worker, and how often that is looked at.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The state directory of a manager that is to be started: no other manager uses it. It is free again when this is dropped.
#[derive(Debug)]
pub struct LockedState(StateLock);

impl LockedState {
    /// Makes the state directory of `config` where it is missing, closes it for others, and locks it.
    ///
    /// # Errors
    /// Another manager uses it, as [`VmManagerError::State`] with its process; or the host refuses.
    pub async fn take(config: &VmManagerConfig) -> Result<Self, VmManagerError> {
        let state_error = |problem| state_error(config, problem);
        make_private(config.state_dir()).map_err(|problem| state_error(Box::new(problem)))?;
        let lock = take_lock(config.state_dir()).await.map_err(|problem| state_error(Box::new(problem)))?;
        Ok(Self(lock))
    }
}

/// Everything that a manager works with, set up in an order in which a failure leaves nothing behind: what only
/// looks comes before what changes the host. The state directory is `locked` already, or is here.
#[expect(clippy::too_many_lines, reason = "a table of what all share")]
pub(super) async fn start(
    config: VmManagerConfig,
    runtime: Handle,
    locked: Option<LockedState>,
) -> Result<Shared, VmManagerError> {
    check_directories(&config)?;
    check_numbers(&config)?;
    check_jail(&config)?;
    let planned = plan_networks(&config)?;
    config.safeguards_off().iter().for_each(|safeguard| warn!("{safeguard}"));
    let hypervisor = Hypervisor::open().map_err(VmManagerError::Hypervisor)?;
    make_fetched_into(&config)?;
    let roots = Arc::new(store_roots(&config)?);
    let lock = match locked {
        Some(locked) => locked,
        None => LockedState::take(&config).await?,
    };
    let OnRecord { writer, records, volumes, removed, leases, intact, damaged, gc_roots } =
        open_state(&config, &planned)?;
    let jail_gaps = jail_gaps(&config).await?;
    jail_gaps.iter().for_each(|gap| warn!("{gap}"));
    let machines = machine_host(&config, hypervisor)?;
    let known = KnownVms::new(&intact, damaged.keys(), records.clone());
    let (running, strangers) = take_over(machines.as_ref(), known).await;
    hold_addresses(&leases, &running);
    // It notes what it changes on the host before it does.
    writer.make_room();
    let nothing_runs = running.is_empty() && strangers.is_empty();
    let teardown = if nothing_runs { Teardown::Remove } else { Teardown::Keep };
    let configured: BTreeSet<NetworkName> = planned.iter().map(|network| network.name.clone()).collect();
    let setup = NetworkSetup::new(config.state_dir().to_owned(), writer.clone(), planned);
    let networks = start_networks(&config, &setup, &leases, &running, teardown).await?;
    let of_records = intact.iter().map(|record| record.assignment.id.clone());
    let known = of_records.chain(damaged.keys().cloned()).chain(removed.list().into_keys());
    sweep_networks(config.state_dir(), &configured, &known.chain(running.keys().cloned()).collect());
    let context = Arc::new(HostContext {
        machines,
        jail_gaps,
        capacity: Capacity::new(CapacityRules::of(&config)),
        networks: Networks::new(networks),
        leases,
        writer,
        ports: HostPorts::default(),
        records,
        removed,
        disk_use: DiskUse::default(),
        kept_changed: Arc::new(Notify::new()),
        volumes,
        verified: verified_paths(config.state_dir()),
        gc_roots,
        own_threads: OwnThreads::default(),
        verifications: Verifications::new(Arc::clone(&roots)),
        roots,
        fetching: Fetching::new(config.fetch.clone(), config.store_roots.clone(), runtime.clone()),
        strangers: watch::Sender::new(strangers),
        _lock: lock.0,
        probes: ProbePermits::default(),
        start_turns: StartTurns::new(config.max_parallel_starts),
        credentials_dir: config.credentials_dir.clone(),
        changes: Changes::default(),
        events: Arc::new(EventLog::of_this_start()),
        meters: Arc::default(),
        vhost_net: config.vhost_net,
        limits: config.limits,
        lifecycle: lifecycle(&config),
    });
    for (network, NetworkSettings { subnet, .. }) in config.all_networks() {
        if let Some(bridge) = context.networks.bridge(&network) {
            info!(%network, %bridge, subnet, "the network is there for VMs");
        }
    }
    runtime.spawn(tend_networks(Arc::downgrade(&context), setup, config.clone()));
    info!(state_dir = %config.state_dir().display(), "VM manager started");
    Ok(begin(config, &runtime, context, damaged, intact, running))
}

/// What earlier workers left in the state directory, opened.
struct OnRecord {
    writer: RecordWriter,
    records: RecordStore,
    volumes: Arc<VolumeStore>,
    removed: RemovedVms,
    leases: LeaseBooks,
    intact: Vec<VmRecord>,
    damaged: BTreeMap<VmId, String>,
    gc_roots: GcRoots,
}

/// Opens it. The state directory is locked.
fn open_state(config: &VmManagerConfig, planned: &[PlannedNetwork]) -> Result<OnRecord, VmManagerError> {
    let state_error = |problem| state_error(config, problem);
    let writer = RecordWriter::open(config.state_dir());
    let records = RecordStore::open(&config.vm_artifacts_dir, writer.clone())
        .map_err(|problem| state_error(Box::new(problem)))?;
    let (found, damaged) = read_records(&records).map_err(|problem| state_error(Box::new(problem)))?;
    let (intact, gone): (Vec<_>, Vec<_>) = found.into_iter().partition(|record| record.removed.is_none());
    let volumes = VolumeStore::open(config.state_dir(), &config.vm_artifacts_dir, writer.clone())
        .map_err(|problem| state_error(Box::new(problem)))?;
    let removed = removed_vms(gone);
    let leases = open_leases(config, planned, &writer)?;
    let intact_ids = intact.iter().map(|record| record.assignment.id.clone());
    let known: BTreeSet<VmId> =
        intact_ids.chain(damaged.keys().cloned()).chain(removed.list().into_keys()).collect();
    leases.retain(&known).map_err(|problem| state_error(Box::new(problem)))?;
    let gc_roots = gc_roots(config, &known, &intact);
    Ok(OnRecord { writer, records, volumes, removed, leases, intact, damaged, gc_roots })
}

/// Has the VMs on record, `intact` and `damaged`, looked after, and what else there is to do beside them.
fn begin(
    config: VmManagerConfig,
    runtime: &Handle,
    context: Arc<HostContext>,
    damaged: BTreeMap<VmId, String>,
    intact: Vec<VmRecord>,
    running: BTreeMap<VmId, RunningMachine>,
) -> Shared {
    runtime.spawn(keep_house(Arc::downgrade(&context)));
    runtime.spawn(account_disk_use(Arc::downgrade(&context)));
    runtime.spawn(collect_by_rule(Arc::downgrade(&context), config.collection));
    let registry = Arc::new(Registry::new(runtime.clone(), Arc::clone(&context), damaged));
    restore(&registry, &context.records, intact, running);
    let late_takeover = go_on_taking_over(runtime, &context, &registry);
    huge_pages::log();
    Shared { config, registry, context, is_ending: AtomicBool::new(false), late_takeover }
}

/// Takes over what answers late, from now on.
fn go_on_taking_over(
    runtime: &Handle,
    context: &Arc<HostContext>,
    registry: &Arc<Registry>,
) -> Mutex<Option<JoinHandle<()>>> {
    let machines = Arc::clone(&context.machines);
    let late = take_over_late(machines, Arc::downgrade(context), Arc::downgrade(registry));
    Mutex::new(Some(runtime.spawn(late)))
}

/// The artifacts that were verified before. Where that cannot be read, they are hashed again.
fn verified_paths(state_dir: &Path) -> VerifiedPaths {
    let (verified, damage) = VerifiedPaths::open(state_dir);
    if let Some(damage) = damage {
        warn!(error = chain(&damage), "artifacts are hashed again");
    }
    verified
}

/// Takes the lock of the state directory. A worker that was killed may have been about to run another program, in whose
/// process the lock is held for a moment longer.
async fn take_lock(state_dir: &Path) -> Result<StateLock, LockError> {
    let begun = Instant::now();
    loop {
        match StateLock::take(state_dir) {
            Err(LockError::Held { .. }) if begun.elapsed() < LOCK_PATIENCE => sleep(LOCK_PAUSE).await,
            taken => return taken,
        }
    }
}

/// Makes the stores that are fetched into where nothing is.
fn make_fetched_into(config: &VmManagerConfig) -> Result<(), VmManagerError> {
    let made = config.store_roots.iter().filter(|_| config.fetch.is_some());
    made.filter(|root| !root.exists()).try_for_each(|root| {
        std::fs::create_dir_all(root).map_err(|problem| {
            refused("store_roots", root.display().to_string(), format!("it cannot be made: {problem}"))
        })
    })
}

/// The roots that keep Nix's garbage collector away from the VMs' artifacts; those of VMs that are not `known` go.
fn gc_roots(config: &VmManagerConfig, known: &BTreeSet<VmId>, intact: &[VmRecord]) -> GcRoots {
    let fetched_into = if config.fetch.is_some() { FetchedInto::Yes } else { FetchedInto::No };
    let roots = GcRoots::new(&config.store_roots, config.state_dir(), fetched_into);
    roots.reconcile(known);
    for record in intact {
        let assignment = record.newest();
        if let Err(problem) = roots.hold(&assignment.id, &assignment.store_path) {
            warn!(vm_id = %assignment.id, error = chain(&problem), "its artifact can be collected as garbage");
        }
    }
    roots
}

pub(super) fn state_error(
    config: &VmManagerConfig,
    source: Box<dyn std::error::Error + Send + Sync>,
) -> VmManagerError {
    VmManagerError::State { path: config.state_dir().to_owned(), source }
}

/// The removed VMs among `records`: those that are kept, and those whose deletion was cut short.
fn removed_vms(records: Vec<VmRecord>) -> RemovedVms {
    let removed = RemovedVms::default();
    for VmRecord { assignment, removed: removal, .. } in records {
        let Some(Removal { at, until, stage }) = removal else { continue };
        let vm = RemovedVm { assignment, removed_at: at, kept_until: until };
        match stage {
            RemovalStage::Kept => removed.put(vm),
            RemovalStage::Deleting => removed.put_unfinished(vm),
        }
    }
    removed
}

fn lifecycle(config: &VmManagerConfig) -> Lifecycle {
    Lifecycle {
        restart: if config.auto_restart { RestartPolicy::OnFailure } else { RestartPolicy::Never },
        stop_timeout: config.stop_timeout,
        hash_verification: config.hash_verification,
        removal_grace: config.removal_grace,
    }
}

/// The VMs on record, and those whose record cannot be used, which hide no others.
fn read_records(
    store: &RecordStore,
) -> Result<(Vec<VmRecord>, BTreeMap<VmId, String>), crate::records::RecordError> {
    let (mut intact, mut damaged) = (Vec::new(), BTreeMap::new());
    for (id, record) in store.load_all()? {
        match record {
            Ok(record) if record.assignment.id == id => intact.push(record),
            Ok(record) => {
                let problem = format!("its record is that of VM {}", record.assignment.id);
                warn!(vm_id = %id, problem, "the VM is left alone");
                damaged.insert(id, problem);
            }
            Err(problem) => {
                let problem = chain(&problem);
                warn!(vm_id = %id, problem, "the VM is left alone");
                damaged.insert(id, problem);
            }
        }
    }
    Ok((intact, damaged))
}
