//! What passes between a VM and what lies beyond its network: ports of the host that lead to it, and what it may open
//! connections to.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::shown_text;

/// The most destinations that the list of one VM may have.
pub const EGRESS_RULES_MAX: usize = 64;
/// The most ports of the host that may lead to one VM.
pub const PORT_FORWARDS_MAX: usize = 64;

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name in rules and settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Transport {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(()),
        }
    }
}

/// A port of the host that leads to a port of a VM. As text: `8080:80`, `127.0.0.1:5353:53/udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortForward {
    /// The protocol.
    pub transport: Transport,
    /// The host's address that it is on; `None` is each of them.
    pub address: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: NonZeroU16,
    /// The guest's port.
    pub guest_port: NonZeroU16,
}

/// Why a text is no [`PortForward`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text} forwards no port: {} is accepted", accepted_forward(*part))]
pub struct InvalidPortForward {
    text: String,
    /// The part of it that is wrong, where one is.
    part: Option<WrongPart>,
}

/// A part of a port forward that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WrongPart {
    Transport,
    Address,
    HostPort,
    GuestPort,
}

impl InvalidPortForward {
    /// What would be accepted in its place, in words.
    pub fn accepted(&self) -> Cow<'static, str> {
        accepted_forward(self.part)
    }
}

fn accepted_forward(part: Option<WrongPart>) -> Cow<'static, str> {
    let part = match part {
        None => return Cow::Borrowed(PortForward::ACCEPTED),
        Some(WrongPart::Transport) => "tcp or udp behind the slash",
        Some(WrongPart::Address) => "an IPv4 address of one host before the ports",
        Some(WrongPart::HostPort) => "1 to 65535 as the host's port",
        Some(WrongPart::GuestPort) => "1 to 65535 as the guest's port",
    };
    Cow::Owned(format!("{part}, in {}", PortForward::ACCEPTED))
}

impl PortForward {
    /// What is accepted, in words.
    pub const ACCEPTED: &str =
        "[HOST ADDRESS:]HOST PORT:GUEST PORT[/tcp or /udp], like \"8080:80\" or \"127.0.0.1:5353:53/udp\"";

    /// Whether both are on the same port of the host.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let share_an_address = match (self.address, other.address) {
            (Some(own), Some(its)) => own == its,
            (None, _) | (_, None) => true,
        };
        self.transport == other.transport && self.host_port == other.host_port && share_an_address
    }
}

impl FromStr for PortForward {
    type Err = InvalidPortForward;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |part| InvalidPortForward { text: shown_text(text), part };
        let wrong = |part| invalid(Some(part));
        let (ports, transport) = match text.split_once('/') {
            Some((ports, transport)) => (ports, transport.parse().map_err(|()| wrong(WrongPart::Transport))?),
            None => (text, Transport::Tcp),
        };
        let (host, guest_port) = ports.rsplit_once(':').ok_or_else(|| invalid(None))?;
        let (address, host_port) = match host.rsplit_once(':') {
            Some((address, port)) => {
                (Some(address.parse::<Ipv4Addr>().map_err(|_| wrong(WrongPart::Address))?), port)
            }
            None => (None, host),
        };
        if address.is_some_and(|address| address.is_multicast() || address.is_broadcast()) {
            return Err(wrong(WrongPart::Address));
        }
        Ok(Self {
            transport,
            address: address.filter(|address| !address.is_unspecified()),
            host_port: port(host_port).ok_or_else(|| wrong(WrongPart::HostPort))?,
            guest_port: port(guest_port).ok_or_else(|| wrong(WrongPart::GuestPort))?,
        })
    }
}

/// A port in digits alone.
fn port(text: &str) -> Option<NonZeroU16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl TryFrom<String> for PortForward {
    type Error = InvalidPortForward;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PortForward> for String {
    fn from(forward: PortForward) -> Self {
        forward.to_string()
    }
}

impl fmt::Display for PortForward {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, host_port, guest_port } = self;
        if let Some(address) = address {
            write!(formatter, "{address}:")?;
        }
        write!(formatter, "{host_port}:{guest_port}/{transport}")
    }
}

/// Where a VM may open connections to. As text: `10.0.0.0/8`, `1.1.1.1:443/tcp`, `2001:db8::/32`, `[2001:db8::1]:443/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EgressRule {
    /// The first address of the network.
    pub network: IpAddr,
    /// How many bits its addresses have in common, at most 32, or 128 for IPv6.
    pub prefix: u8,
    /// The one port there, where not all protocols and ports are meant.
    pub service: Option<(Transport, NonZeroU16)>,
}

