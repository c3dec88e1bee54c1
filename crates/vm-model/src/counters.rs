//! What a machine has used since it was built. All figures only grow; rates are derived elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// One reading of everything a machine counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineCounters {
    /// A record a vCPU, by index.
    pub vcpus: Vec<VcpuCounters>,
    /// Guest memory as configured.
    pub memory_size: Bytes,
    /// Guest memory that occupies host memory now. The one figure that can shrink.
    pub memory_resident: Bytes,
    /// A record a network interface, in the machine's order.
    pub nics: Vec<NicCounters>,
    /// A record a disk, in the machine's order.
    pub disks: Vec<BlockCounters>,
    /// What the guest reports of its memory; `None` where it reports nothing.
    #[serde(default)]
    pub balloon: Option<BalloonCounters>,
}

/// Guest memory as the guest sees it, and what it gave up. Every figure but the last two can shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonCounters {
    /// What the host asks the guest to give up.
    pub target: Bytes,
    /// What the guest says it gave up.
    pub actual: Bytes,
    /// What the guest could use without swapping; `None` until it reports.
    pub available: Option<Bytes>,
    /// What the guest has no use for at all; `None` until it reports.
    pub free: Option<Bytes>,
    /// What the guest has in all; `None` until it reports.
    pub total: Option<Bytes>,
    /// What was given back to the host, counted again for memory that came back in between.
    #[serde(default)]
    pub discarded: Bytes,
    /// Pages that the guest gave up and that are outside its memory, or that the host did not take back.
    #[serde(default)]
    pub refused_pages: u64,
}

/// A vCPU's use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuCounters {
    /// Processor time of its thread, in guest and host.
    pub cpu_time: Duration,
    /// Exits to user space.
    pub exits: u64,
}

/// A network interface's use, seen from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicCounters {
    /// The interface's name.
    pub id: String,
    /// Bytes of frames the guest received.
    pub receive_bytes: u64,
    /// Frames the guest received.
    pub receive_frames: u64,
    /// Frames for the guest that it did not get.
    #[serde(default)]
    pub receive_dropped: u64,
    /// Bytes of frames the guest sent.
    pub transmit_bytes: u64,
    /// Frames the guest sent.
    pub transmit_frames: u64,
    /// Frames sent by the guest that the host did not take.
    pub transmit_dropped: u64,
}

/// A disk's use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCounters {
    /// The disk's name.
    pub id: String,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Read requests completed.
    pub read_operations: u64,
    /// Write requests completed.
    pub write_operations: u64,
    /// Flush requests completed.
    pub flush_operations: u64,
    /// Requests completed that discard or zero ranges.
    #[serde(default)]
    pub erase_operations: u64,
    /// Requests that failed.
    pub errors: u64,
}
