//! Bringing the networks up when a manager starts: what is left of those that are configured no more goes first, then each is
//! set up around the interfaces of the VMs that run, and the leases count. Afterwards, trying again those that could not be had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

use host_network::{HostNetwork, KeptNic, NetworkConfig, NetworkError, Teardown, TeardownOutcome};
use tokio::time::sleep;
use tracing::{info, warn};
use vm_model::{NetworkName, VmId};

use super::network_plan::PlannedNetwork;
use super::network_setup::{BridgesInUse, NetworkSetup};
use super::startup::state_error;
use super::takeover::hold_unknown;
use super::{VmManagerConfig, VmManagerError};
use crate::failure::chain;
use crate::records::{LeaseBooks, Leases, RecordWriter};
use crate::supervisor::{HeldBack, HostContext, NetworkState, RunningMachine, WaitingNetwork};

/// How often what could not be done is tried again: a look at the host's links and addresses.
const AGAIN: Duration = Duration::from_secs(5);

/// The leases of each network of `planned`.
///
/// # Errors
/// The host refuses to read what was.
pub(super) fn open_leases(
    config: &VmManagerConfig,
    planned: &[PlannedNetwork],
    writer: &RecordWriter,
) -> Result<LeaseBooks, VmManagerError> {
    let open = |network: &PlannedNetwork| {
        let opened = Leases::open(&network.directory, network.pool.clone(), writer.clone());
        let leases = opened.map_err(|problem| state_error(config, Box::new(problem)))?;
        Ok((network.name.clone(), leases))
    };
    planned.iter().map(open).collect::<Result<BTreeMap<_, _>, _>>().map(LeaseBooks::new)
}

/// Sets up the networks of `setup` around the interfaces of the VMs that are `running`, and has addresses be given out on
/// them. One that the host does not let be waits. On failure those that were set up are undone, unless something runs on this
/// host: what VMs need stays.
///
/// # Errors
/// A network cannot be had for another reason, or cannot be recorded.
pub(super) async fn start_networks(
    config: &VmManagerConfig,
    setup: &NetworkSetup,
    leases: &LeaseBooks,
    running: &BTreeMap<VmId, RunningMachine>,
    teardown: Teardown,
) -> Result<BTreeMap<NetworkName, NetworkState>, VmManagerError> {
    setup.remove_obsolete(true).await;
    let mut networks = BTreeMap::new();
    let mut begun = bring_up(setup, running, &mut networks).await;
    for (name, network) in &networks {
        if begun.is_ok() {
            begun = begin_leases(config, leases, name, network, |vm| running.contains_key(vm));
        }
    }
    match begun {
        Ok(()) => Ok(networks),
        Err(problem) => {
            undo(networks, teardown).await;
            Err(problem)
        }
    }
}

/// Has the leases of a network count that is there: those of interfaces that nobody knows, too. Not of one that waits.
fn begin_leases(
    config: &VmManagerConfig,
    leases: &LeaseBooks,
    name: &NetworkName,
    network: &NetworkState,
    runs: impl Fn(&VmId) -> bool,
) -> Result<(), VmManagerError> {
    let (NetworkState::Up { network, .. }, Some(book)) = (network, leases.book(name)) else { return Ok(()) };
    hold_unknown(book, &network.report().unknown, runs);
    book.put_in_force().map_err(|problem| state_error(config, Box::new(problem)))
}

/// Sets the networks up one after the other, first those that VMs may keep on another bridge than is configured. Those that are
/// there, or wait, stand in `networks`, also on failure.
async fn bring_up(
    setup: &NetworkSetup,
    running: &BTreeMap<VmId, RunningMachine>,
    networks: &mut BTreeMap<NetworkName, NetworkState>,
) -> Result<(), VmManagerError> {
    let mut taken = BridgesInUse::new();
    for network in setup.in_order() {
        let kept = running.values().flat_map(RunningMachine::kept_nics);
        let kept: Vec<KeptNic> =
            kept.filter(|(name, _)| *name == network.name).map(|(_, kept)| kept).collect();
        let state = setup.set_up(network, kept, &taken).await?;
        match &state {
            NetworkState::Up { network: up, held_back } => {
                taken.insert(up.config().bridge.clone(), network.name.clone());
                if let Some(HeldBack { sentence, .. }) = held_back {
                    warn!(network = %network.name, "{sentence}");
                }
            }
            NetworkState::Waiting(WaitingNetwork { problem, .. }) => {
                warn!(network = %network.name, problem, "the network is not set up, and is tried again");
            }
            NetworkState::Ended => {}
        }
        networks.insert(network.name.clone(), state);
    }
    Ok(())
}

