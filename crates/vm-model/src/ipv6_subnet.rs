//! The IPv6 network of VMs, in which each interface has the address that its hardware address makes.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::MacAddress;

/// The only length of prefix that hardware addresses make addresses in (RFC 4291 §2.5.1).
const PREFIX_LENGTH: u8 = 64;
/// What stands between the halves of a hardware address in an address that is made of it (RFC 4291, appendix A).
const FILLING: [u8; 2] = [0xff, 0xfe];
/// The first half of link-local addresses (RFC 4291 §2.5.6).
const LINK_LOCAL: u64 = 0xfe80 << 48;

/// A network of unicast addresses with a prefix of 64 bits. As text: `fd12:3456:789a::/64`.
///
/// An interface's address is made of its hardware address (modified EUI-64), so it is as unique as that one is, and needs
/// no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Subnet {
    prefix: u64,
}

/// Why a text names no [`Ipv6Subnet`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} is no IPv6 network for VMs: one of global or unique local addresses with a prefix length of 64 is accepted, \
     like fd12:3456:789a::/64"
)]
pub struct InvalidIpv6Subnet {
    text: String,
}

impl Ipv6Subnet {
    /// How many bits its addresses have in common: always 64.
    pub const fn prefix_length(self) -> u8 {
        PREFIX_LENGTH
    }

    /// The address that names the network.
    pub fn network(self) -> Ipv6Addr {
        joined(self.prefix, 0)
    }

    /// The host's own address: the first one.
    pub fn gateway(self) -> Ipv6Addr {
        joined(self.prefix, 1)
    }

    /// The address of the interface with this hardware address.
    pub fn address_of(self, mac: MacAddress) -> Ipv6Addr {
        joined(self.prefix, interface_identifier(mac))
    }

    /// The hardware address of the interface that has `address`; `None` where no interface can have it.
    pub fn mac_of(self, address: Ipv6Addr) -> Option<MacAddress> {
        let (prefix, identifier) = halves(address);
        let [a, b, c, filling @ .., d, e, f] = identifier.to_be_bytes();
        (prefix == self.prefix && filling == FILLING).then(|| MacAddress::new([a ^ 2, b, c, d, e, f]))
    }

    /// Whether `address` is of this network.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        halves(address).0 == self.prefix
    }
}

/// The link-local address of the interface with this hardware address.
pub fn link_local(mac: MacAddress) -> Ipv6Addr {
    joined(LINK_LOCAL, interface_identifier(mac))
}

fn interface_identifier(mac: MacAddress) -> u64 {
    let [a, b, c, d, e, f] = mac.octets();
    u64::from_be_bytes([a ^ 2, b, c, FILLING[0], FILLING[1], d, e, f])
}

fn joined(prefix: u64, identifier: u64) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) << 64 | u128::from(identifier))
}

fn halves(address: Ipv6Addr) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = address.octets();
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest))
}

impl FromStr for Ipv6Subnet {
    type Err = InvalidIpv6Subnet;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidIpv6Subnet { text: text.chars().take(80).collect() };
        let address = text.strip_suffix("/64").ok_or_else(invalid)?;
        let (prefix, identifier) = halves(address.parse().map_err(|_| invalid())?);
        // Global unicast (2000::/3, RFC 4291) and unique local addresses (fc00::/7, RFC 4193).
        let is_unicast = prefix >> 61 == 1 || prefix >> 57 == 0xfc >> 1;
        if identifier == 0 && is_unicast { Ok(Self { prefix }) } else { Err(invalid()) }
    }
}

impl fmt::Display for Ipv6Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{PREFIX_LENGTH}", self.network())
    }
}

impl TryFrom<String> for Ipv6Subnet {
    type Error = InvalidIpv6Subnet;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Ipv6Subnet> for String {
    fn from(subnet: Ipv6Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet() -> Ipv6Subnet {
        "fd12:3456:789a::/64".parse().expect("a network")
    }

    #[test]
    fn addresses_are_made_of_hardware_addresses() {
        let mac = MacAddress::new([0x02, 0x50, 0x0a, 0x64, 0, 2]);
        assert_eq!(subnet().address_of(mac).to_string(), "fd12:3456:789a:0:50:aff:fe64:2");
        assert_eq!(link_local(mac).to_string(), "fe80::50:aff:fe64:2");
        assert_eq!(subnet().gateway().to_string(), "fd12:3456:789a::1");
        assert_eq!(subnet().mac_of(subnet().gateway()), None);
        assert_eq!(subnet().mac_of(link_local(mac)), None, "of another network");
    }

    #[test]
    fn networks_are_read_and_written() {
        for text in ["fd12:3456:789a::/64", "2001:db8:1:2::/64", "fc00::/64", "3fff::/64"] {
            assert_eq!(text.parse::<Ipv6Subnet>().expect("accepted").to_string(), text);
        }
        for text in [
            "",
            "::/64",
            "fe80::/64",
            "ff02::/64",
            "fd00::1/64",
            "fd00::/48",
            "fd00::",
            "4000::/64",
            "10.0.0.0/64",
        ] {
            assert!(text.parse::<Ipv6Subnet>().is_err(), "{text:?} must be refused");
        }
    }

    proptest! {
        #[test]
        fn the_owner_of_an_address_is_known(octets: [u8; 6], other: u128) {
            let mac = MacAddress::new(octets);
            prop_assert_eq!(subnet().mac_of(subnet().address_of(mac)), Some(mac));
            let other = Ipv6Addr::from(other);
            if let Some(mac) = subnet().mac_of(other) {
                prop_assert_eq!(subnet().address_of(mac), other);
            }
        }
    }
}
