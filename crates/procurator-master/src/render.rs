//! Workers and VMs as tables for people.

use std::fmt::Write;

use master_protocol::wire::v1::{Condition, ConditionKind, Phase, Readiness, VmReport};
use vm_model::{Bytes, Timestamp, printable};

use crate::fleet::{WorkerStatus, WorkerVms};

/// A line a worker.
pub fn workers(workers: &[WorkerStatus], now: Timestamp) -> String {
    let heading =
        ["WORKER", "CONNECTED", "ADDRESS", "VMS", "RUNNING", "ASSIGNED", "APPLIED", "CPUS", "MEMORY", "NOTE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for worker in workers {
        let node = worker.node.as_ref();
        let all: usize = worker.vm_counts.iter().map(|count| count.count).sum();
        let running = worker.vm_counts.iter().filter(|count| count.phase == Phase::Running);
        let running: usize = running.map(|count| count.count).sum();
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        rows.push(vec![
            worker.worker.to_string(),
            worker.connected_since.map_or_else(|| "no".to_owned(), |since| age(since, now)),
            worker.address.clone().unwrap_or_else(|| "-".to_owned()),
            all.to_string(),
            running.to_string(),
            number(worker.assigned_generation),
            number(node.and_then(|node| node.applied_generation)),
            number(worker.capacity.map(|capacity| u64::from(capacity.processors))),
            worker.capacity.map_or_else(|| "-".to_owned(), |capacity| mebibytes(capacity.memory_bytes)),
            note(worker),
        ]);
    }
    table(&rows)
}

/// What is to be known of a worker beside its figures, the most urgent first.
fn note(worker: &WorkerStatus) -> String {
    let mut notes = Vec::new();
    if worker.connected_since.is_none()
        && let Some(left) = &worker.left
    {
        notes.push(left.clone());
    }
    notes.extend(worker.answer.as_ref().and_then(|answer| answer.problem.clone()));
    if let Some(node) = &worker.node {
        notes.extend(node.refused_vms.iter().map(|refused| format!("{}: {}", refused.vm, refused.problem)));
        notes.extend(broken(node.conditions.iter()));
        if worker.node_left_out > 0 {
            notes.push(format!("{} further refused or kept VMs", worker.node_left_out));
        }
    }
    if worker.vms_are_cut {
        notes.push(CUT.to_owned());
    }
    if worker.drained {
        notes.push("drained".to_owned());
    }
    notes.join("; ")
}

/// What is said of a worker of whose VMs not all are known.
const CUT: &str = "it names more VMs than are kept of a worker";

/// A line a VM.
pub fn vms(workers: &[WorkerVms]) -> String {
    let heading =
        ["WORKER", "VM", "PHASE", "READY", "ADDRESS", "MEMORY", "CPU", "RESTARTS", "GENERATION", "REASON"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for worker in workers {
        for vm in &worker.vms {
            rows.push(vec![
                worker.status.worker.to_string(),
                vm.vm.to_string(),
                phase(vm.phase).to_owned(),
                readiness(vm.readiness).to_owned(),
                vm.addresses.first().map_or_else(|| "-".to_owned(), |address| address.address.to_string()),
                vm.metrics.map_or_else(|| "-".to_owned(), |metrics| mebibytes(metrics.memory_resident_bytes)),
                processors(vm),
                vm.restarts.to_string(),
                vm.generation.to_string(),
                reason(vm),
            ]);
        }
        if worker.status.vms_are_cut {
            let mut row = vec![worker.status.worker.to_string(), "…".to_owned()];
            row.resize(rows[0].len() - 1, "-".to_owned());
            row.push(CUT.to_owned());
            rows.push(row);
        }
    }
    table(&rows)
}

fn processors(vm: &VmReport) -> String {
    let used = vm.metrics.and_then(|metrics| metrics.cpu_millicores);
    used.map_or_else(|| "-".to_owned(), |used| format!("{}.{:02}", used / 1000, used % 1000 / 10))
}

fn reason(vm: &VmReport) -> String {
    // That one is not ready that does not run need not be said.
    let conditions = vm.conditions.iter();
    let conditions =
        conditions.filter(|condition| condition.kind != ConditionKind::Ready || vm.phase == Phase::Running);
    let mut reasons: Vec<String> = vm.reason.iter().map(|reason| reason.message.to_string()).collect();
    for reason in broken(conditions) {
        // A failed VM is out of its phase, too, and for the same reason.
        if !reasons.iter().any(|said| said.contains(&reason)) {
            reasons.push(reason);
        }
    }
    reasons.join("; ")
}

/// Why statements do not hold.
fn broken<'a>(conditions: impl Iterator<Item = &'a Condition>) -> impl Iterator<Item = String> {
    conditions.filter(|condition| !condition.holds).map(|condition| condition.reason.to_string())
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Booting => "booting",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopping => "stopping",
        Phase::Stopped => "stopped",
        Phase::Restarting => "restarting",
        Phase::Failed => "failed",
        Phase::Unknown => "unknown",
    }
}

