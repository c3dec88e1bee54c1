//! What the worker knows, in the words of the wire. The wire's types do not follow when `vm-model` grows; this does.

use vm_model::{
    FailureReason, HeldSet, MachineCounters, NodeStatus, RefusedEntry, RemovedVm, Timestamp, VmInfo, VmNic,
    VmStatus,
};

use crate::wire::v1::{
    Address, Condition, ConditionKind, Held, Kept, Metrics, NodeReport, Phase, Readiness, Reason, RefusedVm,
    VmReport,
};
use crate::wire::{List, Text};

impl From<&VmInfo> for VmReport {
    /// All that is known of a VM but what it has used and whether it serves, which are kept elsewhere.
    fn from(info: &VmInfo) -> Self {
        Self {
            vm: info.id.clone(),
            phase: Phase::from(&info.status),
            readiness: Readiness::NotProbed,
            reason: reason_of(info),
            addresses: List::cut(info.nics.iter().map(Address::from)),
            image: Text::cut(info.assignment.store_path.to_string_lossy()),
            hash: Text::cut(info.assignment.hash.as_str()),
            generation: info.generation.get(),
            restarts: info.restarts,
            started_at_ms: info.started_at.map(Timestamp::as_millis),
            metrics: None,
            conditions: List::cut(conditions_of(info)),
        }
    }
}

/// Why a VM is in its phase. A failure of an earlier run is no reason while it runs again.
fn reason_of(info: &VmInfo) -> Option<Reason> {
    match &info.status {
        VmStatus::Failed(reason) => Some(Reason::from(reason)),
        VmStatus::Restarting => info.last_failure.as_ref().map(Reason::from),
        VmStatus::Creating
        | VmStatus::Booting
        | VmStatus::Running
        | VmStatus::Paused
        | VmStatus::Stopping
        | VmStatus::Stopped => None,
    }
}

fn conditions_of(info: &VmInfo) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let mut holds = |kind, reason: String| {
        conditions.push(Condition { kind, since_ms: None, reason: Text::cut(reason) });
    };
    match info.wanted.as_ref().map(|wanted| &wanted.refusal) {
        Some(Some(refusal)) => holds(ConditionKind::ChangeRefused, refusal.message.clone()),
        Some(None) => {
            holds(ConditionKind::ChangePending, "a changed definition is being prepared".to_owned())
        }
        None => {}
    }
    if info.hung {
        holds(ConditionKind::Hung, "the thread of its machine stands still".to_owned());
    }
    if let Some(trouble) = &info.disk_trouble {
        holds(ConditionKind::DiskTrouble, format!("disk {}: {}", trouble.disk, trouble.problem));
    }
    if !info.unverified.is_empty() {
        let paths: Vec<_> = info.unverified.iter().map(|path| path.to_string_lossy()).collect();
        holds(ConditionKind::Unverified, paths.join(", "));
    }
    if !info.warnings.is_empty() {
        holds(ConditionKind::Degraded, info.warnings.join("; "));
    }
    conditions
}

impl From<&VmStatus> for Phase {
    fn from(status: &VmStatus) -> Self {
        match status {
            VmStatus::Creating => Self::Creating,
            VmStatus::Booting => Self::Booting,
            VmStatus::Running => Self::Running,
            VmStatus::Paused => Self::Paused,
            VmStatus::Stopping => Self::Stopping,
            VmStatus::Stopped => Self::Stopped,
            VmStatus::Restarting => Self::Restarting,
            VmStatus::Failed(_) => Self::Failed,
        }
    }
}

impl From<&FailureReason> for Reason {
    fn from(reason: &FailureReason) -> Self {
        Self {
            kind: Text::cut(reason.kind.to_string()),
            message: Text::cut(reason.to_string()),
            retried: reason.can_retry_help(),
        }
    }
}

impl From<&VmNic> for Address {
    fn from(nic: &VmNic) -> Self {
        Self {
            nic: Text::cut(nic.id.as_str()),
            address: Text::cut(nic.address.to_string()),
            mac: Text::cut(nic.mac.to_string()),
        }
    }
}

impl Metrics {
    /// A reading of everything a machine counts. `cpu_percent` is of one processor, over the last interval.
    pub fn of(sampled_at: Timestamp, cpu_percent: Option<f64>, counters: &MachineCounters) -> Self {
        let cpu_time: std::time::Duration = counters.vcpus.iter().map(|vcpu| vcpu.cpu_time).sum();
        let balloon = counters.balloon.as_ref();
        Self {
            sampled_at_ms: sampled_at.as_millis(),
            cpu_millicores: cpu_percent.map(millicores),
            cpu_ms_total: u64::try_from(cpu_time.as_millis()).unwrap_or(u64::MAX),
            memory_size_bytes: counters.memory_size.get(),
            memory_resident_bytes: counters.memory_resident.get(),
            memory_available_bytes: balloon.and_then(|balloon| balloon.available).map(vm_model::Bytes::get),
            network_receive_bytes_total: sum(counters.nics.iter().map(|nic| nic.receive_bytes)),
            network_transmit_bytes_total: sum(counters.nics.iter().map(|nic| nic.transmit_bytes)),
            disk_read_bytes_total: sum(counters.disks.iter().map(|disk| disk.read_bytes)),
            disk_written_bytes_total: sum(counters.disks.iter().map(|disk| disk.written_bytes)),
        }
    }
}

