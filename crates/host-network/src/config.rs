//! What a host network should be like, and the checks that need no look at the host.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network};
use thiserror::Error;
use vm_model::{Ipv6Subnet, Transport};

use crate::LinkName;
use crate::connections::ConnectionLimit;
use crate::dns::Domain;
use crate::uplink::Uplink;

/// The bridge whose table has the plain name.
const DEFAULT_BRIDGE: &str = "br-procurator";
/// What the names of tables begin with; the bridge follows where it is another one.
const DEFAULT_TABLE: &str = "procurator";
/// The smallest MTU that every IPv4 host must accept (RFC 791).
const SMALLEST_MTU: u16 = 576;
/// The smallest MTU that IPv6 passes by (RFC 8200 §5).
const SMALLEST_IPV6_MTU: u16 = 1280;
/// The largest MTU of a TAP: 65535 less an Ethernet header.
const LARGEST_MTU: u16 = 65_521;
/// More name servers than this do not fit the smallest DHCP reply a client must accept (RFC 2131 §2).
pub(crate) const MOST_DNS_SERVERS: usize = 16;

/// The desired host network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The bridge that VMs are attached to.
    pub bridge: LinkName,
    /// The network of the VMs.
    pub subnet: Ipv4Network,
    /// The host's address in it: the VMs' router and DHCP server.
    pub gateway: Ipv4Addr,
    /// The IPv6 network of the VMs, of which the host has the first address; `None` does without IPv6.
    pub ipv6: Option<Ipv6Subnet>,
    /// The MTU of the bridge, and of each TAP that asks for no other.
    pub mtu: u16,
    /// How far VMs reach.
    pub egress: Egress,
    /// Whether VMs reach each other.
    pub between_vms: BetweenVms,
    /// What VMs reach of the host itself, beside pings and DHCP. On every address of the host.
    pub host_services: Vec<HostService>,
    /// How many connections each VM may have in the host's table of connections.
    pub connections: ConnectionLimit,
    /// The name of the nftables tables of the families `ip` and `bridge` that are this network's alone; replaced whole.
    pub nft_table: String,
    /// The name servers told to VMs; those that our own asks, where it runs.
    pub dns: DnsServers,
    /// The domain in which our own name server, on the gateway's address, answers for VMs; `None` does without one.
    pub names: Option<Domain>,
    /// The bridges of the worker's other networks. Nothing is forwarded between their VMs and those of this one.
    pub peers: Vec<LinkName>,
    /// The subnets of those networks. No guest is told who has an address there, and nobody else is asked for that.
    pub peer_subnets: Vec<IpNetwork>,
    /// Whom guests are told to send what is for no network of theirs.
    pub router: RouterAdvice,
    /// The interface of the host that is a port of the bridge, and connects guests to what is beyond it; `None` for a bridge of
    /// guests alone.
    pub uplink: Option<Uplink>,
    /// Who gives guests their addresses.
    pub addresses: GuestAddresses,
    /// A directory for the note of what is changed on the host until shutdown, so that a run after one that was killed
    /// gives it back too. Without one that is only remembered.
    pub state_dir: Option<PathBuf>,
}

/// Who gives the guests of a network their addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuestAddresses {
    /// We do: the host has an address on the bridge, its servers answer guests, and each guest is bound to what it was given.
    #[default]
    Ours,
    /// Somebody beyond the bridge, or guests themselves: the host has no address there and answers nobody, and each guest is
    /// bound to its MAC address alone.
    External,
}

/// Whom DHCP names to the guests of a network as their router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouterAdvice {
    /// This host.
    #[default]
    Told,
    /// Another machine on the bridge, by its uplink.
    Other(Ipv4Addr),
    /// None: for a network that is cut off and is not its guests' only one.
    Untold,
}

impl RouterAdvice {
    /// The router's address, where the host's own is `host`.
    pub fn address(self, host: Ipv4Addr) -> Option<Ipv4Addr> {
        match self {
            Self::Told => Some(host),
            Self::Other(router) => Some(router),
            Self::Untold => None,
        }
    }
}

/// Whether the VMs of a network reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BetweenVms {
    /// As machines on one switch do.
    #[default]
    Open,
    /// Neither by the bridge nor by the host's forwarding.
    Isolated,
}

/// A service of the host that VMs may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostService {
    /// Its protocol.
    pub transport: Transport,
    /// The port that it listens on; not 0.
    pub port: NonZeroU16,
}

/// Why a text names no [`HostService`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} names no service: tcp/<port> and udp/<port> are accepted, with a port of 1 to 65535")]
pub struct InvalidHostService {
    text: String,
}

impl FromStr for HostService {
    type Err = InvalidHostService;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidHostService { text: text.chars().take(80).collect() };
        let (transport, port) = text.split_once('/').ok_or_else(invalid)?;
        let transport: Transport = transport.parse().map_err(|()| invalid())?;
        Ok(Self { transport, port: port.parse().map_err(|_| invalid())? })
    }
}

