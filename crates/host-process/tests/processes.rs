//! Machines in real processes on real KVM, through the public interface alone.

mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroUsize;
use std::time::Duration;

use console_log::ConsoleFiles;
use host_process::client::{SeenAnswer, SeenProcess, look_at_processes};
use host_process::wire::VERSIONS;
use host_process::{HostProcessOptions, HostProcesses};
use machine_host::{LaunchError, LaunchRequest, MachineHost, StopPolicy};
use rustix::process::Signal;
use tiny_guest::TinyGuest;
use tokio::time::{sleep, timeout};
use vm_model::{InitialState, Isolation, MachineExit, MachinePhase, StopMethod, ThreadHealth};

use support::{
    anyone, children, descriptors, directory, has_kvm, host, launch, options, phase, request, signal,
    sockets, until, within,
};

/// How `ps` shows the processes that this one started.
fn names_of_children() -> Vec<String> {
    let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("it is there");
    children().into_iter().map(|pid| name(pid).trim_end().to_owned()).collect()
}

#[tokio::test]
async fn a_machine_lives_in_a_process_of_its_own() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "web-1", &TinyGuest::echo()).await;
    assert_eq!(children().len(), 1);
    assert_eq!(names_of_children(), ["vm:web-1"]);
    assert_eq!(host.counts().hosted, 1);
    assert!(
        machine.status().borrow().timings.first_entry.is_some(),
        "the status came before the launch's answer"
    );
    within(machine.pause()).await.expect("it pauses");
    phase(&machine, MachinePhase::Paused).await;
    within(machine.resume()).await.expect("it goes on");
    assert_eq!(within(machine.write_console(b"abc".to_vec())).await, Ok(3));
    within(machine.refresh_counters()).await;
    assert!(machine.counters().vcpus[0].exits > 0);
    let refused = within(host.launch(request("web-1", &TinyGuest::idle()))).await;
    assert!(matches!(refused, Err(LaunchError::AlreadyHosted { .. })), "{refused:?}");

    let report = within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::Kill, MachineExit::Killed));
    within(machine.released()).await;
    assert_eq!(host.counts().hosted, 0);
    assert!(machine.counters().vcpus[0].exits > 0, "the last reading stays");
    assert!(within(machine.pause()).await.is_err());
    assert_eq!(children().len(), 1, "its end is kept as long as somebody may ask for it");
    assert_eq!(names_of_children(), ["vm:web-1"]);
    drop(machine);
    until("the process ends and is collected", || children().is_empty()).await;
    until("its socket is gone", || sockets(&directory).is_empty()).await;
}

#[tokio::test]
async fn its_process_writes_the_console_and_holds_the_lock() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let (console, lock) = (directory.path().join("console"), directory.path().join("lock"));
    std::fs::create_dir(&console).expect("a directory");
    let mut request = request("vm", &TinyGuest::last_words("hello, file"));
    request.console_dir = Some(File::open(&console).expect("it is there").into());
    let held = File::create(&lock).expect("a file");
    held.lock().expect("nobody has it");
    request.lock = Some(held.into());
    let machine = within(host.launch(request)).await.expect("it launches");
    let other = File::open(&lock).expect("it is there");
    assert!(other.try_lock().is_err(), "its process has it");
    let files = ConsoleFiles::open(&console).expect("it can be read");
    until("the guest's words are in a file", || {
        let newest = files.newest().expect("it can be read");
        newest.is_some_and(|boot| files.tail_lines(boot, 1).expect("it can be read") == ["hello, file"])
    })
    .await;
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    other.try_lock().expect("it is given back");
    drop(machine);
    until("the process ends", || children().is_empty()).await;
}

#[tokio::test]
async fn guests_end_as_they_do_elsewhere() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::power_button()).await;
    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::PowerButton, MachineExit::PoweredOff));
    within(machine.released()).await;
    // The name is free at once, the process is not needed for that.
    let next = launch(&host, "vm", &TinyGuest::triple_fault()).await;
    assert_eq!(within(next.exited()).await, MachineExit::TripleFault);
    let mut paused = request("late", &TinyGuest::hello("late"));
    paused.initial = InitialState::Paused;
    let late = within(host.launch(paused)).await.expect("it launches");
    assert_eq!(late.status().borrow().phase, MachinePhase::Paused);
    within(late.resume()).await.expect("it goes on");
    assert_eq!(within(late.exited()).await, MachineExit::PoweredOff);
    assert_eq!(within(host.shut_down(Duration::from_secs(20))).await.remaining, []);
    assert!(children().is_empty());
}

