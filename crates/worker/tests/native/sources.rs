//! Several who say what should run: each for itself, and none without limits.

use std::num::NonZeroU32;

use tiny_guest::TinyGuest;
use vm_model::{
    Assignment, AssignmentSet, DesiredState, Generation, HoldReason, Lineage, Source, SourceKind,
};
use worker::node::{LocalCommand, Refusal, RemovalLimit, Verdict};
use worker::vms::{VmId, VmManager, VmManagerConfig};

use crate::told::{Told, assigned};
use crate::workbench::{isolated, until};

const RUNNING: DesiredState = DesiredState::Running;
const STOPPED: DesiredState = DesiredState::Stopped;

fn master(epoch: &str) -> Source {
    Source::Master(Lineage::new("m1", epoch).expect("fine"))
}

fn set(generation: u64, vms: Vec<Assignment>) -> AssignmentSet {
    AssignmentSet { generation: Some(Generation::new(generation)), vms, ..AssignmentSet::default() }
}

fn names(node: &Told) -> Vec<String> {
    node.manager.list_vms().iter().map(|vm| vm.id.to_string()).collect()
}

fn held(verdict: Result<Verdict, Refusal>) -> Option<HoldReason> {
    verdict.expect("admitted").held.map(|held| held.waits_for)
}

