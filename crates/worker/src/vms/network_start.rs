//! Bringing the networks up when a manager starts: what is left of those that are configured no more goes first, then each is
//! set up around the interfaces of the VMs that run, and the leases count.

use std::collections::BTreeMap;

use host_network::{HostNetwork, KeptNic, Leftovers, LinkName, NetworkConfig, Teardown, remove_leftovers};
use tracing::{info, warn};
use vm_model::{NetworkName, VmId};

use super::network_plan::PlannedNetwork;
use super::startup::state_error;
use super::takeover::hold_unknown;
use super::{VmManagerConfig, VmManagerError};
use crate::failure::chain;
use crate::records::{
    LeaseBooks, Leases, NetworkNote, RecordWriter, forget_network, network_directory, note_network,
    noted_networks,
};
use crate::supervisor::RunningMachine;

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

/// Sets up the networks of `planned` around the interfaces of the VMs that are `running`, and has addresses be given out on
/// them. On failure those that were set up are undone, unless something runs on this host: what VMs need stays.
///
/// # Errors
/// A network cannot be had, or cannot be recorded.
pub(super) async fn start_networks(
    config: &VmManagerConfig,
    planned: Vec<PlannedNetwork>,
    writer: &RecordWriter,
    leases: &LeaseBooks,
    running: &BTreeMap<VmId, RunningMachine>,
    teardown: Teardown,
) -> Result<BTreeMap<NetworkName, HostNetwork>, VmManagerError> {
    remove_obsolete(config, &planned).await;
    let mut networks = BTreeMap::new();
    let begun = bring_up(config, planned, writer, running, &mut networks).await;
    for (name, network) in &networks {
        if let Some(book) = leases.book(name) {
            hold_unknown(book, &network.report().unknown, running);
        }
    }
    let in_force =
        begun.and_then(|()| leases.put_in_force().map_err(|problem| state_error(config, Box::new(problem))));
    match in_force {
        Ok(()) => Ok(networks),
        Err(problem) => {
            undo(networks, teardown).await;
            Err(problem)
        }
    }
}

/// Sets the networks of `planned` up one after the other. Those that are there stand in `networks`, also on failure.
async fn bring_up(
    config: &VmManagerConfig,
    planned: Vec<PlannedNetwork>,
    writer: &RecordWriter,
    running: &BTreeMap<VmId, RunningMachine>,
    networks: &mut BTreeMap<NetworkName, HostNetwork>,
) -> Result<(), VmManagerError> {
    for PlannedNetwork { name, pool, config: network, directory } in planned {
        let subnet = pool.subnet();
        if !name.is_default() {
            // Before anything of it is on the host: whoever comes next knows what to take away.
            let note = NetworkNote::new(network.bridge.to_string(), subnet);
            note_network(writer, &directory, &note)
                .map_err(|problem| state_error(config, Box::new(problem)))?;
        }
        let network = resume(&name, network, running).await?;
        networks.insert(name, network);
    }
    Ok(())
}

async fn undo(networks: BTreeMap<NetworkName, HostNetwork>, teardown: Teardown) {
    for (name, network) in networks {
        if let Err(problem) = network.shutdown(teardown).await {
            warn!(network = %name, error = chain(&problem), "the VMs' network was not left as it was found");
        }
    }
}

/// Sets the network `name` up, around the interfaces of VMs that run.
async fn resume(
    name: &NetworkName,
    config: NetworkConfig,
    running: &BTreeMap<VmId, RunningMachine>,
) -> Result<HostNetwork, VmManagerError> {
    let kept = running.values().flat_map(RunningMachine::kept_nics);
    let kept: Vec<KeptNic> = kept.filter(|(network, _)| network == name).map(|(_, kept)| kept).collect();
    let network = HostNetwork::resume(config, kept)
        .await
        .map_err(|problem| VmManagerError::Network { name: name.clone(), source: Box::new(problem) })?;
    for warning in &network.report().warnings {
        warn!(network = %name, %warning, "the VMs' network may not work as it should");
    }
    Ok(network)
}

/// Takes away what is left of networks that are configured no more, or with another bridge. What VMs may use stays.
async fn remove_obsolete(config: &VmManagerConfig, planned: &[PlannedNetwork]) {
    for (name, note) in noted_networks(config.state_dir()) {
        let has_bridge = |network: &PlannedNetwork| network.config.bridge.as_str() == note.bridge;
        let directory = network_directory(config.state_dir(), &name);
        if planned.iter().any(|network| network.name == name && has_bridge(network)) {
            continue;
        }
        if planned.iter().any(has_bridge) {
            forget_network(&directory);
            continue;
        }
        let Ok(bridge) = LinkName::parse(&note.bridge) else { continue };
        let network =
            NetworkConfig { state_dir: Some(directory.clone()), ..NetworkConfig::new(bridge, note.subnet) };
        match remove_leftovers(&network).await {
            Ok(Leftovers::Removed) => {
                info!(network = %name, bridge = note.bridge, "the network is configured no more, and was removed");
                forget_network(&directory);
            }
            Ok(Leftovers::InUse { ports }) => {
                warn!(network = %name, bridge = note.bridge, ?ports, "the network is configured no more, and stays while links are on its bridge");
            }
            Err(problem) => {
                warn!(network = %name, bridge = note.bridge, error = chain(&problem), "the network is configured no more, and was not removed");
            }
        }
    }
}
