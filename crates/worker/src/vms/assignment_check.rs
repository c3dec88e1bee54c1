//! Whether what is assigned could be started, without a worker: by the functions that a worker's starts use.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use host_network::{ForwardElsewhere, NetworkConfig, PortTaken};
use ipam::Pool;
use nix_artifacts::{Artifact, NicRequest, RootError, StoreRoots};
use uuid::Uuid;
use vm_model::{Assignment, DesiredState, FailureKind, FailureReason, NetworkName, PortForward, VmId};

use super::network_plan::plan_networks;
use super::placing::limits_gap;
use super::{LimitSettings, Placement, VmManagerConfig};
use crate::capacity::{Capacity, CapacityRules, HostResources, Share};
use crate::failure::reason;
use crate::records::check_networks;
use crate::supervisor::{OwnPlaces, check_nics, foresee_leases, judge_limits, load, read_secrets};

/// Judges assignments one after the other, as a worker with the same settings on this host would that has no VM yet.
///
/// It reads artifacts and the files of the host that they name, and hashes nothing. What depends on VMs that are there
/// (addresses and ports that they have, volumes) is a worker's to tell: see [`NodeMessage::Plan`](crate::node::NodeMessage::Plan).
#[derive(Debug)]
pub struct AssignmentCheck {
    roots: StoreRoots,
    credentials_dir: PathBuf,
    networks: BTreeMap<NetworkName, NetworkConfig>,
    /// What of this host is theirs.
    own: OwnPlaces,
    capacity: Arc<Capacity>,
    limits: LimitSettings,
    placement: Placement,
    host: HostResources,
    /// Of the VMs that were judged and are to run.
    shares: Vec<Share>,
    /// The addresses of each network, of which none is leased.
    pools: BTreeMap<NetworkName, Pool>,
    /// The VMs that were judged and are to run, with the interfaces that they want.
    wished: Vec<(Assignment, Vec<NicRequest>)>,
}

/// What was found of one assignment.
#[derive(Debug, Default)]
pub struct Judged {
    /// Why it could not be started, apart from ports of the host.
    pub problem: Option<FailureReason>,
    /// The ports of the host that are to lead to it.
    pub forwards: Vec<PortForward>,
    /// Those of them on which programs of this host listen.
    pub taken: Vec<PortTaken>,
    /// Those of them that other workers lead to VMs.
    pub elsewhere: Vec<ForwardElsewhere>,
}

impl AssignmentCheck {
    /// For a worker with the settings `config`.
    ///
    /// # Errors
    /// A store root cannot be opened.
    pub fn new(config: &VmManagerConfig) -> Result<Self, RootError> {
        // What is wrong with the networks is told of the settings.
        let planned = plan_networks(config).unwrap_or_default();
        let capacity = Capacity::new(CapacityRules::of(config));
        let networks: BTreeMap<_, _> = config.network_configs().into_iter().collect();
        // A worker that runs may have networks on their former bridges still.
        let former = config
            .former_bridges()
            .into_iter()
            .filter_map(|(name, bridge)| Some(NetworkConfig::new(bridge, networks.get(&name)?.subnet)));
        Ok(Self {
            roots: StoreRoots::open(&config.store_roots)?,
            credentials_dir: config.credentials_dir.clone(),
            own: OwnPlaces::of(networks.values().cloned().chain(former)),
            networks,
            limits: config.limits,
            placement: config.placement.clone(),
            host: capacity.observe_host(),
            capacity,
            shares: Vec::new(),
            pools: planned.into_iter().map(|network| (network.name, network.pool)).collect(),
            wished: Vec::new(),
        })
    }

    /// Whether `assignment` could be started beside those that were judged before, with everything that is in the way. Blocks on
    /// files.
    pub fn judge(&mut self, assignment: &Assignment) -> Judged {
        let mut artifact = match load(&self.roots, assignment, Uuid::nil()) {
            Ok(artifact) => artifact,
            Err(problem) => return Judged { problem: Some(problem), ..Judged::default() },
        };
        let forwards: Vec<_> =
            artifact.nics.iter().flat_map(|nic| nic.access.forwards.iter().copied()).collect();
        let mut judged = Judged { forwards, ..Judged::default() };
        match assignment.desired {
            DesiredState::Running | DesiredState::Paused => {
                let each = || judged.forwards.chunks(1);
                judged.taken = each().filter_map(|forward| self.own.find_taken(forward)).collect();
                judged.elsewhere = each().filter_map(|forward| self.own.find_elsewhere(forward)).collect();
            }
            DesiredState::Stopped => {}
        }
        judged.problem = self.look(assignment, &mut artifact).err();
        judged
    }

    /// Whether it could be started, apart from its ports of the host.
    fn look(&mut self, assignment: &Assignment, artifact: &mut Artifact) -> Result<(), FailureReason> {
        let nics = artifact.nics.iter().map(|nic| (nic.id.as_str(), &nic.network));
        check_networks(self.networks.keys(), nics).map_err(|problem| reason(problem.kind(), &problem))?;
        check_nics(&artifact.nics, |network| self.networks.get(network).cloned())?;
        read_secrets(&self.credentials_dir, artifact)?;
        let footprint = artifact.machine.footprint();
        judge_limits(&self.limits, &artifact.settings.limits, &footprint, |limits| {
            limits_gap(&self.placement, limits)
        })?;
        match assignment.desired {
            DesiredState::Running | DesiredState::Paused => {
                let share = self.capacity.take(&footprint, &self.host, None);
                self.shares.push(share.map_err(|problem| reason(FailureKind::Host, &problem))?);
                self.wished.push((assignment.clone(), artifact.nics.clone()));
            }
            DesiredState::Stopped => {}
        }
        Ok(())
    }

    /// Which of the VMs that were judged and are to run could not have their addresses beside the others, and why.
    pub fn judge_addresses(&self) -> BTreeMap<VmId, FailureReason> {
        foresee_leases(self.pools.clone(), &self.wished)
    }
}
