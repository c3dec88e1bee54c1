//! Network interfaces, read from their list, and what no two devices may have in common.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use vm_model::{CpuSpec, DiskSpec, NetworkAccess, NetworkName, shown_text};

use super::device_options::nic_options;
use super::devices::Names;
use super::extract::{NicRequest, WantedFile};
use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::section::Section;

/// Descriptors a network queue where none are named.
const DEFAULT_NET_QUEUE: u16 = 256;
/// What Cloud Hypervisor gives to the host's side of each interface that names no address, and writes into the
/// descriptions that it saves.
const FOREIGN_DEFAULT: (Ipv4Addr, Ipv4Addr) =
    (Ipv4Addr::new(192, 168, 249, 1), Ipv4Addr::new(255, 255, 255, 0));

impl Reader<'_> {
    pub(super) fn nics(&mut self, cpus: &CpuSpec) -> Result<Vec<NicRequest>, Box<Refusal>> {
        let entries = self.top.list("net");
        let mut names = Names::new("net", entries);
        let named = |(index, nic)| (nic, names.of(index, nic));
        entries.iter().enumerate().map(named).map(|(nic, id)| self.nic(nic, id, cpus)).collect()
    }

    fn nic(&mut self, nic: &Section, id: String, cpus: &CpuSpec) -> Result<NicRequest, Box<Refusal>> {
        let queues: u16 = nic.integer("num_queues").unwrap_or(2);
        if !queues.is_multiple_of(2) {
            return Err(contradiction(
                nic.path_of("num_queues"),
                queues,
                "receive and transmit queues come in pairs".to_owned(),
                "an even number".to_owned(),
            ));
        }
        if queues / 2 > u16::from(cpus.boot_vcpus) {
            let consequence = "the interface has no more than one pair of queues a vCPU";
            self.warn(nic.path_of("num_queues"), queues, consequence);
        }
        let (ip, mask) = self.address(nic);
        Ok(NicRequest {
            id,
            mac: nic.mac("mac"),
            ip,
            mask,
            tap: nic.text("tap").map(str::to_owned),
            mtu: nic.integer("mtu"),
            queue_size: nic.integer("queue_size").unwrap_or(DEFAULT_NET_QUEUE),
            queue_pairs: NonZeroU16::new(queues / 2).unwrap_or(NonZeroU16::MIN),
            options: nic_options(nic)?,
            // Both stand elsewhere.
            access: NetworkAccess::default(),
            network: NetworkName::default(),
        })
    }

    /// The address and netmask of an interface; none where they are Cloud Hypervisor's own default.
    fn address(&mut self, nic: &Section) -> (Option<Ipv4Addr>, Option<Ipv4Addr>) {
        let (ip, mask) = (nic.address("ip"), nic.address("mask"));
        let (foreign_ip, foreign_mask) = FOREIGN_DEFAULT;
        if ip == Some(foreign_ip) && mask.is_none_or(|mask| mask == foreign_mask) {
            let consequence =
                "it is Cloud Hypervisor's own default for the host's side, and the worker assigns an address";
            self.warn(nic.path_of("ip"), format!("\"{foreign_ip}\""), consequence);
            return (None, None);
        }
        (ip, mask)
    }

    /// Refuses what an earlier device has already: an id, an interface's address or its hardware address.
    pub(super) fn refuse_repeated(
        &self,
        disks: &[DiskSpec<WantedFile>],
        nics: &[NicRequest],
    ) -> Result<(), Box<Refusal>> {
        let place = |list: &str, index: usize, key: &str| format!("$.{list}[{index}].{key}");
        let nics = || nics.iter().enumerate();
        let disk_ids =
            disks.iter().enumerate().map(|(index, disk)| (place("disks", index, "id"), disk.id.clone()));
        let nic_ids = nics().map(|(index, nic)| (place("net", index, "id"), nic.id.clone()));
        refuse_twice(disk_ids.chain(nic_ids), "an id that no other device has")?;
        let ips = nics().filter_map(|(index, nic)| Some((place("net", index, "ip"), nic.ip?.to_string())));
        refuse_twice(ips, "an address that no other interface has")?;
        let macs = nics().filter_map(|(index, nic)| Some((place("net", index, "mac"), nic.mac?.to_string())));
        refuse_twice(macs, "a hardware address that no other interface has")
    }
}

/// Refuses the second of two equal values, each given with its place.
fn refuse_twice(values: impl Iterator<Item = (String, String)>, accepted: &str) -> Result<(), Box<Refusal>> {
    let mut seen: Vec<(String, String)> = Vec::new();
    for (json_path, value) in values {
        if let Some((earlier, _)) = seen.iter().find(|(_, known)| *known == value) {
            let rule = format!("{earlier} is the same");
            return Err(contradiction(json_path, shown_text(&value), rule, accepted.to_owned()));
        }
        seen.push((json_path, value));
    }
    Ok(())
}