fn sum(figures: impl Iterator<Item = u64>) -> u64 {
    figures.fold(0, u64::saturating_add)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and turns NaN into 0"
)]
fn millicores(percent: f64) -> u64 {
    (percent * 10.0).round() as u64
}

impl NodeReport {
    /// How a worker stands at `at` to what it was assigned, and what it keeps of removed VMs. What its host has left is
    /// for the caller to add.
    pub fn of(at: Timestamp, status: &NodeStatus, kept: &[RemovedVm]) -> Self {
        Self {
            at_ms: at.as_millis(),
            applied_generation: status.generation.map(vm_model::Generation::get),
            held: status.held.as_ref().map(Held::from),
            refusal: status.refusal.as_ref().map(|refusal| Text::cut(refusal.as_str())),
            refused_vms: List::cut(status.refused_entries.iter().map(RefusedVm::from)),
            kept: List::cut(kept.iter().map(Kept::from)),
            ..Self::default()
        }
    }
}

impl From<&HeldSet> for Held {
    fn from(held: &HeldSet) -> Self {
        Self {
            generation: held.generation.get(),
            since_ms: held.since.as_millis(),
            removals: u64::try_from(held.removals).unwrap_or(u64::MAX),
            reason: Text::cut(held.reason.as_str()),
        }
    }
}

impl From<&RefusedEntry> for RefusedVm {
    fn from(entry: &RefusedEntry) -> Self {
        Self { vm: entry.id.clone(), problem: Text::cut(entry.problem.as_str()) }
    }
}

impl From<&RemovedVm> for Kept {
    fn from(removed: &RemovedVm) -> Self {
        Self {
            vm: removed.assignment.id.clone(),
            removed_at_ms: removed.removed_at.as_millis(),
            kept_until_ms: removed.kept_until.as_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{
        Assignment, Bytes, DiskTrouble, FailureKind, Generation, NicCounters, VcpuCounters, VmId,
    };

    use super::*;

    fn failure(message: &str) -> FailureReason {
        FailureReason {
            kind: FailureKind::Guest,
            message: message.to_owned(),
            transient: false,
            console_tail: vec!["Kernel panic".to_owned()],
        }
    }

    #[test]
    fn a_vm_is_told_with_what_its_master_must_know() {
        let mut info =
            VmInfo::new(Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x"), Generation::new(3));
        info.last_failure = Some(failure("the guest triple-faulted"));
        info.hung = true;
        info.disk_trouble =
            Some(DiskTrouble { disk: "root".to_owned(), problem: "No space left".to_owned() });
        info.status = VmStatus::Running;
        let report = VmReport::from(&info);
        assert_eq!((report.phase, report.reason, report.generation), (Phase::Running, None, 3));
        let kinds: Vec<_> = report.conditions.iter().map(|condition| condition.kind).collect();
        assert_eq!(kinds, [ConditionKind::Hung, ConditionKind::DiskTrouble]);
        info.status = VmStatus::Restarting;
        let reason = VmReport::from(&info).reason.expect("it failed");
        assert_eq!((reason.kind.as_str(), reason.retried), ("guest", true));
        assert!(reason.message.contains("last console line: \"Kernel panic\""), "{}", reason.message);
        info.status = VmStatus::Failed(failure(&"x".repeat(10_000)));
        let message = VmReport::from(&info).reason.expect("it failed").message;
        assert!(message.len() <= 2048 && message.ends_with('…'));
    }

    #[test]
    fn counters_are_added_up() {
        let nic =
            |bytes| NicCounters { receive_bytes: bytes, transmit_bytes: u64::MAX, ..NicCounters::default() };
        let vcpu = |seconds| VcpuCounters { cpu_time: std::time::Duration::from_secs(seconds), exits: 0 };
        let counters = MachineCounters {
            vcpus: vec![vcpu(1), vcpu(2)],
            memory_size: Bytes::from_mib(64),
            nics: vec![nic(5), nic(6)],
            ..MachineCounters::default()
        };
        let metrics = Metrics::of(Timestamp::from_millis(7), Some(150.26), &counters);
        assert_eq!((metrics.cpu_ms_total, metrics.cpu_millicores), (3000, Some(1503)));
        assert_eq!(
            (metrics.network_receive_bytes_total, metrics.network_transmit_bytes_total),
            (11, u64::MAX)
        );
        assert_eq!(Metrics::of(Timestamp::from_millis(7), Some(f64::NAN), &counters).cpu_millicores, Some(0));
    }
}
