//! Changes by hand that are refused: at once, or when their machines are made ready.

use serde_json::{Map, Value, json};
use tiny_guest::TinyGuest;
use vm_model::DesiredState;
use worker::node::{LocalCommand, Refusal, Verdict};
use worker::vms::{VmId, VmInfo, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{await_vm, isolated};

fn amend(node: &Told, changes: Value) -> Result<Verdict, Refusal> {
    node.command(LocalCommand::Amend { vm: VmId::new("web"), changes: changes_of(changes) })
}

fn changes_of(changes: Value) -> Map<String, Value> {
    let Value::Object(changes) = changes else { panic!("an object") };
    changes
}

/// Waits until VM `web` runs by what was asked for last.
fn await_in_force(node: &Told, starts: u64) -> VmInfo {
    await_vm(&node.manager, &VmId::new("web"), "in force", |info| {
        info.wanted.is_none() && info.starts == starts && info.status == VmStatus::Running
    })
}

#[test]
fn a_change_that_is_refused_leaves_nothing_to_the_next_one() {
    isolated(|bench| {
        let node = Told::start(bench.manager());
        let image = bench.plain("image", &TinyGuest::idle());
        let assignment = assigned("web", &image, DesiredState::Running);
        node.command(LocalCommand::Assign(assignment.clone())).expect("taken");
        await_in_force(&node, 1);

        // What is seen at once is refused whole.
        let refused = amend(&node, json!({ "overrides": { "memory_bytes": 1_u64 << 40 } }));
        let refused = refused.expect_err("no host has that much").to_string();
        assert!(refused.contains("not enough memory"), "{refused}");
        let moved = amend(&node, json!({ "store_path": bench.store().join("none") }));
        assert!(matches!(moved, Err(Refusal::Unusable { .. })), "{moved:?}");
        assert!(await_in_force(&node, 1).wanted.is_none());
        amend(&node, json!({ "overrides": { "vcpus": 2 } })).expect("taken");
        let info = await_in_force(&node, 2);
        assert_eq!(
            (info.assignment.overrides.memory_bytes, info.assignment.overrides.vcpus),
            (None, Some(2))
        );

        // What is found when it is hashed stays wanted until the next change.
        let wrong = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let verdict = amend(&node, json!({ "hash": wrong })).expect("taken");
        assert_eq!(verdict.notes, [] as [&str; 0]);
        await_vm(&node.manager, &VmId::new("web"), "refused", |info| {
            info.wanted.as_ref().is_some_and(|wanted| wanted.refusal.is_some())
        });
        // Asked for again, it is refused again, and drops nothing.
        let again =
            LocalCommand::Amend { vm: VmId::new("web"), changes: changes_of(json!({ "hash": wrong })) };
        let shown = node.show(again).expect("shown");
        let problem = shown.outcomes[0].problem.as_deref().unwrap_or_default();
        assert!(problem.starts_with("what it would be cannot be used: "), "{shown:?}");
        let verdict = amend(&node, json!({ "hash": wrong })).expect("taken");
        assert_eq!((shown.notes, verdict.notes), (Vec::new(), Vec::new()));
        let verdict = amend(&node, json!({ "overrides": { "vcpus": 1 } })).expect("taken");
        assert!(
            verdict.notes[0].starts_with("the change of web that was refused before is dropped"),
            "{verdict:?}"
        );
        let info = await_in_force(&node, 3);
        assert_eq!((info.assignment.hash, info.assignment.overrides.vcpus), (assignment.hash, Some(1)));
        node.end().shutdown().expect("ends");
    });
}
