//! Which addresses of a subnet can be leased at all, and why the others cannot.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnetwork::Ipv4Network;

use crate::PoolError;

/// The widest subnet a pool takes; a wider one holds addresses of many owners.
const WIDEST_PREFIX: u8 = 8;
/// The narrowest subnet with room for a gateway and one VM.
const NARROWEST_PREFIX: u8 = 30;

/// Why an address inside the subnet is never leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedAddress {
    /// The lowest address: it names the subnet itself.
    Network,
    /// The host's own address on the bridge.
    Gateway,
    /// The highest address: it reaches every host.
    Broadcast,
}

impl fmt::Display for ReservedAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Network => "network",
            Self::Gateway => "gateway",
            Self::Broadcast => "broadcast",
        })
    }
}

/// A subnet that has been found fit for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeasableSubnet(Ipv4Network);

impl LeasableSubnet {
    pub(crate) fn new(subnet: Ipv4Network) -> Result<Self, PoolError> {
        if !(WIDEST_PREFIX..=NARROWEST_PREFIX).contains(&subnet.prefix()) {
            return Err(PoolError::Size { subnet });
        }
        if subnet.ip() != subnet.network() {
            return Err(PoolError::HostBits { subnet, network: subnet.network() });
        }
        // With at most 24 host bits, the first octet says whether these are unicast addresses (RFC 6890).
        if matches!(subnet.network().octets()[0], 0 | 127 | 224..) {
            return Err(PoolError::NotUnicast { subnet });
        }
        Ok(Self(subnet))
    }

    pub(crate) fn network(self) -> Ipv4Network {
        self.0
    }

    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.0.network()) + 1)
    }

    /// The addresses that can be leased; at least one.
    pub(crate) fn leasable(self) -> RangeInclusive<u32> {
        u32::from(self.0.network()) + 2..=u32::from(self.0.broadcast()) - 1
    }

    /// How many addresses can be leased.
    pub(crate) fn capacity(self) -> u32 {
        let range = self.leasable();
        range.end() - range.start() + 1
    }

    pub(crate) fn contains(self, address: Ipv4Addr) -> bool {
        self.0.contains(address)
    }

    pub(crate) fn reserved(self, address: Ipv4Addr) -> Option<ReservedAddress> {
        if address == self.0.network() {
            Some(ReservedAddress::Network)
        } else if address == self.gateway() {
            Some(ReservedAddress::Gateway)
        } else if address == self.0.broadcast() {
            Some(ReservedAddress::Broadcast)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Result<LeasableSubnet, PoolError> {
        LeasableSubnet::new(text.parse().unwrap())
    }

    #[test]
    fn the_smallest_subnet_has_a_gateway_and_one_lease() {
        let subnet = subnet("192.168.7.4/30").unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(192, 168, 7, 5));
        assert_eq!(subnet.capacity(), 1);
        assert_eq!(subnet.reserved(Ipv4Addr::new(192, 168, 7, 7)), Some(ReservedAddress::Broadcast));
        assert_eq!(subnet.reserved(Ipv4Addr::new(192, 168, 7, 6)), None);
    }

    #[test]
    fn a_class_a_network_counts_without_overflow() {
        assert_eq!(subnet("10.0.0.0/8").unwrap().capacity(), (1 << 24) - 3);
    }

    #[test]
    fn unfit_subnets_are_refused_with_what_is_accepted() {
        let refusal = |text| subnet(text).unwrap_err().to_string();
        insta::assert_snapshot!(refusal("10.0.0.0/31"), @"subnet 10.0.0.0/31 cannot hold VM addresses: a prefix length of 8 to 30 is accepted");
        insta::assert_snapshot!(refusal("10.0.0.0/7"), @"subnet 10.0.0.0/7 cannot hold VM addresses: a prefix length of 8 to 30 is accepted");
        insta::assert_snapshot!(refusal("10.1.2.3/16"), @"subnet 10.1.2.3/16 has bits set after its prefix: write it as 10.1.0.0/16");
        insta::assert_snapshot!(refusal("224.0.0.0/8"), @"subnet 224.0.0.0/8 holds no unicast addresses: one like 10.100.0.0/16 is accepted");
    }
}
