//! What a host process says to its worker that none says.

use std::fs;

use machine_host::StopPolicy;
use vm_model::{MachineExit, ThreadHealth};

use super::log::Log;
use super::scene::{Scene, Thread};
use super::support::{children, descriptors, has_kvm, until, within};

/// What comes of words that no host process says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The connection is lost, and this is why.
    Lost(&'static str),
    /// Nothing.
    Ignored,
}

use Answer::{Ignored, Lost};

/// What comes of words, and who says them.
#[rustfmt::skip]
pub(crate) const EXPECTED: &[(&str, Thread, Answer)] = &[
    ("garbage",               Thread::Vcpu, Lost("a message is not as it should be: expected value")),
    ("half-a-message",        Thread::Vcpu, Lost("a message is not as it should be: EOF while parsing")),
    ("a-long-packet",         Thread::Vcpu, Lost("a packet has more than 65536 bytes")),
    ("a-deep-message",        Thread::Vcpu, Lost("a message is not as it should be: recursion limit exceeded")),
    ("a-long-mistake",        Thread::Vcpu, Lost("a message is not as it should be: unknown variant `xxx")),
    ("a-long-refusal",        Thread::Vcpu, Lost("a host process ends its connection")),
    ("an-empty-packet",       Thread::Main, Lost("")),
    ("a-descriptor",          Thread::Main, Lost("1 descriptors came with it that it does not name")),
    ("many-descriptors",      Thread::Main, Lost("253 descriptors came with it that it does not name")),
    ("no-descriptor",         Thread::Vcpu, Lost("said to be in a file, and no descriptor came with it")),
    ("the-wrong-descriptor",  Thread::Main, Lost("cannot read the seals of the file of a message")),
    ("a-file-that-changes",   Thread::Main, Lost("the file of a message is not sealed against changes")),
    ("an-endless-file",       Thread::Main, Lost("a message has 1099511627776 bytes")),
    ("a-hello",               Thread::Vcpu, Ignored),
    ("a-second-welcome",      Thread::Vcpu, Lost("a host process says a second welcome")),
    ("answers-to-nothing",    Thread::Vcpu, Ignored),
    ("siblings-end",          Thread::Vcpu, Ignored),
];

#[tokio::test]
async fn what_a_hostile_process_says_costs_it_its_connection_alone() {
    if !has_kvm() {
        return;
    }
    let (scene, log) = (Scene::new(|_| {}).await, Log::default());
    let _following = log.follow();
    let machine = scene.launch_hostile().await;
    within(machine.pause()).await.expect("it pauses");
    within(machine.resume()).await.expect("it goes on");
    let before = descriptors(std::process::id());
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    drop(machine);
    for (words, thread, answer) in EXPECTED {
        let machine = scene.launch_hostile().await;
        let _ = log.take();
        let commanding = scene.command(&machine, words, *thread);
        if let Lost(reason) = answer {
            until(words, || log.has("the connection to a host process is there again")).await;
            let said = log.take();
            assert!(said.lines().any(|line| line.contains(reason)), "{words}: {reason:?} is not in {said}");
            assert!(said.lines().count() <= 2 && said.len() < 2048, "{words}: {said}");
        }
        // It is the same machine as before, in the same process.
        within(machine.pause()).await.expect("it pauses");
        within(machine.resume()).await.expect("it goes on");
        assert_eq!(log.take(), "", "{words}");
        scene.sibling_is_well(words).await;
        drop(commanding);
        until("nothing that came is open", || descriptors(std::process::id()) == before).await;
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
        drop(machine);
        until("the process ends", || children().len() == 1).await;
    }
    scene.end().await;
}

/// How much memory this process has in use, in KiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_process_that_floods_its_worker_delays_nobody_and_is_ended() {
    if !has_kvm() {
        return;
    }
    let scene = Scene::new(|_| {}).await;
    let machine = scene.launch_hostile().await;
    let before = memory();
    // On the thread that reads what the worker says.
    let commanding = scene.command(&machine, "flood", Thread::Main);
    for _ in 0..100 {
        scene.sibling_is_well("the flood").await;
    }
    scene.another_starts().await;
    // What is read is not kept.
    let after = memory();
    assert!(after < before + (16 << 10), "{before} KiB, then {after}");
    assert_eq!(*machine.health().borrow(), ThreadHealth::Turning, "it is listened to all the time");
    drop(commanding);
    let report = within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    assert_eq!(report.exit, MachineExit::Killed);
    within(machine.released()).await;
    drop(machine);
    scene.end().await;
}
