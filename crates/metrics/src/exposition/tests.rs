//! What a scraper reads of made-up figures.

use std::time::Duration;

use vm_model::{Assignment, Generation, KvmCounters, ThreadCounters, VmId};

use super::*;
use crate::{DiskMetrics, NicMetrics, StartStep, VcpuMetrics, WorkerMeters};

fn worker() -> WorkerFigures {
    WorkerFigures {
        version: "1.2.3".to_owned(),
        since: Timestamp::from_millis(1_500),
        master_connected: Some(true),
        is_held: false,
        degradations: 0,
        damaged: 0,
        log_lines_dropped: 7,
        log_queue_lines: 1,
        node_queue_messages: 2,
        durations: durations(),
    }
}

fn durations() -> WorkerDurations {
    let meters = WorkerMeters::default();
    meters.reconcile.record(Duration::from_millis(3));
    meters.step_done(StartStep::Disks, Duration::from_secs(3));
    meters.read()
}

fn vm(status: vm_model::VmStatus) -> VmFigures {
    let assignment = Assignment::new(VmId::new("web-1"), "sha256-x=", "/nix/store/a\"b");
    let vcpu = VcpuMetrics {
        seconds: 1.5,
        exits: 3,
        thread: Some(ThreadCounters { run_delay: Duration::from_millis(250), ..ThreadCounters::default() }),
        kvm: Some(KvmCounters { halt_exits: 9, halt_time: Duration::from_secs(4), ..KvmCounters::default() }),
        ..VcpuMetrics::default()
    };
    let mut disk = DiskMetrics { id: "root".to_owned(), written_bytes: 512, ..DiskMetrics::default() };
    disk.latency.write.record(Duration::from_micros(300));
    let metrics = VmMetrics {
        memory_resident_bytes: 4096,
        vcpus: vec![vcpu],
        nics: vec![NicMetrics { id: "net0".to_owned(), receive_bytes: 5, ..NicMetrics::default() }],
        disks: vec![disk],
        age: Duration::ZERO,
        ..VmMetrics::default()
    };
    let info = VmInfo { status, restarts: 2, ..VmInfo::new(assignment, Generation::new(4)) };
    VmFigures { info, metrics: Some(metrics), volumes: [("data".to_owned(), Bytes::new(4096))].into() }
}

fn rendered(vms: Vec<VmFigures>) -> String {
    Exposition { worker: worker(), vms }.render(Format::OpenMetrics)
}

