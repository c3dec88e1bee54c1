//! A kernel that changes after it was verified never gets to a vCPU: not at a launch, and not at a reset.

mod support;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use machine_host::{LaunchError, LaunchFailure, LaunchRequest, StopPolicy};
use rustix::fs::{AtFlags, StatxFlags, statx};
use tempfile::TempDir;
use tiny_guest::TinyGuest;
use vm_model::{
    BootIdentities, FailureKind, FileIdentity, MachineExit, MachinePhase, ResetLimit, ResetPolicy,
    ResetSource,
};

use support::{host, launch, request, within};

/// Longer than the kernel's clock for file times stands still.
const TICK: Duration = Duration::from_millis(20);

/// What `nix-artifacts` would have noted of the file, whose last change is a while ago.
fn identity(file: impl AsFd) -> FileIdentity {
    sleep(TICK);
    let status =
        statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME).expect("stat");
    let has_birth = status.stx_mask & StatxFlags::BTIME.bits() != 0;
    FileIdentity {
        device: (status.stx_dev_major, status.stx_dev_minor),
        inode: status.stx_ino,
        size: status.stx_size,
        modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
        changed: (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec),
        born: has_birth.then_some((status.stx_btime.tv_sec, status.stx_btime.tv_nsec)),
    }
}

/// A directory with the kernel of `guest`.
fn kernel_of(guest: &TinyGuest) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = directory.path().join("kernel");
    fs::write(&kernel, guest.elf()).expect("written");
    (directory, kernel)
}

/// A request for a machine that boots the file at `kernel`, which is verified now.
fn verified(kernel: &Path) -> LaunchRequest {
    let file = File::open(kernel).expect("opened");
    let mut request = request("vm", &TinyGuest::idle());
    request.verified = Some(BootIdentities { kernel: identity(&file), initrd: None });
    request.spec.boot.kernel = file.into();
    request
}

/// Changes the first bytes of the file, and puts them back.
fn touch(file: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(file).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).expect("read");
    file.write_all_at(&byte, 0).expect("written");
}

fn refused(error: LaunchError) -> String {
    match error {
        LaunchError::Machine { source: LaunchFailure::Build { kind: FailureKind::Host, reason }, .. } => {
            reason
        }
        other => panic!("another failure: {other:?}"),
    }
}

#[tokio::test]
async fn what_was_changed_after_it_was_verified_is_not_started() {
    let Some(host) = host() else { return };
    let (directory, kernel) = kernel_of(&TinyGuest::idle());
    let machine = launch(&host, verified(&kernel)).await;
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;

    let request = verified(&kernel);
    touch(&kernel);
    let reason = refused(within(host.launch(request)).await.expect_err("changed"));
    assert!(reason.starts_with("its kernel was changed after it was verified: its"), "{reason}");

    let initrd = directory.path().join("initrd");
    fs::write(&initrd, b"initrd").expect("written");
    let mut request = verified(&kernel);
    let file = File::open(&initrd).expect("opened");
    request.verified.as_mut().expect("it is").initrd = Some(identity(&file));
    request.spec.boot.initrd = Some(file.into());
    fs::hard_link(&initrd, directory.path().join("link")).expect("linked");
    let reason = refused(within(host.launch(request)).await.expect_err("changed"));
    assert!(reason.starts_with("its initial RAM disk was changed"), "{reason}");
}

#[tokio::test]
async fn a_kernel_that_is_edited_while_it_is_loaded_never_runs() {
    let Some(host) = host() else { return };
    let [good, evil] = ["good", "evil"].map(|message| TinyGuest::hello(format!("{message}\n")).elf());
    assert_eq!(good.len(), evil.len());
    let (_directory, kernel) = kernel_of(&TinyGuest::hello("good\n"));
    let (mut started, mut refusals) = (0, 0);
    for round in 0..40_u64 {
        fs::write(&kernel, &good).expect("written");
        let request = verified(&kernel);
        let is_over = Arc::new(AtomicBool::new(false));
        let attacker = std::thread::spawn({
            let (good, evil, is_over) = (good.clone(), evil.clone(), Arc::clone(&is_over));
            let file = fs::OpenOptions::new().write(true).open(&kernel).expect("opened");
            move || {
                // Some edits come before the loading, some while it lasts, some after it.
                sleep(Duration::from_micros(round * 100));
                while !is_over.load(Ordering::Relaxed) {
                    file.write_all_at(&evil, 0).expect("written");
                    file.write_all_at(&good, 0).expect("written");
                }
            }
        });
        let outcome = within(host.launch(request)).await;
        is_over.store(true, Ordering::Relaxed);
        attacker.join().expect("no panic");
        match outcome {
            Ok(machine) => {
                within(machine.exited()).await;
                assert_eq!(machine.console().snapshot().head, b"good\n", "round {round}");
                within(machine.released()).await;
                started += 1;
            }
            Err(error) => {
                refused(error);
                refusals += 1;
            }
        }
    }
    assert!(refusals > 0, "no edit met a loading: {started} started");
}

#[tokio::test]
async fn the_reset_button_does_not_load_what_was_changed_since() {
    let Some(host) = host() else { return };
    let (_directory, kernel) = kernel_of(&TinyGuest::idle());
    let machine = launch(&host, verified(&kernel)).await;
    within(machine.reset()).await.expect("nothing was changed");
    let mut status = machine.status();
    let is_up = |status: &vm_model::MachineStatus| {
        status.resets.by_button == 1 && status.phase == MachinePhase::Running
    };
    within(status.wait_for(is_up)).await.expect("it is told");
    touch(&kernel);
    let error = within(machine.reset()).await.expect_err("changed").to_string();
    assert!(error.contains("its kernel was changed after it was verified"), "{error}");
    let status = machine.status().borrow().clone();
    assert_eq!((status.phase, status.resets.by_button), (MachinePhase::Running, 1), "it goes on");
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
}

#[tokio::test]
async fn a_guests_own_reset_ends_its_machine_where_the_kernel_was_changed() {
    let Some(host) = host() else { return };
    let (_directory, kernel) = kernel_of(&TinyGuest::watchdog());
    let mut request = verified(&kernel);
    request.spec.services.watchdog = true;
    // So many resets take longer than anything here may.
    request.resets = ResetPolicy::InPlace(ResetLimit { count: 1000, ..ResetLimit::default() });
    let machine = launch(&host, request).await;
    touch(&kernel);
    assert_eq!(within(machine.exited()).await, MachineExit::Reset(ResetSource::Watchdog));
    within(machine.released()).await;
}
