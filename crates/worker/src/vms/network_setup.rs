//! Setting one network up around the interfaces of VMs that run, at the start and whenever it is tried again. A network that this
//! host does not let be waits, and keeps no other from being there. One whose VMs need it as it was before stays so: on its former
//! bridge, or without an uplink.

use std::collections::BTreeMap;
use std::path::PathBuf;

use host_network::{
    GuestAddresses, HostNetwork, KeptNic, Leftovers, LinkName, NetworkConfig, NetworkError, remove_leftovers,
};
use tracing::{info, warn};
use vm_model::NetworkName;

use super::VmManagerError;
use super::network_plan::PlannedNetwork;
use crate::failure::chain;
use crate::records::{
    NetworkNote, NotedWays, RecordWriter, forget_network, network_directory, note_network, noted_networks,
};
use crate::supervisor::{
    HeldBack, NetworkState, WaitingNetwork, find_bridge_problem, keeps_for_vms, unfit_vms,
};

/// What sets networks up.
#[derive(Debug)]
pub(super) struct NetworkSetup {
    state_dir: PathBuf,
    writer: RecordWriter,
    pub(super) planned: Vec<PlannedNetwork>,
}

/// Which networks have which bridges at this moment.
pub(super) type BridgesInUse = BTreeMap<LinkName, NetworkName>;

/// What is left of a network on another bridge than the configured one.
#[derive(Debug)]
enum Former {
    /// Nothing, or nothing any more.
    Nothing,
    /// It is kept, for the reason in this sentence.
    Kept(LinkName, String),
    /// It cannot be taken away, for the reason in this sentence.
    Stays(String),
}

/// As what a network is to be set up.
struct Ways {
    config: NetworkConfig,
    /// What is noted of that.
    noted: NotedWays,
    /// That this is not as it is configured, and why: a sentence.
    kept_by: Option<String>,
}

/// As what a network is to be set up, and where.
struct Place {
    ways: Ways,
    /// What of its former bridge is in the way: a sentence.
    stays: Option<String>,
}

impl NetworkSetup {
    pub(super) fn new(state_dir: PathBuf, writer: RecordWriter, planned: Vec<PlannedNetwork>) -> Self {
        Self { state_dir, writer, planned }
    }

