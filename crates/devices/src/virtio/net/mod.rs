//! The network card (virtio 1.2 §5.1) on a TAP of the host's.
//!
//! ```text
//! transmit queue ──readable buffers──→ writev ─→ TAP ─→ readv ──writable buffers──→ receive queue
//! ```
//!
//! Frames go between guest memory and the TAP in one system call each, with no copy in between; the header before
//! each carries the checksum and segmentation work that one side leaves to the other. Both directions do a
//! bounded number of frames a turn and then ask to be called again, so that a busy card starves nobody. Each direction
//! may have a rate limit: frames past it stay where they are until a timer says that it is time.
//!
//! A card with several ports has a pair of queues for each; the host spreads frames over as many as the driver asks for
//! by the control queue.
//!
//! Where the host's kernel serves the queues (vhost-net), frames do not come through here at all.
//!
//! Making the TAP, naming and bridging it is not done here: a card gets an open one.

mod active;
mod configuration;
mod control;
mod counters;
mod device;
mod frame_limit;
mod frame_path;
mod frames;
mod handle;
mod handlers;
mod kernel_path;
mod offloads;
mod parts;
mod port;
mod receive;
mod statistics;
mod tap_queues;
mod transmit;
mod vhost;

use std::os::fd::BorrowedFd;

use vm_model::LinkState;

pub use self::counters::{NetCounters, NetCounts};
pub use self::device::NetDevice;
use self::frame_limit::FrameLimit;
pub use self::handle::{Announcement, NetHandle};
pub use self::offloads::{Offloads, UdpSegmentation};
pub use self::parts::{KernelBackends, NetDeviceConfig, NetDeviceError, QUEUE_PAIRS_MAX};
pub use self::port::{FramePort, PortUse, Tap, TapError};
pub use self::statistics::InterfaceStatistics;
pub use self::vhost::{FrameBackend, Side, VhostError, VhostNet};

/// Bytes of the header before each frame, with its `num_buffers` field (virtio 1.2 §5.1.6).
const HEADER_BYTES: u64 = 12;
/// Bytes of an Ethernet header.
const ETHERNET_HEADER_BYTES: u64 = 14;
/// The most bytes of a segmented packet with both headers (virtio 1.2 §5.1.6.3.1).
const SEGMENTED_BYTES_MAX: u64 = 65_562;

/// Frames a turn, of all pairs together.
const TURN_FRAMES: usize = 128;

/// What one turn of one direction of a queue pair works with.
struct TurnContext<'a> {
    /// The most frames of the turn.
    share: usize,
    link: LinkState,
    /// The TAP queue of the pair.
    port: BorrowedFd<'a>,
    /// The direction's rate limit.
    limit: &'a mut FrameLimit,
    counters: &'a NetCounters,
}