/// How far the VMs of a network reach beyond the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// Everywhere the host does, under the host's address.
    #[default]
    Masquerade,
    /// Everywhere, under their own addresses: somebody else routes back to them.
    Routed,
    /// The host and each other only, whatever the host forwards for others: rules drop it, and the bridge's own forwarding
    /// switch is off.
    Isolated,
}

/// Which name servers VMs are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DnsServers {
    /// The host's own, as far as VMs can reach them: those that are not on loopback.
    #[default]
    Host,
    /// These; none when empty.
    List(Vec<Ipv4Addr>),
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The gateway cannot be an address of the host in the subnet.
    #[error("the gateway {gateway} is no host address of the network {subnet}: the first one is {first}")]
    Gateway {
        /// The gateway as configured.
        gateway: Ipv4Addr,
        /// The subnet as configured.
        subnet: Ipv4Network,
        /// What would do.
        first: Ipv4Addr,
    },
    /// The subnet has no room for the host and a VM.
    #[error("the network {subnet} has no room for the host and a VM: a prefix length of 8 to 30 is accepted")]
    Subnet {
        /// The subnet as configured.
        subnet: Ipv4Network,
    },
    /// The MTU is out of range.
    #[error("an MTU of {mtu} is out of range: {SMALLEST_MTU} to {LARGEST_MTU} is accepted")]
    Mtu {
        /// The MTU as configured.
        mtu: u16,
    },
    /// The MTU is too small for IPv6.
    #[error("an MTU of {mtu} is too small for IPv6: {SMALLEST_IPV6_MTU} or more is accepted")]
    Ipv6Mtu {
        /// The MTU as configured, or an adopted bridge's smaller one.
        mtu: u16,
    },
    /// The table's name is none that nftables takes.
    #[error(
        "invalid nftables table name {name:?}: a letter and at most 31 more of A-Z, a-z, 0-9, '.', '_' and '-' are accepted"
    )]
    TableName {
        /// The name as configured.
        name: String,
    },
    /// Another router than one on the bridge.
    #[error("the router {router} is no host address of the network {subnet}")]
    Router {
        /// The router as configured.
        router: Ipv4Addr,
        /// The subnet as configured.
        subnet: Ipv4Network,
    },
    /// What needs an address of the host, where it has none.
    #[error(
        "{what} needs an address of this host in the network, where it has none as long as others give addresses there"
    )]
    NoHostAddress {
        /// What.
        what: &'static str,
    },
    /// More name servers than a DHCP reply holds.
    #[error("{count} name servers are too many for a DHCP reply: at most {MOST_DNS_SERVERS} are accepted")]
    DnsServers {
        /// How many are configured.
        count: usize,
    },
}

/// The tables of a network on `bridge`, where no others are named.
fn table_of(bridge: &LinkName) -> String {
    match bridge.as_str() {
        DEFAULT_BRIDGE => DEFAULT_TABLE.to_owned(),
        other => format!("{DEFAULT_TABLE}-{other}"),
    }
}

impl NetworkConfig {
    /// The network `subnet` on `bridge` with the first host address as its gateway, masqueraded, with the
    /// host's name servers. Its table is `procurator` for the bridge `br-procurator`, else `procurator-<bridge>`, so
    /// that workers on different bridges do not meet in one.
    pub fn new(bridge: LinkName, subnet: Ipv4Network) -> Self {
        let nft_table = table_of(&bridge);
        Self {
            bridge,
            subnet,
            gateway: first_host(subnet),
            ipv6: None,
            mtu: 1500,
            egress: Egress::default(),
            between_vms: BetweenVms::default(),
            host_services: Vec::new(),
            connections: ConnectionLimit::default(),
            nft_table,
            dns: DnsServers::default(),
            names: None,
            peers: Vec::new(),
            peer_subnets: Vec::new(),
            router: RouterAdvice::default(),
            uplink: None,
            addresses: GuestAddresses::default(),
            state_dir: None,
        }
    }

    /// The tables of this worker's networks, by the names that they have by default.
    pub fn own_tables(&self) -> Vec<String> {
        [self.nft_table.clone()].into_iter().chain(self.peers.iter().map(table_of)).collect()
    }

