//! What people see, of hand-made VMs and workers.

use std::time::Duration;

use admin::{AssignmentsState, AssignmentsView, DamagedVm, DiskView, MachineView, MetricsView};
use vm_model::{
    Assignment, Bytes, DesiredState, DiskAccess, DiskFormat, DiskTrouble, EndCause, EndMethod, FailureKind,
    FailureReason, Generation, HeldSet, HoldReason, Overrides, RefusedEntry, RunEnd, VmId, VolumePolicy,
    WantedChange,
};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_709_212_029_000);

fn earlier(seconds: u64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - seconds * 1000)
}

fn vm(id: &str, phase: &str) -> VmView {
    let json = serde_json::json!({
        "id": id, "phase": phase, "desired": "running", "reason": null, "address": "10.0.0.2", "mac": null,
        "tap": null, "store_path": "/nix/store/x", "hash": "sha256-x=", "generation": 3, "restarts": 1,
        "last_stop": null, "timings": {}, "warnings": [], "unverified": [], "metrics": null,
    });
    serde_json::from_value(json).expect("the form of an older worker")
}

fn reason(message: &str) -> Option<FailureReason> {
    Some(FailureReason {
        kind: FailureKind::Host,
        message: message.to_owned(),
        transient: false,
        console_tail: Vec::new(),
    })
}

fn sampled() -> Option<MetricsView> {
    Some(MetricsView {
        cpu_percent: 7.0,
        memory_mb: 93,
        memory_size_bytes: 512 << 20,
        ..MetricsView::default()
    })
}

fn machine() -> Option<MachineView> {
    Some(MachineView {
        vcpus: 2,
        memory_bytes: 512 << 20,
        cmdline: "quiet \u{1b}[2J".to_owned(),
        disks: vec![DiskView {
            id: "root".to_owned(),
            path: "/var/lib/procurator/volumes/a".into(),
            size_bytes: 1 << 30,
            access: DiskAccess::ReadWrite,
            format: DiskFormat::Raw,
            policy: Some(VolumePolicy::FromImage),
        }],
    })
}

#[test]
fn a_list_tells_where_vms_are_and_what_keeps_them() {
    let running = VmView { metrics: sampled(), started_at: Some(earlier(10_920)), ..vm("web-2", "running") };
    let stopped = VmView { metrics: sampled(), started_at: Some(earlier(9)), ..vm("web-3", "stopped") };
    let again = VmView {
        reason: reason("no memory"),
        next_start_at: Some(NOW.after(Duration::from_secs(30))),
        ..vm("web-10", "restarting")
    };
    let trouble = DiskTrouble { disk: "root".to_owned(), problem: "no space".to_owned() };
    let paused = VmView { disk_trouble: Some(trouble), reason: reason("overcome"), ..vm("x", "paused") };
    let shown = list(&[running, stopped, again, paused], NOW);
    let expected = "\
ID      PHASE       DESIRED  ADDRESS   CPU  MEMORY  RESTARTS  UPTIME  REASON
web-2   running              10.0.0.2  7 %  93 MiB  1         3h 2m
web-3   stopped     running  10.0.0.2               1
web-10  restarting  running  10.0.0.2               1                 no memory (again in 30s)
x       paused      running  10.0.0.2               1                 disk root: no space
";
    assert_eq!(shown, expected);
}

#[test]
fn a_stopped_vm_shows_its_machine_and_no_figures_of_it() {
    let end = RunEnd {
        at: earlier(60),
        ran_for: Some(Duration::from_secs(75)),
        method: EndMethod::PowerButton,
        cause: EndCause::Stopped { generation: Generation::new(3) },
        detail: None,
    };
    let stopped = VmView {
        desired: DesiredState::Stopped,
        metrics: sampled(),
        machine: machine(),
        ends: vec![end],
        ..vm("a", "stopped")
    };
    let shown = details(&stopped, NOW);
    for (line, words) in [
        ("vcpus", "2"),
        ("memory", "512 MiB"),
        ("command line", "quiet \\u{1b}[2J"),
        ("disk", "root: 1 GiB, raw, writable, from_image, /var/lib/procurator/volumes/a"),
        (
            "ended",
            "2024-02-29T13:06:09Z: the guest obeyed the power button (stopped by generation 3), had run for 1m 15s",
        ),
    ] {
        let found = shown.lines().any(|found| found.starts_with(line) && found.ends_with(words));
        assert!(found, "{line}: {words} is not in:\n{shown}");
    }
    for absent in ["cpu ", "93", "network", "started", "desired"] {
        assert!(!shown.contains(absent), "{absent:?} is in:\n{shown}");
    }
    let running = VmView { metrics: sampled(), started_at: Some(earlier(5)), ..vm("a", "running") };
    let shown = details(&running, NOW);
    assert!(shown.contains("93 of 512 MiB") && shown.contains("(5s ago)"), "{shown}");
}

