//! Workers and VMs as tables for people.

use std::fmt::Write;

use master_protocol::wire::v1::{Condition, ConditionKind, Phase, Readiness, Source, VmReport};
use vm_model::{Bytes, Timestamp, printable};

use crate::fleet::{Elsewhere, VmCount, WorkerStatus, WorkerVms};

/// A line a worker.
pub fn workers(workers: &[WorkerStatus], now: Timestamp) -> String {
    let heading =
        ["WORKER", "CONNECTED", "ADDRESS", "VMS", "RUNNING", "ASSIGNED", "APPLIED", "CPUS", "MEMORY", "NOTE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for worker in workers {
        let node = worker.node.as_ref();
        let vms = |is_meant: fn(&VmCount) -> bool| {
            let meant = worker.vm_counts.iter().filter(|count| is_meant(count));
            meant.map(|count| count.count as u64).sum::<u64>()
        };
        // Before a worker has reported nobody knows.
        let count = |count: u64| node.map(|_| count);
        rows.push(vec![
            worker.worker.to_string(),
            connected(worker, now),
            worker.address.clone().unwrap_or_else(|| "-".to_owned()),
            number(count(vms(|_| true))),
            number(count(vms(|count| count.phase == Phase::Running))),
            number(worker.assigned_generation),
            number(node.and_then(|node| node.applied_generation)),
            number(worker.capacity.map(|capacity| u64::from(capacity.processors))),
            worker.capacity.map_or_else(|| "-".to_owned(), |capacity| mebibytes(capacity.memory_bytes)),
            note(worker),
        ]);
    }
    table(&rows)
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Since when a worker is connected, or is not.
fn connected(worker: &WorkerStatus, now: Timestamp) -> String {
    match (worker.connected_since, worker.left_at) {
        (Some(since), _) => age(since, now),
        (None, Some(since)) => format!("no, {}", age(since, now)),
        (None, None) => "no".to_owned(),
    }
}

/// What is to be known of a worker beside its figures, the most urgent first.
fn note(worker: &WorkerStatus) -> String {
    let mut notes = Vec::new();
    if let Some(Elsewhere { connected, refused }) = &worker.elsewhere {
        notes.push(format!("connected from two hosts: {connected} and {refused}, which is refused"));
    }
    notes.extend(worker.left.iter().filter(|_| worker.connected_since.is_none()).cloned());
    notes.extend(worker.answer.as_ref().and_then(|answer| answer.problem.clone()));
    notes.extend(worker.file_problems.iter().cloned());
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
        notes.push(drain(worker));
    }
    notes.join("; ")
}

/// How far a worker is that is to be drained.
fn drain(worker: &WorkerStatus) -> String {
    let node = worker.node.as_ref();
    if node.is_some_and(|node| node.held.is_some()) {
        return "drain held".to_owned();
    }
    let is_told = node.and_then(|node| node.applied_generation) >= worker.assigned_generation;
    if worker.connected_since.is_none() && !is_told {
        return "drain not told: it is not connected".to_owned();
    }
    let runs = |count: &&VmCount| !matches!(count.phase, Phase::Stopped | Phase::Failed);
    let of = |source: Option<Source>| -> usize {
        let meant = worker.vm_counts.iter().filter(runs).filter(|count| count.source == source);
        meant.map(|count| count.count).sum()
    };
    let rest = [
        (of(Some(Source::File)), "of its own file"),
        (of(Some(Source::Local)), "created on it"),
        (of(None) + of(Some(Source::Unknown)), "of nobody known"),
    ];
    let rest = rest.into_iter().filter(|(count, _)| *count > 0);
    let rest: Vec<String> = rest.map(|(count, whose)| format!("{count} {whose}")).collect();
    let mut said = match (is_told, of(Some(Source::Master))) {
        (true, 0) => "drained".to_owned(),
        (false, 0) => "draining: not done yet".to_owned(),
        (_, count) => format!("draining: {count} still on"),
    };
    if !rest.is_empty() {
        let _ = write!(said, " (not the master's, and stay on: {})", rest.join(", "));
    }
    if worker.connected_since.is_none() {
        said.push_str(", as it said last");
    }
    said
}

/// What is said of a worker of whose VMs not all are known.
const CUT: &str = "it names more VMs than are kept of a worker";

