//! Links, addresses and routes as this crate sees them, read out of the kernel's messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoPortData, InfoVlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use vm_model::MacAddress;

use crate::BetweenVms;

/// The kernel's routing table of its own addresses (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;

/// A link as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `bridge`, `tun`, `dummy`, …; `None` for a physical one.
    pub(crate) kind: Option<String>,
    pub(crate) alias: Option<String>,
    /// The hardware address; `None` for a link without one of six bytes.
    pub(crate) mac: Option<MacAddress>,
    /// The index of the bridge (or bond) that it is a port of.
    pub(crate) controller: Option<u32>,
    /// The index of the link that it is a part of, as a VLAN is.
    pub(crate) parent: Option<u32>,
    /// The number of a VLAN; `None` for a link of another kind.
    pub(crate) vlan: Option<u16>,
    pub(crate) mtu: u32,
    pub(crate) is_up: bool,
    /// Whether something is connected that is on, as far as the driver can tell; not of a link that is down.
    pub(crate) has_carrier: bool,
    pub(crate) is_loopback: bool,
    /// What a bridge is set to; `None` for a link of another kind.
    pub(crate) bridge: Option<BridgeSettings>,
    /// What a bridge's port is set to; `None` for a link that is none.
    pub(crate) port: Option<PortSettings>,
}

/// The settings of a bridge's port that bind it to one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortSettings {
    /// Whether the bridge believes the source addresses of frames that come in here.
    pub(crate) learns: bool,
    /// Whether frames to an address that no port is known for go out here.
    pub(crate) floods: bool,
    /// Whether it is cut off when a spanning tree frame comes in: no guest is a switch.
    pub(crate) guards: bool,
    /// Whether frames pass from here to other ports like it.
    pub(crate) is_isolated: bool,
}

impl PortSettings {
    /// As a port of ours is.
    pub(crate) fn bound(between_vms: BetweenVms) -> Self {
        Self { learns: false, floods: false, guards: true, is_isolated: between_vms == BetweenVms::Isolated }
    }
}

impl Default for PortSettings {
    /// As the kernel makes a port.
    fn default() -> Self {
        Self { learns: true, floods: true, guards: false, is_isolated: false }
    }
}

/// The settings of a bridge that matter to what is attached to it. A kernel built without a feature does not tell of it;
/// it is off then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeSettings {
    pub(crate) spanning_tree: bool,
    /// How long a new port listens and learns each, with spanning tree; in hundredths of a second.
    pub(crate) forward_delay: u32,
    /// How long the port of an address is remembered, in hundredths of a second; 0 sends every frame to every port.
    pub(crate) ageing_time: u32,
    pub(crate) filters_vlans: bool,
    /// The VLAN of untagged frames on a new port; 0 for none.
    pub(crate) default_vlan: u16,
    /// Which of the addresses 01-80-c2-00-00-0x, meant for the next switch alone, are passed on.
    pub(crate) group_forward_mask: u16,
    pub(crate) multicast_snooping: bool,
}

/// An IPv4 address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ipv4Assignment {
    pub(crate) link: u32,
    pub(crate) address: Ipv4Network,
}

/// An IPv6 address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ipv6Assignment {
    pub(crate) link: u32,
    pub(crate) address: Ipv6Network,
    /// Whether it means something beyond the link.
    pub(crate) is_global: bool,
}

/// Where a bridge sends frames for a hardware address, by an entry that does not age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StaticEntry {
    /// The index of the port.
    pub(crate) port: u32,
    pub(crate) mac: MacAddress,
}

/// `None` for what a bridge has learnt, and for addresses of its own.
pub(super) fn static_entry_from(message: &NeighbourMessage) -> Option<StaticEntry> {
    if message.header.state != NeighbourState::Noarp {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    Some(StaticEntry { port: message.header.ifindex, mac: MacAddress::new(mac) })
}

/// A route to a network; the default one is to `0.0.0.0/0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ipv4Route {
    pub(crate) destination: Ipv4Network,
    /// The links that it leads through: several where packets are spread.
    pub(crate) links: Vec<u32>,
}

/// `None` for IPv6.
pub(super) fn assignment_from(message: &AddressMessage) -> Option<Ipv4Assignment> {
    // On a point-to-point link, `Address` is the far end and `Local` is ours.
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Some(Ipv4Assignment {
        link: message.header.index,
        address: Ipv4Network::new(address, message.header.prefix_len).ok()?,
    })
}

/// `None` for IPv4.
pub(super) fn ipv6_assignment_from(message: &AddressMessage) -> Option<Ipv6Assignment> {
    // `Local` is there on point-to-point links alone.
    let of = |wanted: fn(&AddressAttribute) -> Option<Ipv6Addr>| message.attributes.iter().find_map(wanted);
    let local = of(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V6(address)) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        of(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
            _ => None,
        })
    })?;
    Some(Ipv6Assignment {
        link: message.header.index,
        address: Ipv6Network::new(address, message.header.prefix_len).ok()?,
        is_global: message.header.scope == AddressScope::Universe,
    })
}

pub(super) fn link_from(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: None,
        alias: None,
        mac: None,
        controller: None,
        parent: None,
        vlan: None,
        mtu: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        has_carrier: message.header.flags.contains(LinkFlags::LowerUp),
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
        bridge: None,
        port: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(bytes) => link.mac = <[u8; 6]>::try_from(bytes).ok().map(MacAddress::new),
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.parent = Some(index),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Bridge(data)) => link.bridge = Some(settings_from(&data)),
                        LinkInfo::Data(InfoData::Vlan(data)) => link.vlan = vlan_from(&data),
                        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                            link.port = Some(port_settings_from(&data));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn settings_from(data: &[InfoBridge]) -> BridgeSettings {
    let mut settings = BridgeSettings::default();
    for info in data {
        match info {
            InfoBridge::StpState(state) => settings.spanning_tree = *state != BridgeStpState::Disabled,
            InfoBridge::ForwardDelay(delay) => settings.forward_delay = *delay,
            InfoBridge::AgeingTime(time) => settings.ageing_time = *time,
            InfoBridge::VlanFiltering(filters) => settings.filters_vlans = *filters,
            InfoBridge::VlanDefaultPvid(vlan) => settings.default_vlan = *vlan,
            InfoBridge::GroupFwdMask(mask) => settings.group_forward_mask = *mask,
            InfoBridge::MulticastSnooping(snoops) => settings.multicast_snooping = *snoops,
            _ => {}
        }
    }
    settings
}

fn vlan_from(data: &[InfoVlan]) -> Option<u16> {
    data.iter().find_map(|info| match info {
        InfoVlan::Id(number) => Some(*number),
        _ => None,
    })
}

fn port_settings_from(data: &[InfoBridgePort]) -> PortSettings {
    let mut settings = PortSettings::default();
    for info in data {
        match info {
            InfoBridgePort::Learning(learns) => settings.learns = *learns,
            InfoBridgePort::UnicastFlood(floods) => settings.floods = *floods,
            InfoBridgePort::Guard(guards) => settings.guards = *guards,
            InfoBridgePort::Isolated(is_isolated) => settings.is_isolated = *is_isolated,
            _ => {}
        }
    }
    settings
}

/// `None` for a route that leads nowhere and for the kernel's own.
pub(super) fn route_from(message: &RouteMessage) -> Option<Ipv4Route> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let mut links = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    if header.kind != RouteType::Unicast || table == LOCAL_TABLE {
        return None;
    }
    let destination = Ipv4Network::new(destination, header.destination_prefix_length).ok()?;
    Some(Ipv4Route { destination, links })
}
