//! From an assignment to everything a machine is built of: verified, opened, copied, attached.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use host_network::{NicAttachment, Tap};
use ipam::{Lease, Wish};
use nix_artifacts::{
    AddressDelivery, DiskPersistence, LoadRequest, NicRequest, OpenedFile, VsockRequest, load_artifact,
};
use thiserror::Error;
use uuid::Uuid;
use vm_model::{
    Assignment, DiskAccess, FailureKind, FailureReason, FileRole, MachineSpec, NicSpec, ResetPolicy, VmId,
    VsockSpec,
};

use super::RestartPolicy;
use super::context::{HostContext, Subnet};
use super::given_up::GivenUp;
use super::live::detach;
use super::takings::Takings;
use super::verify::{unverified_references, verify};
use super::vhost;
use crate::capacity::{HostMemory, Share};
use crate::failure::reason;
use crate::huge_pages;
use crate::records::{DiskError, ensure_writable_copy, fresh_writable_copy};
use crate::vms::{VhostNet, VmNic, VmTimings};

/// Everything a machine is built of, and what is to be said about it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) spec: MachineSpec<OwnedFd>,
    /// Where the kernel lies: the machine has it open and does not know.
    pub(super) kernel: PathBuf,
    /// Interfaces that are attached: whoever drops the rest detaches them.
    pub(super) nics: Vec<VmNic>,
    /// What it takes of the host's memory, until it is gone.
    pub(super) share: Share,
    /// What is to be given back where the machine does not start.
    pub(super) takings: Takings,
    pub(super) warnings: Vec<String>,
    pub(super) unverified: Vec<PathBuf>,
    pub(super) timings: VmTimings,
    /// What the artifact says about restarts.
    pub(super) restart: Option<RestartPolicy>,
    /// What a reset by its guest does.
    pub(super) resets: ResetPolicy,
}

/// What the file system part brings: everything but TAPs.
struct Opened {
    spec: MachineSpec<OwnedFd>,
    share: Share,
    kernel: PathBuf,
    nics: Vec<(NicRequest, Lease)>,
    warnings: Vec<String>,
    unverified: Vec<PathBuf>,
    restart: Option<RestartPolicy>,
    resets: ResetPolicy,
    address: AddressDelivery,
}

/// Prepares the machine of `assignment`. On failure nothing stays attached, and what was taken is given back.
///
/// Setting `given_up` makes it fail soon.
pub(super) async fn prepare(
    context: &Arc<HostContext>,
    assignment: &Arc<Assignment>,
    uuid: Uuid,
    given_up: &GivenUp,
) -> Result<Prepared, FailureReason> {
    let start = Instant::now();
    let blocking = {
        let (context, assignment, given_up) = (Arc::clone(context), Arc::clone(assignment), given_up.clone());
        // Hashing, copying and syncing take as long as the disks let them.
        tokio::task::spawn_blocking(move || {
            let mut takings = Takings::default();
            match open(&context, &assignment, uuid, &given_up, &mut takings) {
                Ok(opened) => Ok((opened, takings)),
                Err(problem) => {
                    takings.give_back(&context, &assignment.id, &problem);
                    Err(problem)
                }
            }
        })
    };
    let (opened, takings) = blocking.await.map_err(|lost| reason(FailureKind::Machine, &lost))??;
    let artifact = start.elapsed();
    let Opened {
        mut spec,
        share,
        kernel,
        nics: requests,
        mut warnings,
        unverified,
        restart,
        resets,
        address,
    } = opened;
    let mut nics = Vec::with_capacity(requests.len());
    let vcpus = NonZeroU16::new(spec.cpus.boot_vcpus.into()).unwrap_or(NonZeroU16::MIN);
    for (request, lease) in requests {
        match attach(context, &assignment.id, vcpus, request, lease).await {
            Ok((nic, device, warning)) => {
                nics.push(nic);
                spec.nics.push(device);
                warnings.extend(warning);
            }
            Err(problem) => {
                detach(context, &assignment.id, &nics).await;
                takings.give_back_from_task(context, &assignment.id, &problem).await;
                return Err(problem);
            }
        }
    }
    if let (AddressDelivery::CommandLine, Some(nic)) = (address, nics.first()) {
        spec.boot.cmdline.push_str(&autoconfiguration(&assignment.id, nic.address, context.subnet));
    }
    let timings = VmTimings {
        artifact: Some(artifact),
        network: Some(start.elapsed().saturating_sub(artifact)),
        ..VmTimings::default()
    };
    Ok(Prepared { spec, share, kernel, nics, takings, warnings, unverified, timings, restart, resets })
}

