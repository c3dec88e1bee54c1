//! Groups as files anywhere, and on the unified hierarchy of this host where it has one.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::Hierarchy;

/// A directory with `files` in place of a group.
fn imitation(files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("written");
    }
    let group = Group::at(directory.path().to_owned());
    (directory, group)
}

fn limit(bytes: &str) -> Setting {
    Setting { controller: Controller::Memory, file: "memory.max", value: bytes.to_owned() }
}

#[test]
fn memory_that_is_in_use_is_not_taken_away() {
    let statistics = "anon 500\nfile 400\nshmem 100\nslab_reclaimable 50\n";
    let (_kept, group) =
        imitation(&[("memory.current", "1000\n"), ("memory.stat", statistics), ("memory.max", "max\n")]);
    // 1000, less 300 of files on disks and 50 of the kernel's.
    let refused = group.apply(&[limit("649")]);
    assert!(
        refused[0].to_string().starts_with("memory_max is 649 bytes, and 650 bytes are in use"),
        "{refused:?}"
    );
    assert_eq!(group.memory_max(), None, "nothing was written");
    assert!(group.apply(&[limit("650")]).is_empty());
    assert_eq!(group.memory_max(), Some(Bytes::new(650)));
    assert!(group.apply(&[limit("max")]).is_empty());
}

#[test]
fn a_setting_that_is_refused_keeps_no_other_from_being_made() {
    let (_kept, group) = imitation(&[]);
    fs::create_dir(group.path().join("memory.max")).expect("no file can be written there");
    let pids = Setting { controller: Controller::Pids, file: "pids.max", value: "9".to_owned() };
    let refused = group.apply(&[limit("1"), pids]);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].to_string().contains("memory.max"), "{refused:?}");
    assert_eq!(group.read("pids.max").as_deref(), Some("9"));
}

#[test]
fn only_its_own_limit_is_what_a_group_was_killed_at() {
    let killed = |events| imitation(&[("memory.events", events)]).1.was_out_of_memory();
    let (_kept, at_its_limit) = imitation(&[("memory.events", "low 0\nmax 9\noom 1\noom_kill 1\n")]);
    assert!(at_its_limit.was_out_of_memory());
    assert!(!killed("max 0\noom 0\noom_kill 1\n"), "the host ran out");
    let (_kept, without) = imitation(&[]);
    assert!(!without.was_out_of_memory());
}

/// A group on this host's hierarchy, with a process that waits to be killed.
struct Real {
    group: Group,
    child: Child,
}

impl Real {
    fn begin(name: &str) -> Option<Self> {
        let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().map(PathBuf::from);
        let hierarchy = mount.filter_map(|mount| Hierarchy::at(mount).ok()).next()?;
        let name = format!("procurator-test-{name}-{}", std::process::id());
        let group = Group::at(hierarchy.mount().join(name));
        let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("a process");
        Some(Self { group, child })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.group.sweep();
        let _ = self.group.remove();
    }
}

fn await_empty(group: &Group) {
    let begun = Instant::now();
    while group.is_populated() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} does not get empty", group.path().display());
        std::thread::yield_now();
    }
}

#[test]
fn a_process_is_moved_killed_and_its_group_removed() {
    let Some(mut real) = Real::begin("kill") else {
        eprintln!("SKIPPED: this host has no cgroup v2");
        return;
    };
    let (group, pid) = (real.group.clone(), real.child.id());
    group.remove().expect("what is not there needs no removal");
    group.join(pid).expect("joined");
    assert_eq!((group.processes(), group.is_populated()), (vec![pid], true));
    assert!(
        fs::read_to_string(group.path().join("cgroup.threads"))
            .is_ok_and(|text| text.trim() == pid.to_string())
    );
    assert!(group.usage().is_some());
    group.remove().expect_err("it has a process");
    group.kill().expect("killed");
    real.child.wait().expect("collected");
    await_empty(&group);
    group.remove().expect("removed");
    assert!(!group.path().exists() && group.usage().is_none() && !group.is_populated());
    group.kill().expect("nobody is left to be killed");
}

#[test]
fn a_sweep_takes_what_is_empty_and_nothing_else() {
    let Some(real) = Real::begin("sweep") else {
        eprintln!("SKIPPED: this host has no cgroup v2");
        return;
    };
    real.group.ensure().expect("made");
    let (used, left) = (real.group.child("used"), real.group.child("left"));
    left.ensure().expect("made");
    used.join(real.child.id()).expect("joined");
    assert_eq!(real.group.sweep().expect("listed"), 1);
    assert!(used.path().exists() && !left.path().exists());
    used.kill().expect("killed");
    await_empty(&used);
    assert_eq!(real.group.sweep().expect("listed"), 1);
}

#[test]
fn a_controller_that_is_missing_is_named() {
    let Some(real) = Real::begin("controllers") else {
        eprintln!("SKIPPED: this host has no cgroup v2");
        return;
    };
    real.group.ensure().expect("made");
    let there = real.group.controllers();
    let missing =
        Controller::ALL.into_iter().filter(|controller| !there.has(*controller)).collect::<Controllers>();
    let (handed, refused) = real.group.enable(&missing);
    assert!(handed.is_empty());
    assert_eq!(refused.len(), missing.iter().count());
    for (refusal, controller) in refused.iter().zip(missing.iter()) {
        assert!(refusal.to_string().contains(controller.name()), "{refusal}");
    }
}
