//! How this host and its VMs stand, in the words of the protocol.

use std::fs;
use std::path::Path;

use master_protocol::WorkerState;
use master_protocol::wire::v1::{Metrics, NodeReport, VmReport};
use rustix::fs::statvfs;
use vm_model::Timestamp;

use crate::vms::{VmInfo, VmManager, VmMetrics};

/// Everything a master is told at this moment.
pub(super) fn observe(vm_manager: &VmManager) -> WorkerState {
    let now = Timestamp::now();
    let status = vm_manager.node_status().borrow().clone();
    let node = NodeReport {
        memory_available_bytes: memory_available(),
        disk_available_bytes: disk_available(vm_manager.state_dir()),
        ..NodeReport::of(now, &status, &vm_manager.list_removed_vms())
    };
    let vms = vm_manager.list_vms_with_metrics().into_iter();
    let vms = vms.map(|(info, metrics)| (info.id.clone(), report(&info, metrics.as_ref(), now)));
    WorkerState { node, vms: vms.collect() }
}

fn report(info: &VmInfo, metrics: Option<&VmMetrics>, now: Timestamp) -> VmReport {
    VmReport { metrics: metrics.map(|metrics| in_words(metrics, now)), ..VmReport::from(info) }
}

fn in_words(metrics: &VmMetrics, now: Timestamp) -> Metrics {
    let has_rates = metrics.rates.is_some();
    let cpu_seconds: f64 = metrics.vcpus.iter().map(|vcpu| vcpu.seconds).sum();
    let age = u64::try_from(metrics.age.as_millis()).unwrap_or(u64::MAX);
    Metrics {
        sampled_at_ms: now.as_millis().saturating_sub(age),
        cpu_millicores: has_rates.then(|| whole(metrics.cpu_percent * 10.0)),
        cpu_ms_total: whole(cpu_seconds * 1e3),
        memory_size_bytes: metrics.memory_size_bytes,
        memory_resident_bytes: metrics.memory_resident_bytes,
        memory_available_bytes: metrics.memory_available_bytes,
        network_receive_bytes_total: metrics.network_rx_bytes,
        network_transmit_bytes_total: metrics.network_tx_bytes,
        disk_read_bytes_total: metrics.disk_read_bytes,
        disk_written_bytes_total: metrics.disk_write_bytes,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and turns NaN into 0"
)]
fn whole(figure: f64) -> u64 {
    figure.round() as u64
}

/// Memory that the host could give without swapping (`MemAvailable` of `proc_meminfo(5)`).
fn memory_available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes = line.split_whitespace().next()?.parse::<u64>().ok()?;
    kibibytes.checked_mul(1024)
}

/// Space left where volumes lie.
fn disk_available(state_dir: &Path) -> Option<u64> {
    let found = statvfs(state_dir).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// The size of the file system where volumes lie.
pub(super) fn disk_size(state_dir: &Path) -> Option<u64> {
    let found = statvfs(state_dir).ok()?;
    found.f_blocks.checked_mul(found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_its_memory_and_space() {
        assert!(memory_available().is_some_and(|bytes| bytes > 0));
        let here = Path::new("/");
        assert!(disk_available(here) <= disk_size(here));
    }
}
