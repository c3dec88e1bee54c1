//! The program killed at every point that has a name, once: in a life of two VMs that passes them all.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use fail_points::{FailPoint, Trigger, VARIABLE};
use serde_json::{Value, json};
use test_host::Artifact;
use tiny_guest::TinyGuest;

use super::leftovers::findings;
use super::scene::{Placement, Removal, Wanted, assign, configure, converge, entry, mark, marked};
use crate::bench::{Bench, Daemon, isolated};

/// In which part of the work a point lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Replacing a file: tried for each kind of file.
    File,
    /// What is wanted and how starts and runs go: tried in both placements.
    Run,
    /// Volumes: the same in both placements.
    Volume,
    /// Removing: tried in both placements.
    Removal,
    /// A removal after which the VM can come back.
    KeptRemoval,
    /// A definition on trial: tried in both placements, in a life of its own.
    Rollout,
    /// Starting a host process, in the worker.
    HostProcess,
    /// In the host process itself.
    InHostProcess,
}

/// Where each point is tried. There is no point without a test.
fn part(point: FailPoint) -> Part {
    match point {
        FailPoint::FileBegun
        | FailPoint::FileWritten
        | FailPoint::FileSynced
        | FailPoint::FileRenamed
        | FailPoint::FileReplaced => Part::File,
        FailPoint::DesiredKept
        | FailPoint::DesiredOrdered
        | FailPoint::VmDirectoryMade
        | FailPoint::StartRecorded
        | FailPoint::StartStaged
        | FailPoint::StartLocked
        | FailPoint::StartConsoleOpened
        | FailPoint::StartLeased
        | FailPoint::StartSwitched
        | FailPoint::StartAttached
        | FailPoint::StartLaunched
        | FailPoint::StartSettled
        | FailPoint::StartFailed
        | FailPoint::RunEnded
        | FailPoint::RunEndRecorded => Part::Run,
        FailPoint::VolumeDirectoryMade
        | FailPoint::VolumeContentMade
        | FailPoint::VolumeSwitchRecorded
        | FailPoint::VolumeNamed
        | FailPoint::VolumeNoted
        | FailPoint::VolumeGrown
        | FailPoint::VolumeUndone
        | FailPoint::VolumeSettled
        | FailPoint::VolumeForgotten
        | FailPoint::VolumeMoved
        | FailPoint::VolumeDeletionRecorded => Part::Volume,
        FailPoint::RemovalBegun
        | FailPoint::RemovalMarked
        | FailPoint::RemovalVolumesMoved
        | FailPoint::RemovalVolumesDeleted
        | FailPoint::RemovalLeasesReleased
        | FailPoint::RemovalDirectoryMoved
        | FailPoint::RemovalDone => Part::Removal,
        FailPoint::RemovalKept => Part::KeptRemoval,
        FailPoint::VolumeCopied
        | FailPoint::VolumeTakenBack
        | FailPoint::RolloutRecorded
        | FailPoint::RolloutAccepted
        | FailPoint::RolloutRefused
        | FailPoint::RolloutTakenBack => Part::Rollout,
        FailPoint::HostProcessBound
        | FailPoint::HostProcessSpawned
        | FailPoint::HostProcessGreeted
        | FailPoint::HostProcessOrdered => Part::HostProcess,
        FailPoint::HostListening | FailPoint::MachineBuilding | FailPoint::HostLaunched => {
            Part::InHostProcess
        }
    }
}

pub(super) fn points(of: Part) -> impl Iterator<Item = FailPoint> {
    FailPoint::ALL.iter().copied().filter(move |point| part(*point) == of)
}

/// A state that the VMs are brought to.
pub(super) struct Stage {
    pub(super) wanted: Wanted,
    /// A VM whose newest definition is to be refused.
    pub(super) refused: Option<&'static str>,
}

/// A life that passes every point of a worker.
pub(super) struct Life {
    pub(super) stages: Vec<Stage>,
}

