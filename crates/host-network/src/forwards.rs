//! Ports of the host that lead to VMs, by destination address translation in our table of the family `ip`.
//!
//! Two maps hold where each port leads: one for ports on a single address of the host, one for those on all. The rules are
//! the same for any number of forwards, and a VM that comes or goes changes elements only.
//!
//! ```text
//!  another machine ─▶ prerouting ─┐                        ┌─▶ forward ─▶ VM
//!  a VM            ─▶ prerouting ─┼─▶ to_vms: maps ─▶ DNAT ┤
//!  this host       ─▶ output     ─┘                        └─▶ VM
//! ```
//!
//! What comes from 127.0.0.0/8 or from the VMs' own network goes on under the bridge's address (`postrouting`), so that
//! answers come back this way. A packet from 127.0.0.1 passes the bridge only where its switch `route_localnet` is on; what
//! else that switch would open is closed by rule: neither another machine nor a guest reaches 127.0.0.0/8.

mod conflicts;
mod elsewhere;
mod holders;
mod listeners;
mod taken;
mod warnings;

use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use vm_model::{PortForward, Transport};

pub use self::conflicts::ForwardConflict;
pub(crate) use self::conflicts::{drop_conflicts, find_conflict};
pub use self::elsewhere::{ForwardElsewhere, find_forward_elsewhere};
pub use self::holders::Holder;
pub(crate) use self::taken::hidden_programs;
pub use self::taken::{PortTaken, find_taken_port};
pub use self::warnings::ForwardWarning;
pub(crate) use self::warnings::forward_warnings;
use crate::bound_port::Ports;
use crate::firewall::link_set;
use crate::nfnetlink::Message;
use crate::nfnetlink::element::{Change, Element, Family, joined};
use crate::{Egress, LinkName};

/// The map of ports on one address of the host.
pub(crate) const ON_ONE: &str = "forwards";
/// The map of ports on each address of the host.
pub(crate) const ON_ALL: &str = "forwards_any";
/// The usual priority of destination address translation.
const PRIORITY: i32 = -100;

/// The messages that make `change` of forwards to the guest with this address, in `table`.
pub(crate) fn messages(
    table: &str,
    change: Change,
    guest: Ipv4Addr,
    forwards: &[PortForward],
) -> Vec<Message> {
    let message = |forward: &PortForward| element(*forward, guest).message(Family::Ipv4, table, change);
    forwards.iter().map(message).collect()
}

fn element(forward: PortForward, guest: Ipv4Addr) -> Element {
    let (protocol, port) = ([protocol(forward.transport)], forward.host_port.get().to_be_bytes());
    let value = joined(&[&guest.octets(), &forward.guest_port.get().to_be_bytes()]);
    let (set, key) = match forward.address {
        Some(address) => (ON_ONE, joined(&[&protocol, &address.octets(), &port])),
        None => (ON_ALL, joined(&[&protocol, &port])),
    };
    Element { set, key, last: None, value: Some(value) }
}

/// The protocol's number in IP.
pub(crate) fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// An element of the maps in nft's language.
fn element_text(forward: PortForward, guest: Ipv4Addr) -> String {
    let PortForward { transport, address, host_port, guest_port } = forward;
    let address = address.map(|address| format!("{address} . ")).unwrap_or_default();
    format!("{transport} . {address}{host_port} : {guest} . {guest_port}")
}

/// A forward and the guest that it leads to, from an element of the maps as `nft` shows it.
pub(crate) fn read_element(text: &str) -> Option<(PortForward, Ipv4Addr)> {
    let (key, value) = text.split_once(" : ")?;
    let (guest, guest_port) = value.split_once(" . ")?;
    let (transport, place) = key.split_once(" . ")?;
    let (address, host_port) = match place.split_once(" . ") {
        Some((address, port)) => (Some(address.parse().ok()?), port),
        None => (None, place),
    };
    let forward = PortForward {
        transport: transport.parse().ok()?,
        address,
        host_port: host_port.parse().ok()?,
        guest_port: guest_port.trim().parse().ok()?,
    };
    Some((forward, guest.parse().ok()?))
}

