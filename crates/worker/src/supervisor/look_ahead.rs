//! Whether a definition can be started, as far as that is found out without hashing or copying. It is what a start looks at
//! first, and what plans, `set` and `restart` ask before anything is stopped.

use std::net::Ipv4Addr;
use std::sync::Arc;

use host_network::{NetworkConfig, NicDescription, check_nic, find_taken_port};
use nix_artifacts::{Artifact, LoadRequest, NicRequest, StoreRoots, load_artifact};
use uuid::Uuid;
use vm_model::{Assignment, FailureKind, FailureReason, Isolation, NetworkName};

use super::context::HostContext;
use super::given_up::GivenUp;
use super::guest_secrets::read_secrets;
use super::nic_wish::{refused, wishes};
use super::stage::volume_requests;
use crate::definition::Description;
use crate::failure::{plain, reason};
use crate::volumes::Thoroughness;

/// A definition in whose way nothing was found.
pub(crate) struct LookedAt {
    /// Its artifact, open. The content of files of secrets is among its machine's OEM strings.
    pub(crate) artifact: Artifact,
    /// What it makes of its VM.
    pub(crate) description: Arc<Description>,
}

/// Looks whether `assignment` can be started on this host: its artifact, the networks and addresses that it wants, and the
/// files of the host that it names. Blocks on files.
pub(crate) fn look_ahead(context: &HostContext, assignment: &Assignment) -> Result<LookedAt, FailureReason> {
    let mut artifact = load(&context.roots, assignment, Uuid::nil())?;
    check_isolation(context, artifact.settings.isolation)?;
    check_wishes(context, assignment, &artifact.nics)?;
    check_nics(&artifact.nics, |network| context.networks.config(network))?;
    check_listeners(&artifact.nics, &context.networks.own_addresses())?;
    // What files hold is no part of a definition.
    let description = Arc::new(Description::of(assignment, &artifact));
    read_secrets(&context.credentials_dir, &mut artifact)?;
    Ok(LookedAt { artifact, description })
}

/// As [`look_ahead`], before a machine is stopped for another of the same definition: also whether its start can be recorded and its
/// disks and a process be had. Nothing of the VM changes. Blocks on files.
pub(crate) fn look_before_restart(
    context: &HostContext,
    assignment: &Assignment,
) -> Result<Artifact, FailureReason> {
    if let Some(exhausted) = context.writer.exhaustion() {
        return Err(plain(FailureKind::Host, exhausted));
    }
    context.machines.check_place().map_err(|problem| plain(FailureKind::Host, problem))?;
    let LookedAt { artifact, .. } = look_ahead(context, assignment)?;
    let given_up = GivenUp::default();
    volume_requests(&artifact).try_for_each(|(_, request)| {
        let preview = context.preview_volume(&assignment.id, request, Thoroughness::Quick, &given_up);
        let obstacle = preview.map_or_else(Some, |preview| preview.obstacle);
        obstacle.map_or(Ok(()), |problem| Err(reason(problem.kind(), &problem)))
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

/// Makes sure that each interface can be one of its network, as `config` knows it: that a start would not fail by what is described
/// of it.
pub(crate) fn check_nics(
    nics: &[NicRequest],
    config: impl Fn(&NetworkName) -> Option<NetworkConfig>,
) -> Result<(), FailureReason> {
    nics.iter().try_for_each(|NicRequest { id, network, access, mac, mtu, .. }| {
        let described = NicDescription { mac: *mac, mtu: *mtu, access };
        let checked = config(network).map_or(Ok(()), |config| check_nic(&config, &described));
        checked.map_err(|problem| {
            let message = format!("the interface {id} cannot be in the network \"{network}\": {problem}");
            plain(FailureKind::Artifact, message)
        })
    })
}

/// Makes sure that no port of the host that is to lead to `nics` is one that a program of the host listens on; `own` are the host's
/// addresses in VMs' networks. Blocks.
pub(super) fn check_listeners(nics: &[NicRequest], own: &[Ipv4Addr]) -> Result<(), FailureReason> {
    nics.iter().try_for_each(|nic| match find_taken_port(&nic.access.forwards, own) {
        Some(taken) => Err(reason(FailureKind::Host, &taken)),
        None => Ok(()),
    })
}
