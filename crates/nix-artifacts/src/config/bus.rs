//! Whether the devices that a description asks for have room on the machine's one bus.

use vm_model::PCI_DEVICES_MAX;

use super::machine::Reader;
use super::refusal::{Refusal, RefusalReason};

/// How many devices of the kinds that there can be several of.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceCount {
    pub(super) disks: usize,
    pub(super) nics: usize,
}

impl Reader<'_> {
    /// The devices of the lists `disks` and `net`.
    pub(super) fn listed_devices(&self) -> DeviceCount {
        DeviceCount { disks: self.top.list("disks").len(), nics: self.top.list("net").len() }
    }

    /// Refuses more devices than the bus has slots; the list at `json_path` is what makes them too many.
    pub(super) fn check_bus(&self, count: DeviceCount, json_path: &str) -> Result<(), Box<Refusal>> {
        let DeviceCount { disks, nics } = count;
        let singles = self.single_devices();
        let devices = disks + nics + singles.len();
        if devices <= PCI_DEVICES_MAX {
            return Ok(());
        }
        let several = [(disks, "disks"), (nics, "interfaces")];
        let several = several
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"));
        let all: Vec<String> = several.chain(singles.iter().map(|name| (*name).to_owned())).collect();
        Err(Box::new(Refusal {
            json_path: json_path.to_owned(),
            value: format!(
                "part of {}: {devices} PCI devices on a bus with slots for {PCI_DEVICES_MAX}",
                all.join(", ")
            ),
            reason: RefusalReason::WrongValue,
            accepted: format!("at most {} disks and interfaces together", PCI_DEVICES_MAX - singles.len()),
        }))
    }

    /// What else takes a slot.
    fn single_devices(&self) -> Vec<&'static str> {
        let cloud_init = self.top.section("procurator").and_then(|own| own.section("cloud_init"));
        let asked = [
            (cloud_init.is_some(), "the disk for cloud-init"),
            (true, "the entropy device"),
            (self.top.section("balloon").is_some(), "the balloon"),
            (self.vsock().is_some(), "the socket device"),
            (self.virtio_console(), "the console"),
            (self.top.boolean("watchdog") == Some(true), "the watchdog"),
        ];
        asked.into_iter().filter_map(|(is_there, name)| is_there.then_some(name)).collect()
    }
}
