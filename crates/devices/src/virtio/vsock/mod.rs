//! The socket device (virtio 1.2 §5.10) in user space: streams between a guest's `AF_VSOCK` sockets and Unix sockets
//! in one directory on the host, by the conventions that Firecracker and Cloud Hypervisor share.
//!
//! - The host connects to `vsock.sock` in that directory and writes `CONNECT <port>\n`. When the guest accepts, it
//!   reads `OK <port>\n`, the number being the host's end, and then the stream; else the connection is closed.
//! - The guest connects to a port of the host (address 2). The host program that listens on `vsock.sock_<port>` gets
//!   the stream; if there is none, the guest's connection is refused. To the port where its systemd reports
//!   ([`vm_model::SYSTEMD_NOTIFY_PORT`]) it connects only from a port below 1024.
//!
//! ```text
//! guest ── packets in queues ── device ── Connection (credit, half-closes: pure) ── Unix streams ── host
//! ```
//!
//! Either side can close its direction alone. Nothing is read from a stream that its receiver has no room for. A device
//! has at most 256 connections and keeps at most 2 MiB for all of them together: the more connections, the less credit
//! each has, and none is ever without any. What the kernel holds in the streams themselves comes on top, at most
//! `net.core.wmem_default` each.

mod budget;
mod connection;
mod device;
mod host;
mod packet;
mod route;
mod switch;

pub use device::{VsockDevice, VsockDeviceConfig, VsockError};
pub use host::SOCKET_NAME;