#[test]
fn series_have_units_and_labels_and_the_text_an_end() {
    let text = rendered(vec![vm(vm_model::VmStatus::Running)]);
    for line in [
        "procurator_build_info{version=\"1.2.3\"} 1",
        "procurator_start_time_seconds 1.5",
        "procurator_master_connected 1",
        "procurator_log_lines_dropped_total 7",
        "procurator_vm_info{vm=\"web-1\",store_path=\"/nix/store/a\\\"b\",hash=\"sha256-x=\",generation=\"4\"} 1",
        "procurator_vm_phase{vm=\"web-1\",phase=\"running\"} 1",
        "procurator_vm_phase{vm=\"web-1\",phase=\"failed\"} 0",
        "procurator_vm_restarts_total{vm=\"web-1\"} 2",
        "procurator_vm_vcpu_seconds_total{vm=\"web-1\",vcpu=\"0\"} 1.5",
        "procurator_vm_memory_resident_bytes{vm=\"web-1\"} 4096",
        "procurator_vm_network_receive_bytes_total{vm=\"web-1\",device=\"net0\"} 5",
        "procurator_vm_disk_written_bytes_total{vm=\"web-1\",disk=\"root\"} 512",
        "procurator_vm_volume_allocated_bytes{vm=\"web-1\",disk=\"data\"} 4096",
        "# UNIT procurator_vm_vcpu_seconds seconds",
        "# TYPE procurator_build info",
        "procurator_vm_vcpu_run_delay_seconds_total{vm=\"web-1\",vcpu=\"0\"} 0.25",
        "procurator_vm_vcpu_halted_seconds_total{vm=\"web-1\",vcpu=\"0\"} 4",
        "procurator_vm_vcpu_kvm_exits_by_kind_total{vm=\"web-1\",vcpu=\"0\",kind=\"halt\"} 9",
        "procurator_vm_disk_request_duration_seconds_bucket{vm=\"web-1\",disk=\"root\",request=\"write\",le=\"0.00025\"} 0",
        "procurator_vm_disk_request_duration_seconds_bucket{vm=\"web-1\",disk=\"root\",request=\"write\",le=\"0.0005\"} 1",
        "procurator_vm_disk_request_duration_seconds_bucket{vm=\"web-1\",disk=\"root\",request=\"write\",le=\"+Inf\"} 1",
        "procurator_vm_disk_request_duration_seconds_sum{vm=\"web-1\",disk=\"root\",request=\"write\"} 0.0003",
        "procurator_reconcile_duration_seconds_count 1",
        "procurator_start_step_duration_seconds_bucket{step=\"disks\",le=\"10.0\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn nothing_stays_of_what_is_gone() {
    let stopped = rendered(vec![vm(vm_model::VmStatus::Stopped)]);
    assert!(!stopped.contains("memory_resident_bytes{"), "no machine, no memory");
    assert!(stopped.contains("procurator_vm_vcpu_seconds_total{"), "totals stay");
    assert!(!rendered(Vec::new()).contains("web-1"));
}

#[test]
fn every_series_is_described() {
    let documented = include_str!("../../../../docs/metrics.md");
    let rows: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `procurator_")).collect();
    let mut count = 0;
    for name in families::names() {
        assert!(
            rows.iter().any(|row| row.starts_with(&format!("| `{name}` |"))),
            "docs/metrics.md lacks {name}"
        );
        count += 1;
    }
    assert_eq!(rows.len(), count, "docs/metrics.md describes series that there are not");
}

#[test]
fn a_kernel_that_tells_nothing_has_no_series_for_it() {
    let mut silent = vm(vm_model::VmStatus::Running);
    let vcpu = &mut silent.metrics.as_mut().expect("it was sampled").vcpus[0];
    (vcpu.kvm, vcpu.thread) = (None, None);
    let text = rendered(vec![silent]);
    for name in
        ["run_delay_seconds_total{", "kvm_exits_total{", "page_faults_total{", "halted_seconds_total{"]
    {
        assert!(!text.contains(name), "{name} is in:\n{text}");
    }
    assert!(text.contains("procurator_vm_vcpu_exits_total{"), "the worker's own count is there");
}

#[test]
fn plain_prometheus_text_has_metadata_by_the_series_names() {
    let text = Exposition { worker: worker(), vms: Vec::new() }.render(Format::Prometheus);
    assert!(text.contains("# TYPE procurator_build_info gauge\nprocurator_build_info{"), "{text}");
    assert!(text.contains("# TYPE procurator_log_lines_dropped_total counter\n"), "{text}");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
}

/// The names of series in `text`.
fn names_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("procurator_"))
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_series_that_there_are() {
    let exported: Vec<String> = families::names().collect();
    let is_exported = |name: &str| {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        exported.iter().any(|known| known == name || Some(known.as_str()) == of_histogram)
    };
    let dashboard = include_str!("../../../../packaging/procurator-dashboard.json");
    serde_json::from_str::<serde_json::Value>(dashboard).expect("JSON");
    let rules = include_str!("../../../../packaging/procurator.rules.yml");
    for (file, text, least) in [("dashboard", dashboard, 20), ("rules", rules, 12)] {
        let unknown: Vec<&str> = names_in(text).filter(|name| !is_exported(name)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "the {file} asks for what is not exported");
        assert!(names_in(text).count() >= least, "the {file} asks for little");
    }
}
