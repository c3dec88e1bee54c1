//! Resets in place on real KVM: what is the same after one, and what begins anew.

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine_host::{LaunchRequest, MachineHandle, StopPolicy};
use tiny_guest::TinyGuest;
use vm_model::{
    BalloonSpec, Bytes, DiskAccess, DiskCaching, DiskFormat, DiskOptions, DiskSpec, MachineExit,
    MachinePhase, ResetCounts, ResetLimit, ResetPolicy, ResetSource, SerialMode, VsockSpec,
};

use support::{file_with, host, launch, request, within};

fn disk(file: OwnedFd, caching: DiskCaching) -> DiskSpec<OwnedFd> {
    DiskSpec {
        direct_file: None,
        id: "disk0".into(),
        file,
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 16,
        options: DiskOptions { caching, ..DiskOptions::default() },
    }
}

async fn until_reset(machine: &MachineHandle, total: u64) {
    let mut status = machine.status();
    let booted = |status: &vm_model::MachineStatus| {
        status.resets.total() >= total && status.phase == MachinePhase::Running
    };
    within(status.wait_for(booted)).await.expect("it is told");
}

#[tokio::test]
async fn each_life_finds_the_disk_as_the_one_before_left_it() {
    const RESETS: u32 = 5;
    let Some(host) = host() else { return };
    for caching in [DiskCaching::Cached, DiskCaching::Direct] {
        let image = File::from(file_with(&[0; 4096]));
        let mut request = request("vm", &TinyGuest::lives(RESETS));
        request.spec.disks.push(disk(image.try_clone().expect("a descriptor").into(), caching));
        let machine = launch(&host, request).await;
        assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
        within(machine.released()).await;

        let mut lives = [0; 4];
        image.read_exact_at(&mut lives, 0).expect("it is there");
        assert_eq!(u32::from_le_bytes(lives), RESETS + 1);
        let console = machine.console().snapshot();
        let words = |life| format!("\nread status 00\nlife {life:08x}\nwrite status 00\n");
        let expected: String = (0..=RESETS).map(words).collect();
        assert_eq!(String::from_utf8_lossy(&console.head), expected, "nothing is lost or said twice");
        let status = machine.status().borrow().clone();
        assert_eq!(status.resets, ResetCounts { by_guest: u64::from(RESETS), by_button: 0 });
        assert_eq!(status.console_start, (expected.len() - words(RESETS).len()) as u64);
        let counters = machine.counters();
        assert_eq!((counters.disks[0].read_operations, counters.disks[0].write_operations), (6, 6));
        assert_eq!(counters.disks[0].read_bytes, 6 * 512);
    }
}

#[tokio::test]
async fn every_kind_of_reset_is_carried_out_in_place_until_the_budget_is_used_up() {
    let Some(host) = host() else { return };
    let mut watchdog = request("vm", &TinyGuest::watchdog());
    watchdog.spec.services.watchdog = true;
    let limited = |count| ResetPolicy::InPlace(ResetLimit { count, window: Duration::from_secs(3600) });
    for (request, count, source) in [
        (request("vm", &TinyGuest::acpi_reset()), 3, ResetSource::Acpi),
        (request("vm", &TinyGuest::keyboard_reset()), 3, ResetSource::KeyboardController),
        (watchdog, 1, ResetSource::Watchdog),
    ] {
        let machine = launch(&host, LaunchRequest { resets: limited(count), ..request }).await;
        assert_eq!(within(machine.exited()).await, MachineExit::Reset(source));
        within(machine.released()).await;
        assert_eq!(machine.status().borrow().resets.by_guest, u64::from(count));
        assert_eq!(
            machine.console().snapshot().head,
            b"ready\n".repeat(usize::try_from(count).expect("small") + 1)
        );
    }
}

#[tokio::test]
async fn a_triple_fault_is_no_reset() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::triple_fault())).await;
    assert_eq!(within(machine.exited()).await, MachineExit::TripleFault);
    assert_eq!(machine.status().borrow().resets, ResetCounts::default());
}

#[tokio::test]
async fn the_button_resets_guests_that_run_halt_or_are_paused() {
    let Some(host) = host() else { return };
    for guest in [TinyGuest::spin(), TinyGuest::idle()] {
        let mut request = request("vm", &guest);
        request.spec.cpus.boot_vcpus = 2;
        let machine = launch(&host, request).await;
        let mut cpu_time = Duration::ZERO;
        for reset in 1..=4 {
            if reset % 2 == 0 {
                within(machine.pause()).await.expect("it pauses");
            }
            within(machine.reset()).await.expect("the button works");
            until_reset(&machine, reset).await;
            let now = machine.counters().vcpus[0].cpu_time;
            assert!(now > cpu_time, "{now:?} after {cpu_time:?}");
            cpu_time = now;
        }
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
        assert_eq!(machine.status().borrow().resets.by_button, 4);
    }
}

#[tokio::test]
async fn sockets_are_listened_on_again_and_connections_of_the_old_guest_are_closed() {
    let Some(host) = host() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let mut request = request("vm", &TinyGuest::idle());
    let opened = File::open(directory.path()).expect("it is there").into();
    request.spec.services.vsock = Some(VsockSpec { cid: 3, directory: opened });
    let machine = launch(&host, request).await;
    let socket = directory.path().join("vsock.sock");
    for reset in 1..=3 {
        let mut caller = UnixStream::connect(&socket).expect("somebody listens");
        within(machine.reset()).await.expect("the button works");
        until_reset(&machine, reset).await;
        caller.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        assert!(!caller.read(&mut [0]).is_ok_and(|bytes| bytes > 0), "it is closed");
    }
    UnixStream::connect(&socket).expect("somebody listens");
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_consoles_size_is_that_of_its_terminal_and_a_balloon_begins_anew() {
    let Some(host) = host() else { return };
    let mut request = request("vm", &TinyGuest::console());
    request.spec.serial = SerialMode::Null;
    request.spec.services.console = true;
    request.spec.services.balloon = Some(BalloonSpec { size: Bytes::from_mib(1), ..BalloonSpec::default() });
    let machine = launch(&host, request).await;
    let target = || machine.counters().balloon.expect("it has one").target.as_mib();
    within(machine.set_balloon(Bytes::from_mib(8))).await.expect("it has one");
    assert_eq!(target(), 8);
    within(machine.resize_console(300, 50)).await.expect("it has one");
    within(machine.reset()).await.expect("the button works");
    until_reset(&machine, 1).await;
    assert_eq!(target(), 1);
    // A guest that is not told the size never gets as far as to listen.
    let mut typed = 0;
    while typed < 4 {
        typed += within(machine.write_console(b"abcd"[typed..].to_vec())).await.expect("it runs");
    }
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    assert!(machine.console().snapshot().head.ends_with(b"ready\nabcd"));
}
