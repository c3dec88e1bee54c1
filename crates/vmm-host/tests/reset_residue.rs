//! What resets in place on real KVM leave behind: nothing. One test, alone in its process, as counting needs it.

#[path = "support/holdings.rs"]
mod holdings;
mod support;

use std::fs::File;
use std::time::Duration;

use tiny_guest::TinyGuest;
use vm_model::{BalloonSpec, Bytes, DiskAccess, DiskFormat, DiskOptions, DiskSpec, MachinePhase, VsockSpec};

use holdings::{Holdings, holdings, mappings_by_name, resident_kib};
use support::{file_with, host, launch, request, within};

#[tokio::test]
async fn two_hundred_resets_leave_nothing_behind() {
    const WARM: u64 = 50;
    const RESETS: u64 = 200;
    let Some(host) = host() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let mut request = request("vm", &TinyGuest::idle());
    request.spec.memory.size = Bytes::from_mib(32);
    request.spec.memory.prefault = true;
    request.spec.cpus.boot_vcpus = 2;
    request.spec.rng = true;
    request.spec.disks.push(DiskSpec {
        direct_file: None,
        id: "disk0".into(),
        file: file_with(&[0; 4096]),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        serial: None,
        queue_size: 16,
        options: DiskOptions::default(),
    });
    request.spec.services.balloon = Some(BalloonSpec::default());
    request.spec.services.console = true;
    request.spec.services.watchdog = true;
    let sockets = File::open(directory.path()).expect("it is there").into();
    request.spec.services.vsock = Some(VsockSpec { cid: 3, directory: sockets });
    let machine = launch(&host, request).await;
    let mut status = machine.status();
    let (mut before, mut mapped, mut settled_kib, mut took) = (None, None, 0, Duration::ZERO);
    for reset in 1..=WARM + RESETS {
        within(machine.reset()).await.expect("the button works");
        let booted = |status: &vm_model::MachineStatus| {
            status.resets.by_button == reset
                && status.phase == MachinePhase::Running
                && status.timings.first_console_byte.is_some()
        };
        let status = within(status.wait_for(booted)).await.expect("it is told").clone();
        took = took.max(status.timings.first_entry.unwrap_or_default());
        if reset == WARM {
            (before, mapped, settled_kib) = (Some(settled().await), Some(mappings_by_name()), resident_kib());
        }
    }
    let (before, after) = (before.expect("it was counted"), settled().await);
    assert_eq!((after.descriptors, after.threads), (before.descriptors, before.threads));
    // The allocator may take a few mappings more; machines take several each.
    assert!(
        after.mappings <= before.mappings + 16,
        "{before:?} became {after:?}: {mapped:?} became {:?}",
        mappings_by_name()
    );
    let growth_kib = resident_kib().saturating_sub(settled_kib);
    println!("{growth_kib} KiB more after {RESETS} resets; the longest took {took:?}");
    assert!(growth_kib < 2 * RESETS, "{growth_kib} KiB more after {RESETS} resets");
    assert_eq!(host.counts().hosted, 1);
}

/// What is held once every vCPU's thread is under way: the second one opens its figures a moment after the first runs.
async fn settled() -> Holdings {
    loop {
        let seen = holdings();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if holdings().descriptors == seen.descriptors {
            return seen;
        }
    }
}