/// Why a text is no [`EgressRule`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text} is no destination: {} is accepted", accepted_egress(*network))]
pub struct InvalidEgressRule {
    text: String,
    /// The network that is meant, with its prefix, where bits behind the prefix are set.
    network: Option<(IpAddr, u8)>,
}

impl InvalidEgressRule {
    /// What would be accepted in its place, in words.
    pub fn accepted(&self) -> Cow<'static, str> {
        accepted_egress(self.network)
    }
}

fn accepted_egress(network: Option<(IpAddr, u8)>) -> Cow<'static, str> {
    match network {
        Some((network, prefix)) => Cow::Owned(format!(
            "a network whose address has no bit set behind the prefix, here {network}/{prefix}, or one address without a prefix"
        )),
        None => Cow::Borrowed(EgressRule::ACCEPTED),
    }
}

impl EgressRule {
    /// What is accepted, in words.
    pub const ACCEPTED: &str = "NETWORK[:PORT[/tcp or /udp]], like \"10.0.0.0/8\", \"1.1.1.1:443\", \"10.0.0.0/8:53/udp\", \"2001:db8::/32\" or \
         \"[2001:db8::1]:443\"";

    /// The last address of the network.
    pub fn last(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => Ipv4Addr::from(network.to_bits() | host_bits_v4(self.prefix)).into(),
            IpAddr::V6(network) => Ipv6Addr::from(network.to_bits() | host_bits_v6(self.prefix)).into(),
        }
    }

    /// Whether everything that `other` lets pass is let pass by this one alone, in the same set of rules.
    pub fn covers(&self, other: &Self) -> bool {
        self.service == other.service
            && self.network.is_ipv4() == other.network.is_ipv4()
            && self.network <= other.network
            && other.last() <= self.last()
    }
}

impl FromStr for EgressRule {
    type Err = InvalidEgressRule;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidEgressRule { text: shown_text(text), network: None };
        let (network, service) = split_service(text).ok_or_else(invalid)?;
        let (network, prefix) = match network.split_once('/') {
            Some((network, prefix)) => (network, Some(number(prefix).ok_or_else(invalid)?)),
            None => (network, None),
        };
        let network: IpAddr = network.parse().map_err(|_| invalid())?;
        let (widest, host_bits) = match network {
            IpAddr::V4(network) => (32, u128::from(network.to_bits() & prefix.map_or(0, host_bits_v4))),
            IpAddr::V6(network) => (128, network.to_bits() & prefix.map_or(0, host_bits_v6)),
        };
        let prefix = prefix.unwrap_or(widest);
        let service = match service.map(|service| service.split_once('/').unwrap_or((service, "tcp"))) {
            Some((its_port, transport)) => {
                Some((transport.parse().map_err(|()| invalid())?, port(its_port).ok_or_else(invalid)?))
            }
            None => None,
        };
        match () {
            () if prefix > widest => Err(invalid()),
            () if host_bits != 0 => {
                Err(InvalidEgressRule { network: Some((masked(network, prefix), prefix)), ..invalid() })
            }
            () => Ok(Self { network, prefix, service }),
        }
    }
}

/// A destination without its port, and the port. One of IPv6 with a port has brackets, as in a URL.
fn split_service(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (network, rest) = bracketed.split_once(']')?;
        let is_ipv6 = network.contains(':');
        return is_ipv6.then_some((network, Some(rest.strip_prefix(':')?)));
    }
    Some(match text.split_once(':') {
        Some((network, service)) if !service.contains(':') => (network, Some(service)),
        Some(_) | None => (text, None),
    })
}

/// The first address of the network of this prefix that has `address`.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from(address.to_bits() & !host_bits_v4(prefix)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(address.to_bits() & !host_bits_v6(prefix)).into(),
    }
}

/// The bits of an address that a prefix of this length leaves to hosts.
fn host_bits_v4(prefix: u8) -> u32 {
    u32::MAX.checked_shr(prefix.into()).unwrap_or_default()
}

/// As [`host_bits_v4`].
fn host_bits_v6(prefix: u8) -> u128 {
    u128::MAX.checked_shr(prefix.into()).unwrap_or_default()
}

/// A small number in digits alone.
fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl TryFrom<String> for EgressRule {
    type Error = InvalidEgressRule;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EgressRule> for String {
    fn from(rule: EgressRule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for EgressRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, prefix, service } = self;
        match (service, network) {
            (None, _) => write!(formatter, "{network}/{prefix}"),
            (Some((transport, port)), IpAddr::V4(_)) => {
                write!(formatter, "{network}/{prefix}:{port}/{transport}")
            }
            (Some((transport, port)), IpAddr::V6(_)) => {
                write!(formatter, "[{network}/{prefix}]:{port}/{transport}")
            }
        }
    }
}

