//! The reconciling node: a desired state comes in, the VMs follow.

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::{DesiredState, Generation};
use worker::node::Refusal;
use worker::vms::{VmId, VmManager, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{await_console, await_vm, console, isolated, until};

#[test]
fn vms_follow_what_is_assigned() {
    isolated(|bench| {
        let (first, second) =
            (bench.plain("first", &TinyGuest::idle()), bench.plain("second", &TinyGuest::idle()));
        let node = Told::start(bench.manager());
        let (running, stopped) = (DesiredState::Running, DesiredState::Stopped);

        let all = vec![
            assigned("a", &first, running),
            assigned("b", &first, running),
            assigned("c", &first, stopped),
        ];
        assert_eq!(node.tell(Some(3), all.clone()), Ok(Generation::new(3)));
        node.await_phase("a", "running");
        node.await_phase("b", "running");
        node.await_phase("c", "stopped");
        let address = node.manager.get_vm(&VmId::new("a")).expect("there").nics[0].address;

        assert!(matches!(node.tell(Some(2), vec![]), Err(Refusal::Older { .. })));
        assert!(matches!(node.tell(Some(3), vec![]), Err(Refusal::Contradiction { .. })));
        assert_eq!(node.manager.list_vms().len(), 3, "a refused state changes nothing");

        // One is replaced, one goes, one is paused.
        let next = vec![assigned("a", &second, running), assigned("c", &first, DesiredState::Paused)];
        assert_eq!(node.tell(Some(4), next), Ok(Generation::new(4)));
        node.await_phase("c", "paused");
        until("b is gone", || node.manager.get_vm(&VmId::new("b")).is_err());
        let replaced = await_vm(&node.manager, &VmId::new("a"), "replaced", |info| {
            info.status == VmStatus::Running && info.assignment.store_path == second.path
        });
        assert_eq!(replaced.nics[0].address, address, "a replaced VM keeps its address");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_node_that_comes_back_knows_what_should_run() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::idle());
        let node = Told::start(bench.manager());
        node.tell(None, vec![assigned("a", &artifact, DesiredState::Running)]).expect("taken");
        node.await_phase("a", "running");
        let manager = node.end();
        manager.shutdown().expect("ends");
        drop(manager);

        let node = Told::start(bench.manager());
        node.await_phase("a", "running");
        let other = vec![assigned("b", &artifact, DesiredState::Running)];
        assert_eq!(node.tell(None, other), Ok(Generation::new(2)), "the numbering goes on");
        until("a is gone", || node.manager.get_vm(&VmId::new("a")).is_err());
        node.end();
    });
}

#[test]
fn a_vm_is_built_paused_where_that_is_assigned_and_runs_when_it_should() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::idle());
        let node = Told::start(bench.manager());
        node.tell(Some(1), vec![assigned("a", &artifact, DesiredState::Paused)]).expect("taken");
        node.await_phase("a", "paused");
        let id = VmId::new("a");
        assert_eq!(console(&node.manager, &id), "", "not an instruction was run");
        node.tell(Some(2), vec![assigned("a", &artifact, DesiredState::Running)]).expect("taken");
        await_console(&node.manager, &id, "ready");
        node.await_phase("a", "running");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn an_assignment_that_changes_starts_a_guest_that_had_switched_itself_off() {
    isolated(|bench| {
        let (hello, idle) =
            (bench.plain("hello", &TinyGuest::hello("x\n")), bench.plain("idle", &TinyGuest::idle()));
        let node = Told::start(bench.manager());
        let all = |desired| vec![assigned("a", &hello, desired), assigned("b", &idle, DesiredState::Running)];
        let starts = |node: &Told| node.manager.get_vm(&VmId::new("a")).expect("there").starts;
        node.tell(Some(1), all(DesiredState::Running)).expect("taken");
        until("it was started", || starts(&node) == 1);
        node.await_phase("a", "stopped");
        node.await_phase("b", "running");
        node.tell(Some(2), all(DesiredState::Running)).expect("taken");
        let seen = await_vm(&node.manager, &VmId::new("b"), "numbered", |info| {
            info.generation == Generation::new(2)
        });
        assert_eq!((seen.starts, starts(&node)), (1, 1), "nothing has changed but the number");

        node.tell(Some(3), all(DesiredState::Stopped)).expect("taken");
        await_vm(&node.manager, &VmId::new("a"), "numbered", |info| info.generation == Generation::new(3));
        node.tell(Some(4), all(DesiredState::Running)).expect("taken");
        until("it was started again", || starts(&node) == 2);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn an_address_passes_from_a_vm_that_goes_to_one_that_comes() {
    isolated(|bench| {
        let net = json!({ "net": [{ "ip": "10.77.0.9" }] });
        // One that takes its time to go.
        let old = bench.artifact("old", &TinyGuest::spin(), &net);
        let new = bench.artifact("new", &TinyGuest::idle(), &net);
        let node = Told::start(VmManager::new(bench.config()).expect("starts"));
        node.tell(Some(1), vec![assigned("old", &old, DesiredState::Running)]).expect("taken");
        node.await_phase("old", "running");
        node.tell(Some(2), vec![assigned("new", &new, DesiredState::Running)]).expect("taken");
        node.await_phase("new", "running");
        let info = node.manager.get_vm(&VmId::new("new")).expect("there");
        assert_eq!(info.nics[0].address.to_string(), "10.77.0.9");
        node.end().shutdown().expect("ends");
    });
}
