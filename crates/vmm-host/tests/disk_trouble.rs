//! A disk on a file system without room, on real KVM: its machine waits and says so, and can be told everything.

mod support;

use std::time::{Duration, Instant};

use machine_host::{LaunchRequest, MachineHandle, StopPolicy};
use test_host::SmallFileSystem;
use tiny_guest::TinyGuest;
use vm_model::{
    DiskAccess, DiskFormat, DiskOptions, DiskSpec, DiskTrouble, MachineExit, MachinePhase, MachineStatus,
    StopMethod,
};

use support::{host, launch, request, within};

/// A machine that writes to `disk` from the start.
fn churning(file_system: &SmallFileSystem, name: &str) -> LaunchRequest {
    let mut request = request(name, &TinyGuest::churn());
    request.spec.disks.push(DiskSpec {
        direct_file: None,
        id: "root".to_owned(),
        file: file_system.sparse_file(name, 1 << 20).into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    });
    request
}

async fn until(machine: &MachineHandle, wanted: impl FnMut(&MachineStatus) -> bool) -> MachineStatus {
    within(async { machine.status().wait_for(wanted).await.expect("it is there").clone() }).await
}

fn full() -> SmallFileSystem {
    let file_system = SmallFileSystem::new(1 << 20);
    file_system.fill();
    file_system
}

#[tokio::test]
async fn a_machine_says_what_it_waits_for_and_goes_on() {
    let Some(host) = host() else { return };
    let file_system = full();
    let machine = launch(&host, churning(&file_system, "first")).await;
    let status = until(&machine, |status| status.disk_trouble.is_some()).await;
    let problem = "No space left on device (os error 28)".to_owned();
    assert_eq!(status.disk_trouble, Some(DiskTrouble { disk: "root".to_owned(), problem }));
    assert_eq!(status.phase, MachinePhase::Running, "nobody paused it");

    // A pause and its end are commands like any other; the trouble stays.
    within(machine.pause()).await.expect("it pauses");
    within(machine.resume()).await.expect("it goes on");
    within(machine.resume()).await.expect("it tries again");
    assert!(machine.status().borrow().disk_trouble.is_some());

    within(machine.pause()).await.expect("it pauses");
    file_system.make_room();
    let status = until(&machine, |status| status.disk_trouble.is_none()).await;
    assert_eq!(status.phase, MachinePhase::Paused, "somebody paused it");
    within(machine.resume()).await.expect("it goes on");
    within(machine.write_console(b"q".to_vec())).await.expect("it listens");
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    let counters = machine.counters();
    assert_eq!((counters.disks[0].troubles, counters.disks[0].errors), (1, 0), "{:?}", counters.disks);
}

#[tokio::test]
async fn a_machine_in_trouble_is_stopped_in_its_time_and_reset_at_once() {
    let Some(host) = host() else { return };
    let file_system = full();
    let machine = launch(&host, churning(&file_system, "second")).await;
    until(&machine, |status| status.disk_trouble.is_some()).await;

    // The next machine in its place meets the same disk.
    within(machine.reset()).await.expect("its button works");
    let status =
        until(&machine, |status| status.resets.by_button == 1 && status.disk_trouble.is_some()).await;
    assert_eq!(status.phase, MachinePhase::Running);

    let policy = StopPolicy { power_button: Duration::from_millis(500), ..StopPolicy::KILL };
    let asked = Instant::now();
    let report = within(machine.stop(policy)).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::Kill, MachineExit::Killed));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    within(machine.released()).await;
    assert!(machine.status().borrow().disk_trouble.is_none(), "a machine that is gone waits for nothing");
}
