//! One message of each type with every key in it, for tests.

use vm_model::{Assignment as VmAssignment, AssignmentSet, Generation, Lineage, VmId};

use crate::wire::v1::*;
use crate::wire::{List, Text};

pub(crate) fn hello() -> Hello {
    Hello {
        versions: List::cut([1]),
        worker: "worker-1".parse().expect("a worker's name"),
        run: Text::cut("0193f1a2-7c1e-7b43-9d5e-2f6a1c0b8e11"),
        host: Some(Text::cut("b0a2c7f4-52c5-4b4c-9a6e-0f3d8a1e7c55")),
        capacity: Capacity {
            processors: 64,
            memory_bytes: 274_877_906_944,
            memory_assignable_bytes: Some(274_609_471_488),
            disk_bytes: Some(1_099_511_627_776),
            vms: Some(1024),
        },
        engine: Engine {
            name: Text::cut("procurator"),
            version: Text::cut("0.1.0"),
            features: List::cut([Text::cut("vhost-net")]),
        },
        cpu: Cpu {
            architecture: Text::cut("x86_64"),
            vendor: Text::cut("AuthenticAMD"),
            model: Text::cut("AMD EPYC 7763"),
            features: List::cut([Text::cut("avx2"), Text::cut("sev")]),
        },
        store_paths: List::cut([Text::cut("/nix/store/00000000000000000000000000000000-vm-image")]),
        store_paths_complete: true,
        in_force: Some(InForce {
            master: Text::cut("master.example.org"),
            epoch: Text::cut("2026-11-27"),
            generation: 6,
        }),
    }
}

pub(crate) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        heartbeat_ms: 10_000,
        master: Text::cut("master.example.org"),
        epoch: Text::cut("2026-11-27"),
    }
}

pub(crate) fn assignment_set(generation: u64, names: &[&str]) -> AssignmentSet {
    let vm = |name: &&str| {
        let hash = "sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY=";
        VmAssignment::new(VmId::new(name), hash, "/nix/store/00000000000000000000000000000000-vm-image")
    };
    AssignmentSet {
        generation: Some(Generation::new(generation)),
        vms: names.iter().map(vm).collect(),
        ..AssignmentSet::default()
    }
}

pub(crate) fn lineage() -> Lineage {
    Lineage::new("master.example.org", "2026-11-27").expect("a master and its epoch")
}

pub(crate) fn assignment(generation: u64, names: &[&str]) -> Assignment {
    let set = assignment_set(generation, names);
    Assignment::new(&lineage(), Generation::new(generation), &set).expect("JSON")
}

fn held() -> Held {
    Held {
        generation: 8,
        since_ms: 1_795_766_400_000,
        removals: 3,
        waits_for: HeldFor::Removals,
        reason: Text::cut("an empty desired state would remove all 3 VMs"),
    }
}

pub(crate) fn vm_report(name: &str) -> VmReport {
    VmReport {
        vm: VmId::new(name),
        phase: Phase::Restarting,
        readiness: Readiness::NotReady,
        reason: Some(Reason {
            kind: Text::cut("guest"),
            class: Some(Text::cut("kernel_panic")),
            message: Text::cut("the guest's kernel panicked"),
            hint: Some(Text::cut("look at the last lines of its console")),
            retried: true,
        }),
        addresses: List::cut([Address {
            nic: Text::cut("net0"),
            address: Text::cut("10.100.0.2"),
            mac: Text::cut("02:50:0a:64:00:02"),
        }]),
        image: Text::cut("/nix/store/00000000000000000000000000000000-vm-image"),
        hash: Text::cut("sha256-vZsuiNNAbVoV1qgClBpHhRQ8DSbbp6Lz6NMMLS5CqVY="),
        generation: 7,
        source: Some(Source::Master),
        restarts: 2,
        started_at_ms: Some(1_795_766_300_000),
        metrics: Some(Metrics {
            sampled_at_ms: 1_795_766_399_000,
            cpu_millicores: Some(1250),
            cpu_ms_total: 81_250,
            memory_size_bytes: 536_870_912,
            memory_resident_bytes: 201_326_592,
            memory_available_bytes: Some(402_653_184),
            network_receive_bytes_total: 1_048_576,
            network_transmit_bytes_total: 524_288,
            disk_read_bytes_total: 67_108_864,
            disk_written_bytes_total: 16_777_216,
        }),
        conditions: List::cut([Condition {
            kind: ConditionKind::Applied,
            holds: false,
            since_ms: Some(1_795_766_350_000),
            reason: Text::cut("the artifact does not have the hash it was assigned with"),
        }]),
    }
}

