//! From an assignment to everything that can be made ready while the machine before still runs: the artifact verified,
//! opened and judged, new contents of volumes copied. Nothing that a running machine uses is touched.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix_artifacts::{AddressDelivery, Artifact, ArtifactFile, CloudInitData, NicRequest, OpenedFile};
use uuid::Uuid;
use vm_model::{
    Assignment, DiskAccess, FailureKind, FailureReason, HealthSpec, Isolation, MachineSpec, ResetPolicy,
    RolloutFailure, RolloutSpec, VmId, VolumePolicy,
};

use super::context::HostContext;
use super::given_up::GivenUp;
use super::guest_secrets::{GuestSecrets, read_secrets};
use super::host_ports::check_forwards;
use super::limiting::{check_limits, isolation};
use super::look_ahead::{check_host_ports, check_isolation, check_nics, check_wishes, load};
use super::prepare::Definition;
use super::rollout::to_wait_for;
use super::stage_work::{LongWork, StageWork};
use super::store_files::{VerifiedFiles, hold, watch_files};
use super::verify::{VerifiedArtifact, unloadable, verify};
use super::{RestartPolicy, socket_path};
use crate::capacity::Demand;
use crate::definition::Description;
use crate::failure::reason;
use crate::volumes::{Seeded, StageRequest, Staged};

/// A machine that is ready to be given its interfaces and started.
#[derive(Debug)]
pub(super) struct StagedMachine {
    /// The definition it is made by.
    pub(super) assignment: Arc<Assignment>,
    /// What that makes of the VM.
    pub(super) description: Arc<Description>,
    /// Its files as they lie in the artifact: a writable disk's is the image.
    pub(super) machine: MachineSpec<ArtifactFile>,
    /// Its writable disks.
    pub(super) volumes: Vec<Staged>,
    pub(super) nics: Vec<NicRequest>,
    pub(super) vsock_cid: Option<u32>,
    /// What its guest's cloud-init is told.
    pub(super) cloud_init: Option<CloudInitData>,
    pub(super) warnings: Vec<String>,
    pub(super) unverified: Vec<PathBuf>,
    /// What the definition says about restarts.
    pub(super) restart: Option<RestartPolicy>,
    /// What a reset by its guest does.
    pub(super) resets: ResetPolicy,
    /// How it is found out whether the guest is well.
    pub(super) health: Option<HealthSpec>,
    /// What its definition says about its own replacement of another.
    pub(super) rollout: Option<RolloutSpec>,
    /// Whether it may share a process.
    pub(super) isolation: Isolation,
    pub(super) address: AddressDelivery,
    /// How long verifying and opening the artifact took.
    pub(super) artifact_took: Duration,
    /// How long preparing its disks took.
    pub(super) disks_took: Duration,
    /// The files of the store that it has open and that were verified.
    pub(super) verified: VerifiedFiles,
}

/// What a VM holds already that its next machine will have in its stead.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// What of the host is promised to it.
    pub(super) promised: Option<Demand>,
    /// Whether its present machine runs.
    pub(super) is_up: bool,
}

/// Makes the machine of `assignment` ready. On failure nothing stays.
///
/// When `work` is given up it fails soon, but for a store or a disk that does not answer.
pub(super) async fn stage(
    context: &Arc<HostContext>,
    assignment: &Arc<Assignment>,
    uuid: Uuid,
    held: Held,
    work: StageWork,
) -> Result<StagedMachine, FailureReason> {
    let (host, assignment, vm) = (Arc::clone(context), Arc::clone(assignment), assignment.id.clone());
    // Opening, hashing, copying and syncing take as long as the disks let them.
    let staging = move || {
        let begun = Instant::now();
        let id = assignment.id.clone();
        host.ports.begin(&id);
        let staged = stage_blocking(&host, assignment, uuid, held, &work);
        let staged = staged.inspect_err(|_| host.ports.failed(&id))?;
        let artifact_took = begun.elapsed().saturating_sub(staged.disks_took);
        Ok(StagedMachine { artifact_took, ..staged })
    };
    context.own_threads.run(vm.as_str(), "stage", staging).await?
}