#[test]
fn each_source_speaks_for_itself() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let vm = |name: &str, desired| assigned(name, &image, desired);
        let node = Told::start(bench.manager());
        node.assign_from(Source::File, set(3, vec![vm("f", STOPPED), vm("both", STOPPED)])).expect("taken");
        node.assign_from(master("1"), set(9, vec![vm("m", RUNNING), vm("both", RUNNING)])).expect("taken");
        node.command(LocalCommand::Assign(vm("l", RUNNING))).expect("taken");
        for (name, phase) in [("f", "stopped"), ("m", "running"), ("both", "running"), ("l", "running")] {
            node.await_phase(name, phase);
        }
        let status = node.manager.node_status().borrow().clone();
        assert_eq!(status.owners[&VmId::new("both")], SourceKind::Master);
        assert_eq!(status.sources[&SourceKind::File].refused_entries[0].id, VmId::new("both"));
        assert_eq!(status.sources[&SourceKind::Master].generation, Some(Generation::new(9)));

        // The numbers of one say nothing of another's.
        node.assign_from(master("1"), set(10, vec![vm("m", RUNNING)])).expect("taken");
        node.await_phase("both", "stopped");
        let refused = node.command(LocalCommand::Remove(VmId::new("m")));
        assert_eq!(refused, Err(Refusal::NotLocal { id: VmId::new("m"), owner: SourceKind::Master }));
        node.command(LocalCommand::Remove(VmId::new("l"))).expect("taken");
        until("it is gone", || names(&node) == ["both", "f", "m"]);

        // All of it is known to the next worker, also what was said by hand.
        node.command(LocalCommand::Assign(vm("l", STOPPED))).expect("taken");
        node.end().shutdown().expect("ends");
        let node = Told::start(bench.manager());
        node.await_phase("m", "running");
        assert_eq!(names(&node), ["both", "f", "l", "m"]);
        // Nobody reads the file any more: what it assigned can be removed by hand.
        node.command(LocalCommand::Remove(VmId::new("f"))).expect("taken");
        until("it is gone", || names(&node) == ["both", "l", "m"]);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn an_operators_order_goes_before_a_source_until_that_says_something_new() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::power_button());
        let off = bench.plain("off", &TinyGuest::hello("bye"));
        let vm = |desired| assigned("f", &image, desired);
        let order = |desired| LocalCommand::Order { vm: VmId::new("f"), desired, by: Some(7) };
        let says = |node: &Told, desired| node.assign(set(1, vec![vm(desired)])).expect("taken");
        let node = Told::start(bench.manager());
        let refused = node.command(order(STOPPED));
        assert_eq!(refused, Err(Refusal::NotAssigned { id: VmId::new("f") }));
        says(&node, RUNNING);
        node.await_phase("f", "running");
        node.command(order(STOPPED)).expect("taken");
        node.await_phase("f", "stopped");
        let is_told = |node: &Told| {
            let info = node.manager.get_vm(&VmId::new("f")).expect("there");
            let reasons = info.conditions.iter().filter_map(|condition| condition.reason.as_ref());
            let is_reason = reasons.filter(|reason| reason.contains("by an operator (uid 7)")).count() == 1;
            is_reason && node.manager.node_status().borrow().orders[&info.id].assigned == RUNNING
        };
        until("the order is told", || is_told(&node));
        // Its source repeats itself, the worker ends and comes back: it stays off.
        let starts = |node: &Told| node.manager.get_vm(&VmId::new("f")).expect("there").starts;
        says(&node, RUNNING);
        assert_eq!(starts(&node), 1);
        node.end().shutdown().expect("ends");
        let node = Told::start(bench.manager());
        says(&node, RUNNING);
        until("the order is told", || is_told(&node));
        node.await_phase("f", "stopped");
        assert_eq!(starts(&node), 1, "not started again");

        // It is withdrawn by one that says what is assigned; and again by what is new.
        node.command(order(RUNNING)).expect("taken");
        node.await_phase("f", "running");
        assert!(node.manager.node_status().borrow().orders.is_empty());
        node.command(order(DesiredState::Paused)).expect("taken");
        node.await_phase("f", "paused");
        node.assign(set(2, vec![vm(RUNNING), assigned("off", &off, RUNNING)])).expect("taken");
        assert_eq!(node.manager.node_status().borrow().orders.len(), 1, "what is new is said of another");
        node.assign(set(3, vec![vm(STOPPED), assigned("off", &off, RUNNING)])).expect("taken");
        node.await_phase("f", "stopped");
        assert!(node.manager.node_status().borrow().orders.is_empty());

        // A guest that switched itself off stays so until somebody starts it.
        node.await_phase("off", "stopped");
        let before = node.manager.get_vm(&VmId::new("off")).expect("there").starts;
        let start = LocalCommand::Order { vm: VmId::new("off"), desired: RUNNING, by: None };
        node.command(start).expect("taken");
        until("it started", || node.manager.get_vm(&VmId::new("off")).expect("there").starts == before + 1);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_master_that_counts_anew_waits_to_be_accepted() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let vm = |name: &str| assigned(name, &image, STOPPED);
        let node = Told::start(bench.manager());
        node.assign_from(master("1"), set(9, vec![vm("a")])).expect("taken");
        assert!(matches!(node.assign_from(master("1"), set(8, vec![vm("a")])), Err(Refusal::Older { .. })));
        assert_eq!(held(node.assign_from(master("2"), set(1, vec![vm("b")]))), Some(HoldReason::Lineage));
        let other = node.allow_removals(None).expect_err("that is another word").to_string();
        assert!(
            other.ends_with("what the master says waits for `procurator-worker accept-master`"),
            "{other}"
        );
        let shown = node.show_held(HoldReason::Lineage).expect("one waits");
        let words: Vec<String> = shown.actions.iter().map(ToString::to_string).collect();
        assert!(words[0].starts_with("remove a") && words[1] == "create b", "{words:?}");
        assert_eq!((shown.held, names(&node)), (None, vec!["a".to_owned()]), "it was only shown");
        assert_eq!(names(&node), ["a"]);
        assert_eq!(node.accept_master().expect("one waits").held, None);
        until("it is followed", || names(&node) == ["b"]);
        assert!(node.accept_master().is_err(), "none waits");
        node.assign_from(master("2"), set(2, vec![vm("b"), vm("c")])).expect("the new counting goes on");
        assert_eq!(
            held(node.assign_from(master("1"), set(10, vec![vm("a")]))),
            Some(HoldReason::Lineage),
            "and the old one is over"
        );
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn what_a_master_takes_away_within_an_hour_is_counted_over_restarts() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let vms = |count: usize| (0..count).map(|n| assigned(&format!("vm-{n}"), &image, STOPPED)).collect();
        let limit = RemovalLimit::AnHour(NonZeroU32::MIN.saturating_add(2));
        let start = || {
            let config = VmManagerConfig { removal_limit: limit, ..bench.config() };
            Told::start(VmManager::new(config).expect("starts"))
        };
        let node = start();
        node.assign_from(master("1"), set(1, vms(8))).expect("taken");
        assert_eq!(held(node.assign_from(master("1"), set(2, vms(6)))), None, "two of three");
        until("they are gone", || names(&node).len() == 6);
        node.end().shutdown().expect("ends");

        let node = start();
        assert_eq!(held(node.assign_from(master("1"), set(3, vms(4)))), Some(HoldReason::Removals));
        let status = node.manager.node_status().borrow().sources[&SourceKind::Master].clone();
        assert_eq!(
            (status.generation, status.observed),
            (Some(Generation::new(2)), Some(Generation::new(3)))
        );
        assert_eq!(names(&node).len(), 6);
        // It says the same with the word for it.
        let allowed = AssignmentSet { allow_removals: true, ..set(3, vms(4)) };
        assert_eq!(held(node.assign_from(master("1"), allowed)), None);
        until("they are gone", || names(&node).len() == 4);
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn of_two_states_that_are_held_the_one_that_is_named_is_let_go() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let vm = |name: &str| assigned(name, &image, STOPPED);
        let node = Told::start(bench.manager());
        node.assign_from(Source::File, set(1, vec![vm("f")])).expect("taken");
        node.assign_from(master("1"), set(1, vec![vm("m")])).expect("taken");
        assert_eq!(held(node.assign_from(Source::File, set(2, vec![]))), Some(HoldReason::Removals));
        assert_eq!(held(node.assign_from(master("1"), set(2, vec![]))), Some(HoldReason::Removals));
        let notes = node.preview(Vec::new()).notes.join("\n");
        assert!(notes.contains("what the master says (generation 2) is held, too"), "{notes}");
        let refused = node.allow_removals(None).expect_err("which?").to_string();
        assert!(refused.contains("`procurator-worker allow-removals file`"), "{refused}");
        assert_eq!(names(&node), ["f", "m"]);
        node.allow_removals(Some(SourceKind::File)).expect("held");
        until("the file's is gone", || names(&node) == ["m"]);
        node.allow_removals(None).expect("held");
        until("the master's is gone", || names(&node).is_empty());
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_drain_goes_over_without_taking_an_operators_order_along() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let vm = |name: &str, desired| assigned(name, &image, desired);
        let node = Told::start(bench.manager());
        node.assign_from(master("1"), set(1, vec![vm("a", RUNNING), vm("b", RUNNING)])).expect("taken");
        let stop = LocalCommand::Order { vm: VmId::new("a"), desired: STOPPED, by: None };
        node.command(stop).expect("taken");
        node.await_phase("a", "stopped");
        node.await_phase("b", "running");
        let drained = set(2, vec![vm("a", STOPPED), vm("b", STOPPED)]);
        node.assign_from(master("1"), AssignmentSet { drained: true, ..drained }).expect("taken");
        node.await_phase("b", "stopped");
        let status = node.manager.node_status().borrow().clone();
        assert!(status.sources[&SourceKind::Master].drained);
        node.assign_from(master("1"), set(3, vec![vm("a", RUNNING), vm("b", RUNNING)])).expect("taken");
        node.await_phase("b", "running");
        let status = node.manager.node_status().borrow().clone();
        assert_eq!(status.orders.keys().collect::<Vec<_>>(), [&VmId::new("a")]);
        assert!(!status.sources[&SourceKind::Master].drained);
        assert_eq!(node.manager.get_vm(&VmId::new("a")).expect("there").status.phase_name(), "stopped");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_masters_word_can_be_planned_and_what_goes_before_it_is_told() {
    isolated(|bench| {
        let image = bench.plain("image", &TinyGuest::idle());
        let vm = |name: &str| assigned(name, &image, STOPPED);
        let node = Told::start(bench.manager());
        node.assign_from(Source::File, set(1, vec![vm("f")])).expect("taken");
        node.assign_from(master("1"), set(1, vec![vm("m"), vm("n")])).expect("taken");
        let plan = node.preview_from(master("1"), set(2, vec![vm("m")]));
        let words: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
        assert_eq!(words.len(), 1, "{words:?}");
        assert!(words[0].starts_with("remove n"), "{words:?}");
        let notes = node.preview(vec![vm("f"), vm("m")]).notes;
        assert_eq!(
            notes,
            ["the entry of m is not followed: the master speaks of this VM too, and goes first"]
        );
        node.end().shutdown().expect("ends");
    });
}
