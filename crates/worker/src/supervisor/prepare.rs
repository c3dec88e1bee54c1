//! From a machine that is ready to one that can be launched: memory promised, addresses leased, volumes switched over to,
//! interfaces attached. Nothing of the machine before is there any more.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fail_points::{FailPoint, pass};
use ipam::Lease;
use machine_host::MachineLimits;
use nix_artifacts::{AddressDelivery, ArtifactFile, NicRequest};
use thiserror::Error;
use vm_model::{
    Assignment, Bytes, DiskAccess, FailureKind, FailureReason, FileRole, Isolation, MachineShape,
    MachineSpec, ResetPolicy, VmDisk, VmNic, VmTimings, VsockSpec,
};

use super::RestartPolicy;
use super::acquired::AcquiredResources;
use super::cloud_init::{Instance, make_disk};
use super::context::{HostContext, Subnet};
use super::guest::Watching;
use super::limiting::machine_limits;
use super::nics::{attach_all, lease};
use super::notes::MachineNotes;
use super::stage::{StagedMachine, autoconfiguration};
use super::store_files::VerifiedFiles;
use crate::capacity::Share;
use crate::definition::Description;
use crate::failure::{plain, reason};
use crate::huge_pages;
use crate::records::{lock_idle_vm, open_console, open_sockets};
use crate::volumes::{Committed, Staged};

/// Everything a machine is built of, and what is to be said about it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) spec: MachineSpec<OwnedFd>,
    /// Where the kernel lies: the machine has it open and does not know.
    pub(super) kernel: PathBuf,
    /// What the machine is made of, for people.
    pub(super) shape: MachineShape,
    /// Interfaces that are attached: whoever drops the rest detaches them.
    pub(super) nics: Vec<VmNic>,
    /// What it takes of the host's memory, until it is gone.
    pub(super) share: Share,
    /// What is to be given back where the machine does not start.
    pub(super) acquired: AcquiredResources,
    pub(super) definition: Definition,
    pub(super) warnings: Vec<String>,
    pub(super) unverified: Vec<PathBuf>,
    pub(super) timings: VmTimings,
    /// What a reset by its guest does.
    pub(super) resets: ResetPolicy,
    /// What is watched of its guest.
    pub(super) watching: Option<Watching>,
    /// Whether it may share a process.
    pub(super) isolation: Isolation,
    /// What it may take of the host.
    pub(super) limits: MachineLimits,
    /// Says that whoever runs the machine runs the VM.
    pub(super) lock: OwnedFd,
    /// Where its console is written.
    pub(super) console: Option<OwnedFd>,
    /// What a worker is told that takes the machine over.
    pub(super) notes: MachineNotes,
    /// The files of the store that it has open and that were verified.
    pub(super) verified: VerifiedFiles,
}

/// What a machine was made by.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) assignment: Arc<Assignment>,
    pub(super) description: Arc<Description>,
    /// What it says about restarts.
    pub(super) restart: Option<RestartPolicy>,
}

/// What was acquired without the network.
struct Opened {
    spec: MachineSpec<OwnedFd>,
    shape: MachineShape,
    kernel: PathBuf,
    share: Share,
    nics: Vec<(NicRequest, Lease)>,
    lock: OwnedFd,
    console: io::Result<OwnedFd>,
    watching: Option<Watching>,
}

/// A machine, and where its disks lie and how large they are, in order.
type OpenedMachine = (MachineSpec<OwnedFd>, Vec<(PathBuf, u64)>);

