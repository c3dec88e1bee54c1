//! What a reader gets: one VM's figures at one moment, as plain values. How they come about is the sampler's.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_model::{DiskLatency, ExitCounts, HostUse, KvmCounters, ThreadCounters};

/// One VM's figures at its latest sample.
///
/// Totals count from the VM's first machine on and survive restarts; they never shrink. Network figures are
/// told from the guest's side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VmMetrics {
    /// When the counters were read: milliseconds since 1970-01-01 UTC.
    pub sampled_at_unix_ms: u64,
    /// How long before this value was handed out the counters were read.
    pub age: Duration,
    /// Processor time over the last interval in percent of one core, all vCPUs together: 200 is two cores busy.
    /// 0 until there are two samples; [`VmMetrics::rates`] tells the two apart.
    pub cpu_percent: f64,
    /// Guest memory that occupies host memory, in whole MiB.
    pub memory_mb: u64,
    /// Guest memory as configured.
    pub memory_size_bytes: u64,
    /// Guest memory that occupies host memory.
    pub memory_resident_bytes: u64,
    /// What the guest itself calls available; `None` where nothing in the guest reports it.
    pub memory_available_bytes: Option<u64>,
    /// The balloon's figures; `None` where there is none.
    #[serde(default)]
    pub balloon: Option<BalloonMetrics>,
    /// What the VM's process takes of the host since it was started; `None` where it has no control group of its own.
    #[serde(default)]
    pub host: Option<HostUse>,
    /// Bytes the guest received, over all interfaces.
    pub network_rx_bytes: u64,
    /// Bytes the guest sent, over all interfaces.
    pub network_tx_bytes: u64,
    /// Bytes the guest read, over all disks.
    pub disk_read_bytes: u64,
    /// Bytes the guest wrote, over all disks.
    pub disk_write_bytes: u64,
    /// A record a vCPU, by index.
    pub vcpus: Vec<VcpuMetrics>,
    /// A record an interface.
    pub nics: Vec<NicMetrics>,
    /// A record a disk.
    pub disks: Vec<DiskMetrics>,
    /// Speeds over the last interval; `None` until there are two samples.
    pub rates: Option<Rates>,
}

/// A balloon's figures. All but the last two are the latest, and the guest's word from `actual_bytes` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonMetrics {
    /// What the guest is asked to give up.
    pub target_bytes: u64,
    /// What the guest says it gave up.
    pub actual_bytes: u64,
    /// What the guest could use without swapping; `None` until it reports.
    pub available_bytes: Option<u64>,
    /// What the guest has no use for at all; `None` until it reports.
    pub free_bytes: Option<u64>,
    /// What the guest has in all; `None` until it reports.
    pub total_bytes: Option<u64>,
    /// What was given back to the host, counted again for memory that came back in between.
    pub discarded_bytes: u64,
    /// Pages that the guest gave up and that are outside its memory, or that the host did not take back.
    pub refused_pages: u64,
}

/// A vCPU's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VcpuMetrics {
    /// Processor seconds of its thread.
    pub seconds: f64,
    /// Exits to user space.
    pub exits: u64,
    /// The same, by kind.
    #[serde(default)]
    pub exit_kinds: ExitCounts,
    /// What the host's scheduler says of its thread; `None` where it says nothing.
    #[serde(default)]
    pub thread: Option<ThreadCounters>,
    /// What KVM counts of it; `None` where the kernel does not.
    #[serde(default)]
    pub kvm: Option<KvmCounters>,
    /// Percent of one core over the last interval; 0 until there are two samples.
    pub percent: f64,
}

/// An interface's totals, from the guest's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicMetrics {
    /// The interface's name.
    pub id: String,
    /// Bytes received.
    pub receive_bytes: u64,
    /// Frames received.
    pub receive_frames: u64,
    /// Frames for the guest that it did not get.
    #[serde(default)]
    pub receive_dropped: u64,
    /// Bytes sent.
    pub transmit_bytes: u64,
    /// Frames sent.
    pub transmit_frames: u64,
    /// Frames sent that the host did not take.
    pub transmit_dropped: u64,
}

/// A disk's totals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskMetrics {
    /// The disk's name.
    pub id: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
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
    /// Requests that the host could not carry out at first, and that were kept and tried again.
    #[serde(default)]
    pub kept_requests: u64,
    /// How often the disk was stopped because the host could not carry out a request.
    #[serde(default)]
    pub troubles: u64,
    /// How long it was, in all.
    #[serde(default)]
    pub trouble_time: Duration,
    /// How long requests took.
    #[serde(default)]
    pub latency: DiskLatency,
}

/// Speeds over the interval between the last two samples. All finite and at least 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The interval's length.
    pub interval: Duration,
    /// Percent of one core, all vCPUs together.
    pub cpu_percent: f64,
    /// Bytes a second received by the guest.
    pub network_rx_bytes_per_second: f64,
    /// Bytes a second sent by the guest.
    pub network_tx_bytes_per_second: f64,
    /// Bytes a second read from all disks.
    pub disk_read_bytes_per_second: f64,
    /// Bytes a second written to all disks.
    pub disk_write_bytes_per_second: f64,
    /// Requests a second completed by all disks.
    pub disk_operations_per_second: f64,
    /// Exits to user space a second, all vCPUs together.
    pub exits_per_second: f64,
}
