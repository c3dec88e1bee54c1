//! A small DHCP server for the bridge: it tells each VM the address it was given, and nobody anything else.
//!
//! It allocates nothing. What a VM is told is decided before the VM starts and stands in [`Bindings`]; the answer
//! to a message is a pure function of that ([`respond`]). The task around it reads and writes whole IP packets
//! on a packet socket, because a client without an address can be reached by hardware address alone, and because
//! a host's firewall would otherwise have to be opened for it.

mod bindings;
mod datagram;
mod packet_socket;
mod respond;
mod server;

pub use bindings::{Binding, Bindings};
pub(crate) use datagram::checksum;
#[cfg(feature = "fuzzing")]
pub(crate) use datagram::payload_of;
pub(crate) use packet_socket::{Heard, PacketSocket};
pub use respond::{Reply, ReplyTo, ServerFacts, respond};
pub use server::DhcpError;
pub(crate) use server::{DhcpServer, SharedBindings};
