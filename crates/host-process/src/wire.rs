//! How a worker and a host process speak with each other: packets with descriptors (`packet`), messages in them
//! (`message`, `codec`), and which version of those both speak (`version`).
//!
//! What comes from the other end is checked here, once: a message that is longer than it may be, is no JSON of a known
//! shape, or names other descriptors than those that came with it goes no further, and its descriptors are closed.

mod codec;
mod connection;
mod descriptors;
mod message;
mod packet;
mod payload;
mod version;

pub use codec::{CodecError, Message};
pub use connection::{Connection, ConnectionError};
pub use descriptors::{DescriptorError, FdIndex};
pub use message::{CallId, FromHost, Hello, Launch, Listener, MachineListing, ToHost, Welcome};
pub use packet::{PACKET_BYTES_MAX, PACKET_DESCRIPTORS_MAX, Packet, PacketError, packet_pair};
pub use packet::{receive_packet, send_packet};
pub use payload::{MESSAGE_BYTES_MAX, Outgoing, PayloadError};
pub use version::{VERSIONS, Version, build, choose};
