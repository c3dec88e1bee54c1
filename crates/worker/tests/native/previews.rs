//! What a dry run has to say beside its actions, and what states that change nothing about a failed VM do to it.

use tiny_guest::TinyGuest;
use vm_model::{Assignment, AssignmentSet, DesiredState, Overrides, Source};
use worker::node::LocalCommand;
use worker::vms::{VmId, VmManager, VmManagerConfig};

use crate::told::{Told, assigned};
use crate::workbench::{await_vm, isolated};

const RUNNING: DesiredState = DesiredState::Running;
const STOPPED: DesiredState = DesiredState::Stopped;

#[test]
fn a_plan_says_which_orders_of_operators_it_ends() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let node = Told::start(bench.manager());
        let vm = |id: &str| assigned(id, &image, RUNNING);
        node.tell(None, vec![vm("a"), vm("b"), vm("c")]).expect("taken");
        for id in ["a", "b", "c"] {
            let order = LocalCommand::Order { vm: VmId::new(id), desired: STOPPED, by: Some(7) };
            node.command(order).expect("obeyed");
            node.await_phase(id, "stopped");
        }
        let mut edited = vm("a");
        edited.overrides = Overrides { vcpus: Some(2), ..Overrides::default() };
        // Another entry is no change of b's, and c is left out.
        let notes = node.preview(vec![edited, vm("b"), vm("d")]).notes;
        let ends: Vec<&String> = notes.iter().filter(|note| note.contains("this order ends")).collect();
        assert_eq!(ends.len(), 2, "{notes:?}");
        assert!(
            ends[0].starts_with("a is stopped by an operator (uid 7) since ")
                && ends[0].ends_with(
                    "its assignment says running: this order ends, because its assignment changes"
                ),
            "{notes:?}"
        );
        assert!(
            ends[1].starts_with("c is stopped") && ends[1].ends_with("it is assigned no longer"),
            "{notes:?}"
        );
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_plan_says_which_new_vms_get_no_port_and_no_address() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let on = |id: &str, port: &str| {
            let mut vm = assigned(id, &image, RUNNING);
            vm.procurator = serde_json::json!({ "ports": [port] }).as_object().expect("one").clone();
            vm
        };
        let small = VmManagerConfig { vm_subnet_base: "10.77.0.0/29".to_owned(), ..bench.config() };
        let node = Told::start(VmManager::new(small).expect("starts"));
        node.tell(None, vec![on("a", "8080:80")]).expect("taken");
        node.await_phase("a", "running");
        let new = vec![on("a", "8080:80"), on("b", "8080:81"), on("c", "8081:80"), on("d", "8081:80")];
        let notes = node.preview(new).notes;
        let failing = |notes: &[String]| -> Vec<String> {
            notes.iter().filter(|note| note.contains("would not start")).cloned().collect()
        };
        let told = failing(&notes);
        assert_eq!(told.len(), 2, "{notes:?}");
        assert!(
            told[0].starts_with("b would not start: ") && told[0].contains("8080:80/tcp of a has"),
            "{told:?}"
        );
        assert!(
            told[1].starts_with("d would not start: ") && told[1].contains("8081:80/tcp of c has"),
            "{told:?}"
        );

        let crowd = ["a", "b", "c", "d", "e", "f", "g"].iter().enumerate();
        let crowd = crowd.map(|(number, id)| on(id, &format!("{}:80", 8080 + number))).collect();
        let told = failing(&node.preview(crowd).notes);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("f would not start: no address"), "{told:?}");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn what_cannot_be_helped_is_told_by_plans_and_not_tried_again_by_other_edits() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let node = Told::start(bench.manager());
        let mut wrong = assigned("wrong", &image, RUNNING);
        wrong.hash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned();
        let changed = assigned("changed", &image, RUNNING);
        node.tell(None, vec![wrong.clone(), changed.clone()]).expect("taken");
        node.await_phase("wrong", "failed");
        node.await_phase("changed", "running");
        let refused = Assignment { hash: wrong.hash.clone(), ..changed };
        let both = vec![wrong.clone(), refused];
        node.tell(None, both.clone()).expect("taken");
        await_vm(&node.manager, &VmId::new("changed"), "refused", |vm| {
            vm.wanted.as_ref().is_some_and(|wanted| wanted.refusal.is_some())
        });

        let plan = node.preview(both.clone());
        assert_eq!(plan.actions, [], "there is nothing to change");
        let said = |start: &str| plan.notes.iter().any(|note| note.starts_with(start));
        assert!(said("wrong has failed and is not tried again: "), "{:?}", plan.notes);
        assert!(said("changed is not as assigned: its change is refused, until "), "{:?}", plan.notes);

        let failures = || node.manager.get_vm(&wrong.id).expect("there").failures;
        let before = failures();
        let desired = AssignmentSet {
            vms: [both, vec![assigned("other", &image, STOPPED)]].concat(),
            ..AssignmentSet::default()
        };
        let outcomes = node.assign_from(Source::File, desired).expect("taken").outcomes;
        let touched: Vec<&str> = outcomes.iter().map(|outcome| outcome.vm.as_str()).collect();
        assert_eq!(touched, ["other"], "an edit elsewhere tries nothing again");

        let order = LocalCommand::Order { vm: wrong.id.clone(), desired: RUNNING, by: None };
        let outcomes = node.command(order).expect("obeyed").outcomes;
        assert_eq!(outcomes[0].action, "try wrong again", "who says start means it");
        await_vm(&node.manager, &wrong.id, "tried again", |vm| vm.failures > before);
        node.end().shutdown().expect("ends");
    });
}
