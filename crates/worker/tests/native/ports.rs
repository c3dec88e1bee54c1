//! Ports of the host that pass from one VM to another, and ports that two VMs want.

use std::net::TcpListener;

use serde_json::json;
use tiny_guest::TinyGuest;
use vm_model::{Assignment, DesiredState};
use worker::vms::{VmId, VmInfo, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{Artifact, await_vm, isolated};

fn with_ports(id: &str, image: &Artifact, ports: &[&str]) -> Assignment {
    let mut vm = assigned(id, image, DesiredState::Running);
    vm.procurator = json!({ "ports": ports }).as_object().expect("an object").clone();
    vm
}

fn ports(info: &VmInfo) -> Vec<String> {
    info.nics.iter().flat_map(|nic| &nic.access.forwards).map(ToString::to_string).collect()
}

fn await_ports(node: &Told, id: &str, wanted: &str) -> VmInfo {
    await_vm(&node.manager, &VmId::new(id), wanted, |info| {
        info.status == VmStatus::Running && ports(info) == [wanted]
    })
}

#[test]
fn vms_exchange_their_ports_in_one_edit() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::power_button());
        let node = Told::start(bench.manager());
        let both = |a, b| vec![with_ports("a", &image, &[a]), with_ports("b", &image, &[b])];
        node.tell(None, both("8080:80", "8081:80")).expect("taken");
        await_ports(&node, "a", "8080:80/tcp");
        await_ports(&node, "b", "8081:80/tcp");

        let plan = node.preview(both("8081:80", "8080:80"));
        let words: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
        assert!(words[0].starts_with("restart a: ports 8080:80/tcp → 8081:80/tcp"), "{words:?}");
        assert!(
            plan.notes.iter().any(|note| note.starts_with("port 8081/tcp of the host passes from b to a"))
        );

        node.tell(None, both("8081:80", "8080:80")).expect("taken");
        for (id, port) in [("a", "8081:80/tcp"), ("b", "8080:80/tcp")] {
            let info = await_ports(&node, id, port);
            assert_eq!((info.starts, info.failures), (2, 0), "{:?}", info.last_failure);
        }
        // One gives it up and the other gets it, also where that one is new.
        node.tell(None, vec![with_ports("b", &image, &[]), with_ports("c", &image, &["8080:80"])])
            .expect("taken");
        await_ports(&node, "c", "8080:80/tcp");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn vms_exchange_their_ports_although_another_state_comes_while_they_do() {
    isolated(|bench| {
        // Their guests ignore the power button: the exchange takes a while.
        let image = bench.plain("image", &TinyGuest::idle());
        let node = Told::start(bench.manager());
        let both = |a, b| vec![with_ports("a", &image, &[a]), with_ports("b", &image, &[b])];
        node.tell(None, both("8080:80", "8081:80")).expect("taken");
        await_ports(&node, "a", "8080:80/tcp");
        await_ports(&node, "b", "8081:80/tcp");
        node.tell(None, both("8081:80", "8080:80")).expect("taken");
        node.await_phase("a", "stopping");
        let other = assigned("c", &image, DesiredState::Stopped);
        node.tell(None, [both("8081:80", "8080:80"), vec![other]].concat()).expect("taken");
        for (id, port) in [("a", "8081:80/tcp"), ("b", "8080:80/tcp")] {
            let info = await_ports(&node, id, port);
            assert_eq!((info.starts, info.failures), (2, 0), "{:?}", info.last_failure);
        }
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_port_that_two_vms_want_is_refused_before_anything_is_stopped() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::power_button());
        let node = Told::start(bench.manager());
        node.tell(None, vec![with_ports("a", &image, &["8080:80"]), with_ports("b", &image, &["8081:80"])])
            .expect("taken");
        await_ports(&node, "a", "8080:80/tcp");
        await_ports(&node, "b", "8081:80/tcp");
        let both = vec![with_ports("a", &image, &["9000:80"]), with_ports("b", &image, &["9000:80"])];
        let plan = node.plan(both.clone());
        assert!(plan[0].starts_with("restart a"), "{plan:?}");
        assert!(
            plan[1].starts_with(
                "keep b as it is: its new definition cannot be used: the port forward 9000:80/tcp of b"
            ),
            "{plan:?}"
        );
        node.tell(None, both).expect("taken");
        await_ports(&node, "a", "9000:80/tcp");
        let info = await_vm(&node.manager, &VmId::new("b"), "refused", |info| {
            info.wanted.as_ref().is_some_and(|wanted| wanted.refusal.is_some())
        });
        assert_eq!(
            (&info.status, info.starts, ports(&info)),
            (&VmStatus::Running, 1, vec!["8081:80/tcp".into()])
        );
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_port_that_a_program_listens_on_is_refused_before_anything_is_stopped() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::power_button());
        let node = Told::start(bench.manager());
        node.tell(None, vec![with_ports("a", &image, &["8080:80"])]).expect("taken");
        await_ports(&node, "a", "8080:80/tcp");
        let program = TcpListener::bind("0.0.0.0:7444").expect("listens");
        let wanted = vec![with_ports("a", &image, &["7444:443"])];
        let plan = node.plan(wanted.clone());
        let expected = "keep a as it is: its new definition cannot be used: the port forward 7444:443/tcp cannot be had: \
                        this worker listens on port 7444/tcp of this host";
        assert!(plan[0].starts_with(expected), "{plan:?}");
        node.tell(None, wanted).expect("taken");
        let info = await_vm(&node.manager, &VmId::new("a"), "refused", |info| {
            info.wanted.as_ref().is_some_and(|wanted| wanted.refusal.is_some())
        });
        assert_eq!(
            (&info.status, info.starts, ports(&info)),
            (&VmStatus::Running, 1, vec!["8080:80/tcp".into()])
        );
        drop(program);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn an_address_of_a_removed_vm_is_refused_with_who_has_it_and_what_frees_it() {
    isolated(|bench| {
        let disk = json!([{ "id": "data", "size": 1 << 20 }]);
        let more = json!({ "net": [{ "ip": "10.77.0.9" }], "procurator": { "disks": disk } });
        let image = bench.artifact("image", &TinyGuest::lives_and_idle(0), &more);
        let node = Told::start(bench.manager());
        let vm = |id: &str| assigned(id, &image, DesiredState::Running);
        node.tell(
            None,
            vec![
                vm("a"),
                assigned("other", &bench.plain("plain", &TinyGuest::idle()), DesiredState::Stopped),
            ],
        )
        .expect("taken");
        node.await_phase("a", "running");
        let other =
            vec![assigned("other", &bench.hashed(bench.store().join("plain")), DesiredState::Stopped)];
        node.tell(None, other.clone()).expect("taken");
        crate::workbench::until("it is gone", || node.manager.get_vm(&VmId::new("a")).is_err());
        let wanted = [other, vec![vm("b")]].concat();
        let notes = node.preview(wanted.clone()).notes;
        let frees = "a was removed and is kept until";
        let note = notes.iter().find(|note| note.contains("b would not start")).expect("told");
        assert!(note.contains(frees) && note.contains("`procurator-worker gc a` frees it"), "{note}");
        node.tell(None, wanted).expect("taken");
        let failed = await_vm(&node.manager, &VmId::new("b"), "failed", |info| info.last_failure.is_some());
        let reason = failed.last_failure.expect("it was just seen").message;
        assert!(reason.contains(frees) && reason.contains("gc a"), "{reason}");
        node.end().shutdown().expect("ends");
    });
}