#[tokio::test]
async fn what_cannot_be_launched_says_why_and_leaves_nothing() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let mut bad = request("bad", &TinyGuest::idle());
    bad.spec.boot.kernel = support::file_with(b"no kernel");
    let error = within(host.launch(bad)).await.expect_err("it is no kernel");
    assert!(matches!(error, LaunchError::Machine { .. }), "{error:?}");
    assert_eq!(host.counts().hosted, 0, "its name is free");
    until("the process ends", || children().is_empty()).await;

    let missing = vec!["/nonexistent/vm-host".into()];
    let other = support::host(HostProcessOptions { program: missing, ..options(&directory) });
    let error =
        within(other.launch(request("vm", &TinyGuest::idle()))).await.expect_err("there is no program");
    assert!(
        matches!(&error, LaunchError::Host { problem, .. } if problem.contains("/nonexistent")),
        "{error:?}"
    );
    let ends = support::host(HostProcessOptions { program: vec!["/bin/true".into()], ..options(&directory) });
    let error = within(ends.launch(request("vm", &TinyGuest::idle()))).await.expect_err("it hosts nothing");
    assert!(matches!(error, LaunchError::Host { .. }), "{error:?}");
    until("nothing is left", || children().is_empty() && sockets(&directory).is_empty()).await;
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(HostProcessOptions { spare: 1, ..options(&directory) });
    within(host.adopt(anyone())).await;
    until("a spare process is there", || sockets(&directory).len() == 1).await;
    for patience in [0, 1, 2, 5, 10, 20, 50] {
        let launch = host.launch(request("vm", &TinyGuest::spin()));
        let launched = timeout(Duration::from_millis(patience), launch).await;
        if let Ok(launched) = launched {
            launched.expect("it launches").stop(StopPolicy::KILL).await.expect("it stops");
        }
        until("the name is free", || host.counts().hosted == 0).await;
    }
    let report = within(host.shut_down(Duration::from_secs(20))).await;
    assert_eq!(report.remaining, []);
    until("nothing is left", || children().is_empty() && sockets(&directory).is_empty()).await;
}

#[tokio::test]
async fn a_process_that_is_killed_takes_its_machine_alone() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let unlucky = launch(&host, "unlucky", &TinyGuest::spin()).await;
    let pid = *children().first().expect("its process");
    let sibling = launch(&host, "sibling", &TinyGuest::spin()).await;
    signal(pid, Signal::KILL);
    let lost = format!("its host process {pid} was killed by SIGKILL");
    assert_eq!(within(unlucky.exited()).await, MachineExit::HostLost(lost));
    within(unlucky.released()).await;
    assert!(within(unlucky.pause()).await.is_err());
    within(sibling.pause()).await.expect("it is not concerned");
    until("it is collected", || children().len() == 1).await;
    assert_eq!(sockets(&directory).len(), 1);
    // The same name again, in another process.
    let again = launch(&host, "unlucky", &TinyGuest::spin()).await;
    assert_eq!(host.counts().hosted, 2);
    drop((again, sibling));
    let report = within(host.shut_down(Duration::from_secs(20))).await;
    assert_eq!((report.released.len(), report.remaining.len()), (2, 0));
    assert!(children().is_empty());
    let refused = within(host.launch(request("vm", &TinyGuest::idle()))).await;
    assert!(matches!(refused, Err(LaunchError::ShuttingDown { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_killed_with_its_machine() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::spin()).await;
    signal(*children().first().expect("its process"), Signal::STOP);
    let report = within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    assert_eq!(report.exit, MachineExit::Killed);
    within(machine.released()).await;
    until("it is collected", || children().is_empty()).await;
}

#[tokio::test]
async fn a_process_that_does_not_answer_is_told_until_it_does() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::idle()).await;
    let (process, mut health) = (*children().first().expect("its process"), machine.health());
    let asking = tokio::spawn({
        let machine = machine.clone();
        async move {
            loop {
                machine.refresh_counters().await;
                sleep(Duration::from_millis(20)).await;
            }
        }
    });
    signal(process, Signal::STOP);
    within(health.wait_for(|&health| health == ThreadHealth::Hung)).await.expect("it is told");
    signal(process, Signal::CONT);
    within(health.wait_for(|&health| health == ThreadHealth::Turning)).await.expect("it is told");
    asking.abort();
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(host.shut_down(Duration::from_secs(20))).await;
}

