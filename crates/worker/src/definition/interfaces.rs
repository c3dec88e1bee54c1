//! Which interfaces of two descriptions differ, and how, in words.

use std::fmt::Display;

use nix_artifacts::{AddressDelivery, NicRequest};

use super::Description;

/// In what the interfaces differ, if they do. What passes between them and the world beyond is told elsewhere.
pub(super) fn of_interfaces(from: &Description, to: &Description) -> Option<String> {
    let mut words = Vec::new();
    let find = |nics: &[NicRequest], id: &str| nics.iter().find(|nic| nic.id == id).cloned();
    words.extend(
        from.nics
            .iter()
            .filter(|nic| find(&to.nics, &nic.id).is_none())
            .map(|nic| format!("{} taken away", nic.id)),
    );
    for nic in &to.nics {
        match find(&from.nics, &nic.id) {
            None => words.push(format!("{} added in {}", nic.id, nic.network)),
            Some(before) => words.extend(of_interface(&before, nic)),
        }
    }
    let order = |nics: &[NicRequest]| nics.iter().map(|nic| nic.id.clone()).collect::<Vec<_>>();
    if words.is_empty() && order(&from.nics) != order(&to.nics) {
        words.push(format!("order {}", order(&to.nics).join(" ")));
    }
    if from.address != to.address {
        let told = |delivery| match delivery {
            AddressDelivery::Dhcp => "by DHCP",
            AddressDelivery::CommandLine => "by the kernel command line too",
        };
        words.push(format!("addresses told {} → {}", told(from.address), told(to.address)));
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// In what an interface differs, if it does.
fn of_interface(from: &NicRequest, to: &NicRequest) -> Option<String> {
    let NicRequest { id, mac, ip, mask, tap, mtu, queue_size, queue_pairs, options, access: _, network } =
        from;
    let mut words = Vec::new();
    let mut differ = |what: &str, is_same: bool, before: String, after: String| {
        if !is_same {
            words.push(format!("{what} {before} → {after}"));
        }
    };
    differ("network", *network == to.network, network.to_string(), to.network.to_string());
    differ("mac", *mac == to.mac, or_any(mac.as_ref()), or_any(to.mac.as_ref()));
    differ("ip", *ip == to.ip, or_any(ip.as_ref()), or_any(to.ip.as_ref()));
    differ("mask", *mask == to.mask, or_any(mask.as_ref()), or_any(to.mask.as_ref()));
    differ("mtu", *mtu == to.mtu, or_any(mtu.as_ref()), or_any(to.mtu.as_ref()));
    differ("tap", *tap == to.tap, or_any(tap.as_ref()), or_any(to.tap.as_ref()));
    differ("queue_size", *queue_size == to.queue_size, queue_size.to_string(), to.queue_size.to_string());
    differ(
        "pairs of queues",
        *queue_pairs == to.queue_pairs,
        queue_pairs.to_string(),
        to.queue_pairs.to_string(),
    );
    if *options != to.options {
        words.push("its limits or offloads".to_owned());
    }
    (!words.is_empty()).then(|| format!("{id} {}", words.join(" and ")))
}

fn or_any(value: Option<&impl Display>) -> String {
    value.map_or_else(|| "any".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use vm_model::{NetworkAccess, NetworkName, NicOptions};

    use super::*;

    #[test]
    fn each_difference_of_an_interface_is_named_with_both_values() {
        let nic = NicRequest {
            id: "net0".to_owned(),
            mac: None,
            ip: None,
            mask: None,
            tap: None,
            mtu: Some(1400),
            queue_size: 256,
            queue_pairs: NonZeroU16::MIN,
            options: NicOptions::default(),
            access: NetworkAccess::default(),
            network: NetworkName::default(),
        };
        assert_eq!(of_interface(&nic, &nic), None);
        let storage = NetworkName::parse("storage").expect("a name");
        let other = NicRequest { network: storage, ip: "10.9.0.9".parse().ok(), mtu: None, ..nic.clone() };
        assert_eq!(
            of_interface(&nic, &other).as_deref(),
            Some("net0 network default → storage and ip any → 10.9.0.9 and mtu 1400 → any")
        );
    }
}
