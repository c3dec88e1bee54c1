//! A disk that never answers, on real KVM: it costs its own machine its disk, and nobody anything else.

mod support;

use std::time::{Duration, Instant};

use machine_host::{LaunchError, LaunchRequest, MachineHandle, StopPolicy};
use tiny_guest::TinyGuest;
use tokio::time::{sleep, timeout};
use vm_model::{
    DiskAccess, DiskFormat, DiskOptions, DiskSpec, FailureKind, MachineExit, MachinePhase, StopMethod,
};

use support::{host, launch, request, within};

/// For what takes milliseconds on an idle host, and is not to wait for a disk's five seconds of patience.
const MOMENT: Duration = Duration::from_secs(3);

/// A machine whose disk is `disk`: a pipe gives nothing until somebody writes to its other end.
fn stuck(disk: std::io::PipeReader) -> LaunchRequest {
    let mut request = request("stuck", &TinyGuest::waiting_for_disk());
    request.spec.disks.push(DiskSpec {
        direct_file: None,
        id: "held".to_owned(),
        file: disk.into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadOnly,
        serial: None,
        queue_size: 128,
        options: DiskOptions::default(),
    });
    request
}

async fn says(machine: &MachineHandle, text: &str) {
    within(async {
        while !String::from_utf8_lossy(&machine.console().snapshot().head).contains(text) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn types(machine: &MachineHandle, byte: u8) {
    assert_eq!(within(machine.write_console(vec![byte])).await, Ok(1));
}

/// Kills a machine that has nothing to wait for, and waits until all of it is given back.
async fn ends_in_a_moment(machine: MachineHandle) {
    let started = Instant::now();
    let report = within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    assert_eq!(report.exit, MachineExit::Killed);
    within(machine.released()).await;
    let took = started.elapsed();
    assert!(took < MOMENT, "{:?} took {took:?}", machine.id());
}

fn settling_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    };
    tasks.filter_map(name).filter(|name| name.trim() == "disk-settle").count()
}

#[tokio::test]
async fn a_disk_that_never_answers_keeps_nobody_else_waiting() {
    let Some(host) = host() else { return };
    let mut siblings = Vec::new();
    for name in ["first", "second", "third"] {
        siblings.push(launch(&host, request(name, &TinyGuest::echo())).await);
    }
    let (disk, far_end) = std::io::pipe().expect("a pipe");
    let stuck = launch(&host, stuck(disk)).await;
    says(&stuck, "asked\n").await;

    // Its own console, and another machine's.
    types(&stuck, b'a').await;
    says(&stuck, "typed 00000061\n").await;
    types(&siblings[0], b'b').await;
    says(&siblings[0], "b").await;
    assert_eq!(stuck.status().borrow().phase, MachinePhase::Running);

    // While it is killed, and waits for its disk one last time, others end and are released.
    let asked = Instant::now();
    let killed = async {
        let report = stuck.stop(StopPolicy::KILL).await.expect("it stops");
        (report.method, asked.elapsed())
    };
    let first = siblings.remove(0);
    let ((method, took), ()) = within(async { tokio::join!(killed, ends_in_a_moment(first)) }).await;
    assert_eq!(method, StopMethod::Kill);
    assert!(took < Duration::from_secs(5) + MOMENT, "the kill took {took:?}");

    // Its remains wait for the transfer, on a thread of their own.
    ends_in_a_moment(siblings.remove(0)).await;
    within(async {
        while host.counts().unsettled == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let counts = host.counts();
    assert_eq!((counts.hosted, counts.ended, counts.unsettled), (2, 1, 1));
    assert!(timeout(Duration::from_millis(50), stuck.released()).await.is_err(), "its disk is not settled");

    // The same machine does not get a disk that its former life may still write to, and is told which.
    let (disk, _second_far_end) = std::io::pipe().expect("a pipe");
    let error = within(host.launch(self::stuck(disk))).await.expect_err("it is not released");
    assert!(matches!(error, LaunchError::Unsettled { .. }) && error.kind() == FailureKind::Host, "{error:?}");
    assert!(error.to_string().contains("disk held"), "{error}");
    types(&siblings[0], b'c').await;
    says(&siblings[0], "c").await;

    drop(far_end);
    within(stuck.released()).await;
    assert_eq!((host.counts().hosted, host.counts().unsettled), (1, 0));
    assert_eq!(settling_threads(), 0, "nothing is left to wait for");
    let (disk, second_far_end) = std::io::pipe().expect("a pipe");
    let again = launch(&host, self::stuck(disk)).await;
    says(&again, "asked\n").await;
    drop(second_far_end);
    ends_in_a_moment(again).await;
}