#[tokio::test]
async fn a_process_that_is_told_to_terminate_lets_its_guest_power_off() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let machine = launch(&host, "vm", &TinyGuest::power_button()).await;
    let pid = *children().first().expect("its process");
    let link = |name| std::fs::read_link(format!("/proc/{pid}/{name}")).expect("it is there");
    assert_eq!(link("cwd"), link("root"), "it keeps no file system in use");
    for ignored in [Signal::INT, Signal::HUP] {
        signal(pid, ignored);
    }
    within(machine.pause()).await.expect("it is still there");
    within(machine.resume()).await.expect("and goes on");
    signal(pid, Signal::TERM);
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    within(machine.released()).await;
    until("the process ends", || children().is_empty()).await;
    assert!(sockets(&directory).is_empty());
}

#[tokio::test]
async fn several_machines_share_a_process_where_they_may() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let three = NonZeroUsize::new(3).expect("not zero");
    let host = host(HostProcessOptions { machines_per_process: three, ..options(&directory) });
    let mut machines = Vec::new();
    for name in ["a", "b", "c", "d"] {
        machines.push(launch(&host, name, &TinyGuest::spin()).await);
    }
    assert_eq!(children().len(), 2);
    // The same VM again goes where its end is not kept.
    let first = machines.remove(0);
    within(first.stop(StopPolicy::KILL)).await.expect("it stops");
    within(first.released()).await;
    machines.push(launch(&host, "a", &TinyGuest::spin()).await);
    drop(first);
    assert_eq!(children().len(), 2);
    for machine in machines {
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
    }
    until("the processes end", || children().is_empty()).await;
}

#[tokio::test]
async fn a_machine_that_is_isolated_strictly_shares_its_process_with_nobody() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let many = NonZeroUsize::new(16).expect("not zero");
    let host = host(HostProcessOptions { machines_per_process: many, ..options(&directory) });
    let strict =
        |name: &str| LaunchRequest { isolation: Isolation::Strict, ..request(name, &TinyGuest::spin()) };
    let mut machines = vec![launch(&host, "a", &TinyGuest::spin()).await];
    machines.push(within(host.launch(strict("alone"))).await.expect("it launches"));
    assert_eq!(children().len(), 2, "it does not join the first");
    machines.push(launch(&host, "b", &TinyGuest::spin()).await);
    assert_eq!(children().len(), 2, "others do not join it");
    machines.push(within(host.launch(strict("alone-too"))).await.expect("it launches"));
    assert_eq!(children().len(), 3, "nor does another such machine");
    for machine in machines {
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
    }
    until("the processes end", || children().is_empty()).await;
}

#[tokio::test]
async fn whoever_looks_learns_what_could_be_taken_over_and_changes_nothing() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let place = directory.path().join("processes");
    assert_eq!(within(look_at_processes(&place)).await.expect("nothing is there"), []);
    let host = host(options(&directory));
    let machine = launch(&host, "web-1", &TinyGuest::echo()).await;
    let seen = within(look_at_processes(&place)).await.expect("it can be read");
    let [SeenProcess { pid, answer: SeenAnswer::Welcome { version, machines, .. }, .. }] = seen.as_slice()
    else {
        panic!("one process: {seen:?}");
    };
    assert_eq!(*pid, children().first().copied());
    assert_eq!((version, machines.len()), (VERSIONS.last().expect("there is one"), 1));
    assert_eq!((machines[0].vm.as_str(), machines[0].notes.as_str()), ("web-1", "notes of web-1"));
    // The worker's own conversation goes on.
    within(machine.pause()).await.expect("it pauses");
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    drop(machine);
    until("the process ends", || children().is_empty()).await;
}

/// This process' children once they are `count` and stay the same: one that is started goes on in another, and ends.
async fn settled_children(count: usize) -> BTreeSet<u32> {
    within(async {
        loop {
            let seen = children();
            sleep(Duration::from_millis(100)).await;
            if seen.len() == count && children() == seen {
                return seen;
            }
        }
    })
    .await
}