/// A line a VM.
pub fn vms(workers: &[WorkerVms], now: Timestamp) -> String {
    let heading = [
        "WORKER",
        "VM",
        "PHASE",
        "READY",
        "SOURCE",
        "ADDRESS",
        "MEMORY",
        "CPU",
        "RESTARTS",
        "GENERATION",
        "REASON",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for worker in workers {
        let is_away = worker.status.connected_since.is_none();
        let as_of =
            worker.status.reported_at.filter(|_| is_away).map(|at| format!(", as of {} ago", age(at, now)));
        let as_of = as_of.unwrap_or_default();
        for vm in &worker.vms {
            rows.push(vec![
                worker.status.worker.to_string(),
                vm.vm.to_string(),
                format!("{}{as_of}", phase(vm.phase)),
                readiness(vm.readiness).to_owned(),
                source(vm.source).to_owned(),
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
    let on_trial =
        vm.conditions.iter().filter(|condition| condition.kind == ConditionKind::Applied && condition.holds);
    reasons
        .extend(on_trial.map(|condition| condition.reason.to_string()).filter(|reason| !reason.is_empty()));
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

fn source(source: Option<Source>) -> &'static str {
    match source {
        Some(Source::Master) => "master",
        Some(Source::File) => "file",
        Some(Source::Local) => "local",
        Some(Source::Unknown) | None => "-",
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
    use master_protocol::wire::v1::{Reason, Report};
    use master_protocol::wire::{List, Text};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(90_000);

    fn worker() -> WorkerVms {
        let json = r#"{"sequence": 1, "full": true, "node": {"at_ms": 1, "applied_generation": 3},
            "vms": [{"vm": "web-1", "phase": "running", "source": "master", "image": "/x", "hash": "h", "generation": 3, "restarts": 1,
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
            host: None,
            left: None,
            left_at: None,
            reported_at: Some(Timestamp::from_millis(0)),
            elsewhere: None,
            file_problems: Vec::new(),
            drained: true,
            assigned_generation: Some(4),
            answer: None,
            capacity: None,
            node: Some(view.state.node),
            node_left_out: 0,
            vm_counts: vec![VmCount { phase: Phase::Running, source: Some(Source::Master), count: 1 }],
            vms_are_cut: false,
        };
        WorkerVms { status, vms: view.state.vms.into_values().collect() }
    }

    #[test]
    fn a_worker_is_a_line_and_so_is_a_vm() {
        let shown = workers(&[worker().status], NOW);
        let expected = "\
WORKER    CONNECTED  ADDRESS        VMS  RUNNING  ASSIGNED  APPLIED  CPUS  MEMORY  NOTE
worker-1  1m         10.9.0.1:4000  1    1        4         3        -     -       draining: 1 still on
";
        assert_eq!(shown, expected);
        let expected = "\
WORKER    VM     PHASE    READY  SOURCE  ADDRESS   MEMORY  CPU   RESTARTS  GENERATION  REASON
worker-1  web-1  running  -      master  10.0.0.2  3 MiB   1.25  1         3
";
        assert_eq!(vms(&[worker()], NOW), expected);
        let mut tried = worker();
        let applied =
            r#"{"kind": "applied", "holds": true, "reason": "on trial until 2026-01-01T00:00:00Z"}"#;
        tried.vms[0].conditions =
            List::cut([serde_json::from_str::<Condition>(applied).expect("a condition")]);
        assert!(vms(&[tried], NOW).contains("  on trial until 2026-01-01T00:00:00Z\n"));
        let gone = WorkerStatus {
            connected_since: None,
            left: Some("it was cut off".to_owned()),
            left_at: Some(Timestamp::from_millis(78_000)),
            reported_at: Some(Timestamp::from_millis(78_000)),
            ..worker().status
        };
        let gone_vms = WorkerVms { status: gone.clone(), ..worker() };
        assert!(vms(&[gone_vms], NOW).contains("  running, as of 12s ago  "));
        assert!(workers(&[gone], NOW).contains("worker-1  no, 12s    10.9"));
        let unheard_of = WorkerStatus { node: None, vm_counts: Vec::new(), ..worker().status };
        assert!(workers(&[unheard_of], NOW).contains("  -    -        4         -  "));
    }

    #[test]
    fn a_drain_says_how_far_it_is_and_what_it_leaves() {
        let said = |change: fn(&mut WorkerStatus)| {
            let mut worker = worker().status;
            worker.assigned_generation = Some(3);
            change(&mut worker);
            note(&worker)
        };
        assert_eq!(said(|_| {}), "draining: 1 still on");
        assert_eq!(said(|worker| worker.vm_counts[0].phase = Phase::Stopped), "drained");
        let others = said(|worker| worker.vm_counts[0].source = Some(Source::Local));
        assert_eq!(others, "drained (not the master's, and stay on: 1 created on it)");
        let untold = said(|worker| (worker.connected_since, worker.assigned_generation) = (None, Some(4)));
        assert_eq!(untold, "drain not told: it is not connected");
        let held = said(|worker| {
            let json = r#"{"generation": 4, "since_ms": 1, "removals": 1, "reason": "much"}"#;
            let held = serde_json::from_str(json).expect("a hold");
            worker.node.as_mut().expect("it reported").held = Some(held);
        });
        assert_eq!(held, "drain held");
    }

    #[test]
    fn what_is_wrong_with_a_workers_file_and_name_is_told() {
        let worker = WorkerStatus {
            drained: false,
            file_problems: vec!["there is no file worker-1.json; what it was told stays".to_owned()],
            elsewhere: Some(Elsewhere { connected: "a:1".to_owned(), refused: "b:2".to_owned() }),
            ..worker().status
        };
        let said = "connected from two hosts: a:1 and b:2, which is refused; there is no file worker-1.json; what it \
                    was told stays";
        assert_eq!(note(&worker), said);
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
        let shown = vms(&[hostile], NOW);
        assert_eq!(shown.lines().count(), 2);
        assert!(shown.contains("a\\n\\u{1b}[2J\\u{202e}\\u{115f}\\u{3164}é"), "{shown}");
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut large = worker();
        (large.status.vms_are_cut, large.status.node_left_out) = (true, 7);
        assert_eq!(
            vms(std::slice::from_ref(&large), NOW).lines().nth(2),
            Some(
                "worker-1  …      -        -      -       -         -       -     -         -           it names more VMs than are kept of a worker"
            )
        );
        assert!(workers(&[large.status], Timestamp::from_millis(0)).contains(
            "7 further refused or kept VMs; it names more VMs than are kept of a worker; draining: 1 still on"
        ));
    }
}
