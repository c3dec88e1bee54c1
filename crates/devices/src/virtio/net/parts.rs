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
    /// Where frames go to and come from, one port a pair of queues: 1 to [`QUEUE_PAIRS_MAX`], of the same interface.
    pub ports: Vec<Box<dyn FramePort>>,
    /// The card's address.
    pub mac: MacAddress,
    /// The link's MTU, if the guest is to be told (at least 68).
    pub mtu: Option<u16>,
    /// The largest size of each queue for frames.
    pub queue_size: QueueSize,
    /// How much may be sent in a time, and how much received.
    pub rate_limits: RateLimits,
    /// What guest and host may leave to each other.
    pub offloads: NicOffloads,
    /// Who moves frames in this process's stead, if anybody.
    pub kernel: Option<KernelBackends>,
}

/// What moves frames past this process.
pub struct KernelBackends {
    /// One a port.
    pub backends: Vec<Arc<dyn FrameBackend>>,
    /// Where what they move is counted.
    pub statistics: InterfaceStatistics,
}

/// Why there is no card.
#[derive(Debug, Error)]
pub enum NetDeviceError {
    /// There are none or too many.
    #[error("{count} ports, expected 1 to {QUEUE_PAIRS_MAX}")]
    Ports {
        /// How many.
        count: usize,
    },
    /// There are not as many back ends as ports.
    #[error("{backends} back ends for {ports} ports, expected one each")]
    Backends {
        /// How many.
        backends: usize,
        /// Of how many.
        ports: usize,
    },
    /// Frames that pass this process by cannot be held back.
    #[error("a rate limit on a card whose frames the kernel moves")]
    LimitedBackends,
    /// The process or the host has no file descriptor left, or a port cannot be watched or left unused.
    #[error("the card's ports, timers or events could not be set up")]
    Host(#[source] io::Error),
}
