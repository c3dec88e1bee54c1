//! Whether guests are well, as their probes find it on real machines.

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::{ConditionKind, FailureClass, Readiness};
use worker::vms::{VmId, VmManager, VmManagerConfig};

use crate::workbench::{await_vm, isolated};

fn ready(info: &worker::vms::VmInfo) -> Option<Readiness> {
    info.health.as_ref().map(|health| health.ready)
}

#[test]
fn a_guest_is_ready_when_its_probe_says_so_and_its_end_forgets_that() {
    isolated(|bench| {
        let probe = json!({ "id": "up", "role": "readiness", "kind": "console", "marker": "ready" });
        let health = json!({ "procurator": { "health": { "probes": [probe] } } });
        let image = bench.artifact("image", &TinyGuest::idle(), &health);
        let (manager, id) = (bench.manager(), VmId::new("a"));
        manager.create_vm(id.clone(), &image.hash, &image.path).expect("runs");
        let info = await_vm(&manager, &id, "ready", |info| ready(info) == Some(Readiness::Ready));
        let condition = info.conditions.iter().find(|one| one.kind == ConditionKind::Ready).expect("stated");
        assert!(condition.holds, "{condition:?}");
        manager.stop_vm(&id).expect("stops");
        let info = manager.get_vm(&id).expect("there");
        assert_eq!(info.health, None);
        assert!(info.conditions.iter().any(|one| one.kind == ConditionKind::Ready && !one.holds));
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_guest_that_fails_its_liveness_probe_is_started_again() {
    isolated(|bench| {
        // Nobody listens on that port of a guest without a network stack.
        let probe = json!({ "id": "ssh", "role": "liveness", "kind": "tcp", "port": 22, "period_s": 1,
                            "timeout_s": 1, "failure_threshold": 1 });
        let health = json!({ "procurator": { "health": { "probes": [probe] } }, "net": [{}] });
        let image = bench.artifact("image", &TinyGuest::power_button(), &health);
        let manager =
            VmManager::new(VmManagerConfig { auto_restart: true, ..bench.config() }).expect("starts");
        let id = VmId::new("a");
        manager.create_vm(id.clone(), &image.hash, &image.path).expect("runs");
        let info = await_vm(&manager, &id, "started again", |info| info.failures > 0 && info.starts > 1);
        let reason = info.last_failure.expect("there is one");
        assert_eq!(reason.class, Some(FailureClass::Unhealthy));
        assert!(reason.message.starts_with("the guest does not answer: "), "{}", reason.message);
        manager.shutdown().expect("ends");
    });
}