/// Acquires what `staged` needs. `share` is the memory that was promised to the machine before. On failure nothing stays
/// attached, and what was taken is given back.
#[expect(clippy::too_many_lines, reason = "one step after another, each with what undoes it")]
pub(super) async fn prepare(
    context: &Arc<HostContext>,
    mut staged: StagedMachine,
    share: Option<Share>,
) -> Result<Prepared, FailureReason> {
    pass(FailPoint::StartStaged);
    let begun = Instant::now();
    let (definition, id, health) = (staged.definition(), staged.assignment.id.clone(), staged.health.clone());
    let StagedMachine { resets, isolation, address, artifact_took, disks_took, .. } = staged;
    let verified = std::mem::take(&mut staged.verified);
    let (mut warnings, unverified) = (staged.warnings.clone(), staged.unverified.clone());
    let (opened, acquired) = open_from_task(context, staged, share).await?;
    let files = begun.elapsed();
    let Opened { mut spec, shape, kernel, share, nics: requests, lock, console, watching } = opened;
    let told_mask = requests.first().and_then(|(request, _)| request.mask);
    let console = console.map_err(|problem| {
        warnings.push(format!("its console is kept in memory only: its directory cannot be made: {problem}"));
    });
    let noted = match attach_all(context, &id, &mut spec, requests, &mut warnings).await {
        Ok(nics) => nics,
        Err(problem) => {
            acquired.give_back_from_task(context, &id).await;
            return Err(problem);
        }
    };
    pass(FailPoint::StartAttached);
    let nics: Vec<VmNic> = noted.iter().map(|noted| noted.nic.clone()).collect();
    if let (AddressDelivery::CommandLine, Some(nic)) = (address, nics.first())
        && let Some(Subnet { gateway, mask, .. }) = context.networks.subnet(&nic.network)
    {
        let mask = told_mask.unwrap_or(mask);
        spec.boot.cmdline.push_str(&autoconfiguration(&id, nic.address, gateway, mask));
    }
    let timings = timings(artifact_took, disks_took + files, begun.elapsed().saturating_sub(files));
    let footprint = spec.footprint();
    let limits = machine_limits(&context.limits, &definition.description, &footprint, &shape);
    let notes = MachineNotes {
        footprint: Some(footprint),
        nics: noted,
        restart: definition.restart,
        health,
        warnings: warnings.clone(),
        unverified: unverified.clone(),
        timings,
        ..MachineNotes::new(definition.assignment.as_ref().clone(), spec.memory, shape.clone())
    };
    Ok(Prepared {
        spec,
        kernel,
        shape,
        nics,
        share,
        acquired,
        definition,
        warnings,
        unverified,
        timings,
        resets,
        watching,
        isolation,
        limits,
        lock,
        console: console.ok(),
        notes,
        verified,
    })
}

/// How long the steps before a launch took.
fn timings(artifact: Duration, disks: Duration, network: Duration) -> VmTimings {
    let (artifact, disks, network) = (Some(artifact), Some(disks), Some(network));
    VmTimings { artifact, disks, network, ..VmTimings::default() }
}

/// [`open`] for use on a runtime. On failure what was taken of the host is given back.
async fn open_from_task(
    context: &Arc<HostContext>,
    staged: StagedMachine,
    share: Option<Share>,
) -> Result<(Opened, AcquiredResources), FailureReason> {
    let (host, owner) = (Arc::clone(context), staged.assignment.id.clone());
    let vm = owner.clone();
    let opening = move || {
        let mut acquired = AcquiredResources::default();
        match open(&host, staged, share, &mut acquired) {
            Ok(opened) => Ok((opened, acquired)),
            Err(problem) => {
                acquired.give_back(&host, &vm);
                Err(problem)
            }
        }
    };
    context.own_threads.run(owner.as_str(), "open", opening).await?
}

/// All that touches files. What it takes of the host is noted in `acquired`, also where it fails; what was staged and is not
/// needed then is deleted.
fn open(
    context: &HostContext,
    mut staged: StagedMachine,
    share: Option<Share>,
    acquired: &mut AcquiredResources,
) -> Result<Opened, FailureReason> {
    let (vm, volumes) = (staged.assignment.id.clone(), std::mem::take(&mut staged.volumes));
    let mut volumes = VecDeque::from(volumes);
    let opened = open_staged(context, staged, &mut volumes, share, acquired);
    if opened.is_err() {
        volumes.iter().for_each(|volume| context.volumes.discard(&vm, volume));
    }
    opened
}

