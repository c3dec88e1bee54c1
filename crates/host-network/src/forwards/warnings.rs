//! What about forwards is not as one may think, though they are made.

use std::net::{Ipv4Addr, UdpSocket};

use thiserror::Error;
use vm_model::PortForward;

use super::listeners::observe_listeners;
use crate::Egress;

/// Something about a forward that its user should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForwardWarning {
    /// A program of the host listens there.
    #[error(
        "the port forward {0} goes before a program of this host that listens on {port}/{transport}: \
         connections reach the VM and not that program",
        port = .0.host_port, transport = .0.transport
    )]
    Hides(PortForward),
    /// The host does not have the address.
    #[error("the port forward {forward} leads nowhere yet: this host has no address {address}")]
    NoSuchAddress {
        /// The forward.
        forward: PortForward,
        /// Its address.
        address: Ipv4Addr,
    },
    /// The network forwards nothing.
    #[error(
        "the port forward {0} is reached from this host alone: its network is cut off from others (network.nat is false)"
    )]
    FromHostOnly(PortForward),
}

/// What there is to say of `forwards` in a network with this reach. Blocks.
pub(crate) fn forward_warnings(egress: Egress, forwards: &[PortForward]) -> Vec<ForwardWarning> {
    if forwards.is_empty() {
        return Vec::new();
    }
    let listeners = observe_listeners();
    let mut warnings = Vec::new();
    for forward in forwards {
        if listeners.iter().any(|listener| listener.is_hidden_by(forward)) {
            warnings.push(ForwardWarning::Hides(*forward));
        }
        if let Some(address) = forward.address.filter(|address| !is_of_this_host(*address)) {
            warnings.push(ForwardWarning::NoSuchAddress { forward: *forward, address });
        }
        if egress == Egress::Isolated && !forward.address.is_some_and(|address| address.is_loopback()) {
            warnings.push(ForwardWarning::FromHostOnly(*forward));
        }
    }
    warnings
}

/// Whether a socket of the host can have the address.
fn is_of_this_host(address: Ipv4Addr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}