async fn undo(networks: BTreeMap<NetworkName, NetworkState>, teardown: Teardown) {
    for (name, network) in networks {
        let NetworkState::Up { network, .. } = network else { continue };
        if let Err(problem) = network.shutdown(teardown).await {
            warn!(network = %name, error = chain(&problem), "the VMs' network was not left as it was found");
        }
    }
}

/// Tries again, as long as the manager is there, what networks and what is left of others could not be brought to so far.
pub(super) async fn tend_networks(context: Weak<HostContext>, setup: NetworkSetup, config: VmManagerConfig) {
    loop {
        sleep(AGAIN).await;
        let Some(context) = context.upgrade() else { return };
        setup.remove_obsolete(false).await;
        for network in &setup.planned {
            if let Err(problem) = tend(&context, &setup, &config, network).await {
                warn!(network = %network.name, error = chain(&problem), "the network could not be looked after");
            }
        }
    }
}

/// A network that is about to be set up again.
struct Pending {
    /// What stood against it until now.
    before: Option<String>,
    /// Interfaces of VMs that run in it.
    kept: Vec<KeptNic>,
    /// What of it is on the host still.
    left: Option<NetworkConfig>,
}

/// Ends `present`, which nothing keeps as it is any more, so that `network` can be as it is configured: its former bridge goes. Where it
/// keeps its bridge, VMs run on.
async fn make_room(network: &PlannedNetwork, present: HostNetwork, held_back: Option<HeldBack>) -> Pending {
    let is_moved = held_back.is_some_and(|held| held.configured.bridge != present.config().bridge);
    let left = present.config().clone();
    let (kept, teardown) =
        if is_moved { (Vec::new(), Teardown::Remove) } else { (present.attached_nics(), Teardown::Keep) };
    let left = match present.shutdown(teardown).await {
        Ok(TeardownOutcome::Removed) => None,
        Ok(TeardownOutcome::Kept | TeardownOutcome::Adopted | TeardownOutcome::InUse { .. }) => Some(left),
        Err(problem) => {
            warn!(network = %network.name, error = chain(&problem), "what was before of the network was not ended");
            Some(left)
        }
    };
    Pending { before: None, kept, left }
}

/// A network that could not be set up for another reason than what is on this host: what of it is `left` there goes at the end.
fn still_waiting(problem: &VmManagerError, kept: Vec<KeptNic>, left: Option<NetworkConfig>) -> NetworkState {
    NetworkState::Waiting(WaitingNetwork { problem: chain(problem), kept, left })
}

async fn tend(
    context: &HostContext,
    setup: &NetworkSetup,
    config: &VmManagerConfig,
    network: &PlannedNetwork,
) -> Result<(), VmManagerError> {
    let (name, networks) = (&network.name, &context.networks);
    let Some((_, shared)) = networks.all().find(|(other, _)| *other == name) else { return Ok(()) };
    if shared.pending().is_none() {
        return Ok(());
    }
    let taken = networks.all().filter_map(|(name, other)| Some((other.bridge()?, name.clone())));
    let taken: BridgesInUse = taken.filter(|(_, other)| other != name).collect();
    let refused =
        |problem: NetworkError| VmManagerError::Network { name: name.clone(), source: Box::new(problem) };
    let mut turn = shared.turn().await;
    let Some(pending) = turn.take_pending().await.map_err(refused)? else { return Ok(()) };
    let Pending { before, kept, left } = match pending {
        NetworkState::Up { network: present, held_back } => make_room(network, present, held_back).await,
        NetworkState::Waiting(WaitingNetwork { problem, kept, left }) => {
            Pending { before: Some(problem), kept, left }
        }
        NetworkState::Ended => return Ok(()),
    };
    let runs: BTreeSet<VmId> = kept.iter().map(|nic| nic.vm.clone()).collect();
    let set_up = setup.set_up(network, kept.clone(), &taken).await;
    let state = set_up.unwrap_or_else(|problem| still_waiting(&problem, kept, left));
    match &state {
        NetworkState::Waiting(now) if before.as_ref() != Some(&now.problem) => {
            warn!(network = %name, problem = now.problem, "the network is not set up, and is tried again");
        }
        NetworkState::Up { network, .. } => {
            info!(network = %name, bridge = %network.config().bridge, "the network is there for VMs");
        }
        NetworkState::Waiting(_) | NetworkState::Ended => {}
    }
    let begun = begin_leases(config, &context.leases, name, &state, |vm| runs.contains(vm));
    turn.put(state);
    networks.tell_change();
    context.changes.note();
    begun
}
