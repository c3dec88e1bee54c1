//! Disks on a file system that is frozen, on real KVM: who does not use them notices nothing, and nobody gets a disk that a
//! dead guest may still write to.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use machine_host::{LaunchError, LaunchRequest, MachineHandle, StopPolicy};
use test_host::{FreezableFileSystem, isolated, without_io_uring};
use tiny_guest::{CHURN_REQUESTS, TinyGuest};
use tokio::time::sleep;
use vm_model::{DiskAccess, DiskFormat, DiskOptions, DiskSpec, FailureKind, MachineExit};
use vmm_host::VmmHost;

use support::{host, launch, request, within};

/// For what takes milliseconds on an idle host, and must not wait for a disk's five seconds of patience.
const MOMENT: Duration = Duration::from_secs(3);
const DISK_BYTES: usize = 1 << 20;

/// A machine that writes to `disk` all the time.
fn churning(name: &str, disk: &File) -> LaunchRequest {
    let mut request = request(name, &TinyGuest::churn());
    request.spec.disks.push(DiskSpec {
        direct_file: None,
        id: "root".to_owned(),
        file: disk.try_clone().expect("a descriptor").into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    });
    request
}

async fn ends_in_a_moment(machine: MachineHandle) {
    let started = Instant::now();
    assert_eq!(within(machine.stop(StopPolicy::KILL)).await.expect("it stops").exit, MachineExit::Killed);
    within(machine.released()).await;
    assert!(started.elapsed() < MOMENT, "{:?} took {:?}", machine.id(), started.elapsed());
}

/// Waits until the guest writes, whatever is on its disk.
async fn writes(machine: &MachineHandle) {
    let before = machine.counters().disks[0].write_operations;
    within(async {
        while machine.counters().disks[0].write_operations < before + u64::from(CHURN_REQUESTS) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn refused(host: &VmmHost, request: LaunchRequest) -> LaunchError {
    within(host.launch(request)).await.expect_err("its disk is not settled")
}

async fn nobody_else_notices(host: VmmHost, file_system: FreezableFileSystem) {
    let disk = file_system.file("disk", DISK_BYTES);
    let stuck = launch(&host, churning("stuck", &disk)).await;
    let first = launch(&host, request("first", &TinyGuest::echo())).await;
    let second = launch(&host, request("second", &TinyGuest::echo())).await;
    writes(&stuck).await;
    file_system.freeze();
    // It may be within a read at this moment, and goes on to its next write.
    sleep(Duration::from_millis(100)).await;

    let report = within(stuck.stop(StopPolicy::KILL)).await.expect("it stops");
    assert_eq!(report.exit, MachineExit::Killed);
    ends_in_a_moment(first).await;
    let again = launch(&host, request("first", &TinyGuest::echo())).await;
    within(async {
        while host.counts().unsettled == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    ends_in_a_moment(again).await;
    ends_in_a_moment(second).await;

    // Its next guest does not get the disk.
    let error = refused(&host, churning("stuck", &disk)).await;
    let text = error.to_string();
    assert!(text.contains("VM stuck") && text.contains("disk root"), "{text}");
    assert_eq!(error.kind(), FailureKind::Host);
    let counts = host.counts();
    assert_eq!((counts.hosted, counts.ended, counts.unsettled), (1, 1, 1));

    file_system.thaw();
    within(stuck.released()).await;
    assert_eq!((host.counts().hosted, host.counts().unsettled), (0, 0));
    // What was written by then is all that the dead guest ever writes.
    let content = || {
        let mut content = vec![0; DISK_BYTES];
        disk.read_exact_at(&mut content, 0).expect("it can be read");
        content
    };
    let settled = content();
    sleep(Duration::from_millis(200)).await;
    assert!(content() == settled, "a released machine wrote to its disk");
    let next = launch(&host, churning("stuck", &disk)).await;
    writes(&next).await;
    ends_in_a_moment(next).await;
}

fn run() {
    let Some(host) = host() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let file_system = FreezableFileSystem::mount_in(directory.path());
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(nobody_else_notices(host, file_system));
}

#[test]
fn a_frozen_disk_keeps_nobody_else_waiting_and_is_not_given_away() {
    isolated(run);
}

#[test]
fn nor_does_one_that_a_thread_serves() {
    isolated(|| without_io_uring(run));
}
