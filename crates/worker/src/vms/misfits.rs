//! VMs that run on in networks that were configured anew: what an operator is told of them, a sentence for each network and
//! each way not to fit it.

use std::collections::BTreeMap;

use vm_model::{NetworkName, NicMismatch, VmInfo, VmNic};

/// So many VMs are named in a sentence.
const NAMED: usize = 5;

/// The sentences.
pub(super) fn misfits(vms: &[VmInfo]) -> Vec<String> {
    let mut found: BTreeMap<(&NetworkName, String), Vec<&str>> = BTreeMap::new();
    for vm in vms {
        for nic in &vm.nics {
            let Some(mismatch) = &nic.mismatch else { continue };
            let ids = found.entry((&nic.network, sentence(nic, mismatch))).or_default();
            if ids.last() != Some(&vm.id.as_str()) {
                ids.push(vm.id.as_str());
            }
        }
    }
    found.into_iter().map(|((_, sentence), ids)| format!("{sentence}: {}", some_of(&ids))).collect()
}

fn sentence(nic: &VmNic, mismatch: &NicMismatch) -> String {
    let network = &nic.network;
    match mismatch {
        NicMismatch::NetworkRemoved => format!(
            "the network \"{network}\" is not configured any more, and VMs run in it that nobody looks after there and that do \
             not start again"
        ),
        NicMismatch::AddressOutside { subnet } => format!(
            "the network \"{network}\" is {subnet} now, and VMs have addresses of before until they start again"
        ),
        NicMismatch::Ipv6Changed { .. } if nic.ipv6.is_none() => format!(
            "the IPv6 addresses of the network \"{network}\" were taken away, and guests reach nobody by those that they still have"
        ),
        NicMismatch::Ipv6Changed { .. } => format!(
            "the IPv6 addresses of the network \"{network}\" were changed, and guests have theirs once they ask again"
        ),
    }
}

/// The first few, and how many more there are.
pub(crate) fn some_of(ids: &[&str]) -> String {
    let named = ids[..ids.len().min(NAMED)].join(", ");
    match ids.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vm_model::{Assignment, Generation, MacAddress, NetworkAccess, VmId};

    use super::*;

    fn vm(id: &str, mismatches: &[(&str, Option<NicMismatch>)]) -> VmInfo {
        let mut info =
            VmInfo::new(Assignment::new(VmId::new(id), "sha256-x=", "/nix/store/x"), Generation::new(1));
        info.nics = mismatches
            .iter()
            .map(|(network, mismatch)| VmNic {
                id: "net0".to_owned(),
                network: NetworkName::parse(network).expect("a name"),
                address: Ipv4Addr::new(10, 76, 0, 2),
                address_source: vm_model::AddressSource::default(),
                ipv6: None,
                mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
                tap: None,
                access: NetworkAccess::default(),
                mismatch: mismatch.clone(),
            })
            .collect();
        info
    }

    #[test]
    fn each_network_is_told_once_with_its_vms() {
        let gone = || Some(NicMismatch::NetworkRemoved);
        let moved = || Some(NicMismatch::AddressOutside { subnet: "10.79.0.0/24".to_owned() });
        let mut vms =
            vec![vm("fits", &[("default", None)]), vm("twice", &[("old", gone()), ("old", gone())])];
        vms.extend(["a", "b", "c", "d", "e", "f"].map(|id| vm(id, &[("default", moved()), ("old", gone())])));
        assert_eq!(
            misfits(&vms),
            [
                "the network \"default\" is 10.79.0.0/24 now, and VMs have addresses of before until they start again: a, b, \
                 c, d, e and 1 more",
                "the network \"old\" is not configured any more, and VMs run in it that nobody looks after there and that do \
                 not start again: twice, a, b, c, d and 2 more",
            ]
        );
        assert_eq!(misfits(&vms[..1]), [""; 0]);
        let given = Some("fd00::2".parse().expect("an address"));
        let mut changed = vm("six", &[("default", Some(NicMismatch::Ipv6Changed { given }))]);
        assert!(misfits(std::slice::from_ref(&changed))[0].contains("were taken away"));
        changed.nics[0].ipv6 = given.map(|_| "fd01::2".parse().expect("an address"));
        assert!(misfits(&[changed])[0].contains("were changed"));
    }
}
