//! What stands under the key `procurator`: the wishes of an image towards the worker.

use serde::{Deserialize, Serialize};

use super::nearest::nearest;
use super::refusal::{Refusal, RefusalReason};
use super::section::Section;

/// What the worker itself needs to know about a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcuratorSettings {
    /// When the VM is started again; `None` leaves it to the worker's own setting.
    pub restart: Option<RestartPolicy>,
    /// For each disk that has a wish, by its id. Read-only disks need none and may have one.
    pub disks: Vec<(String, DiskPersistence)>,
    /// How the guest learns its address.
    pub address: AddressDelivery,
}

impl ProcuratorSettings {
    /// What becomes of what the guest writes to the disk with this id.
    pub fn persistence(&self, disk_id: &str) -> DiskPersistence {
        self.disks
            .iter()
            .find_map(|(id, persistence)| (id == disk_id).then_some(*persistence))
            .unwrap_or_default()
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

/// What becomes of what a guest writes to a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskPersistence {
    /// It is kept until the VM is removed.
    #[default]
    Persistent,
    /// It is kept until the VM is started the next time.
    Ephemeral,
}

/// Reads the settings; `disk_ids` are those of the machine.
pub(super) fn read_settings(
    procurator: Option<&Section>,
    disk_ids: &[&str],
) -> Result<ProcuratorSettings, Box<Refusal>> {
    let Some(procurator) = procurator else {
        return Ok(ProcuratorSettings::default());
    };
    let restart =
        procurator.section("restart").and_then(|restart| restart.text("policy")).map(|policy| match policy {
            "always" => RestartPolicy::Always,
            "never" => RestartPolicy::Never,
            _ => RestartPolicy::OnFailure,
        });
    let mut disks: Vec<(String, DiskPersistence)> = Vec::new();
    for disk in procurator.list("disks") {
        let id = disk_id(disk, disk_ids, &disks)?;
        let persistence = match disk.text("persistence") {
            Some("ephemeral") => DiskPersistence::Ephemeral,
            _ => DiskPersistence::Persistent,
        };
        disks.push((id, persistence));
    }
    let address = match procurator.section("network").and_then(|network| network.text("address")) {
        Some("command-line") => AddressDelivery::CommandLine,
        _ => AddressDelivery::Dhcp,
    };
    Ok(ProcuratorSettings { restart, disks, address })
}

fn disk_id(
    disk: &Section,
    disk_ids: &[&str],
    earlier: &[(String, DiskPersistence)],
) -> Result<String, Box<Refusal>> {
    let refuse = |value: String, rule: String, accepted: String| {
        Box::new(Refusal {
            json_path: disk.path_of("id"),
            value,
            reason: RefusalReason::Contradiction(rule),
            accepted,
        })
    };
    let Some(id) = disk.text("id") else {
        return Err(refuse(
            "missing".to_owned(),
            "every entry speaks of one disk".to_owned(),
            "the id of a disk".to_owned(),
        ));
    };
    if !disk_ids.contains(&id) {
        let accepted = match nearest(id, disk_ids.iter().copied()) {
            Some(near) => format!("the id of a disk; the nearest is {near:?}"),
            None => "no entry, as the machine has no disk".to_owned(),
        };
        return Err(refuse(format!("{id:?}"), "no disk has this id".to_owned(), accepted));
    }
    if earlier.iter().any(|(known, _)| known == id) {
        return Err(refuse(
            format!("{id:?}"),
            "an earlier entry speaks of this disk".to_owned(),
            "one entry for each disk".to_owned(),
        ));
    }
    Ok(id.to_owned())
}
