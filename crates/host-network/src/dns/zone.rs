//! The names of VMs: what is answered from what DHCP tells them, without I/O.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network};
use thiserror::Error;
use vm_model::Ipv6Subnet;

use super::message::{CLASS_IN, Code, Query, Record, TYPE_ANY, answer};
use crate::BetweenVms;
use crate::dhcp::{Binding, Bindings};

/// The longest domain: a VM's name of 63 bytes and a dot fit before it.
const DOMAIN_BYTES_MOST: usize = 180;
/// What names of addresses end with (RFC 1035 §3.5).
const REVERSE: &str = ".in-addr.arpa";
/// The same of IPv6 (RFC 3596 §2.5).
const REVERSE_IPV6: &str = ".ip6.arpa";

/// The domain that VMs are named in: lower case, without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain(String);

/// Why a text is no [`Domain`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no domain: labels of letters, digits and '-' joined by '.' are accepted, like vm.internal"
)]
pub struct InvalidDomain {
    text: String,
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if text.len() <= DOMAIN_BYTES_MOST && text.split('.').all(is_label) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidDomain { text: text.chars().take(80).collect() })
        }
    }
}

impl Domain {
    /// The domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whose names are answered here, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) domain: Domain,
    pub(crate) subnet: Ipv4Network,
    /// The host's address in it.
    pub(crate) gateway: Ipv4Addr,
    /// The network of the VMs' IPv6 addresses.
    pub(crate) ipv6: Option<Ipv6Subnet>,
    /// Other networks of VMs of this host.
    pub(crate) peers: Vec<IpNetwork>,
    /// Where VMs are kept apart, a guest hears its own name only.
    pub(crate) between_vms: BetweenVms,
}

impl Zone {
    /// The answer to a question of `asker`; `None` where it is not about VMs and somebody else is to be asked.
    pub(crate) fn answer(&self, query: &Query<'_>, asker: Ipv4Addr, bindings: &Bindings) -> Option<Vec<u8>> {
        let name = query.name.as_deref().filter(|_| query.class == CLASS_IN)?;
        let domain = self.domain.as_str();
        if name == domain {
            return Some(answer(query, Code::NoError, &[], Some(domain)));
        }
        if let Some(vm) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) {
            let known = bindings.of_vm(vm).filter(|(_, binding)| self.may_know(asker, binding, bindings));
            let mut addresses: Vec<IpAddr> = known
                .flat_map(|(mac, binding)| {
                    let ipv6 = self.ipv6.map(|subnet| subnet.address_of(mac).into());
                    [IpAddr::V4(binding.address)].into_iter().chain(ipv6)
                })
                .collect();
            addresses.sort_unstable();
            let records: Vec<Record> = addresses.into_iter().map(Record::Address).collect();
            return Some(found(query, &records, Some(domain)));
        }
        let holder = self.holder(reverse(name)?, bindings)?;
        let known = holder.filter(|binding| self.may_know(asker, binding, bindings));
        let records: Vec<Record> =
            known.map(|binding| Record::Name(format!("{}.{domain}", binding.vm))).into_iter().collect();
        Some(found(query, &records, None))
    }

    /// Who has an address of these networks; `None` for one that no network of VMs has. Of their other networks nobody is known here.
    fn holder<'known>(&self, address: IpAddr, bindings: &'known Bindings) -> Option<Option<&'known Binding>> {
        if self.peers.iter().any(|peer| peer.contains(address)) {
            return Some(None);
        }
        match address {
            IpAddr::V4(address) => self.subnet.contains(address).then(|| bindings.of_address(address)),
            IpAddr::V6(address) => {
                let subnet = self.ipv6.filter(|subnet| subnet.contains(address))?;
                Some(subnet.mac_of(address).and_then(|mac| bindings.get(mac)))
            }
        }
    }

    /// The guest that asks from `address`, or this host, by its IPv4 address; `None` for anybody else.
    pub(super) fn asker(&self, address: IpAddr, bindings: &Bindings) -> Option<Ipv4Addr> {
        match address {
            IpAddr::V4(address) => self.subnet.contains(address).then_some(address),
            IpAddr::V6(own) if self.ipv6.is_some_and(|subnet| subnet.gateway() == own) => Some(self.gateway),
            IpAddr::V6(_) => Some(self.holder(address, bindings)??.address),
        }
    }

    /// Whether `asker` may hear the name of another VM.
    fn may_know(&self, asker: Ipv4Addr, binding: &Binding, bindings: &Bindings) -> bool {
        match self.between_vms {
            BetweenVms::Open => true,
            BetweenVms::Isolated => {
                let is_own = bindings.of_address(asker).is_some_and(|own| own.vm == binding.vm);
                is_own || asker == self.gateway
            }
        }
    }
}