pub(crate) fn node_report() -> NodeReport {
    NodeReport {
        at_ms: 1_795_766_400_000,
        observed_generation: Some(8),
        applied_generation: Some(7),
        held: Some(held()),
        refusal: Some(Text::cut("generation 6 is older than generation 7, which is in force")),
        refused_vms: List::cut([RefusedVm { vm: VmId::new("db"), problem: Text::cut("vms[1].hash: 7") }]),
        memory_available_bytes: Some(137_438_953_472),
        disk_available_bytes: Some(549_755_813_888),
        conditions: List::cut([Condition {
            kind: ConditionKind::Complete,
            holds: false,
            since_ms: Some(1_795_766_000_000),
            reason: Text::cut("no /dev/vhost-net"),
        }]),
        kept: List::cut([Kept {
            vm: VmId::new("old"),
            removed_at_ms: 1_795_766_100_000,
            kept_until_ms: 1_795_852_500_000,
        }]),
    }
}

pub(crate) fn worker_messages() -> Vec<WorkerMessage> {
    vec![
        WorkerMessage::Hello(Box::new(hello())),
        WorkerMessage::Accepted(Accepted {
            epoch: Text::cut("2026-11-27"),
            generation: 7,
            held: Some(held()),
            outcomes: List::cut([Outcome {
                vm: VmId::new("web-1"),
                action: Text::cut("create"),
                problem: Some(Text::cut("its record is damaged")),
            }]),
        }),
        WorkerMessage::Refused(Refused {
            epoch: Text::cut("2026-11-27"),
            generation: 6,
            code: RefusalCode::Older,
            text: Text::cut("generation 6 is older than generation 7, which is in force"),
        }),
        WorkerMessage::Report(Box::new(Report {
            sequence: 2,
            full: true,
            more: true,
            node: node_report(),
            vms: List::cut([vm_report("web-1")]),
            gone: List::cut([VmId::new("old")]),
        })),
        WorkerMessage::Ping(Ping { nonce: 4 }),
        WorkerMessage::Pong(Pong { nonce: 9 }),
        WorkerMessage::Goodbye(goodbye()),
    ]
}

pub(crate) fn master_messages() -> Vec<MasterMessage> {
    vec![
        MasterMessage::Welcome(welcome()),
        MasterMessage::Assignment(assignment(7, &["web-1"])),
        MasterMessage::ReportRequest(ReportRequest {}),
        MasterMessage::Ping(Ping { nonce: 9 }),
        MasterMessage::Pong(Pong { nonce: 4 }),
        MasterMessage::Goodbye(goodbye()),
    ]
}

fn goodbye() -> Goodbye {
    Goodbye { code: GoodbyeCode::ShuttingDown, text: Text::cut("the master is being updated") }
}

#[test]
fn version_one_is_written_as_it_was_released() {
    let written = |message: Result<serde_json::Value, serde_json::Error>| message.expect("JSON");
    for message in worker_messages() {
        let json = written(serde_json::to_value(&message));
        insta::assert_json_snapshot!(format!("worker_{}", json["type"].as_str().unwrap_or_default()), json);
    }
    for message in master_messages() {
        let json = written(serde_json::to_value(&message));
        insta::assert_json_snapshot!(format!("master_{}", json["type"].as_str().unwrap_or_default()), json);
    }
}
