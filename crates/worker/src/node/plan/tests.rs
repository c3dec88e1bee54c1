//! Plans on values alone.

use nix_artifacts::RestartPolicy;
use proptest::prelude::*;
use vm_model::{Bytes, Overrides, RefusedEntry};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn assignment(name: u8, hash: u8, desired: DesiredState) -> Assignment {
    let id = VmId::new(&format!("vm-{name}"));
    Assignment { desired, ..Assignment::new(id, format!("sha256-{hash}"), "/nix/store/x") }
}

fn present(assignment: Assignment) -> (VmId, ObservedVm) {
    let id = assignment.id.clone();
    let (description, forwards) = (None, None);
    let vm = ObservedVm {
        assignment,
        can_retry_help: false,
        description,
        forwards,
        is_changing: false,
        promised: None,
    };
    (id, vm)
}

fn set(vms: Vec<Assignment>) -> AssignmentSet {
    AssignmentSet { vms, ..AssignmentSet::default() }
}

fn any_vms() -> impl Strategy<Value = BTreeMap<u8, Assignment>> {
    let desired =
        prop_oneof![Just(DesiredState::Running), Just(DesiredState::Paused), Just(DesiredState::Stopped)];
    prop::collection::btree_map(0_u8..6, (0_u8..3, desired), 0..6).prop_map(|vms| {
        vms.into_iter().map(|(name, (hash, desired))| (name, assignment(name, hash, desired))).collect()
    })
}

fn carried_out(plan: &[Action], mut observed: Observed) -> Observed {
    for action in plan {
        match action.clone() {
            Action::Create(new) => {
                let (id, vm) = present(new);
                assert!(observed.insert(id, vm).is_none());
            }
            Action::Redefine(new, _) => {
                observed.get_mut(action.vm()).expect("is there").assignment = new;
            }
            Action::Move(id, desired) => {
                observed.get_mut(&id).expect("is there").assignment.desired = desired;
            }
            Action::Retry(id) => observed.get_mut(&id).expect("is there").can_retry_help = false,
            Action::Remove(id, _) => assert!(observed.remove(&id).is_some()),
        }
    }
    observed
}

fn shown(actions: &[Action]) -> Vec<String> {
    actions.iter().map(ToString::to_string).collect()
}