#[test]
fn what_is_wanted_stands_beside_what_is_in_force() {
    let overrides =
        Overrides { vcpus: Some(100), memory_bytes: Some(Bytes::from_mib(64)), cmdline_append: None };
    let assignment = Assignment { overrides, ..Assignment::new(VmId::new("a"), "sha256-y=", "/nix/store/x") };
    let wanted = WantedChange { assignment, refusal: reason("this host has 4 CPUs"), next_try_at: None };
    let view = VmView { wanted: Some(wanted), ..vm("a", "running") };
    let shown = details(&view, NOW);
    for words in
        ["sha256-x=", "sha256-y=", "100 vCPUs, 64 MiB of memory", "not in force: this host has 4 CPUs"]
    {
        assert!(shown.contains(words), "{words} is not in:\n{shown}");
    }
    assert!(!shown.contains("wanted store path"), "it is the same:\n{shown}");
    let listed = list(&[view], NOW);
    assert!(listed.contains("a change is not in force: this host has 4 CPUs"), "{listed}");
}

#[test]
fn everything_that_is_not_as_it_should_be_is_noted_in_a_line_of_its_own() {
    let good = StatusView {
        sources: Default::default(),
        owners: Default::default(),
        version: "1".to_owned(),
        since: earlier(60),
        assignments: Some(AssignmentsView {
            path: "/etc/vms.json".into(),
            state: AssignmentsState::InForce,
            problem: None,
            read_at: Some(earlier(3)),
        }),
        generation: Some(Generation::new(3)),
        held: None,
        refused_entries: Vec::new(),
        damaged: Vec::new(),
        degradations: Vec::new(),
        log_lines_dropped: 0,
        open_files_limit: Some(1 << 20),
    };
    assert!(notes(&good).is_empty());
    let shown = status_lines(&good, NOW);
    assert!(shown.contains("in force") && shown.contains("(3s ago)"), "{shown}");

    let (id, problem) = (VmId::new("web-1"), "line 1:\nno hash".to_owned());
    let bad = StatusView {
        assignments: good.assignments.clone().map(|view| AssignmentsView {
            state: AssignmentsState::Missing,
            problem: Some("there is no file /etc/vms.json".to_owned()),
            ..view
        }),
        refused_entries: vec![RefusedEntry { id: id.clone(), problem: problem.clone() }],
        damaged: vec![DamagedVm { id: VmId::new("db"), problem }],
        log_lines_dropped: 5,
        open_files_limit: Some(300),
        ..good.clone()
    };
    assert_eq!(
        notes::lines(&notes(&bad)),
        "note: the assignments /etc/vms.json are missing: there is no file /etc/vms.json; VMs stay as they were\n\
         note: the entry of VM web-1 was refused, and the VM stays as it is: line 1:\\nno hash\n\
         note: VM db is left alone: its record cannot be used: line 1:\\nno hash\n\
         note: 5 lines of the worker's log were lost\n\
         note: the worker may have 300 files open only: many VMs do not fit\n"
    );
    assert_eq!(notes_of(&bad, &id).len(), 2);
    let reason = "it removes every VM".to_owned();
    let waiting = HeldSet {
        generation: Generation::new(4),
        since: NOW,
        removals: 2,
        waits_for: HoldReason::default(),
        reason,
    };
    let held = StatusView { held: Some(waiting), ..good };
    let said = "the newest assignments (generation 4) are held: it removes every VM";
    assert_eq!(notes(&held), [said]);
    // And then the file went.
    let both = notes(&StatusView { assignments: bad.assignments, ..held });
    assert!(both.len() == 2 && both[0] == said && both[1].contains("missing"), "{both:?}");
}
