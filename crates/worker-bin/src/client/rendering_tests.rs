//! What people see, of hand-made VMs and workers.

use std::time::Duration;

use admin::{
    AssignmentsState, AssignmentsView, DamagedVm, DiskView, HostUseView, MachineView, MetricsView,
    ProcessView, StatusView, VmView,
};
use vm_model::{
    Assignment, BootTrouble, Bytes, Cores, DesiredState, DiskAccess, DiskFormat, DiskTrouble, EndCause,
    EndMethod, FailureClass, FailureKind, FailureReason, Generation, Health, HeldSet, HoldReason, OnTrial,
    OperatorOrder, Overrides, Readiness, RefusedEntry, ResourceLimits, RolloutFailure, RunEnd, SourceKind,
    SourceStatus, Timestamp, VmId, VmTimings, VolumePolicy, WantedChange,
};

use super::details::details;
use super::list::list;
use super::notes::{self, notes, notes_of, status_lines};
use super::screen::Screen;

const NOW: Timestamp = Timestamp::from_millis(1_709_212_029_000);

fn earlier(seconds: u64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() - seconds * 1000)
}

fn vm(id: &str, phase: &str) -> VmView {
    let json = serde_json::json!({
        "id": id, "phase": phase, "desired": "running", "reason": null, "address": "10.0.0.2", "mac": null,
        "tap": null, "store_path": "/nix/store/0c4krx1ml0v9mkr10g8zvkbn5nwhv4b1-web", "hash": "sha256-x=", "generation": 3, "restarts": 1,
        "last_stop": null, "timings": {}, "warnings": [], "unverified": [], "metrics": null,
    });
    serde_json::from_value(json).expect("the form of an older worker")
}

fn plain_list(vms: &[VmView], now: Timestamp) -> String {
    let screen = Screen { width: None, colours: crate::colours::Colours::Unused };
    list(vms, now, screen, super::list::Columns::Usual)
}

fn reason(message: &str) -> Option<FailureReason> {
    Some(FailureReason::new(FailureKind::Host, message.to_owned()))
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
    let health = Health {
        ready: Readiness::NotReady,
        reason: Some("probe web: refused".to_owned()),
        ..Health::unknown(NOW)
    };
    let unready = VmView { health: Some(health), ..vm("y", "running") };
    let shown = plain_list(&[running, stopped, again, paused, unready], NOW);
    let expected = "\
ID      PHASE       READY  DESIRED  ADDRESS   CPU  MEMORY  RESTARTS  UPTIME  IMAGE  REASON
web-2   running                     10.0.0.2  7 %  93 MiB  1         3h 2m   web
web-3   stopped            running  10.0.0.2               1                 web
web-10  restarting         running  10.0.0.2               1                 web    no memory (again in 30s)
x       paused             running  10.0.0.2               1                 web    disk root: no space
y       running     no              10.0.0.2               1                 web    not ready: probe web: refused
";
    assert_eq!(shown, expected);
}

#[test]
fn what_keeps_the_process_of_a_vm_is_shown() {
    let process = ProcessView {
        pid: 4711,
        jailed: true,
        user: Some(1_879_048_192),
        jail_gaps: Vec::new(),
        seccomp: "trap".to_owned(),
    };
    let shown = |process| details(&VmView { process: Some(process), ..vm("web-1", "running") }, NOW);
    let whole = shown(process.clone());
    assert!(whole.contains("4711, jailed as user 1879048192, system calls filtered\n"), "{whole}");
    let gaps = vec!["Landlock: this kernel does not have it".to_owned()];
    let part =
        shown(ProcessView { user: None, jail_gaps: gaps, seccomp: "log".to_owned(), ..process.clone() });
    let words = "4711, jailed, in part (Landlock: this kernel does not have it), system calls not filtered (seccomp = \"log\")";
    assert!(part.contains(words), "{part}");
    let none = shown(ProcessView { jailed: false, user: None, seccomp: "off".to_owned(), ..process });
    assert!(none.contains("4711, in no jail, system calls not filtered (seccomp = \"off\")"), "{none}");
}