/// The maps with what leads to `ports`, in nft's language.
pub(crate) fn maps_text(ports: &Ports) -> String {
    let (mut on_one, mut on_all) = (Vec::new(), Vec::new());
    for port in ports.values() {
        for forward in &port.access.forwards {
            let elements = if forward.address.is_some() { &mut on_one } else { &mut on_all };
            elements.push(element_text(*forward, port.identity.address));
        }
    }
    let map = |name: &str, key: &str, elements: &[String]| {
        let elements = match elements {
            [] => String::new(),
            elements => format!(" elements = {{ {} }};", elements.join(", ")),
        };
        format!("map {name} {{ type {key} : ipv4_addr . inet_service;{elements} }}\n")
    };
    map(ON_ONE, "inet_proto . ipv4_addr . inet_service", &on_one)
        + &map(ON_ALL, "inet_proto . inet_service", &on_all)
}

/// The chains that translate, by name, with the hook of each and its rules.
pub(crate) fn chains(
    bridge: &LinkName,
    gateway: Ipv4Addr,
    egress: Egress,
    peers: &[LinkName],
) -> Vec<(&'static str, String, Vec<String>)> {
    let hook = |hook: &str| format!("type nat hook {hook} priority {PRIORITY}; policy accept;\n");
    let to_vms = vec![
        format!("dnat ip to meta l4proto . ip daddr . th dport map @{ON_ONE} comment \"leads to a VM\""),
        format!("dnat ip to meta l4proto . th dport map @{ON_ALL} comment \"leads to a VM\""),
    ];
    let output = vec!["fib daddr type local goto to_vms".to_owned()];
    let mut chains = vec![("to_vms", String::new(), to_vms)];
    match egress {
        Egress::Masquerade | Egress::Routed => {
            let mut prerouting = Vec::new();
            if !peers.is_empty() {
                prerouting.push(format!(
                    "iifname {} accept comment \"guests of other networks: no port leads on\"",
                    link_set(peers)
                ));
            }
            prerouting.extend([
                // Before routing, a packet from elsewhere may still be addressed there.
                "ip daddr 127.0.0.0/8 accept comment \"loopback is the host's own\"".to_owned(),
                format!(
                    "iifname \"{bridge}\" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport {{ 53, 67 }} accept \
                     comment \"the network's own services\""
                ),
                "fib daddr type local goto to_vms".to_owned(),
            ]);
            chains.push(("prerouting", hook("prerouting"), prerouting));
        }
        // The bridge forwards nothing, so only the host itself gets there.
        Egress::Isolated => {}
    }
    chains.push(("output", hook("output"), output));
    chains
}

/// The rule by which answers to what was translated come back this way.
pub(crate) fn return_rule(bridge: &LinkName, subnet: Ipv4Network) -> String {
    format!(
        "oifname \"{bridge}\" ip saddr {{ 127.0.0.0/8, {subnet} }} ct status dnat masquerade \
         comment \"answers to forwarded connections come back by the host\""
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::num::NonZeroU16;

    use super::*;

    fn forwards() -> impl Strategy<Value = PortForward> {
        let port = || (1..=u16::MAX).prop_map(|port| NonZeroU16::new(port).expect("not 0"));
        let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
        (transport, any::<Option<[u8; 4]>>(), port(), port()).prop_map(
            |(transport, address, host_port, guest_port)| PortForward {
                transport,
                address: address.map(Ipv4Addr::from),
                host_port,
                guest_port,
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(forward in forwards(), guest: [u8; 4]) {
            let shown = element_text(forward, guest.into());
            prop_assert_eq!(read_element(&shown), Some((forward, guest.into())));
        }

        #[test]
        fn anything_is_read_without_panic(text in "[a-z0-9 .:]{0,60}") {
            let _ = read_element(&text);
        }
    }

    #[test]
    fn keys_are_as_nft_makes_them() {
        let forward = "127.0.0.1:5353:53/udp".parse().unwrap();
        let Element { set, key, value, .. } = element(forward, Ipv4Addr::new(10, 100, 0, 2));
        assert_eq!((set, key), (ON_ONE, vec![17, 0, 0, 0, 127, 0, 0, 1, 0x14, 0xe9, 0, 0]));
        assert_eq!(value, Some(vec![10, 100, 0, 2, 0, 53, 0, 0]));
    }
}