fn readiness(readiness: Readiness) -> &'static str {
    match readiness {
        Readiness::Ready => "yes",
        Readiness::NotReady => "no",
        Readiness::Unknown => "-",
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", Bytes::new(bytes).as_mib())
}

fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(since).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

/// Columns aligned. What workers say must neither command a terminal nor look like another line.
fn table(rows: &[Vec<String>]) -> String {
    let shown: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = shown.first().map_or(0, Vec::len);
    let width = |column: usize| {
        shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &shown {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // Strings take everything.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use master_protocol::WorkerView;
    use master_protocol::wire::Text;
    use master_protocol::wire::v1::{Reason, Report};

    use super::*;
    use crate::fleet::VmCount;

    fn worker() -> WorkerVms {
        let json = r#"{"sequence": 1, "full": true, "node": {"at_ms": 1, "applied_generation": 3},
            "vms": [{"vm": "web-1", "phase": "running", "image": "/x", "hash": "h", "generation": 3, "restarts": 1,
                     "addresses": [{"nic": "net0", "address": "10.0.0.2", "mac": "02:00:00:00:00:01"}],
                     "metrics": {"sampled_at_ms": 1, "cpu_millicores": 1257, "cpu_ms_total": 1, "memory_size_bytes": 1,
                                 "memory_resident_bytes": 3145728, "network_receive_bytes_total": 1,
                                 "network_transmit_bytes_total": 1, "disk_read_bytes_total": 1,
                                 "disk_written_bytes_total": 1}}]}"#;
        let mut view = WorkerView::default();
        view.apply(serde_json::from_str::<Report>(json).expect("a report"));
        let status = WorkerStatus {
            worker: "worker-1".parse().expect("valid"),
            connected_since: Some(Timestamp::from_millis(0)),
            address: Some("10.9.0.1:4000".to_owned()),
            left: None,
            drained: true,
            assigned_generation: Some(4),
            answer: None,
            capacity: None,
            node: Some(view.state.node),
            node_left_out: 0,
            vm_counts: vec![VmCount { phase: Phase::Running, source: None, count: 1 }],
            vms_are_cut: false,
        };
        WorkerVms { status, vms: view.state.vms.into_values().collect() }
    }

    #[test]
    fn a_worker_is_a_line_and_so_is_a_vm() {
        let shown = workers(&[worker().status], Timestamp::from_millis(90_000));
        let expected = "\
WORKER    CONNECTED  ADDRESS        VMS  RUNNING  ASSIGNED  APPLIED  CPUS  MEMORY  NOTE
worker-1  1m         10.9.0.1:4000  1    1        4         3        -     -       drained
";
        assert_eq!(shown, expected);
        let expected = "\
WORKER    VM     PHASE    READY  ADDRESS   MEMORY  CPU   RESTARTS  GENERATION  REASON
worker-1  web-1  running  -      10.0.0.2  3 MiB   1.25  1         3
";
        assert_eq!(vms(&[worker()]), expected);
    }

    #[test]
    fn what_a_worker_says_commands_no_terminal() {
        let mut hostile = worker();
        hostile.vms[0].reason = Some(Reason {
            kind: Text::cut("guest"),
            class: None,
            message: Text::cut("a\n\x1b[2J\u{202e}\u{115f}\u{3164}é"),
            hint: None,
            retried: false,
        });
        let shown = vms(&[hostile]);
        assert_eq!(shown.lines().count(), 2);
        assert!(shown.contains("a\\n\\u{1b}[2J\\u{202e}\\u{115f}\\u{3164}é"), "{shown}");
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut large = worker();
        (large.status.vms_are_cut, large.status.node_left_out) = (true, 7);
        assert_eq!(
            vms(std::slice::from_ref(&large)).lines().nth(2),
            Some(
                "worker-1  …      -        -      -         -       -     -         -           it names more VMs than are kept of a worker"
            )
        );
        assert!(
            workers(&[large.status], Timestamp::from_millis(0)).contains(
                "7 further refused or kept VMs; it names more VMs than are kept of a worker; drained"
            )
        );
    }
}
