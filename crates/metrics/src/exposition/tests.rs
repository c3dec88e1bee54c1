//! What a scraper reads of made-up figures.

use std::time::Duration;

use vm_model::{Assignment, Generation, VmId};

use super::*;
use crate::{DiskMetrics, NicMetrics, VcpuMetrics};

fn worker() -> WorkerFigures {
    WorkerFigures {
        version: "1.2.3".to_owned(),
        since: Timestamp::from_millis(1_500),
        master_connected: Some(true),
        is_held: false,
        degradations: 0,
        damaged: 0,
        log_lines_dropped: 7,
    }
}

fn vm(status: vm_model::VmStatus) -> VmFigures {
    let assignment = Assignment::new(VmId::new("web-1"), "sha256-x=", "/nix/store/a\"b");
    let metrics = VmMetrics {
        memory_resident_bytes: 4096,
        vcpus: vec![VcpuMetrics { seconds: 1.5, exits: 3, percent: 0.0 }],
        nics: vec![NicMetrics { id: "net0".to_owned(), receive_bytes: 5, ..NicMetrics::default() }],
        disks: vec![DiskMetrics { id: "root".to_owned(), written_bytes: 512, ..DiskMetrics::default() }],
        age: Duration::ZERO,
        ..VmMetrics::default()
    };
    let info = VmInfo { status, restarts: 2, ..VmInfo::new(assignment, Generation::new(4)) };
    VmFigures { info, metrics: Some(metrics) }
}

fn rendered(vms: Vec<VmFigures>) -> String {
    Exposition { worker: worker(), vms }.render().expect("rendered")
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
        "# UNIT procurator_vm_vcpu_seconds seconds",
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
    let names =
        WORKER_FAMILIES.iter().map(Family::full_name).chain(VM_FAMILIES.iter().map(Family::full_name));
    let rows: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `procurator_")).collect();
    let mut count = 0;
    for name in names {
        assert!(
            rows.iter().any(|row| row.starts_with(&format!("| `{name}` |"))),
            "docs/metrics.md lacks {name}"
        );
        count += 1;
    }
    assert_eq!(rows.len(), count, "docs/metrics.md describes series that there are not");
}
