//! Whether a definition can be started, as far as that is found out without hashing or copying. It is what a start looks at
//! first, and what plans, `set` and `restart` ask before anything is stopped.

use std::net::Ipv4Addr;
use std::sync::Arc;

use host_network::{
    ForwardElsewhere, NetworkConfig, NicDescription, PortTaken, check_nic, find_forward_elsewhere,
    find_taken_port,
};
use nix_artifacts::{Artifact, LoadRequest, NicRequest, StoreRoots, load_artifact};
use uuid::Uuid;
use vm_model::{Assignment, FailureKind, FailureReason, Isolation, NetworkName, PortForward};

use super::context::HostContext;
use super::given_up::GivenUp;
use super::guest_secrets::read_secrets;
use super::limiting::check_limits;
use super::nic_wish::{refused, wishes};
use super::stage::volume_requests;
use crate::capacity::Demand;
use crate::definition::Description;
use crate::failure::{plain, reason};
use crate::volumes::{Thoroughness, VolumeError};

/// A definition in whose way nothing was found.
pub(crate) struct LookedAt {
    /// Its artifact, open. The content of files of secrets is among its machine's OEM strings.
    pub(crate) artifact: Artifact,
    /// What it makes of its VM.
    pub(crate) description: Arc<Description>,
}

/// Looks whether `assignment` can be started on this host: its artifact, its limits, the networks and addresses that it wants, and
/// the files of the host that it names. Blocks on files.
pub(crate) fn look_ahead(context: &HostContext, assignment: &Assignment) -> Result<LookedAt, FailureReason> {
    let mut artifact = load(&context.roots, assignment, Uuid::nil())?;
    check_isolation(context, artifact.settings.isolation)?;
    check_limits(context, &artifact.settings.limits, &artifact.machine.footprint())?;
    check_wishes(context, assignment, &artifact.nics)?;
    check_nics(&artifact.nics, |network| context.networks.configs(network))?;
    check_host_ports(&artifact.nics, &context.networks.own_places())?;
    // What files hold is no part of a definition.
    let description = Arc::new(Description::of(assignment, &artifact));
    read_secrets(&context.credentials_dir, &mut artifact)?;
    Ok(LookedAt { artifact, description })
}

/// As [`look_ahead`], before a machine that has `promised` of the host (`None` where that is not known) is stopped for another of the
/// same definition: also whether its start can be recorded, and its memory, its disks and a process be had. Nothing of the VM changes.
/// Blocks on files.
pub(crate) fn look_before_restart(
    context: &HostContext,
    assignment: &Assignment,
    promised: Option<Demand>,
) -> Result<Artifact, FailureReason> {
    if let Some(exhausted) = context.writer.exhaustion() {
        return Err(plain(FailureKind::Host, exhausted));
    }
    context.machines.check_place().map_err(|problem| plain(FailureKind::Host, problem))?;
    let LookedAt { artifact, .. } = look_ahead(context, assignment)?;
    if promised.is_some() {
        let (footprint, host) = (artifact.machine.footprint(), context.capacity.observe_host());
        let checked = context.capacity.check(&footprint, &host, promised);
        checked.map_err(|problem| reason(FailureKind::Host, &problem))?;
    }
    let given_up = GivenUp::default();
    volume_requests(&artifact).try_for_each(|(_, request)| {
        let preview = context.preview_volume(&assignment.id, request, Thoroughness::Quick, &given_up);
        let obstacle = preview.map_or_else(Some, |preview| preview.obstacle);
        let fits = |problem: &VolumeError| {
            problem.is_for_want_of_space() && context.volumes.fits_in_place(&assignment.id, &request)
        };
        obstacle
            .filter(|problem| !fits(problem))
            .map_or(Ok(()), |problem| Err(reason(problem.kind(), &problem)))
    })?;
    Ok(artifact)
}