#[tokio::test]
async fn as_many_processes_are_kept_ahead_as_asked() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(HostProcessOptions { spare: 2, ..options(&directory) });
    assert!(children().is_empty());
    within(host.adopt(anyone())).await;
    let before = settled_children(2).await;
    let machine = launch(&host, "vm", &TinyGuest::spin()).await;
    assert!(settled_children(3).await.is_superset(&before), "one of them was taken");
    drop(machine);
    host.leave();
    drop(host);
    // Spare ones end by themselves, the machine's process goes on.
    until("only the machine is left", || sockets(&directory).len() == 1).await;
    end_what_is_left(&directory).await;
}

#[tokio::test]
async fn the_next_worker_adopts_what_the_last_one_left() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let first = host(options(&directory));
    let machine = launch(&first, "web-1", &TinyGuest::power_button()).await;
    let ended = launch(&first, "ended", &TinyGuest::hello("bye")).await;
    assert_eq!(within(ended.exited()).await, MachineExit::PoweredOff);
    first.leave();
    until("it was left", || first.counts().hosted == 0 || !children().is_empty()).await;
    drop((machine, ended, first));
    // As a worker leaves its sockets that did not end well: one that nobody listens on any more.
    let stale = directory.path().join("processes/stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));

    let second = host(options(&directory));
    let mut adoption = within(second.adopt(anyone())).await;
    assert_eq!(adoption.strangers, []);
    assert!(!stale.exists());
    adoption.machines.sort_by_key(|adopted| adopted.handle.id().clone());
    let [ended, running] = &adoption.machines[..] else { panic!("{adoption:?}") };
    assert_eq!((ended.notes.as_str(), running.notes.as_str()), ("notes of ended", "notes of web-1"));
    assert!(running.launched_ago > Duration::ZERO);
    assert_eq!(within(ended.handle.exited()).await, MachineExit::PoweredOff);
    within(ended.handle.released()).await;
    let refused = within(second.launch(request("web-1", &TinyGuest::idle()))).await;
    assert!(matches!(refused, Err(LaunchError::AlreadyHosted { .. })), "{refused:?}");
    within(running.handle.refresh_counters()).await;
    assert!(running.handle.counters().memory_size.get() > 0);
    let report = within(running.handle.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!(report.exit, MachineExit::PoweredOff);
    within(running.handle.released()).await;
    drop(adoption);
    until("the processes end", || sockets(&directory).is_empty()).await;
}

#[tokio::test]
async fn an_adopted_machine_whose_process_is_killed_is_lost() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let first = host(options(&directory));
    drop(launch(&first, "vm", &TinyGuest::spin()).await);
    let pid = *children().first().expect("its process");
    drop(first);
    let second = host(options(&directory));
    let adoption = within(second.adopt(anyone())).await;
    signal(pid, Signal::KILL);
    let machine = &adoption.machines.first().expect("it is adopted").handle;
    assert_eq!(
        within(machine.exited()).await,
        MachineExit::HostLost(format!("its host process {pid} was killed by SIGKILL"))
    );
    within(machine.released()).await;
    assert!(sockets(&directory).is_empty());
}

#[tokio::test]
async fn fifty_launches_leave_nothing_behind() {
    if !has_kvm() {
        return;
    }
    let directory = directory();
    let host = host(options(&directory));
    let own = std::process::id();
    let mut before = None;
    for round in 0..50 {
        let machine = launch(&host, "vm", &TinyGuest::hello("hello")).await;
        assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
        within(machine.released()).await;
        drop(machine);
        if round == 0 {
            until("the first process ends", || children().is_empty()).await;
            before = Some(descriptors(own));
        }
    }
    until("every process ends", || children().is_empty()).await;
    until("no descriptor is left", || Some(descriptors(own)) <= before).await;
    assert!(sockets(&directory).is_empty());
    assert_eq!(host.counts().hosted, 0);
}

/// Ends what was left in `directory`.
async fn end_what_is_left(directory: &tempfile::TempDir) {
    let host: HostProcesses = host(options(directory));
    within(host.adopt(anyone())).await;
    assert_eq!(within(host.shut_down(Duration::from_secs(20))).await.remaining, []);
}