/// All that touches files. What it takes of the host is noted in `takings`, also where it fails.
fn open(
    context: &HostContext,
    assignment: &Assignment,
    uuid: Uuid,
    given_up: &GivenUp,
    takings: &mut Takings,
) -> Result<Opened, FailureReason> {
    verify(context, assignment, given_up)?;
    let request = LoadRequest {
        store_path: assignment.store_path.clone(),
        overrides: assignment.overrides.clone(),
        uuid,
    };
    let mut artifact =
        load_artifact(&context.roots, &request).map_err(|problem| reason(FailureKind::Artifact, &problem))?;
    let memory = &mut artifact.machine.memory;
    memory.backing = memory.backing.resolve(huge_pages::observe());
    let share = context
        .capacity
        .take(&artifact.machine.memory, HostMemory::observe())
        .map_err(|problem| reason(FailureKind::Host, &problem))?;
    let unverified = unverified_references(context, assignment, &artifact, given_up)?;
    let nics = lease(context, &assignment.id, artifact.nics, takings)?;
    let directory = context.records.directory(&assignment.id);
    let mut position = 0_usize;
    let mut resets = ResetPolicy::default();
    let kernel = artifact.machine.boot.kernel.path().to_owned();
    let spec = artifact.machine.try_map_files(|role, file: OpenedFile| match role {
        FileRole::Disk(disk, access) => {
            // By position: a name out of the artifact has no say in what is written where.
            let path = directory.join(format!("disk{position}.img"));
            position += 1;
            match access {
                DiskAccess::ReadOnly => Ok(OwnedFd::from(file.into_file())),
                DiskAccess::ReadWrite => {
                    let persistence = artifact.settings.persistence(disk);
                    if persistence == DiskPersistence::Ephemeral {
                        // Each boot begins with a fresh copy, which is made here.
                        resets = ResetPolicy::EndsMachine;
                    }
                    if !path.exists() {
                        takings.disks.push(path.clone());
                    }
                    writable_disk(&file, &path, persistence, given_up)
                }
            }
        }
        FileRole::Kernel
        | FileRole::Initrd
        | FileRole::Tap(_)
        | FileRole::Vhost(_)
        | FileRole::NicStatistics(_)
        | FileRole::VsockDirectory => Ok(OwnedFd::from(file.into_file())),
    });
    let mut spec = spec.map_err(|problem| reason(FailureKind::Host, &problem))?;
    if let Some(VsockRequest { cid }) = artifact.vsock {
        spec.services.vsock = Some(VsockSpec { cid, directory: socket_directory(&directory)? });
    }
    Ok(Opened {
        spec,
        share,
        kernel,
        nics,
        warnings: artifact.warnings.iter().map(ToString::to_string).collect(),
        unverified,
        restart: artifact.settings.restart.map(RestartPolicy::from),
        resets,
        address: artifact.settings.address,
    })
}

/// The VM's own directory, where the sockets lie by which host programs and the guest reach each other: they go when the
/// VM is removed.
fn socket_directory(directory: &Path) -> Result<OwnedFd, FailureReason> {
    match File::open(directory) {
        Ok(opened) => Ok(opened.into()),
        Err(problem) => {
            let path = directory.to_owned();
            Err(reason(FailureKind::Host, &SocketDirectoryError { path, source: problem }))
        }
    }
}

