//! A definition, resolved: its artifact's description with everything that the assignment says put over it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::{Path, PathBuf};

use nix_artifacts::{AddressDelivery, Artifact, ArtifactFile, CloudInitSettings, NicRequest, RestartPolicy};
use vm_model::{
    Assignment, Bytes, CredentialFile, DiskAccess, HealthSpec, Isolation, MachineSpec, NarHash, Overrides,
    PortForward, ResourceLimits, VolumePolicy,
};

/// Everything about a VM that its definition decides. Two definitions with equal descriptions make the same machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The artifact.
    pub(crate) store_path: PathBuf,
    /// Every store path that its files lie in or were reached through.
    pub(crate) store_paths: BTreeSet<PathBuf>,
    /// The artifact's hash as it was assigned, in one form.
    pub(crate) hash: String,
    /// The machine, its files named relative to the artifact where they lie in it.
    pub(crate) machine: MachineSpec<PathBuf>,
    /// The interfaces it wants.
    pub(crate) nics: Vec<NicRequest>,
    /// The context identifier of its socket device.
    pub(crate) vsock: Option<u32>,
    /// Credentials whose content is read from files of the host when it is started; what the files hold is no part of its
    /// definition. Others are among its machine's OEM strings.
    pub(crate) credential_files: Vec<CredentialFile>,
    /// What its guest's cloud-init is told; of files of the host their paths, as of credentials.
    pub(crate) cloud_init: Option<CloudInitSettings>,
    /// How its guest learns its address.
    pub(crate) address: AddressDelivery,
    /// Its writable disks.
    pub(crate) volumes: BTreeMap<String, VolumeDescription>,
    /// When it is started again.
    pub(crate) restart: Option<RestartPolicy>,
    /// How it is found out whether its guest is well.
    pub(crate) health: Option<HealthSpec>,
    /// Whether it may share a process.
    pub(crate) isolation: Isolation,
    /// What it may take of its host, as far as it says so.
    pub(crate) limits: ResourceLimits,
}

/// A writable disk, as a definition wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeDescription {
    /// When its content is given up.
    pub(crate) policy: VolumePolicy,
    /// How large it is at least, where that was said.
    pub(crate) size: Option<Bytes>,
}

impl Description {
    /// The names of its disks that its guest may write to, in order.
    pub(crate) fn writable_disks(&self) -> Vec<String> {
        self.volumes.keys().cloned().collect()
    }

    /// The ports of the host that lead to it.
    pub(crate) fn forwards(&self) -> Vec<PortForward> {
        self.nics.iter().flat_map(|nic| nic.access.forwards.clone()).collect()
    }

    /// What `assignment` makes of `artifact`, which was loaded for it.
    pub(crate) fn of(assignment: &Assignment, artifact: &Artifact) -> Self {
        let home = &assignment.store_path;
        let named = artifact.machine.as_ref().try_map_files(|_, file| {
            Ok::<_, Infallible>(match file {
                ArtifactFile::Opened(file) => relative(file.path(), home),
                ArtifactFile::Blank => PathBuf::new(),
            })
        });
        let machine = match named {
            Ok(machine) => machine,
            Err(never) => match never {},
        };
        let writable = artifact.machine.disks.iter().filter(|disk| disk.access == DiskAccess::ReadWrite);
        let volumes = writable.map(|disk| {
            let (policy, size) = (artifact.settings.policy(&disk.id), artifact.settings.size(&disk.id));
            (disk.id.clone(), VolumeDescription { policy, size })
        });
        Self {
            store_path: home.clone(),
            store_paths: artifact.trail.store_paths().map(Path::to_owned).collect(),
            hash: normal_hash(&assignment.hash),
            machine,
            nics: artifact.nics.clone(),
            vsock: artifact.vsock.as_ref().map(|vsock| vsock.cid),
            credential_files: artifact.settings.credential_files.clone(),
            cloud_init: artifact.settings.cloud_init.clone(),
            address: artifact.settings.address,
            volumes: volumes.collect(),
            restart: artifact.settings.restart,
            health: artifact.settings.health.clone(),
            isolation: artifact.settings.isolation,
            limits: artifact.settings.limits,
        }
    }
}

/// Whether both say the same of what their VM is made of, as far as that is seen without looking at their artifacts. Where
/// a VM should be, and further hashes, are no part of that.
pub(crate) fn is_same_definition(one: &Assignment, other: &Assignment) -> bool {
    one.id == other.id
        && one.store_path == other.store_path
        && normal_hash(&one.hash) == normal_hash(&other.hash)
        && normal_overrides(&one.overrides) == normal_overrides(&other.overrides)
        && one.procurator == other.procurator
}

/// The hash in one form for all that mean the same; as it is where it is none.
fn normal_hash(hash: &str) -> String {
    hash.parse::<NarHash>().map_or_else(|_| hash.to_owned(), |hash| hash.to_string())
}

fn normal_overrides(overrides: &Overrides) -> Overrides {
    let cmdline_append = overrides.cmdline_append.clone().filter(|text| !text.is_empty());
    Overrides { cmdline_append, ..overrides.clone() }
}

fn relative(path: &Path, home: &Path) -> PathBuf {
    path.strip_prefix(home).unwrap_or(path).to_owned()
}
