//! What stands under the key `procurator`: the wishes of an image towards the worker.

use serde::{Deserialize, Serialize};

use vm_model::{Bytes, CredentialFile, HealthSpec, Isolation, ResourceLimits, RolloutSpec, VolumePolicy};

use super::cloud_init::CloudInitSettings;
use super::limits::read_limits;
use super::section::Section;
use super::volumes::DiskSettings;

/// What the worker itself needs to know about a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcuratorSettings {
    /// When the VM is started again; `None` leaves it to the worker's own setting.
    pub restart: Option<RestartPolicy>,
    /// What is said of disks, at most once of each; always of those that are given by their size.
    pub disks: Vec<DiskSettings>,
    /// How the guest learns its address.
    pub address: AddressDelivery,
    /// How it is told whether the guest is well; `None` where nothing tells it.
    pub health: Option<HealthSpec>,
    /// Credentials whose content is read when the machine is started. Others are among the machine's OEM strings already.
    pub credential_files: Vec<CredentialFile>,
    /// What its cloud-init is told; `None` where there is to be no disk for it.
    pub cloud_init: Option<CloudInitSettings>,
    /// How a changed definition is put in force; `None` where nothing is said of it.
    pub rollout: Option<RolloutSpec>,
    /// Whether the VM may share a process.
    pub isolation: Isolation,
    /// What the VM may take of its host, as far as that was said.
    pub limits: ResourceLimits,
}

impl ProcuratorSettings {
    /// When what the guest wrote to the disk with this id is given up.
    pub fn policy(&self, disk_id: &str) -> VolumePolicy {
        self.of(disk_id).map(|disk| disk.policy).unwrap_or_default()
    }

    /// The least size of the volume of the disk with this id; of a disk without an image, its size.
    pub fn size(&self, disk_id: &str) -> Option<Bytes> {
        self.of(disk_id).and_then(|disk| disk.size)
    }

    fn of(&self, disk_id: &str) -> Option<&DiskSettings> {
        self.disks.iter().find(|disk| disk.id == disk_id)
    }
}

/// When a VM that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whenever it ended by itself, also when the guest powered itself off.
    Always,
    /// When it failed, and not when the guest powered itself off.
    OnFailure,
    /// Never.
    Never,
}

/// How a guest learns its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressDelivery {
    /// By DHCP.
    #[default]
    Dhcp,
    /// By DHCP, and for its first interface by `ip=` on the kernel's command line.
    CommandLine,
}

/// Reads when the VM is started again and how its guest learns its address; what is said of disks was read before.
pub(super) fn read_settings(procurator: Option<&Section>, disks: Vec<DiskSettings>) -> ProcuratorSettings {
    let part = |name| procurator.and_then(|procurator| procurator.section(name));
    let restart = part("restart").and_then(|restart| restart.text("policy")).map(|policy| match policy {
        "always" => RestartPolicy::Always,
        "never" => RestartPolicy::Never,
        _ => RestartPolicy::OnFailure,
    });
    let address = match part("network").and_then(|network| network.text("address")) {
        Some("command-line") => AddressDelivery::CommandLine,
        _ => AddressDelivery::Dhcp,
    };
    let isolation = match procurator.and_then(|procurator| procurator.text("isolation")) {
        Some("strict") => Isolation::Strict,
        _ => Isolation::Shared,
    };
    let limits = read_limits(procurator);
    ProcuratorSettings { restart, disks, address, isolation, limits, ..ProcuratorSettings::default() }
}