    /// Whether a table of this name is one of a worker, whichever, as far as its name says so.
    pub(crate) fn is_table_of_a_worker(name: &str) -> bool {
        name.strip_prefix(DEFAULT_TABLE).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// The host's own address on the bridge, with the subnet's prefix length; `None` where it has none.
    pub(crate) fn host_address(&self) -> Option<Ipv4Network> {
        match self.addresses {
            GuestAddresses::Ours => Ipv4Network::new(self.gateway, self.subnet.prefix()).ok(),
            GuestAddresses::External => None,
        }
    }

    /// Where it is noted what is changed on the host.
    pub(crate) fn note(&self) -> Option<PathBuf> {
        Some(self.state_dir.as_ref()?.join("host-settings.json"))
    }

    /// The subnet without host bits.
    pub(crate) fn network(&self) -> Ipv4Network {
        Ipv4Network::new(self.subnet.network(), self.subnet.prefix()).expect("the prefix came from a network")
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let subnet = self.subnet;
        if !(8..=30).contains(&subnet.prefix()) {
            return Err(ConfigError::Subnet { subnet });
        }
        let gateway = self.gateway;
        if !is_host_of(subnet, gateway) {
            return Err(ConfigError::Gateway { gateway, subnet, first: first_host(subnet) });
        }
        match self.router {
            RouterAdvice::Other(router) if !is_host_of(subnet, router) => {
                return Err(ConfigError::Router { router, subnet });
            }
            RouterAdvice::Told | RouterAdvice::Other(_) | RouterAdvice::Untold => {}
        }
        self.check_host_address()?;
        check_mtu(self.mtu)?;
        if self.ipv6.is_some() && self.mtu < SMALLEST_IPV6_MTU {
            return Err(ConfigError::Ipv6Mtu { mtu: self.mtu });
        }
        let name = &self.nft_table;
        let accepted =
            |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
        if name.len() > 32
            || !name.starts_with(|first: char| first.is_ascii_alphabetic())
            || !name.chars().all(accepted)
        {
            return Err(ConfigError::TableName { name: name.clone() });
        }
        match &self.dns {
            DnsServers::List(servers) if servers.len() > MOST_DNS_SERVERS => {
                Err(ConfigError::DnsServers { count: servers.len() })
            }
            DnsServers::List(_) | DnsServers::Host => Ok(()),
        }
    }
}

impl NetworkConfig {
    /// Refuses what this host would do at its address, where it has none.
    fn check_host_address(&self) -> Result<(), ConfigError> {
        let needed = [
            (self.egress == Egress::Masquerade, "leaving under the host's address"),
            (self.egress == Egress::Routed, "routing"),
            (self.ipv6.is_some(), "an IPv6 network of ours"),
            (self.names.is_some(), "a name server"),
            (!self.host_services.is_empty(), "a service of the host"),
        ];
        match (self.addresses, needed.into_iter().find_map(|(is_wanted, what)| is_wanted.then_some(what))) {
            (GuestAddresses::External, Some(what)) => Err(ConfigError::NoHostAddress { what }),
            (GuestAddresses::External | GuestAddresses::Ours, _) => Ok(()),
        }
    }
}

fn is_host_of(subnet: Ipv4Network, address: Ipv4Addr) -> bool {
    subnet.contains(address) && address != subnet.network() && address != subnet.broadcast()
}

pub(crate) fn check_mtu(mtu: u16) -> Result<(), ConfigError> {
    if (SMALLEST_MTU..=LARGEST_MTU).contains(&mtu) { Ok(()) } else { Err(ConfigError::Mtu { mtu }) }
}

fn first_host(subnet: Ipv4Network) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()).saturating_add(1))
}

/// The name servers in the text of a `resolv.conf` that VMs can reach: IPv4, not loopback, in order, at most as
/// many as a DHCP reply holds.
pub(crate) fn reachable_name_servers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver"))
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<Ipv4Addr>().ok())
        .filter(|server| !server.is_loopback() && !server.is_unspecified())
        .take(MOST_DNS_SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NetworkConfig {
        NetworkConfig::new(LinkName::parse("br-test").unwrap(), "10.100.0.0/16".parse().unwrap())
    }

    #[test]
    fn the_default_is_valid_and_the_host_is_first() {
        assert_eq!(config().validate(), Ok(()));
        assert_eq!(config().gateway, Ipv4Addr::new(10, 100, 0, 1));
    }

    #[test]
    fn unusable_configurations_are_refused() {
        let refusal = |change: fn(&mut NetworkConfig)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            refusal(|config| config.gateway = Ipv4Addr::new(10, 101, 0, 1)),
            "the gateway 10.101.0.1 is no host address of the network 10.100.0.0/16: the first one is 10.100.0.1"
        );
        assert!(refusal(|config| config.gateway = config.subnet.broadcast()).contains("10.100.255.255"));
        assert!(refusal(|config| config.subnet = "10.0.0.0/31".parse().unwrap()).contains("no room"));
        assert!(refusal(|config| config.mtu = 100).contains("576 to 65521"));
        assert!(refusal(|config| config.nft_table = "a b".to_owned()).contains("\"a b\""));
        assert!(
            refusal(|config| config.dns = DnsServers::List(vec![Ipv4Addr::LOCALHOST; 17])).contains("17")
        );
    }

    #[test]
    fn name_servers_out_of_reach_of_vms_are_left_out() {
        let text = "# nameserver 1.2.3.4\nsearch lan\nnameserver 127.0.0.53\n nameserver\t192.0.2.53 # ours\n\
                    nameserver fe80::1%eth0\nnameserver 198.51.100.1\nnameserver\nnameserver 0.0.0.0\n";
        assert_eq!(
            reachable_name_servers(text),
            [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(198, 51, 100, 1)]
        );
    }
}