fn stage_blocking(
    context: &Arc<HostContext>,
    assignment: Arc<Assignment>,
    uuid: Uuid,
    held: Held,
    work: &StageWork,
) -> Result<StagedMachine, FailureReason> {
    let mut unkept = hold(context, &assignment, [&assignment.store_path]);
    let show = |fetching| work.show(Some(LongWork::Fetching(fetching)));
    let wanted = (&assignment.id, assignment.store_path.as_path());
    context.fetching.ensure(context, wanted, work.given_up(), &show)?;
    work.show(None);
    let loaded = load(&context.roots, &assignment, uuid);
    let mut artifact = loaded.map_err(|problem| unloadable(context, &assignment, problem, work))?;
    unkept.extend(hold(context, &assignment, &artifact.references));
    let VerifiedArtifact { unverified, seeded } = verify(context, &assignment, &artifact, work)?;
    context
        .capacity
        .check(&artifact.machine.footprint(), &context.capacity.observe_host(), held.promised)
        .map_err(|problem| reason(FailureKind::Host, &problem))?;
    check_isolation(context, artifact.settings.isolation)?;
    let unlimited = check_limits(context, &artifact.settings.limits, &artifact.machine.footprint())?;
    check_interfaces(context, &assignment, &artifact.nics, held)?;
    let description = Arc::new(Description::of(&assignment, &artifact));
    if held.is_up {
        check_sizes(context, &assignment.id, &artifact)?;
    }
    let GuestSecrets { cloud_init, exposed } = read_secrets(&context.credentials_dir, &mut artifact)?;
    let begun = Instant::now();
    let volumes = stage_volumes(context, &assignment.id, &artifact, seeded, held, work.given_up())?;
    let verified = watch_files(context, &artifact).inspect_err(|_| {
        volumes.iter().for_each(|volume| context.volumes.discard(&assignment.id, volume));
    })?;
    if held.is_up {
        check_trial(context, &assignment.id, &artifact, &volumes)?;
    }
    let disks_took = begun.elapsed();
    // Each boot of an ephemeral disk begins with a fresh copy, which is made here.
    let has_ephemeral = description.volumes.values().any(|volume| volume.policy == VolumePolicy::Ephemeral);
    let resets = if has_ephemeral { ResetPolicy::EndsMachine } else { ResetPolicy::default() };
    let warnings = artifact.warnings.iter().map(ToString::to_string);
    let mut warnings: Vec<String> = warnings.chain(exposed).chain(unkept).chain(unlimited).collect();
    if artifact.vsock.is_some() {
        warnings.extend(socket_path::too_long(&context.records.directory(&assignment.id).join("sockets")));
    }
    let isolation = isolation(context, &artifact.settings);
    Ok(StagedMachine {
        assignment,
        description,
        volumes,
        nics: artifact.nics,
        vsock_cid: artifact.vsock.map(|vsock| vsock.cid),
        cloud_init,
        warnings,
        unverified,
        restart: artifact.settings.restart.map(RestartPolicy::from),
        resets,
        health: artifact.settings.health,
        rollout: artifact.settings.rollout,
        isolation,
        address: artifact.settings.address,
        machine: artifact.machine,
        artifact_took: Duration::ZERO,
        disks_took,
        verified,
    })
}

/// Makes sure that each interface can have its addresses and its ports, and be in its network.
fn check_interfaces(
    context: &HostContext,
    assignment: &Assignment,
    nics: &[NicRequest],
    held: Held,
) -> Result<(), FailureReason> {
    check_wishes(context, assignment, nics)?;
    check_nics(nics, |network| context.networks.configs(network))?;
    check_forwards(context, &assignment.id, nics, held.is_up)?;
    check_host_ports(nics, &context.networks.own_places())
}

/// Makes sure, while the machine before still runs, that no disk is asked to shrink.
fn check_sizes(context: &HostContext, vm: &VmId, artifact: &Artifact) -> Result<(), FailureReason> {
    volume_requests(artifact)
        .try_for_each(|(_, request)| context.volumes.check_size(vm, &request))
        .map_err(|problem| reason(problem.kind(), &problem))
}

/// Makes the disks ready. While no machine of `vm` runs, the content of an ephemeral one goes first, where there is no space for
/// another beside it.
fn stage_volumes(
    context: &Arc<HostContext>,
    vm: &VmId,
    artifact: &Artifact,
    mut seeded: Vec<Seeded>,
    held: Held,
    given_up: &GivenUp,
) -> Result<Vec<Staged>, FailureReason> {
    let mut staged: Vec<Staged> = Vec::new();
    for (_, request) in volume_requests(artifact) {
        let legacy = legacy_file(context, vm, artifact, request.disk);
        let request = StageRequest { legacy: legacy.as_deref(), ..request };
        let made = seeded.iter().position(|seeded| seeded.disk() == request.disk);
        let made = made.map(|position| seeded.swap_remove(position));
        let cleared = if held.is_up { Ok(()) } else { context.volumes.clear_for(vm, &request) };
        match cleared.and_then(|()| context.stage_volume(vm, request, made, given_up)) {
            Ok(volume) => staged.push(volume),
            Err(problem) => {
                staged.iter().for_each(|volume| context.volumes.discard(vm, volume));
                return Err(reason(problem.kind(), &problem));
            }
        }
    }
    Ok(staged)
}