    /// The networks, those first of which an earlier run left another bridge than the configured one: VMs may keep them on it, and
    /// another network may want it.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &PlannedNetwork> {
        let noted: BTreeMap<NetworkName, NetworkNote> = noted_networks(&self.state_dir).into_iter().collect();
        let had_another = move |network: &&PlannedNetwork| {
            let note = noted.get(&network.name);
            note.is_some_and(|note| note.bridge != network.config.bridge.as_str())
        };
        let (first, rest): (Vec<_>, Vec<_>) = self.planned.iter().partition(had_another);
        first.into_iter().chain(rest)
    }

    /// Takes away what is left of networks that are configured no more. What VMs may use stays, and is told `aloud`.
    pub(super) async fn remove_obsolete(&self, aloud: bool) {
        for (name, note) in noted_networks(&self.state_dir) {
            if self.planned.iter().any(|network| network.name == name) {
                continue;
            }
            let directory = network_directory(&self.state_dir, &name);
            if self.planned.iter().any(|network| network.config.bridge.as_str() == note.bridge) {
                forget_network(&directory);
                continue;
            }
            let Some(network) = self.former(&name, &note) else { continue };
            match remove_leftovers(&network).await {
                Ok(Leftovers::Removed) => {
                    info!(network = %name, bridge = note.bridge, "the network is configured no more, and was removed");
                    forget_network(&directory);
                }
                Ok(Leftovers::CarriesVms { ports } | Leftovers::InUse { ports }) if aloud => {
                    warn!(network = %name, bridge = note.bridge, ports = ports.join(", "), "the network is configured no more, and stays while links are on its bridge");
                }
                Err(problem) if aloud => {
                    warn!(network = %name, bridge = note.bridge, error = chain(&problem), "the network is configured no more, and was not removed");
                }
                Ok(Leftovers::CarriesVms { .. } | Leftovers::InUse { .. }) | Err(_) => {}
            }
        }
    }

    /// The network `name` as `note` has it: enough to take away what is left of it.
    fn former(&self, name: &NetworkName, note: &NetworkNote) -> Option<NetworkConfig> {
        let bridge = LinkName::parse(&note.bridge).ok()?;
        let state_dir = Some(network_directory(&self.state_dir, name));
        Some(NetworkConfig { state_dir, ..NetworkConfig::new(bridge, note.subnet) })
    }

    /// What an earlier run noted of `network`.
    fn noted(&self, network: &PlannedNetwork) -> Option<NetworkNote> {
        let mut noted = noted_networks(&self.state_dir).into_iter();
        noted.find(|(name, _)| *name == network.name).map(|(_, note)| note)
    }

    /// Takes away what is left of `network` on another bridge than its own, unless VMs are there or its own cannot be had.
    async fn clear_former(&self, network: &PlannedNetwork) -> Former {
        let former = self.noted(network).and_then(|note| self.former(&network.name, &note));
        let Some(former) = former.filter(|former| former.bridge != network.config.bridge) else {
            return Former::Nothing;
        };
        let bridge = former.bridge.clone();
        // What cannot be looked at is told by what comes next.
        if let Ok(Some(problem)) = find_bridge_problem(&network.config, &bridge).await {
            return Former::Kept(bridge, problem);
        }
        match remove_leftovers(&former).await {
            Ok(Leftovers::Removed) => {
                info!(network = %network.name, %bridge, now = %network.config.bridge, "the bridge that the network had before was removed");
                forget_network(&network.directory);
                Former::Nothing
            }
            Ok(Leftovers::CarriesVms { .. }) => {
                let sentence = keeps_for_vms(&bridge, &network.config.bridge);
                Former::Kept(bridge, sentence)
            }
            Ok(Leftovers::InUse { ports }) => Former::Stays(format!(
                "the bridge {bridge}, which it had before, stays while {} is on it",
                ports.join(", ")
            )),
            Err(problem) => Former::Stays(format!(
                "the bridge {bridge}, which it had before, could not be removed: {}",
                chain(&problem)
            )),
        }
    }

    /// As what `network` is to be set up around the interfaces `kept`: as it was before, while VMs are in it that could not be in it
    /// as it is configured.
    ///
    /// # Errors
    /// The host's links cannot be listed.
    async fn ways(&self, network: &PlannedNetwork, kept: &[KeptNic]) -> Result<Ways, NetworkError> {
        let note = self.noted(network);
        let present = note.as_ref().and_then(|note| self.former(&network.name, note));
        let present = present.unwrap_or_else(|| network.config.clone());
        let configured = network.ways();
        let Some(kept_by) = unfit_vms(&network.config, &present, kept).await?.sentence() else {
            return Ok(Ways { config: network.config.clone(), noted: configured, kept_by: None });
        };
        if let Some(noted) = note.and_then(|note| note.ways)
            && let Some(config) = network.with_ways(&noted)
            && unfit_vms(&config, &present, kept).await?.sentence().is_none()
        {
            return Ok(Ways { config, noted, kept_by: Some(kept_by) });
        }
        // What it was is not known, or does not hold either.
        let noted = NotedWays { uplink: None, vlan: None, external: false, ..configured };
        let config = network.with_ways(&noted).unwrap_or_else(|| NetworkConfig {
            uplink: None,
            addresses: GuestAddresses::Ours,
            ..network.config.clone()
        });
        Ok(Ways { config, noted, kept_by: Some(kept_by) })
    }

    /// As what `network` is to be set up around the interfaces `kept`, and on which bridge.
    ///
    /// # Errors
    /// The host's links cannot be listed.
    async fn place(&self, network: &PlannedNetwork, kept: &[KeptNic]) -> Result<Place, NetworkError> {
        let ways = self.ways(network, kept).await?;
        let (bridge, sentence) = match self.clear_former(network).await {
            Former::Nothing => return Ok(Place { ways, stays: None }),
            Former::Stays(problem) => return Ok(Place { ways, stays: Some(problem) }),
            Former::Kept(bridge, sentence) => (bridge, sentence),
        };
        let NetworkConfig { nft_table, .. } = NetworkConfig::new(bridge.clone(), network.config.subnet);
        let config = NetworkConfig { bridge, nft_table, ..ways.config };
        let kept_by = ways.kept_by.map_or_else(|| sentence.clone(), |ways| format!("{sentence}; {ways}"));
        Ok(Place { ways: Ways { config, kept_by: Some(kept_by), ..ways }, stays: None })
    }

    /// Sets `network` up around the interfaces `kept`, or says what stands against that. Other networks have the bridges `taken`.
    ///
    /// # Errors
    /// It cannot be had for another reason than what is on this host, or not be recorded.
    pub(super) async fn set_up(
        &self,
        network: &PlannedNetwork,
        kept: Vec<KeptNic>,
        taken: &BridgesInUse,
    ) -> Result<NetworkState, VmManagerError> {
        let refused =
            |source| VmManagerError::Network { name: network.name.clone(), source: Box::new(source) };
        let Place { ways: Ways { config, noted, kept_by }, stays } =
            self.place(network, &kept).await.map_err(refused)?;
        if let Some(problem) = stays {
            return Ok(waiting(problem, kept, None));
        }
        let held_back = kept_by.map(|sentence| HeldBack { configured: network.config.clone(), sentence });
        if let Some(other) = self.who_has(&config.bridge, &network.name, taken) {
            let problem = format!("the network \"{other}\" has the bridge {} still", config.bridge);
            return Ok(waiting(problem, kept, None));
        }
        let config = NetworkConfig { peers: self.other_bridges(&config.bridge), ..config };
        let left = self.was_noted(network, &config).then(|| config.clone());
        // Before anything of it is on the host: whoever comes next knows what to take away.
        let note = NetworkNote::new(config.bridge.to_string(), network.subnet(), noted);
        note_network(&self.writer, &network.directory, &note).map_err(|source| VmManagerError::State {
            path: self.state_dir.clone(),
            source: Box::new(source),
        })?;
        match HostNetwork::resume(config, kept.clone()).await {
            Ok(up) => {
                for warning in &up.report().warnings {
                    warn!(network = %network.name, %warning, "the VMs' network may not work as it should");
                }
                Ok(NetworkState::Up { network: up, held_back })
            }
            Err(problem) if problem.is_conflict() => {
                if left.is_none() {
                    // Nothing of it is on the host, and what is there under that name is another's.
                    forget_network(&network.directory);
                }
                Ok(wait_for_the_host(&network.name, &problem, kept, left).await)
            }
            Err(problem) => {
                if left.is_none() {
                    forget_network(&network.directory);
                }
                Err(refused(problem))
            }
        }
    }

    /// The other network that has `bridge` at this moment, or is noted as having it and was not set up yet.
    fn who_has(&self, bridge: &LinkName, own: &NetworkName, taken: &BridgesInUse) -> Option<NetworkName> {
        let is_another = |name: &NetworkName| name != own;
        let is_planned = |name: &NetworkName| self.planned.iter().any(|network| network.name == *name);
        let noted = noted_networks(&self.state_dir).into_iter();
        let mut noted = noted.filter(|(_, note)| note.bridge == bridge.as_str()).map(|(name, _)| name);
        let has_it = taken.get(bridge).filter(|name| is_another(name)).cloned();
        has_it.or_else(|| noted.find(|name| is_another(name) && is_planned(name)))
    }

    /// Whether an earlier run noted that it was about to have the bridge of `config`.
    fn was_noted(&self, network: &PlannedNetwork, config: &NetworkConfig) -> bool {
        let mut noted = noted_networks(&self.state_dir).into_iter();
        noted.any(|(name, note)| name == network.name && note.bridge == config.bridge.as_str())
    }

    /// The bridges of all networks, those of before among them, but for `own`.
    fn other_bridges(&self, own: &LinkName) -> Vec<LinkName> {
        let planned = self.planned.iter().map(|network| network.config.bridge.clone());
        let noted = noted_networks(&self.state_dir).into_iter();
        let noted = noted.filter_map(|(_, note)| LinkName::parse(&note.bridge).ok());
        let mut others: Vec<LinkName> = planned.chain(noted).filter(|bridge| bridge != own).collect();
        others.sort();
        others.dedup();
        others
    }
}

fn waiting(problem: String, kept: Vec<KeptNic>, left: Option<NetworkConfig>) -> NetworkState {
    NetworkState::Waiting(WaitingNetwork { problem, kept, left })
}

/// A network that the host does not let be, without what an earlier run `left` of it where no VM needs that: it may be in the way of
/// another network.
async fn wait_for_the_host(
    name: &NetworkName,
    problem: &NetworkError,
    kept: Vec<KeptNic>,
    left: Option<NetworkConfig>,
) -> NetworkState {
    if let (true, Some(left)) = (kept.is_empty(), &left)
        && let Err(problem) = remove_leftovers(left).await
    {
        warn!(network = %name, error = chain(&problem), "what was left of the network was not removed");
    }
    waiting(chain(problem), kept, left)
}
