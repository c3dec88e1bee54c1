//! Consoles in directories, of machines on real KVM.

mod support;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use console_log::{ConsoleFiles, ConsoleSnapshot};
use machine_host::{LaunchRequest, StopPolicy};
use tempfile::TempDir;
use tiny_guest::TinyGuest;
use vm_model::{MachineExit, ResetLimit, ResetPolicy};

use support::{host, launch, request, within};

fn opened(directory: &Path) -> Option<OwnedFd> {
    Some(File::open(directory).expect("it is there").into())
}

fn kept_in(directory: &TempDir, request: LaunchRequest) -> LaunchRequest {
    LaunchRequest { console_dir: opened(directory.path()), ..request }
}

/// What each boot wrote, oldest first.
fn boots(directory: &TempDir) -> Vec<String> {
    let files = ConsoleFiles::open(directory.path()).expect("a console");
    let mut boots = Vec::new();
    for boot in files.boots().expect("listed") {
        let ConsoleSnapshot { head, omitted, tail, .. } = files.snapshot(boot.number).expect("kept");
        assert_eq!((omitted, tail), (0, Vec::new()));
        boots.push(String::from_utf8(head).expect("text"));
    }
    boots
}

#[tokio::test]
async fn each_boot_is_in_files_of_its_own_when_its_machine_has_ended() {
    let Some(host) = host() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let resets = ResetPolicy::InPlace(ResetLimit { count: 1, ..ResetLimit::default() });
    let reset = LaunchRequest { resets, ..request("vm", &TinyGuest::acpi_reset()) };
    let machine = launch(&host, kept_in(&directory, reset)).await;
    assert!(matches!(within(machine.exited()).await, MachineExit::Reset(_)));
    assert_eq!(boots(&directory), ["ready\n", "ready\n"], "one reset in place, and the end");
    within(machine.released()).await;

    let hello = kept_in(&directory, request("vm", &TinyGuest::hello("another machine")));
    let machine = launch(&host, hello).await;
    within(machine.exited()).await;
    let console = String::from_utf8(machine.console().snapshot().head).expect("text");
    assert!(console.contains("another machine"));
    assert_eq!(boots(&directory), ["ready\n", "ready\n", &console]);
    within(machine.released()).await;
}

#[tokio::test]
async fn a_console_is_written_while_its_guest_runs() {
    let Some(host) = host() else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let machine = launch(&host, kept_in(&directory, request("vm", &TinyGuest::idle()))).await;
    let said = within(async {
        loop {
            let said = String::from_utf8(machine.console().snapshot().head).expect("text");
            if !said.is_empty() && boots(&directory) == [said.as_str()] {
                break said;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    // The directory is gone before the machine is: its end is told all the same.
    drop(directory);
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    assert_eq!(machine.console().snapshot().head, said.as_bytes());
}