fn open_staged(
    context: &HostContext,
    staged: StagedMachine,
    volumes: &mut VecDeque<Staged>,
    share: Option<Share>,
    acquired: &mut AcquiredResources,
) -> Result<Opened, FailureReason> {
    let StagedMachine { assignment, description, mut machine, nics, vsock_cid, cloud_init, health, .. } =
        staged;
    let vm = &assignment.id;
    machine.memory.backing = machine.memory.backing.resolve(huge_pages::observe_huge_pages());
    let directory = context.records.directory(vm);
    let lock = lock_idle_vm(&directory).map_err(|problem| reason(FailureKind::Host, &problem))?;
    pass(FailPoint::StartLocked);
    let watching = health.map(|spec| Watching::before_launch(context, vm, spec));
    let console = open_console(&directory);
    pass(FailPoint::StartConsoleOpened);
    let taken = context.capacity.take(&machine.footprint(), &context.capacity.observe_host(), share);
    let share = taken.map_err(|problem| reason(FailureKind::Host, &problem))?;
    let nics = lease(context, &assignment, nics, acquired)?;
    pass(FailPoint::StartLeased);
    while let Some(volume) = volumes.pop_front() {
        let committed = context.volumes.commit(vm, volume);
        acquired.volumes.push(committed.map_err(|problem| reason(problem.kind(), &problem))?);
    }
    pass(FailPoint::StartSwitched);
    let kernel = match &machine.boot.kernel {
        ArtifactFile::Opened(kernel) => kernel.path().to_owned(),
        ArtifactFile::Blank => PathBuf::new(),
    };
    let (mut spec, mut disks) = open_files(machine, &mut acquired.volumes)?;
    if let Some(data) = cloud_init {
        let root_made = acquired.volumes.first().map(|volume| volume.created);
        let disk = make_disk(context, Instance { vm, uuid: spec.uuid, root_made }, &data, &nics)?;
        disks.push((disk.path, disk.bytes));
        spec.disks.push(disk.spec);
    }
    if let Some(cid) = vsock_cid {
        let directory = sockets(&context.records.directory(vm))?;
        spec.services.vsock = Some(VsockSpec { cid, directory });
    }
    let shape = shape(&spec, &description, disks);
    Ok(Opened { spec, shape, kernel, share, nics, lock, console, watching })
}

/// The machine of open descriptors that `machine` is with the volumes `committed` as its writable disks.
fn open_files(
    machine: MachineSpec<ArtifactFile>,
    committed: &mut [Committed],
) -> Result<OpenedMachine, FailureReason> {
    let mut disks = Vec::with_capacity(machine.disks.len());
    let spec = machine.try_map_files(|role, file| match (role, file) {
        (FileRole::Disk(disk, DiskAccess::ReadWrite), _) => {
            take_volume(committed, disk).map(|(path, size, file)| {
                disks.push((path, size));
                file
            })
        }
        (role, ArtifactFile::Opened(file)) => {
            match role {
                FileRole::Disk(..) => disks.push((file.path().to_owned(), file.size())),
                FileRole::Kernel
                | FileRole::Initrd
                | FileRole::DirectDisk(_)
                | FileRole::Tap(_)
                | FileRole::Vhost(_)
                | FileRole::NicStatistics(_)
                | FileRole::VsockDirectory => {}
            }
            Ok(OwnedFd::from(file.into_file()))
        }
        (_, ArtifactFile::Blank) => {
            Err(plain(FailureKind::Machine, "a file that is no writable disk has no content".to_owned()))
        }
    });
    Ok((spec?, disks))
}

/// What a machine is made of, for people; `files` are where its disks lie and how large they are.
fn shape(spec: &MachineSpec<OwnedFd>, description: &Description, files: Vec<(PathBuf, u64)>) -> MachineShape {
    let disks = spec.disks.iter().zip(files).map(|(disk, (path, size))| VmDisk {
        id: disk.id.clone(),
        path,
        size: Bytes::new(size),
        access: disk.access,
        format: disk.format,
        policy: description.volumes.get(&disk.id).map(|volume| volume.policy),
    });
    MachineShape {
        vcpus: spec.cpus.boot_vcpus,
        memory: spec.memory.size,
        cmdline: spec.boot.cmdline.clone(),
        disks: disks.collect(),
    }
}

/// The file of the volume of `disk`, with its path and size.
fn take_volume(committed: &mut [Committed], disk: &str) -> Result<(PathBuf, u64, OwnedFd), FailureReason> {
    let volume = committed.iter_mut().find(|volume| volume.disk == disk);
    let file = volume.and_then(|volume| Some((volume.path.clone(), volume.file.take()?)));
    let Some((path, file)) = file else {
        return Err(plain(FailureKind::Machine, format!("disk {disk} has no volume")));
    };
    let size = file.metadata().map_err(|source| reason(FailureKind::Host, &source))?.len();
    Ok((path, size, file.into()))
}

/// The VM's own directory, where the sockets lie by which host programs and the guest reach each other: they go when the
/// VM is removed.
fn sockets(directory: &Path) -> Result<OwnedFd, FailureReason> {
    open_sockets(directory).map_err(|source| {
        let path = directory.to_owned();
        reason(FailureKind::Host, &SocketDirectoryError { path, source })
    })
}

/// The directory of a VM's sockets could not be opened.
#[derive(Debug, Error)]
#[error("cannot make or open the directory for the VM's sockets in {}", path.display())]
struct SocketDirectoryError {
    path: PathBuf,
    source: io::Error,
}