#[test]
fn a_crash_loop_is_told_of_also_while_its_vm_runs_for_a_moment() {
    let looping = |phase| VmView {
        reason: reason("the guest triple-faulted"),
        failures_in_a_row: 7,
        crash_looping: true,
        next_start_at: Some(NOW.after(Duration::from_secs(30))),
        ..vm("web-1", phase)
    };
    let shown = plain_list(&[looping("restarting"), looping("running")], NOW);
    let lines: Vec<&str> = shown.lines().collect();
    let words = "crash loop, 7 failures in a row: the guest triple-faulted";
    assert!(lines[1].ends_with(&format!("{words} (again in 30s)")), "{shown}");
    assert!(lines[2].ends_with(words), "{shown}");
    let shown = details(&looping("restarting"), NOW);
    assert!(shown.contains("7 (a crash loop)"), "{shown}");
    let once = VmView { failures_in_a_row: 1, ..vm("web-1", "running") };
    assert!(!details(&once, NOW).contains("in a row"));
}

#[test]
fn one_look_tells_why_a_boot_failed() {
    let timings = VmTimings { ended: Some(Duration::from_millis(900)), ..VmTimings::default() };
    let failed = FailureReason {
        console_tail: vec!["Kernel panic - not syncing: VFS".to_owned()],
        timings: Some(Box::new(timings)),
        ..FailureReason::new(FailureKind::Guest, "the guest's kernel panicked".to_owned())
    };
    let failed = failed.of_class(FailureClass::MissingDriver);
    let view = VmView { reason: Some(failed), ..vm("a", "failed") };
    let shown = details(&view, NOW);
    for words in [
        "the guest's kernel panicked",
        "guest, missing_driver",
        "virtio_blk",
        "end after 900.0 ms",
        "last console lines:\n  Kernel panic",
    ] {
        assert!(shown.contains(words), "{words} is not in:\n{shown}");
    }
}

#[test]
fn a_guest_that_waits_or_is_silent_is_told_to_be_so() {
    let class = FailureClass::NoRootDevice;
    let (line, hint) = ("ALERT!  /dev/vda9 does not exist.".to_owned(), class.hint().to_owned());
    let waiting = VmView { boot_trouble: Some(BootTrouble { class, line, hint }), ..vm("a", "running") };
    let shown = details(&waiting, NOW);
    assert!(shown.contains("ALERT!  /dev/vda9 does not exist. (no_root_device)"), "{shown}");
    assert!(shown.contains("compare root="), "{shown}");
    let listed = plain_list(&[waiting], NOW);
    assert!(listed.contains("its boot waits for a person: ALERT!"), "{listed}");

    let silent = |seconds| {
        let mut view = VmView { started_at: Some(earlier(seconds)), ..vm("a", "running") };
        view.timings.first_entry_ms = Some(20.0);
        view
    };
    assert!(details(&silent(31), NOW).contains("written nothing to its console in 31s"));
    assert!(!details(&silent(5), NOW).contains("silence"), "it may just be slow");
    let mut wrote = silent(31);
    wrote.timings.first_console_byte_ms = Some(25.0);
    assert!(!details(&wrote, NOW).contains("silence"));
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
    assert!(!shown.contains("egress"), "it may open connections to everything:\n{shown}");
    let rules = ["10.0.0.0/8", "1.1.1.1:443"].map(|rule| rule.parse().expect("a destination"));
    for (egress, words) in [(vec![], "nowhere"), (rules.to_vec(), "10.0.0.0/8, 1.1.1.1/32:443/tcp")] {
        let shown = details(&VmView { egress: Some(egress), ..vm("a", "running") }, NOW);
        assert!(shown.lines().any(|line| line.starts_with("egress") && line.ends_with(words)), "{shown}");
    }
}

#[test]
fn limits_stand_beside_what_is_taken_of_the_host() {
    let host = HostUseView {
        memory_bytes: 93 << 20,
        cpu_ms: 65_000,
        throttled_ms: 12_000,
        io_pressure_ms: 3_000,
        ..HostUseView::default()
    };
    let limits = ResourceLimits {
        cpu: Cores::from_thousandths(500),
        memory_max: Some(Bytes::from_mib(256)),
        ..ResourceLimits::default()
    };
    let metrics = sampled().map(|metrics| MetricsView { host: Some(host), ..metrics });
    let shown = details(&VmView { metrics, limits, ..vm("a", "running") }, NOW);
    let lines: Vec<String> =
        shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "limits cpu 0.5, memory_max 256 MiB",
        "host memory 93 MiB of 256 MiB",
        "host processors 1m 5s, held back for 12s at 0.5 cores",
        "waited for processors 0s, memory 0s, disks 3s",
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line}: {shown}");
    }
    let free = VmView { metrics: sampled(), ..vm("a", "running") };
    assert!(!details(&free, NOW).contains("limits"));
}

