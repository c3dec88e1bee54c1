//! What a network card is made of.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use vm_model::{MacAddress, NicOffloads};

use super::port::FramePort;
use super::statistics::InterfaceStatistics;
use super::vhost::FrameBackend;
use crate::virtio::{QueueSize, RateLimits};

/// The most ports of a card.
pub const QUEUE_PAIRS_MAX: u16 = 32;

/// What a network card is made of.
pub struct NetDeviceConfig {
    /// Where frames go to and come from, one port for each pair of queues: 1 to [`QUEUE_PAIRS_MAX`], of the same interface.
    pub ports: Vec<Box<dyn FramePort>>,
    /// The card's address.
    pub mac: MacAddress,
    /// The link's MTU, if the guest is to be told (at least 68).
    pub mtu: Option<u16>,
    /// The largest size of each queue for frames.
    pub queue_size: QueueSize,
    /// The rate limits of each direction.
    pub rate_limits: RateLimits,
    /// The checksum and segmentation work that guest and host may leave to each other.
    pub offloads: NicOffloads,
    /// The back ends by which the host's kernel moves the frames; `None` if this process does.
    pub kernel: Option<KernelBackends>,
}

/// How the host's kernel moves the frames of a card.
pub struct KernelBackends {
    /// One for each port.
    pub backends: Vec<Arc<dyn FrameBackend>>,
    /// Where the frames they move are counted.
    pub statistics: InterfaceStatistics,
}

/// Why there is no card.
#[derive(Debug, Error)]
pub enum NetDeviceError {
    /// There are none or too many.
    #[error("{count} ports, expected 1 to {QUEUE_PAIRS_MAX}")]
    Ports {
        /// The number of ports.
        count: usize,
    },
    /// There are not as many back ends as ports.
    #[error("{backends} back ends for {ports} ports, expected one each")]
    Backends {
        /// The number of back ends.
        backends: usize,
        /// The number of ports.
        ports: usize,
    },
    /// The kernel moves the frames, and this process cannot hold them back.
    #[error("a rate limit on a card whose frames the kernel moves")]
    LimitedBackends,
    /// The process or the host has no file descriptor left, or a port cannot be watched or left unused.
    #[error("the card's ports, timers or events could not be set up")]
    Host(#[source] io::Error),
}