/// The answer of the records that are wanted: a name without any records is none.
fn found(query: &Query<'_>, records: &[Record], domain: Option<&str>) -> Vec<u8> {
    if records.is_empty() {
        return answer(query, Code::NoSuchName, &[], domain);
    }
    let is_wanted = |record: &&Record| query.kind == TYPE_ANY || query.kind == record.kind();
    answer(query, Code::NoError, &records.iter().filter(is_wanted).collect::<Vec<_>>(), domain)
}

/// The address that `name` is the reverse name of.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(REVERSE_IPV6) {
        return reverse_ipv6(digits);
    }
    let address: Ipv4Addr = name.strip_suffix(REVERSE)?.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a).into())
}

/// The address with these 32 digits, the last one first and each between dots.
fn reverse_ipv6(digits: &str) -> Option<IpAddr> {
    let (mut address, mut count) = (0_u128, 0);
    for label in digits.rsplit('.') {
        let [digit] = *label.as_bytes() else { return None };
        let digit = char::from(digit).to_digit(16)?;
        address = address << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from(address).into())
}

#[cfg(test)]
mod tests {
    use vm_model::{MacAddress, VmId};

    use super::super::message::tests::question;
    use super::super::message::{TYPE_A, TYPE_AAAA, TYPE_PTR, parse};
    use super::*;