/// What passes between a VM and what lies beyond its network, as far as its definition says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetworkAccess {
    /// Ports of the host that lead to it; no two on the same one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<PortForward>,
    /// What it may open connections to beyond its network; `None` is everything, an empty list nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_which_part_is_wrong_and_which_network_is_meant() {
        let forward = |text: &str| text.parse::<PortForward>().expect_err(text).to_string();
        for (text, words) in [
            ("8080:80/sctp", "tcp or udp behind the slash, in [HOST ADDRESS:]"),
            ("host:8080:80", "an IPv4 address of one host"),
            ("224.0.0.1:8080:80", "an IPv4 address of one host"),
            ("0:80", "1 to 65535 as the host's port"),
            ("8080:65536", "1 to 65535 as the guest's port"),
            ("80", "forwards no port: [HOST ADDRESS:]"),
        ] {
            let told = forward(text);
            assert!(told.contains(words), "{words} is not in {told}");
        }
        let egress = |text: &str| text.parse::<EgressRule>().expect_err(text).to_string();
        assert!(egress("10.0.0.1/8").contains("here 10.0.0.0/8, or one address"), "{}", egress("10.0.0.1/8"));
        assert!(egress("[2001:db8::1/32]:443").contains("here 2001:db8::/32,"));
        assert!(egress("10.0.0.0/33").contains(EgressRule::ACCEPTED));
    }

    #[test]
    fn forwards_are_read_and_written() {
        for (text, written) in [
            ("8080:80", "8080:80/tcp"),
            ("0.0.0.0:8080:80/tcp", "8080:80/tcp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353:53/udp"),
        ] {
            let forward: PortForward = text.parse().expect("accepted");
            assert_eq!(forward.to_string(), written);
            assert_eq!(written.parse(), Ok(forward));
        }
        for text in [
            "",
            "80",
            "0:80",
            "80:0",
            "80:65536",
            "a:80:80",
            "80:80/sctp",
            "+80:80",
            "224.0.0.1:80:80",
            "80:80/tcp/udp",
            "::1:80:80",
        ] {
            assert!(text.parse::<PortForward>().is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn destinations_are_read_and_written() {
        for (text, written, last) in [
            ("10.0.0.0/8", "10.0.0.0/8", "10.255.255.255"),
            ("0.0.0.0/0", "0.0.0.0/0", "255.255.255.255"),
            ("1.1.1.1:443", "1.1.1.1/32:443/tcp", "1.1.1.1"),
            ("10.0.0.0/8:53/udp", "10.0.0.0/8:53/udp", "10.255.255.255"),
            ("2001:db8::/32", "2001:db8::/32", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::/0", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1", "::1/128", "::1"),
            ("[2001:db8::1]:443", "[2001:db8::1/128]:443/tcp", "2001:db8::1"),
            ("[fd00::/8]:53/udp", "[fd00::/8]:53/udp", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let rule: EgressRule = text.parse().expect("accepted");
            assert_eq!((rule.to_string().as_str(), rule.last().to_string().as_str()), (written, last));
            assert_eq!(written.parse(), Ok(rule));
        }
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "1.1.1.1:0",
            "1.1.1.1:80/x",
            "example.com",
            "2001:db8::1/32",
            "2001:db8::/129",
            "2001:db8::1:443/tcp",
            "[2001:db8::1]",
            "[2001:db8::1]443",
            "[1.1.1.1]:443",
            "1.1.1.1:/tcp",
        ] {
            assert!(text.parse::<EgressRule>().is_err(), "{text:?} must be refused");
        }
        let rule = |text: &str| text.parse::<EgressRule>().expect("accepted");
        assert!(rule("10.0.0.0/8").covers(&rule("10.1.0.0/16")));
        assert!(!rule("10.1.0.0/16").covers(&rule("10.0.0.0/8")));
        assert!(rule("2001:db8::/32").covers(&rule("2001:db8:1::/48")));
        assert!(!rule("0.0.0.0/0").covers(&rule("::/0")), "it is of another protocol");
        assert!(!rule("10.0.0.0/8").covers(&rule("10.1.0.0/16:80")), "it stands in another set");
    }

    #[test]
    fn one_port_of_the_host_leads_to_one_place() {
        let forward = |text: &str| text.parse::<PortForward>().expect("accepted");
        for (one, other, conflicts) in [
            ("80:80", "80:81", true),
            ("80:80", "127.0.0.1:80:80", true),
            ("127.0.0.1:80:80", "127.0.0.2:80:80", false),
            ("80:80", "80:80/udp", false),
            ("80:80", "81:80", false),
        ] {
            assert_eq!(forward(one).conflicts_with(&forward(other)), conflicts, "{one} {other}");
            assert_eq!(forward(other).conflicts_with(&forward(one)), conflicts, "{other} {one}");
        }
    }
}
