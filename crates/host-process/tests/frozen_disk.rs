//! A disk that does not answer, under a machine in a host process: who asks for the VM's next machine hears of the disk, from
//! the worker that ended the last one and from the next worker.

mod support;

use std::fs::File;
use std::time::Duration;

use host_process::HostProcesses;
use machine_host::{LaunchError, LaunchRequest, MachineHandle, MachineHost, StopPolicy};
use test_host::{FreezableFileSystem, isolated};
use tiny_guest::{CHURN_REQUESTS, TinyGuest};
use vm_model::{DiskAccess, DiskFormat, DiskOptions, DiskSpec, FailureKind};

use support::{Ground, anyone, directory, has_kvm, host, options, request, within};

const DISK_BYTES: usize = 1 << 20;

/// A machine that writes to `disk` all the time.
fn churning(disk: &File) -> LaunchRequest {
    let mut request = request("stuck", &TinyGuest::churn());
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

/// Waits until the guest writes.
async fn writes(machine: &MachineHandle) {
    loop {
        machine.refresh_counters().await;
        if machine.counters().disks.first().is_some_and(|disk| disk.write_operations > CHURN_REQUESTS.into())
        {
            return;
        }
    }
}

/// Waits until it is told what the ended machine waits for, and asks for the next one.
async fn refusal(host: &HostProcesses, stuck: &MachineHandle, disk: &File) -> String {
    let mut status = stuck.status();
    within(status.wait_for(|status| status.obstacle.is_some())).await.expect("it is told");
    let error = within(host.launch(churning(disk))).await.expect_err("its disk is not settled");
    assert!(matches!(error, LaunchError::Unsettled { .. }), "{error:?}");
    assert_eq!(error.kind(), FailureKind::Host);
    error.to_string()
}

async fn the_disk_is_named(directory: Ground, file_system: FreezableFileSystem) {
    let disk = file_system.file("disk", DISK_BYTES);
    let first = host(options(&directory));
    let stuck = within(first.launch(churning(&disk))).await.expect("it launches");
    within(writes(&stuck)).await;
    file_system.freeze();
    within(stuck.stop(StopPolicy::KILL)).await.expect("it stops");
    let expected = "cannot launch VM stuck: its last machine is not released yet: the host does not end the I/O that is in \
                    flight on its disk root";
    let told = refusal(&first, &stuck, &disk).await;
    assert!(told.starts_with(expected), "{told}");

    // The next worker finds the ended machine, and what it waits for.
    first.leave();
    drop(stuck);
    let second = host(options(&directory));
    let mut adopted = within(second.adopt(anyone())).await.machines;
    let stuck = adopted.pop().expect("the ended machine is found").handle;
    let told = refusal(&second, &stuck, &disk).await;
    assert!(told.starts_with(expected), "{told}");

    file_system.thaw();
    within(stuck.released()).await;
    drop(stuck);
    let next = within(second.launch(churning(&disk))).await.expect("the disk is free again");
    within(writes(&next)).await;
    within(next.stop(StopPolicy::KILL)).await.expect("it stops");
    within(next.released()).await;
    drop(next);
    within(second.shut_down(Duration::from_secs(20))).await;
}

#[test]
fn who_asks_for_the_next_machine_hears_which_disk_does_not_answer() {
    if !has_kvm() {
        return;
    }
    isolated(|| {
        let directory = directory();
        let file_system = FreezableFileSystem::mount_in(directory.path());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(the_disk_is_named(directory, file_system));
    });
}
