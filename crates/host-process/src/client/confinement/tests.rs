//! Processes in groups on the unified hierarchy of this host, where it has one.

use std::process::{Child, Command, Stdio};

use vm_model::Cores;

use super::*;

fn process() -> Child {
    Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("a process")
}

fn end(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("collected");
}

fn descriptors_of(pid: u32) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it is there");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line").to_owned();
    line.split_whitespace().nth(3).expect("a soft limit").to_owned()
}

/// Groups in this host's hierarchy; `None` where it has none.
fn groups() -> Option<Groups> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let hierarchy = mounts.into_iter().find_map(|mount| Hierarchy::at(mount.into()).ok());
    if hierarchy.is_none() {
        eprintln!("SKIPPED: this host has no cgroup v2");
    }
    Some(Groups::below(hierarchy?).expect("groups can be made"))
}

#[test]
fn a_process_is_confined_found_again_and_its_group_removed() {
    let Some(groups) = groups() else { return };
    let child = process();
    let (name, pid) = (format!("confined-{}.sock", child.id()), child.id());
    let confinement = groups.confine(&name, pid);
    let found = groups.find(pid);
    assert!(confinement.group.is_some());
    assert_eq!(found.group, confinement.group, "who comes later finds it");
    assert!(confinement.is_at(&format!("/procurator/confined-{pid}")));
    assert!(!confinement.is_at("/procurator") && !confinement.is_at("/") && !confinement.is_at(""));
    assert!(found.usage().is_some() && !found.was_out_of_memory());
    end(child);
    found.remove();
    assert_eq!(confinement.usage(), None, "nothing is left");
}

#[test]
fn what_a_worker_left_is_swept_by_the_next() {
    let Some(groups) = groups() else { return };
    let (lost, running) = (process(), process());
    let left = groups.confine(&format!("left-{}", lost.id()), lost.id());
    let kept = groups.confine(&format!("kept-{}", running.id()), running.id());
    end(lost);
    self::groups().expect("they can be made again");
    assert_eq!(left.usage(), None);
    assert!(kept.usage().is_some(), "it has a process");
    end(running);
    kept.remove();
}

#[test]
fn the_group_of_all_goes_with_the_last_process() {
    let mount = tempfile::tempdir().expect("a directory");
    std::fs::write(mount.path().join("cgroup.controllers"), "").expect("written");
    let hierarchy = Hierarchy::at(mount.path().to_owned()).expect("a hierarchy");
    let base = Group::at(mount.path().join(BASE));
    let runs = base.child("runs");
    for group in [&base, &base.child("ended"), &runs] {
        group.ensure().expect("made");
    }
    let events = runs.path().join("cgroup.events");
    std::fs::write(&events, "populated 1\n").expect("written");
    let groups = Groups::Below { hierarchy, base: base.clone() };
    groups.leave();
    assert!(runs.path().exists() && !base.child("ended").path().exists());
    std::fs::remove_file(events).expect("removed");
    groups.leave();
    assert!(!base.path().exists());
}

#[test]
fn descriptors_are_limited_without_any_group() {
    let child = process();
    let confinement = Groups::Unavailable("no cgroup v2".to_owned()).confine("x", child.id());
    let values = ResourceLimits { descriptors: Some(77), ..ResourceLimits::default() };
    let limits = MachineLimits { values, ..MachineLimits::default() };
    assert_eq!(confinement.limit(&limits), Vec::<String>::new());
    assert_eq!(descriptors_of(child.id()), "77");
    let values = ResourceLimits { cpu: Cores::from_thousandths(500), ..values };
    let refused = confinement.limit(&MachineLimits { values, ..limits });
    assert_eq!(refused, ["its process has no control group of its own"]);
    end(child);
}

#[test]
fn what_cannot_be_limited_is_said_before() {
    let unavailable = Groups::Unavailable("this host has no cgroup v2".to_owned());
    let cpu = ResourceLimits { cpu: Cores::from_thousandths(500), ..ResourceLimits::default() };
    assert_eq!(unavailable.cannot_limit(&cpu).as_deref(), Some("this host has no cgroup v2"));
    let descriptors = ResourceLimits { descriptors: Some(100), ..ResourceLimits::default() };
    assert_eq!(unavailable.cannot_limit(&descriptors), None);
    assert_eq!(unavailable.cannot_limit(&ResourceLimits::default()), None);
}
