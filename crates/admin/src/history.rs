//! What VMs used in the last minutes.

use std::collections::BTreeMap;

use metrics::HistoryPoint;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vm_model::{Timestamp, VmId};

/// The newest samples of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryView {
    /// Oldest first. A VM that has not run under this worker has none.
    pub points: Vec<UsagePoint>,
}

/// The newest samples of all VMs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryList {
    /// By VM; oldest first.
    #[schema(value_type = BTreeMap<String, Vec<UsagePoint>>)]
    pub vms: BTreeMap<VmId, Vec<UsagePoint>>,
}

/// What a VM used by one moment. Totals go on over restarts of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsagePoint {
    /// When it was sampled, in milliseconds since 1970.
    pub at: Timestamp,
    /// Processor time over the interval before, in percent of one core.
    pub cpu_percent: f64,
    /// Resident memory in bytes.
    pub memory_resident_bytes: u64,
    /// Bytes the guest received until then.
    pub network_rx_bytes: u64,
    /// Bytes the guest sent until then.
    pub network_tx_bytes: u64,
    /// Bytes the guest read from disks until then.
    pub disk_read_bytes: u64,
    /// Bytes the guest wrote to disks until then.
    pub disk_write_bytes: u64,
}

impl From<HistoryPoint> for UsagePoint {
    fn from(point: HistoryPoint) -> Self {
        let HistoryPoint {
            sampled_at_unix_ms,
            cpu_percent,
            memory_resident_bytes,
            network_rx_bytes,
            network_tx_bytes,
            disk_read_bytes,
            disk_write_bytes,
        } = point;
        Self {
            at: Timestamp::from_millis(sampled_at_unix_ms),
            cpu_percent,
            memory_resident_bytes,
            network_rx_bytes,
            network_tx_bytes,
            disk_read_bytes,
            disk_write_bytes,
        }
    }
}