/// An artifact with a disk made of an image that begins with `image`, one that is fresh at each start, and `more`.
pub(super) fn artifact(bench: &Bench, name: &str, image: &str, more: &[Value]) -> Artifact {
    let mut sized = vec![json!({ "id": "scratch", "size": 1 << 20, "persistence": "ephemeral" })];
    sized.extend_from_slice(more);
    let config = json!({ "disks": [{ "path": "disk.img" }], "procurator": { "disks": sized } });
    bench.artifact(name, &TinyGuest::power_button(), &config, image)
}

impl Life {
    fn new(bench: &Bench) -> Self {
        let (one, two) = (artifact(bench, "one", "1", &[]), artifact(bench, "two", "2", &[]));
        let other = artifact(bench, "other", "0", &[]);
        let broken = artifact(bench, "broken", "3", &[json!({ "id": "extra", "size": 1 << 20 })]);
        fs::write(broken.path.join("vmlinux"), [9; 9000]).expect("written");
        let broken = bench.hashed(broken.path);
        let stopped = |mut entry: Value| {
            entry["desired"] = "stopped".into();
            (entry, "stopped")
        };
        let stage = |a: Value, b: (Value, &'static str)| Stage {
            wanted: BTreeMap::from([("a".to_owned(), (a, "running")), ("b".to_owned(), b)]),
            refused: None,
        };
        let stages = vec![
            stage(entry("a", &one, 1), (entry("b", &other, 1), "running")),
            // Another image, a larger disk, and a stop.
            stage(entry("a", &two, 2), stopped(entry("b", &other, 1))),
            // What does not start is taken back.
            Stage { refused: Some("a"), ..stage(entry("a", &broken, 2), stopped(entry("b", &other, 1))) },
            Stage { wanted: BTreeMap::new(), refused: None },
        ];
        Self { stages }
    }
}

impl Stage {
    fn is_reached(&self, bench: &Bench, daemon: &Daemon<'_>, placement: Placement) -> bool {
        let vms = bench.vms();
        let is_settled = |id: &String, entry: &Value| {
            vms.iter().filter(|vm| vm["id"] == id.as_str()).any(|vm| match self.refused {
                Some(refused) if refused == id => !vm["wanted"]["refusal"].is_null(),
                Some(_) | None => vm["wanted"].is_null() && vm["store_path"] == entry["store_path"],
            })
        };
        self.wanted.iter().all(|(id, (entry, _))| is_settled(id, entry))
            && findings(bench, daemon, placement, &self.wanted).is_empty()
    }
}

/// Lives the `life` with a worker that ends at `trigger`, and has the next one put everything in order.
fn kill_at(bench: &Bench, placement: Placement, life: &Life, trigger: &Trigger) {
    assign(bench, &life.stages[0].wanted);
    let mut command = bench.command();
    command.env(VARIABLE, trigger.to_string());
    let mut daemon = bench.spawn(command);
    for (number, stage) in life.stages.iter().enumerate() {
        assign(bench, &stage.wanted);
        let mut has_ended = false;
        bench.until(&format!("stage {number} before {trigger}"), || {
            has_ended = daemon.has_ended();
            has_ended || stage.is_reached(bench, &daemon, placement)
        });
        if has_ended {
            assert_eq!(daemon.ended().signal(), Some(9), "{trigger}: {}", bench.log());
            return put_in_order(bench, placement, stage, number, trigger);
        }
        if number == 0 {
            mark(bench, "a", "data", 1);
            mark(bench, "b", "data", 2);
        }
    }
    panic!("{trigger} was never passed");
}