#[test]
fn what_is_wanted_stands_beside_what_is_in_force() {
    let overrides =
        Overrides { vcpus: Some(100), memory_bytes: Some(Bytes::from_mib(64)), cmdline_append: None };
    let assignment = Assignment {
        overrides,
        ..Assignment::new(VmId::new("a"), "sha256-y=", "/nix/store/0c4krx1ml0v9mkr10g8zvkbn5nwhv4b1-web")
    };
    let wanted = WantedChange { assignment, refusal: reason("this host has 4 CPUs"), next_try_at: None };
    let view = VmView { wanted: Some(wanted), ..vm("a", "running") };
    let shown = details(&view, NOW);
    for words in
        ["sha256-x=", "sha256-y=", "100 vCPUs, 64 MiB of memory", "not in force: this host has 4 CPUs"]
    {
        assert!(shown.contains(words), "{words} is not in:\n{shown}");
    }
    assert!(!shown.contains("wanted store path"), "it is the same:\n{shown}");
    let listed = plain_list(&[view], NOW);
    assert!(listed.contains("a change is not in force: this host has 4 CPUs"), "{listed}");
}

/// A worker of which there is nothing to note.
fn sound_worker() -> StatusView {
    StatusView {
        access: None,
        master: None,
        sources: Default::default(),
        owners: Default::default(),
        unclaimed: Default::default(),
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
        networks: Vec::new(),
        degradations: Vec::new(),
        log_lines_dropped: 0,
        log_queue_lines: 0,
        open_files_limit: Some(1 << 20),
        guests_outlive_worker: Some(true),
        refused_configuration: None,
        settings_for_restart: Vec::new(),
        directories: None,
    }
}

#[test]
fn everything_that_is_not_as_it_should_be_is_noted_in_a_line_of_its_own() {
    let good = sound_worker();
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
        log_queue_lines: 0,
        open_files_limit: Some(300),
        refused_configuration: Some("invalid network.nat".to_owned()),
        settings_for_restart: vec!["network.subnet".to_owned(), "log_format".to_owned()],
        ..good.clone()
    };
    assert_eq!(
        notes::lines(&notes(&bad)),
        "note: the assignments /etc/vms.json are missing: there is no file /etc/vms.json; VMs stay as they were\n\
         note: the entry of VM web-1 was refused: line 1:\\nno hash\n\
         note: VM db is left alone: its record cannot be used: line 1:\\nno hash\n\
         note: 5 lines of the worker's log were lost\n\
         note: the worker may have 300 files open only: many VMs do not fit\n\
         note: the configuration was not taken when it was read last, and the one before is in force: invalid network.nat\n\
         note: these settings have changed and hold after a restart of the worker: network.subnet, log_format\n"
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
    // Where several are held, each is told with whose it is.
    let source = |kind: SourceKind| {
        let status = SourceStatus { held: held.held.clone(), drained: true, ..SourceStatus::default() };
        (kind, SourceStatus { disruptions: vec![earlier(60), earlier(7200)], ..status })
    };
    let sources = [source(SourceKind::Master), source(SourceKind::File)].into();
    let several = StatusView { sources, ..held.clone() };
    let expected = ["the master", "the assignments file"]
        .map(|who| format!("the newest that {who} says (generation 4) is held: it removes every VM"));
    assert_eq!(notes(&several), expected);
    let shown = status_lines(&several, NOW);
    let standing = "nothing yet, which drains this host, held for what it removes; removed or replaced in the last \
                    hour: 1";
    assert!(shown.contains(standing), "{shown}");
    // And then the file went.
    let both = notes(&StatusView { assignments: bad.assignments, ..held });
    assert!(both.len() == 2 && both[0] == said && both[1].contains("missing"), "{both:?}");
}