/// Where a worker before volumes kept `disk`.
pub(super) fn legacy_file(
    context: &HostContext,
    vm: &VmId,
    artifact: &Artifact,
    disk: &str,
) -> Option<PathBuf> {
    let position = artifact.machine.disks.iter().position(|known| known.id == disk)?;
    Some(context.records.directory(vm).join(format!("disk{position}.img")))
}

/// Makes sure, while the machine before still runs, that there is space for the copies of a rollout that can be rolled
/// back. What was staged is deleted where there is not.
fn check_trial(
    context: &Arc<HostContext>,
    vm: &VmId,
    artifact: &Artifact,
    volumes: &[Staged],
) -> Result<(), FailureReason> {
    let settings = &artifact.settings;
    match to_wait_for(settings.rollout, settings.health.as_ref()).map(|spec| spec.on_failure) {
        Some(RolloutFailure::RollBack) => {}
        Some(RolloutFailure::Keep) | None => return Ok(()),
    }
    context.make_trial_space(vm, volumes).map_err(|problem| {
        volumes.iter().for_each(|volume| context.volumes.discard(vm, volume));
        reason(problem.kind(), &problem)
    })
}

/// Copies what the disks of `staged` go on with, so that its machine may be taken back. No machine of the VM may run. On
/// failure nothing stays.
pub(super) async fn copy_for_trial(
    context: &Arc<HostContext>,
    mut staged: StagedMachine,
    given_up: &GivenUp,
) -> Result<StagedMachine, FailureReason> {
    let (host, given_up, owner) = (Arc::clone(context), given_up.clone(), staged.assignment.id.clone());
    let copying = move || {
        let begun = Instant::now();
        let vm = &staged.assignment.id;
        let volumes = std::mem::take(&mut staged.volumes).into_iter();
        // What is dropped on a failure deletes its file.
        let copied: Result<Vec<Staged>, _> =
            volumes.map(|volume| host.volumes.stage_trial(vm, volume, &given_up)).collect();
        staged.volumes = copied.map_err(|problem| reason(problem.kind(), &problem))?;
        staged.disks_took += begun.elapsed();
        Ok(staged)
    };
    context.own_threads.run(owner.as_str(), "copy", copying).await?
}

/// What `artifact` wants of its writable disks, each beside its image, if it has one.
pub(crate) fn volume_requests(
    artifact: &Artifact,
) -> impl Iterator<Item = (Option<&OpenedFile>, StageRequest<'_>)> {
    let writable = artifact.machine.disks.iter().filter(|disk| disk.access == DiskAccess::ReadWrite);
    writable.map(|disk| {
        let image = disk.file.opened();
        let request = StageRequest {
            disk: &disk.id,
            policy: artifact.settings.policy(&disk.id),
            image: image.map(OpenedFile::file),
            size: artifact.settings.size(&disk.id),
            legacy: None,
        };
        (image, request)
    })
}

impl StagedMachine {
    /// What the machine is made by.
    pub(super) fn definition(&self) -> Definition {
        Definition {
            assignment: Arc::clone(&self.assignment),
            description: Arc::clone(&self.description),
            restart: self.restart,
        }
    }

    /// Gives up what was made ready. Blocks for as long as deleting a copy takes.
    pub(super) fn discard(self, context: &HostContext) {
        self.volumes.iter().for_each(|volume| context.volumes.discard(&self.assignment.id, volume));
    }
}

/// What tells a kernel with IP autoconfiguration the address of its first interface (Linux
/// `Documentation/admin-guide/nfs/nfsroot.rst`, `ip=`).
pub(super) fn autoconfiguration(vm: &VmId, address: Ipv4Addr, gateway: Ipv4Addr, mask: Ipv4Addr) -> String {
    format!(" ip={address}::{gateway}:{mask}:{vm}:eth0:off")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_address_gateway_mask_and_name() {
        let (gateway, mask) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(255, 255, 0, 0));
        let text = autoconfiguration(&VmId::new("web-1"), Ipv4Addr::new(10, 0, 0, 7), gateway, mask);
        assert_eq!(text, " ip=10.0.0.7::10.0.0.1:255.255.0.0:web-1:eth0:off");
    }
}