/// The next worker does what was wanted when the one before was killed at `trigger`, and leaves nothing when it is told to.
fn put_in_order(bench: &Bench, placement: Placement, stage: &Stage, number: usize, trigger: &Trigger) {
    let daemon = bench.start();
    let when = format!("stage {number} after {trigger} in {placement:?}");
    converge(bench, &daemon, placement, &stage.wanted, &when);
    bench.until(&when, || stage.is_reached(bench, &daemon, placement));
    if number > 0 && !stage.wanted.is_empty() {
        assert_eq!((marked(bench, "a", "data"), marked(bench, "b", "data")), (1, 2), "{when}");
    }
    let nothing = Wanted::new();
    assign(bench, &nothing);
    converge(bench, &daemon, placement, &nothing, &format!("nothing after {trigger} in {placement:?}"));
}

/// Kills at each of `triggers`, one after the other in the same state directory.
fn kill_at_each(placement: Placement, triggers: impl Iterator<Item = Trigger> + Send + 'static) {
    kill_in(Life::new, placement, triggers);
}

/// The same in a `life` of another kind.
pub(super) fn kill_in(
    life: fn(&Bench) -> Life,
    placement: Placement,
    triggers: impl Iterator<Item = Trigger> + Send + 'static,
) {
    isolated(move |bench| {
        configure(&bench, placement, Removal::AtOnce);
        let life = life(&bench);
        for trigger in triggers {
            kill_at(&bench, placement, &life, &trigger);
        }
    });
}

fn kill_while_writing(file: &'static str) {
    kill_at_each(
        Placement::Worker,
        points(Part::File).map(move |point| {
            // Not only the first write counts.
            let nth = match (file, point) {
                ("record.json" | "leases.json", FailPoint::FileRenamed) => 3,
                ("volume.json", FailPoint::FileRenamed) => 8,
                (_, _) => 1,
            };
            Trigger::first(point).of(file).at(nth)
        }),
    );
}

#[test]
fn killed_while_the_desired_state_is_written() {
    kill_while_writing("worker.json");
}

#[test]
fn killed_while_a_record_is_written() {
    kill_while_writing("record.json");
}

#[test]
fn killed_while_leases_are_written() {
    kill_while_writing("leases.json");
}

#[test]
fn killed_while_the_record_of_a_volume_is_written() {
    kill_while_writing("volume.json");
}

#[test]
fn killed_while_a_verdict_is_written() {
    isolated(|bench| {
        configure(&bench, Placement::Worker, Removal::AtOnce);
        let life = Life::new(&bench);
        for point in points(Part::File) {
            // It was remembered already.
            let _ = fs::remove_file(bench.path("state/verified.json"));
            kill_at(&bench, Placement::Worker, &life, &Trigger::first(point).of("verified.json"));
        }
    });
}

#[test]
fn killed_at_each_step_of_a_run_in_the_worker() {
    kill_at_each(Placement::Worker, points(Part::Run).map(Trigger::first));
}

#[test]
fn killed_at_each_step_of_a_run_in_host_processes() {
    kill_at_each(Placement::HostProcesses, points(Part::Run).map(Trigger::first));
}

/// Steps of a change of what runs already.
fn steps_of_a_change() -> impl Iterator<Item = Trigger> {
    let starts = [
        FailPoint::StartRecorded,
        FailPoint::StartStaged,
        FailPoint::StartSwitched,
        FailPoint::StartLaunched,
        FailPoint::StartSettled,
    ];
    // Two VMs start first; each of them is ordered and ends.
    let later = [FailPoint::DesiredOrdered, FailPoint::RunEnded, FailPoint::RunEndRecorded];
    let starts = starts.into_iter().map(|point| Trigger::first(point).at(3));
    starts.chain(later.into_iter().map(|point| Trigger::first(point).at(2)))
}

#[test]
fn killed_at_each_step_of_a_change_in_the_worker() {
    kill_at_each(Placement::Worker, steps_of_a_change());
}

#[test]
fn killed_at_each_step_of_a_change_in_host_processes() {
    kill_at_each(Placement::HostProcesses, steps_of_a_change());
}

#[test]
fn killed_at_each_step_of_a_volume() {
    kill_at_each(Placement::Worker, points(Part::Volume).map(Trigger::first));
}