#[test]
fn whose_word_a_vm_follows_is_told_and_that_it_is_drained() {
    let master = Some(SourceKind::Master);
    let drained =
        VmView { source: master, drained_by: master, desired: DesiredState::Stopped, ..vm("a", "running") };
    assert!(plain_list(std::slice::from_ref(&drained), NOW).contains("drained by the master"));
    let leaving = VmView { removing: true, source: None, ..vm("a", "stopping") };
    let listed = plain_list(&[leaving], NOW);
    assert!(listed.contains("  removed  ") && listed.contains("is being removed"), "{listed}");
    let screen = Screen { width: Some(40), colours: crate::colours::Colours::Unused };
    let wide = list(std::slice::from_ref(&drained), NOW, screen, super::list::Columns::Wide);
    assert!(wide.contains("  SOURCE  ") && wide.contains("  master  "), "{wide}");
    assert!(wide.ends_with("drained by the master\n"), "nothing is cut: {wide}");
    let inspected = details(&drained, NOW);
    assert!(inspected.lines().any(|line| line.starts_with("assigned by") && line.ends_with("the master")));
}

#[test]
fn orders_trials_and_turns_are_told() {
    let order = OperatorOrder {
        desired: DesiredState::Stopped,
        assigned: DesiredState::Running,
        given_at: earlier(60),
        by: Some(0),
    };
    let ordered = VmView { desired: DesiredState::Stopped, order: Some(order), ..vm("a", "stopped") };
    let trial = OnTrial {
        since: earlier(20),
        deadline: earlier(20).after(Duration::from_secs(120)),
        on_failure: RolloutFailure::RollBack,
    };
    let tried = VmView { on_trial: Some(trial), ..vm("b", "running") };
    let waiting = VmView { waits_to_start: true, ..vm("c", "creating") };
    let failing = VmView { reason: reason("no kernel"), on_trial: tried.on_trial, ..vm("d", "failed") };
    let listed = plain_list(&[ordered.clone(), tried.clone(), waiting.clone(), failing], NOW);
    for words in [
        "stopped by an operator (uid 0) since 2024-02-29T13:06:09Z; its assignment says running",
        "its definition is on trial, 1m 40s left",
        "waits for its turn to start",
        "no kernel (on trial, 1m 40s left)",
    ] {
        assert!(listed.contains(words), "{words} is not in:\n{listed}");
    }
    assert!(details(&ordered, NOW).contains("stopped by an operator"));
    assert!(
        details(&tried, NOW).contains("if it is not ready in 1m 40s, the one before is put in force again")
    );
    assert!(details(&waiting, NOW).contains("for its turn"));
}

#[test]
fn an_interface_that_does_not_fit_its_network_is_marked() {
    let with = |network: &str, ipv6: Option<&str>, mismatch: serde_json::Value| {
        let nic = serde_json::json!({
            "id": "net0", "network": network, "address": "10.0.0.2", "ipv6": ipv6, "mac": "02:00:00:00:00:01",
            "mismatch": mismatch,
        });
        let nic: admin::InterfaceView = serde_json::from_value(nic).expect("an interface");
        VmView { ipv6: nic.ipv6, interfaces: vec![nic], ..vm("a", "running") }
    };
    let shown = |vm: VmView| {
        let screen = Screen { width: None, colours: crate::colours::Colours::Unused };
        let table = list(&[vm], NOW, screen, super::list::Columns::Wide);
        table.lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let removed = shown(with("lan", None, "network_removed".into()));
    assert!(removed.contains("10.0.0.2 (lan, removed)"), "{removed}");
    assert!(removed.ends_with("interface net0: its network is not configured any more"), "{removed}");
    let moved = serde_json::json!({ "address_outside": { "subnet": "10.1.0.0/24" } });
    let moved = shown(with("default", None, moved));
    assert!(
        moved.contains("10.0.0.2 (former)") && moved.ends_with("its network is 10.1.0.0/24 now"),
        "{moved}"
    );
    let given = |address: Option<&str>| serde_json::json!({ "ipv6_changed": { "given": address } });
    for (now, given, expected) in [
        (Some("fd00::2"), given(Some("fd01::2")), "fd00::2 (guest: fd01::2)"),
        (None, given(Some("fd01::2")), "fd01::2 (former)"),
        (Some("fd00::2"), given(None), "fd00::2 (guest: none)"),
    ] {
        let row = shown(with("default", now, given));
        assert!(row.contains(&format!("10.0.0.2 {expected} ")), "{row}");
    }
}