#[test]
fn a_plan_reads_as_what_it_does() {
    let observed = [(0, 0), (1, 0), (2, 0)]
        .map(|(name, hash)| present(assignment(name, hash, DesiredState::Running)))
        .into();
    let desired = set(vec![
        assignment(3, 0, DesiredState::Running),
        assignment(2, 0, DesiredState::Paused),
        assignment(1, 9, DesiredState::Running),
    ]);
    insta::assert_snapshot!(shown(&plan(&desired, &observed, &Described::new(), DAY)).join("\n"), @r"
    remove vm-0, delete its volumes after 24 h or when space runs out
    change vm-1, once its artifact has been read
    pause vm-2
    create vm-3
    ");
    let described = [(VmId::new("vm-1"), Err("there is no such store path".to_owned()))].into();
    let plan = plan(&desired, &observed, &described, DAY);
    assert_eq!(
        shown(&plan)[1],
        "keep vm-1 as it is: its new definition cannot be used: there is no such store path"
    );
}

#[test]
fn a_plan_of_every_kind_of_change_reads_as_what_it_does() {
    use DesiredState::{Paused, Running, Stopped};
    let mut observed: Observed =
        (0..6).map(|name| present(assignment(name, 0, Running))).collect::<BTreeMap<_, _>>();
    observed.get_mut(&VmId::new("vm-5")).expect("is there").can_retry_help = true;
    let mut vouched = assignment(4, 0, Running);
    vouched.references = [("/nix/store/y".into(), "sha256-y".to_owned())].into();
    let desired = set(vec![
        assignment(1, 1, Running),
        assignment(2, 0, Paused),
        assignment(3, 0, Stopped),
        vouched,
        assignment(5, 0, Running),
        assignment(7, 0, Running),
    ]);
    let described = [(VmId::new("vm-1"), Err("no kernel".to_owned()))].into();
    insta::assert_snapshot!(shown(&plan(&desired, &observed, &described, DAY)).join("\n"), @r"
    remove vm-0, delete its volumes after 24 h or when space runs out
    keep vm-1 as it is: its new definition cannot be used: no kernel
    pause vm-2
    stop vm-3
    keep vm-4: it is the same machine in other words
    try vm-5 again
    create vm-7
    ");
}

#[test]
fn the_same_in_other_words_changes_nothing() {
    let plain = assignment(0, 0, DesiredState::Running);
    let observed: Observed = [present(plain.clone())].into();
    let appended = Overrides { cmdline_append: Some(String::new()), ..Overrides::default() };
    let reworded = Assignment { overrides: appended, ..plain.clone() };
    assert_eq!(plan(&set(vec![reworded]), &observed, &Described::new(), DAY), []);
    let mut vouched = plain;
    vouched.references = [("/nix/store/y".into(), "sha256-y".to_owned())].into();
    let actions = plan(&set(vec![vouched.clone()]), &observed, &Described::new(), DAY);
    assert_eq!(actions, [Action::Redefine(vouched, Redefinition::SameMachine)]);
}

/// The new hashes are what lets the VM start, so they are not left to the next state.
#[test]
fn new_references_come_with_whatever_else_is_done() {
    let vm = |name, desired| assignment(name, 0, desired);
    let observed = [(0, DesiredState::Running, true), (1, DesiredState::Running, false)]
        .map(|(name, desired, can_retry_help)| {
            let (id, vm) = present(vm(name, desired));
            (id, ObservedVm { can_retry_help, ..vm })
        })
        .into();
    let desired =
        set(vec![with_reference(vm(0, DesiredState::Running)), with_reference(vm(1, DesiredState::Paused))]);
    insta::assert_snapshot!(shown(&plan(&desired, &observed, &Described::new(), DAY)).join("\n"), @r"
    keep vm-0: it is the same machine in other words
    try vm-0 again
    keep vm-1: it is the same machine in other words
    pause vm-1
    ");
}

#[test]
fn the_vm_of_an_entry_that_was_refused_stays_as_it_is() {
    let observed = [present(assignment(0, 0, DesiredState::Running))].into();
    let refused = vec![RefusedEntry { id: VmId::new("vm-0"), problem: "no hash".into() }];
    let desired = AssignmentSet { refused, ..AssignmentSet::default() };
    assert_eq!(plan(&desired, &observed, &Described::new(), DAY), []);
}

#[test]
fn a_failed_vm_that_is_asked_for_again_is_tried_again() {
    let (id, vm) = present(assignment(0, 0, DesiredState::Running));
    let observed = [(id.clone(), ObservedVm { can_retry_help: true, ..vm.clone() })].into();
    assert_eq!(
        plan(&set(vec![vm.assignment.clone()]), &observed, &Described::new(), DAY),
        [Action::Retry(id)]
    );
}

proptest! {
    #[test]
    fn a_plan_leads_to_what_is_desired_and_then_there_is_nothing_to_do(
        before in any_vms(), after in any_vms(),
    ) {
        let observed: Observed = before.into_values().map(present).collect();
        let desired = set(after.into_values().collect());
        let steps = plan(&desired, &observed, &Described::new(), DAY);
        let touched: Vec<&VmId> = steps.iter().map(Action::vm).collect();
        let reached = carried_out(&steps, observed);
        let wanted: Observed = desired.vms.iter().cloned().map(present).collect();
        prop_assert_eq!(&reached, &wanted);
        prop_assert_eq!(plan(&desired, &reached, &Described::new(), DAY), vec![]);
        let unique: BTreeSet<_> = touched.iter().collect();
        prop_assert_eq!(unique.len(), touched.len());
    }
}

/// What a host has and is told, where all of it can be in any state that is met: VMs that failed, hashes that vouch for
/// more, entries that were refused, artifacts that cannot be used.
fn any_situation() -> impl Strategy<Value = (Observed, AssignmentSet, Described)> {
    let before = any_vms();
    let fates = prop::collection::vec(any::<(bool, bool)>(), 6);
    let after = any_vms();
    let vouched = prop::collection::btree_set(0_u8..6, 0..6);
    let refused = prop::collection::btree_set(0_u8..8, 0..3);
    let unusable = prop::collection::btree_set(0_u8..6, 0..3);
    (before, fates, after, vouched, refused, unusable).prop_map(
        |(before, fates, after, vouched, refused, unusable)| {
            let observed = before.into_iter().map(|(name, assignment)| {
                let (can_retry_help, is_vouched) = fates[usize::from(name)];
                let (id, vm) = present(if is_vouched { with_reference(assignment) } else { assignment });
                (id, ObservedVm { can_retry_help, ..vm })
            });
            let wanted =
                after.into_iter().filter(|(name, _)| !refused.contains(name)).map(|(name, assignment)| {
                    if vouched.contains(&name) { with_reference(assignment) } else { assignment }
                });
            let id = |name: &u8| VmId::new(&format!("vm-{name}"));
            let refused = refused.iter().map(|name| RefusedEntry { id: id(name), problem: "no hash".into() });
            let desired = AssignmentSet { refused: refused.collect(), ..set(wanted.collect()) };
            let described = unusable.iter().map(|name| (id(name), Err("no kernel".to_owned()))).collect();
            (observed.collect(), desired, described)
        },
    )
}

fn with_reference(mut assignment: Assignment) -> Assignment {
    assignment.references = [("/nix/store/y".into(), "sha256-y".to_owned())].into();
    assignment
}

proptest! {
    /// However often only a part of a plan is carried out, and whatever of it: what is left is what was not done, and once
    /// one is carried out whole nothing is left but to try again what had failed and is now as it should be.
    #[test]
    fn plans_that_are_carried_out_in_part_converge_all_the_same(
        (observed, desired, described) in any_situation(),
        carried in prop::collection::vec(prop::collection::vec(any::<bool>(), 12), 0..6),
    ) {
        let untouched = |observed: &Observed| -> Observed {
            let is_refused = |id: &VmId| desired.refused.iter().any(|entry| entry.id == *id);
            observed.iter().filter(|(id, _)| is_refused(id)).map(|(id, vm)| (id.clone(), vm.clone())).collect()
        };
        let changes = |steps: Vec<Action>| -> Vec<Action> {
            steps.into_iter().filter(|step| !matches!(step, Action::Retry(_))).collect()
        };
        let kept = untouched(&observed);
        let mut now = observed;
        for succeeds in carried {
            let steps = plan(&desired, &now, &described, DAY);
            let (done, failed): (Vec<_>, Vec<_>) = steps.into_iter().zip(succeeds).partition(|(_, done)| *done);
            let steps_of = |zipped: Vec<(Action, bool)>| zipped.into_iter().map(|(step, _)| step).collect::<Vec<_>>();
            now = carried_out(&steps_of(done), now);
            let (left, failed) = (changes(plan(&desired, &now, &described, DAY)), steps_of(failed));
            prop_assert!(left.iter().all(|step| failed.contains(step)), "{left:?} of {failed:?}");
        }
        now = carried_out(&plan(&desired, &now, &described, DAY), now);
        let again = plan(&desired, &now, &described, DAY);
        prop_assert_eq!(changes(again.clone()), vec![]);
        now = carried_out(&again, now);
        prop_assert_eq!(plan(&desired, &now, &described, DAY), vec![]);
        prop_assert_eq!(&untouched(&now), &kept, "entries that were refused change nothing");
        let wanted: BTreeMap<VmId, Assignment> =
            desired.vms.iter().map(|vm| (vm.id.clone(), vm.clone())).collect();
        let reached: BTreeMap<VmId, Assignment> = now
            .iter()
            .filter(|(id, _)| !kept.contains_key(*id))
            .map(|(id, vm)| (id.clone(), vm.assignment.clone()))
            .collect();
        prop_assert_eq!(reached, wanted);
    }
}

#[test]
fn every_change_of_a_definition_is_told_in_words() {
    let shown = |what| Action::Redefine(assignment(1, 0, DesiredState::Running), what).to_string();
    let restart = |changes| {
        shown(Redefinition::Restart { changes, disks: "its volumes stay".to_owned(), loses: Vec::new() })
    };
    let lines = [
        shown(Redefinition::Live(vec![
            Change::RestartPolicy { from: None, to: Some(RestartPolicy::Never) },
            Change::Health,
        ])),
        restart(vec![
            Change::Artifact { from: "/nix/store/x".into(), to: "/nix/store/y".into() },
            Change::Vcpus { from: 1, to: 2 },
        ]),
        restart(vec![
            Change::Memory { from: Bytes::from_mib(128), to: Bytes::from_mib(256) },
            Change::CommandLine,
            Change::Disks,
            Change::Volume { disk: "data".to_owned(), what: "size 1 MiB → 2 MiB".to_owned() },
            Change::Interfaces { what: "net1 added in storage".to_owned() },
            Change::Isolation,
            Change::CloudInit { what: "user_data (content not shown)".to_owned() },
            Change::Credentials { what: "db none → /etc/db".to_owned() },
            Change::Machine { parts: vec!["kernel", "balloon"] },
        ]),
        restart(vec![
            Change::Ports { from: vec![], to: vec!["80:80".parse().expect("a forward")] },
            Change::Egress { from: None, to: Some(vec!["10.0.0.0/8".parse().expect("a destination")]) },
            Change::Egress { from: Some(vec![]), to: None },
        ]),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r"
    change vm-1 while it runs: restart policy of the worker → never, health probes
    restart vm-1: image /nix/store/x → /nix/store/y, vCPUs 1 → 2 (its volumes stay), once the image has been verified
    restart vm-1: memory 128 MiB → 256 MiB, kernel command line, disks, volume data size 1 MiB → 2 MiB, network interfaces (net1 added in storage), isolation, cloud-init user_data (content not shown), credentials db none → /etc/db, machine (kernel, balloon) (its volumes stay)
    restart vm-1: ports none → 80:80/tcp, egress anywhere → 10.0.0.0/8, egress nowhere → anywhere (its volumes stay)
    ");
}

#[test]
fn a_removal_says_which_volumes_it_deletes_and_when() {
    let shown = |names: &[&str], seconds| {
        let names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        let disks = Disks { names, kept: Duration::from_secs(seconds) };
        Action::Remove(VmId::new("web-1"), disks).to_string()
    };
    assert_eq!(
        shown(&["disk0"], 86_400),
        "remove web-1, delete volume web-1/disk0 after 24 h or when space runs out"
    );
    assert_eq!(
        shown(&["a", "b"], 90),
        "remove web-1, delete volumes web-1/a, web-1/b after 90 s or when space runs out"
    );
    assert_eq!(shown(&["a"], 0), "remove web-1, delete volume web-1/a at once");
    assert_eq!(shown(&[], 86_400), "remove web-1");
}