    fn zone(between_vms: BetweenVms) -> Zone {
        Zone {
            domain: "vm.internal".parse().unwrap(),
            subnet: "10.100.0.0/16".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 100, 0, 1),
            peers: Vec::new(),
            ipv6: None,
            between_vms,
        }
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 100, 0, last)
    }

    fn bindings() -> Bindings {
        let mut bindings = Bindings::default();
        for (last, vm, nic) in [(2, "web", "net0"), (3, "web", "net1"), (4, "db", "net0")] {
            let binding = Binding {
                vm: VmId::new(vm),
                nic: nic.to_owned(),
                address: address(last),
                mask: None,
                mtu: None,
            };
            bindings.insert(MacAddress::new([2, 0, 0, 0, 0, last]), binding).unwrap();
        }
        bindings
    }

    /// Code, number of answers, and the last bytes of the answer.
    fn ask(zone: &Zone, asker: u8, name: &str, kind: u16) -> Option<(u8, u8, Vec<u8>)> {
        let message = question(name, kind);
        let query = parse(&message).unwrap();
        let reply = zone.answer(&query, address(asker), &bindings())?;
        assert_eq!(&reply[..3], &[0, 7, 0x85], "an authoritative answer");
        Some((reply[3] & 0xf, reply[7], reply[reply.len() - 4..].to_vec()))
    }

    #[test]
    fn who_has_an_address_of_another_network_of_vms_is_told_to_nobody() {
        let peers = ["10.101.0.0/16", "fd13::/64"].map(|peer| peer.parse().unwrap()).to_vec();
        let zone = Zone { peers, ..zone(BetweenVms::Open) };
        let digits = format!("{:032x}", u128::from("fd13::2".parse::<Ipv6Addr>().unwrap()));
        let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
        let of_ipv6 = format!("{}.ip6.arpa", labels.join("."));
        for name in ["2.0.101.10.in-addr.arpa", of_ipv6.as_str()] {
            assert_eq!(ask(&zone, 4, name, TYPE_PTR).unwrap().0, 3, "no such name: {name}");
        }
        assert_eq!(ask(&zone, 4, "2.0.102.10.in-addr.arpa", TYPE_PTR), None, "somebody else's to answer");
    }

    #[test]
    fn vms_are_found_by_name_and_address() {
        let zone = zone(BetweenVms::Open);
        assert_eq!(ask(&zone, 4, "WEB.vm.internal", TYPE_A), Some((0, 2, vec![10, 100, 0, 3])));
        let aaaa = ask(&zone, 4, "web.vm.internal", 28).unwrap();
        assert_eq!((aaaa.0, aaaa.1), (0, 0), "it has no address of IPv6");
        let (code, count, _) = ask(&zone, 4, "nobody.vm.internal", TYPE_A).unwrap();
        assert_eq!((code, count), (3, 0));
        let (code, count, last) = ask(&zone, 4, "2.0.100.10.in-addr.arpa", TYPE_PTR).unwrap();
        assert_eq!((code, count, &last[..]), (0, 1, &b"nal\0"[..]));
        assert_eq!(ask(&zone, 4, "9.0.100.10.in-addr.arpa", TYPE_PTR).unwrap().0, 3);
        for elsewhere in
            ["example.com", "internal", "xvm.internal", "1.2.0.192.in-addr.arpa", "100.10.in-addr.arpa"]
        {
            assert_eq!(ask(&zone, 4, elsewhere, TYPE_A), None, "{elsewhere}");
        }
    }

    #[test]
    fn vms_are_found_by_ipv6_too_where_there_is_any() {
        let zone = Zone { ipv6: Some("fd12::/64".parse().unwrap()), ..zone(BetweenVms::Open) };
        let (code, count, last) = ask(&zone, 4, "web.vm.internal", TYPE_AAAA).unwrap();
        assert_eq!((code, count, last), (0, 2, vec![0xfe, 0, 0, 3]));
        assert_eq!(ask(&zone, 4, "web.vm.internal", TYPE_A), Some((0, 2, vec![10, 100, 0, 3])));
        assert_eq!(ask(&zone, 4, "web.vm.internal", TYPE_ANY).unwrap().1, 4);
        let name = |address: &str| {
            let digits = format!("{:032x}", u128::from(address.parse::<Ipv6Addr>().unwrap()));
            let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        };
        let (code, count, last) = ask(&zone, 4, &name("fd12::ff:fe00:2"), TYPE_PTR).unwrap();
        assert_eq!((code, count, &last[..]), (0, 1, &b"nal\0"[..]));
        assert_eq!(ask(&zone, 4, &name("fd12::ff:fe00:9"), TYPE_PTR).unwrap().0, 3);
        assert_eq!(ask(&zone, 4, &name("fd12::1"), TYPE_PTR).unwrap().0, 3);
        assert_eq!(ask(&zone, 4, &name("fd13::ff:fe00:2"), TYPE_PTR), None, "of another network");
        assert_eq!(ask(&zone, 4, "1.2.ip6.arpa", TYPE_PTR), None);
        let bindings = bindings();
        let asker = |address: &str| zone.asker(address.parse().unwrap(), &bindings);
        assert_eq!(asker("fd12::ff:fe00:4"), Some(address(4)));
        assert_eq!(asker("fd12::1"), Some(zone.gateway));
        assert_eq!(asker("fd12::ff:fe00:9"), None, "nobody has it");
        assert_eq!(asker("fe80::ff:fe00:4"), None);
    }

    #[test]
    fn guests_that_are_kept_apart_hear_their_own_name_only() {
        let zone = zone(BetweenVms::Isolated);
        assert_eq!(ask(&zone, 4, "web.vm.internal", TYPE_A).unwrap().0, 3);
        assert_eq!(ask(&zone, 4, "2.0.100.10.in-addr.arpa", TYPE_PTR).unwrap().0, 3);
        assert_eq!(ask(&zone, 4, "db.vm.internal", TYPE_A).unwrap().0, 0);
        assert_eq!(ask(&zone, 1, "web.vm.internal", TYPE_A).unwrap().0, 0, "the host hears all");
    }

    #[test]
    fn domains_are_checked() {
        assert_eq!("VM.internal".parse::<Domain>().unwrap().as_str(), "vm.internal");
        for text in ["", ".", "a.", ".a", "a..b", "-a", "a_b", &"a".repeat(64), &["a"; 100].join(".")] {
            assert!(text.parse::<Domain>().is_err(), "{text:?} must be refused");
        }
    }
}