#[test]
fn killed_at_each_step_of_a_removal_in_the_worker() {
    kill_at_each(Placement::Worker, points(Part::Removal).map(Trigger::first));
}

#[test]
fn killed_at_each_step_of_a_removal_in_host_processes() {
    kill_at_each(Placement::HostProcesses, points(Part::Removal).map(Trigger::first));
}

#[test]
fn killed_at_each_step_of_starting_a_host_process() {
    kill_at_each(Placement::HostProcesses, points(Part::HostProcess).map(Trigger::first));
}

#[test]
fn a_deletion_that_was_begun_is_finished_although_the_vm_is_wanted_again() {
    isolated(|bench| {
        configure(&bench, Placement::Worker, Removal::AtOnce);
        let life = Life::new(&bench);
        for point in points(Part::Removal).filter(|point| *point > FailPoint::RemovalBegun) {
            let (all, nothing) = (&life.stages[0].wanted, &life.stages[3].wanted);
            assign(&bench, all);
            let mut command = bench.command();
            command.env(VARIABLE, Trigger::first(point).to_string());
            let mut daemon = bench.start_with(command);
            converge(&bench, &daemon, Placement::Worker, all, point.name());
            mark(&bench, "a", "data", 1);
            mark(&bench, "b", "data", 2);
            assign(&bench, nothing);
            assert_eq!(daemon.ended().signal(), Some(9), "{}", bench.log());
            assign(&bench, all);
            let daemon = bench.start();
            converge(
                &bench,
                &daemon,
                Placement::Worker,
                all,
                &format!("wanted again after {}", point.name()),
            );
            // One of them was being deleted; of the other nothing was begun, or it was as well.
            let marks = [marked(&bench, "a", "data"), marked(&bench, "b", "data")];
            assert!(marks.contains(&0), "what was being deleted came back: {marks:?} after {}", point.name());
            assign(&bench, nothing);
            converge(&bench, &daemon, Placement::Worker, nothing, "nothing");
        }
    });
}

#[test]
fn a_kept_vm_comes_back_whole_although_the_worker_was_killed_while_it_was_removed() {
    isolated(|bench| {
        configure(&bench, Placement::HostProcesses, Removal::Kept);
        let life = Life::new(&bench);
        for point in points(Part::KeptRemoval) {
            let all = &life.stages[0].wanted;
            assign(&bench, all);
            let mut command = bench.command();
            command.env(VARIABLE, Trigger::first(point).to_string());
            let mut daemon = bench.start_with(command);
            converge(&bench, &daemon, Placement::HostProcesses, all, point.name());
            mark(&bench, "b", "data", 2);
            let mut one = all.clone();
            one.remove("b");
            assign(&bench, &one);
            assert_eq!(daemon.ended().signal(), Some(9), "{}", bench.log());
            let daemon = bench.start();
            bench.until("one is gone", || bench.phases() == ["a running"]);
            assign(&bench, all);
            converge(&bench, &daemon, Placement::HostProcesses, all, "it is back");
            assert_eq!(marked(&bench, "b", "data"), 2);
        }
    });
}

#[test]
fn host_processes_killed_before_they_can_tell_leave_nothing() {
    isolated(|bench| {
        configure(&bench, Placement::HostProcesses, Removal::AtOnce);
        let life = Life::new(&bench);
        for point in points(Part::InHostProcess) {
            let stage = &life.stages[0];
            assign(&bench, &stage.wanted);
            let mut command = bench.command();
            command.env(VARIABLE, Trigger::first(point).to_string());
            let lost =
                || bench.log().matches("failed (host)").count() + bench.log().matches("SIGKILL").count();
            let before = lost();
            let mut daemon = bench.start_with(command);
            bench.until("host processes are lost", || lost() > before);
            daemon.kill();
            put_in_order(&bench, Placement::HostProcesses, stage, 0, &Trigger::first(point));
        }
    });
}
