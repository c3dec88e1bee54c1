//! Ports of the host that its own programs listen on: they are not given to VMs.
//!
//! A forward goes before whoever listens, so a VM could take the place of the page, of sshd or of anybody's service by what its
//! description says. Which programs those are is looked at when a forward is about to begin; one that listens later is hidden,
//! and told as a degradation.

use std::net::Ipv4Addr;

use thiserror::Error;
use vm_model::{PortForward, VmId};

use super::holders::{Holder, find_holder, is_own_socket};
use super::listeners::{Listener, observe_listeners};

/// The ports of the servers at each network's own address: names and DHCP.
const NETWORK_SERVICES: [u16; 2] = [53, 67];

/// A port of the host that a program of the host listens on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the port forward {forward} cannot be had: {holder} listens on {listener} of this host, and would not be reached any more: \
     take another port of the host, an address of it on which nothing listens, or stop that program"
)]
pub struct PortTaken {
    /// The forward that is not to be had.
    pub forward: PortForward,
    /// Who listens, as far as that can be seen.
    pub holder: Holder,
    /// Where, as address, port and protocol.
    pub listener: String,
}

/// The first of `forwards` that would hide a program of this host which listens at this moment. The servers of VMs' networks, at
/// the addresses that this host has there (`own`), are reached by guests whatever is forwarded, and are in nobody's way. Changes
/// nothing, and needs no network that was started. Blocks on files of `/proc`.
pub fn find_taken_port(forwards: &[PortForward], own: &[Ipv4Addr]) -> Option<PortTaken> {
    if forwards.is_empty() {
        return None;
    }
    let listeners = observe_listeners();
    forwards.iter().find_map(|forward| taken(&listeners, forward, own))
}

/// What is told of programs that began to listen where ports lead to VMs already: a sentence each. Blocks.
pub(crate) fn hidden_programs(ports: &[(VmId, Vec<PortForward>)], own: &[Ipv4Addr]) -> Vec<String> {
    let listeners = observe_listeners();
    let forwards = ports.iter().flat_map(|(vm, forwards)| forwards.iter().map(move |forward| (vm, forward)));
    let hidden = forwards.filter_map(|(vm, forward)| {
        let PortTaken { holder, listener, .. } = taken(&listeners, forward, own)?;
        Some(format!(
            "{holder} listens on {listener} of this host, and is not reached: the port forward {forward} of {vm} goes before it; \
             end the one or the other"
        ))
    });
    hidden.collect()
}

fn taken(listeners: &[Listener], forward: &PortForward, own: &[Ipv4Addr]) -> Option<PortTaken> {
    let listener = listeners.iter().find(|it| it.is_hidden_by(forward) && !is_of_a_network(it, own))?;
    let (holder, listener) = (find_holder(listener.inode), listener.to_string());
    Some(PortTaken { forward: *forward, holder, listener })
}

/// Whether it is a server of one of this worker's networks. Those of others than `own` are this process's.
fn is_of_a_network(listener: &Listener, own: &[Ipv4Addr]) -> bool {
    NETWORK_SERVICES.contains(&listener.port)
        && listener.address.is_some_and(|address| {
            own.contains(&address) || (!address.is_loopback() && is_own_socket(listener.inode))
        })
}
