//! What a VM looks like from outside: the JSON that programs may rely on. Keys are added, never changed.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_model::{DesiredState, FailureReason, Generation, MacAddress, StopMethod, VmId, VmStatus};
use worker::vms::{VmInfo, VmMetrics};

/// The answer to a listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmList {
    /// All VMs, ordered by id.
    pub vms: Vec<VmView>,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// Its name.
    pub id: VmId,
    /// Where it is in its life: `creating`, `booting`, `running`, `paused`, `stopping`, `stopped`, `restarting` or
    /// `failed`.
    pub phase: String,
    /// Where it should be.
    pub desired: DesiredState,
    /// What went wrong last: why it is failed or restarting now, or what it recovered from.
    pub reason: Option<FailureReason>,
    /// The first interface's address.
    pub address: Option<Ipv4Addr>,
    /// The first interface's hardware address.
    pub mac: Option<MacAddress>,
    /// The host's end of the first interface, while there is a machine.
    pub tap: Option<String>,
    /// The artifact.
    pub store_path: PathBuf,
    /// The artifact's NAR hash.
    pub hash: String,
    /// The desired state it came with last.
    pub generation: Generation,
    /// How often it was started again after a failure or a reset by the guest, in place or as a new machine.
    pub restarts: u64,
    /// How often its machine was made anew in place: after a reset by the guest, which is a restart, or by its reset
    /// button, which is none.
    #[serde(default)]
    pub resets: u64,
    /// What ended it when it was told to stop last.
    pub last_stop: Option<StopMethod>,
    /// How long the steps of its newest start took.
    pub timings: TimingsView,
    /// Whether its machine's thread stands still.
    #[serde(default)]
    pub hung: bool,
    /// Settings of its artifact that are ignored here, and what of the host it goes without.
    pub warnings: Vec<String>,
    /// Store paths its artifact reaches whose content nobody vouched for.
    pub unverified: Vec<PathBuf>,
    /// What it used, as sampled last; absent before it ran.
    pub metrics: Option<MetricsView>,
}

/// How long steps took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimingsView {
    /// Verifying and opening the artifact, and preparing disks.
    pub artifact_ms: Option<f64>,
    /// Setting up the network.
    pub network_ms: Option<f64>,
    /// Building the machine, until its first vCPU was entered.
    pub first_entry_ms: Option<f64>,
    /// Building the machine, until the guest's first console byte.
    pub first_console_byte_ms: Option<f64>,
}

/// What a VM used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricsView {
    /// How old the sample is, in milliseconds.
    pub age_ms: f64,
    /// Processor time over the last interval, of one core.
    pub cpu_percent: f64,
    /// Resident memory in MiB.
    pub memory_mb: u64,
    /// Configured memory in bytes.
    pub memory_size_bytes: u64,
    /// Resident memory in bytes.
    pub memory_resident_bytes: u64,
    /// What the guest itself calls available, in bytes; absent where nothing in it reports it.
    pub memory_available_bytes: Option<u64>,
    /// Bytes the guest received.
    pub network_rx_bytes: u64,
    /// Bytes the guest sent.
    pub network_tx_bytes: u64,
    /// Bytes the guest read from disks.
    pub disk_read_bytes: u64,
    /// Bytes the guest wrote to disks.
    pub disk_write_bytes: u64,
}

impl VmView {
    /// The view of a VM with its newest sample.
    pub fn new(info: VmInfo, metrics: Option<&VmMetrics>) -> Self {
        let nic = info.nics.first();
        let reason = match &info.status {
            VmStatus::Failed(reason) => Some(reason.clone()),
            VmStatus::Creating
            | VmStatus::Booting
            | VmStatus::Running
            | VmStatus::Paused
            | VmStatus::Stopping
            | VmStatus::Stopped
            | VmStatus::Restarting => info.last_failure.clone(),
        };
        Self {
            phase: info.status.phase_name().to_owned(),
            desired: info.assignment.desired,
            reason,
            address: nic.map(|nic| nic.address),
            mac: nic.map(|nic| nic.mac),
            tap: nic.and_then(|nic| nic.tap.clone()),
            store_path: info.assignment.store_path,
            hash: info.assignment.hash,
            generation: info.generation,
            restarts: info.restarts,
            resets: info.resets,
            last_stop: info.last_stop,
            timings: TimingsView {
                artifact_ms: info.timings.artifact.map(milliseconds),
                network_ms: info.timings.network.map(milliseconds),
                first_entry_ms: info.timings.first_entry.map(milliseconds),
                first_console_byte_ms: info.timings.first_console_byte.map(milliseconds),
            },
            hung: info.hung,
            warnings: info.warnings,
            unverified: info.unverified,
            metrics: metrics.map(MetricsView::new),
            id: info.id,
        }
    }
}

impl MetricsView {
    fn new(metrics: &VmMetrics) -> Self {
        Self {
            age_ms: milliseconds(metrics.age),
            cpu_percent: metrics.cpu_percent,
            memory_mb: metrics.memory_mb,
            memory_size_bytes: metrics.memory_size_bytes,
            memory_resident_bytes: metrics.memory_resident_bytes,
            memory_available_bytes: metrics.memory_available_bytes,
            network_rx_bytes: metrics.network_rx_bytes,
            network_tx_bytes: metrics.network_tx_bytes,
            disk_read_bytes: metrics.disk_read_bytes,
            disk_write_bytes: metrics.disk_write_bytes,
        }
    }
}

/// With a microsecond's precision: more is noise.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
