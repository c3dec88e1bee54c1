//! What about forwards is not as one may think, though they are made.

use std::net::{Ipv4Addr, UdpSocket};

use thiserror::Error;
use vm_model::PortForward;

use crate::Egress;

/// Something about a forward that its user should know.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForwardWarning {
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
    let mut warnings = Vec::new();
    for forward in forwards {
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
