//! What a VM's machine is made of, as it is told outside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::{DiskAccess, DiskFormat, MachineShape, VcpuDump, VmDisk, VolumePolicy};

/// A machine's parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineView {
    /// Its vCPUs.
    pub vcpus: u8,
    /// Its guest's memory in bytes.
    pub memory_bytes: u64,
    /// The kernel's command line.
    pub cmdline: String,
    /// Its disks, in the guest's order.
    pub disks: Vec<DiskView>,
}

/// A disk of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskView {
    /// Its name in the machine's description.
    pub id: String,
    /// The file it lies on.
    #[schema(value_type = String)]
    pub path: PathBuf,
    /// What the guest sees of it, in bytes.
    pub size_bytes: u64,
    /// What the guest may do with it.
    pub access: DiskAccess,
    /// How the file is laid out.
    pub format: DiskFormat,
    /// When what the guest writes is given up; absent where it cannot write.
    pub policy: Option<VolumePolicy>,
}

/// What a VM's vCPUs were about when somebody looked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DumpView {
    /// Whether the VM was paused: a vCPU that is said to run does so again once the VM goes on.
    #[serde(default)]
    pub paused: bool,
    /// Every vCPU, by index.
    pub vcpus: Vec<VcpuDump>,
}

impl MachineView {
    /// The view of `shape`.
    pub fn new(shape: MachineShape) -> Self {
        let MachineShape { vcpus, memory, cmdline, disks } = shape;
        let disks = disks.into_iter().map(DiskView::new).collect();
        Self { vcpus, memory_bytes: memory.get(), cmdline, disks }
    }
}

impl DiskView {
    fn new(disk: VmDisk) -> Self {
        let VmDisk { id, path, size, access, format, policy } = disk;
        Self { id, path, size_bytes: size.get(), access, format, policy }
    }
}