/// The directory of a VM's sockets could not be opened.
#[derive(Debug, Error)]
#[error("cannot open the directory {} for the VM's sockets", path.display())]
struct SocketDirectoryError {
    path: PathBuf,
    source: io::Error,
}

fn writable_disk(
    image: &OpenedFile,
    path: &Path,
    persistence: DiskPersistence,
    given_up: &GivenUp,
) -> Result<OwnedFd, DiskError> {
    let disk = match persistence {
        DiskPersistence::Persistent => ensure_writable_copy(image.file(), path, given_up)?,
        DiskPersistence::Ephemeral => fresh_writable_copy(image.file(), path, given_up)?,
    };
    Ok(OwnedFd::from(disk))
}

/// Gives each interface its addresses.
fn lease(
    context: &HostContext,
    vm: &VmId,
    requests: Vec<NicRequest>,
    takings: &mut Takings,
) -> Result<Vec<(NicRequest, Lease)>, FailureReason> {
    takings.addresses = !context.leases.has(vm);
    let given = requests.into_iter().map(|request| {
        let wish = Wish { ip: request.ip, mac: request.mac };
        let lease = context.leases.ensure(vm, &request.id, wish);
        lease.map(|lease| (request, lease)).map_err(|problem| reason(problem.kind(), &problem))
    });
    given.collect()
}

/// What tells a kernel with IP autoconfiguration the address of its first interface (Linux
/// `Documentation/admin-guide/nfs/nfsroot.rst`, `ip=`).
fn autoconfiguration(vm: &VmId, address: Ipv4Addr, subnet: Subnet) -> String {
    let Subnet { gateway, mask } = subnet;
    format!(" ip={address}::{gateway}:{mask}:{vm}:eth0:off")
}

/// Gives one interface of a machine with `vcpus` its TAP; with a warning where it is not served as it could be.
async fn attach(
    context: &HostContext,
    vm: &VmId,
    vcpus: NonZeroU16,
    request: NicRequest,
    lease: Lease,
) -> Result<(VmNic, NicSpec<OwnedFd>, Option<String>), FailureReason> {
    let attachment = NicAttachment {
        vm: vm.clone(),
        nic: request.id.clone(),
        mac: lease.mac,
        address: lease.address,
        mtu: request.mtu,
        tap_hint: request.tap,
        queues: request.queue_pairs.min(vcpus),
    };
    let Tap { fds, name, .. } =
        context.network.attach(attachment).await.map_err(|problem| reason(FailureKind::Host, &problem))?;
    let vhost = match context.vhost_net {
        VhostNet::Off => Ok(None),
        VhostNet::WherePossible => {
            let limits = request.options.rate_limits;
            vhost::back_end(&request.id, name.to_string(), fds.len(), limits).await.map(Some)
        }
    };
    let warning = vhost.as_ref().err().cloned();
    let nic =
        VmNic { id: request.id.clone(), address: lease.address, mac: lease.mac, tap: Some(name.to_string()) };
    let device = NicSpec {
        id: request.id,
        taps: fds,
        mac: lease.mac,
        mtu: request.mtu,
        queue_size: request.queue_size,
        vhost: vhost.unwrap_or_default(),
        options: request.options,
    };
    Ok((nic, device, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_told_address_gateway_mask_and_name() {
        let subnet = Subnet { gateway: Ipv4Addr::new(10, 0, 0, 1), mask: Ipv4Addr::new(255, 255, 0, 0) };
        let text = autoconfiguration(&VmId::new("web-1"), Ipv4Addr::new(10, 0, 0, 7), subnet);
        assert_eq!(text, " ip=10.0.0.7::10.0.0.1:255.255.0.0:web-1:eth0:off");
    }
}