/// Loads the artifact of `assignment`. Little is read; nothing is hashed.
pub(crate) fn load(
    roots: &StoreRoots,
    assignment: &Assignment,
    uuid: Uuid,
) -> Result<Artifact, FailureReason> {
    let request = LoadRequest {
        store_path: assignment.store_path.clone(),
        overrides: assignment.overrides.clone(),
        procurator: assignment.procurator.clone(),
        uuid,
    };
    load_artifact(roots, &request).map_err(|problem| FailureReason {
        transient: problem.is_missing(),
        ..reason(problem.kind(), &problem)
    })
}

/// Makes sure that the machine can have a process of its own where it must.
pub(super) fn check_isolation(context: &HostContext, isolation: Isolation) -> Result<(), FailureReason> {
    match isolation {
        Isolation::Strict if !context.machines.isolates() => Err(plain(
            FailureKind::Host,
            "procurator.isolation is \"strict\", and this worker runs VMs in its own process only".to_owned(),
        )),
        Isolation::Strict | Isolation::Shared => Ok(()),
    }
}

/// Makes sure that each interface has a network and can have the addresses it wishes for there; `nics` are in the order of the
/// description.
pub(super) fn check_wishes(
    context: &HostContext,
    assignment: &Assignment,
    nics: &[NicRequest],
) -> Result<(), FailureReason> {
    let mut networks = nics.iter().map(|nic| &nic.network);
    let are_up = networks.try_for_each(|network| context.networks.check_up(network));
    are_up.map_err(|problem| reason(FailureKind::Host, &problem))?;
    let checked = context.leases.check(&assignment.id, &wishes(nics));
    checked.map_err(|problem| refused(context, assignment, nics, problem))
}

/// Makes sure that each interface can be one of its network by all that `configs` knows of it: that a start would not fail by what is
/// described of it, nor keep the network from what it is to be.
pub(crate) fn check_nics<C: IntoIterator<Item = NetworkConfig>>(
    nics: &[NicRequest],
    configs: impl Fn(&NetworkName) -> C,
) -> Result<(), FailureReason> {
    nics.iter().try_for_each(|NicRequest { id, network, access, mac, mtu, .. }| {
        let described = NicDescription { mac: *mac, mtu: *mtu, access };
        let checked = configs(network).into_iter().try_for_each(|config| check_nic(&config, &described));
        checked.map_err(|problem| {
            let message = format!("the interface {id} cannot be in the network \"{network}\": {problem}");
            plain(FailureKind::Artifact, message)
        })
    })
}

/// What of the host is this worker's: its addresses in VMs' networks, and the tables of those.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnPlaces {
    addresses: Vec<Ipv4Addr>,
    tables: Vec<String>,
}

impl OwnPlaces {
    /// Those of networks that are there, or to be there, by `configs`.
    pub(crate) fn of(configs: impl IntoIterator<Item = NetworkConfig>) -> Self {
        configs.into_iter().fold(Self::default(), |mut own, config| {
            own.addresses.push(config.gateway);
            own.tables.extend(config.own_tables());
            own
        })
    }

    /// The first of `forwards` whose port a program of this host listens on. Blocks.
    pub(crate) fn find_taken(&self, forwards: &[PortForward]) -> Option<PortTaken> {
        find_taken_port(forwards, &self.addresses)
    }

    /// The first of `forwards` that another worker leads to a VM. Blocks.
    pub(crate) fn find_elsewhere(&self, forwards: &[PortForward]) -> Option<ForwardElsewhere> {
        find_forward_elsewhere(forwards, &self.tables)
    }
}

/// Makes sure that no port of the host that is to lead to `nics` is one that a program of the host listens on, or that another
/// worker leads to a VM; `own` is what is this worker's. Blocks.
pub(super) fn check_host_ports(nics: &[NicRequest], own: &OwnPlaces) -> Result<(), FailureReason> {
    nics.iter().try_for_each(|nic| {
        let forwards = &nic.access.forwards;
        if let Some(taken) = own.find_taken(forwards) {
            return Err(reason(FailureKind::Host, &taken));
        }
        own.find_elsewhere(forwards).map_or(Ok(()), |held| Err(reason(FailureKind::Host, &held)))
    })
}
