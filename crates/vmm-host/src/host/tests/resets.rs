//! Resets in place, with machines that misbehave on purpose. Real ones are in the crate's `tests` folder.

use vm_model::{LinkState, ResetCounts, ResetLimit, ResetSource};

use super::*;

/// A host whose machine `vm` behaves so, life by life, and is obedient after that.
fn host_of(lives: &[Behaviour]) -> (Arc<VmmHost>, Arc<FakeEngine>, Vec<std::sync::mpsc::SyncSender<()>>) {
    host_of_patient(lives, HostOptions::default())
}

fn host_of_patient(
    lives: &[Behaviour],
    options: HostOptions,
) -> (Arc<VmmHost>, Arc<FakeEngine>, Vec<std::sync::mpsc::SyncSender<()>>) {
    let (host, engine) = host_with(options);
    let gates = lives.iter().map(|behaviour| engine.will("vm", *behaviour)).collect();
    (Arc::new(host), engine, gates)
}

fn limited(count: u32) -> LaunchRequest {
    let limit = ResetLimit { count, window: Duration::from_secs(3600) };
    LaunchRequest { resets: ResetPolicy::InPlace(limit), ..request("vm") }
}

async fn until(machine: &MachineHandle, wanted: impl FnMut(&MachineStatus) -> bool) -> MachineStatus {
    within(machine.status().wait_for(wanted)).await.expect("its thread tells").clone()
}

fn by_guest(count: u64) -> ResetCounts {
    ResetCounts { by_guest: count, by_button: 0 }
}

const RESET: MachineExit = MachineExit::Reset(ResetSource::Acpi);

#[tokio::test]
async fn a_guest_that_resets_goes_on_behind_the_same_handle() {
    let (host, engine, _gates) = host_of(&[Behaviour::Resets, Behaviour::Resets]);
    let machine = launch(&host, request("vm")).await;
    let status =
        until(&machine, |status| status.resets == by_guest(2) && status.timings.first_console_byte.is_some())
            .await;
    assert_eq!((status.phase, is_hung(&machine)), (MachinePhase::Running, false));
    assert_eq!(
        (status.console_start, machine.console().snapshot().head.as_slice()),
        (12, &b"hello\n".repeat(3)[..])
    );
    assert_eq!(engine.most_alive.load(Ordering::SeqCst), 1, "never twice at a time");
    within(machine.pause()).await.expect("it is well");
    assert_eq!(host.counts(), HostCounts { hosted: 1, ..HostCounts::default() });
    within(machine.stop(StopPolicy::default())).await.expect("it stops");
    within(machine.released()).await;
    assert_eq!(engine.alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_budget_that_is_used_up_ends_the_machine() {
    let (host, _, _gates) = host_of(&[Behaviour::Resets; 3]);
    let machine = launch(&host, limited(2)).await;
    assert_eq!(within(machine.exited()).await, RESET);
    assert_eq!(machine.status().borrow().resets, by_guest(2));
    let (host, _, _gates) = host_of(&[Behaviour::Resets]);
    let request = LaunchRequest { resets: ResetPolicy::EndsMachine, ..request("vm") };
    assert_eq!(within(launch(&host, request).await.exited()).await, RESET);
}

#[tokio::test]
async fn a_panicked_guests_reset_ends_the_machine() {
    for behaviour in [Behaviour::ResetsAfterReport, Behaviour::ResetsAfterLastWords] {
        let (host, _, _gates) = host_of(&[Behaviour::Resets, behaviour]);
        let machine = launch(&host, request("vm")).await;
        assert_eq!(within(machine.exited()).await, RESET);
        let status = machine.status().borrow().clone();
        assert_eq!(status.resets, by_guest(1), "{behaviour:?}");
        assert_eq!(status.panic.is_some(), behaviour == Behaviour::ResetsAfterReport);
    }
}

#[tokio::test]
async fn a_panic_is_forgotten_with_the_guest_whose_it_was() {
    let (host, _, _gates) = host_of(&[Behaviour::Obedient, Behaviour::Resets]);
    let machine = launch(&host, request("vm")).await;
    within(machine.write_console(b"Ker".into())).await.expect("it echoes");
    for piece in ["nel", " pa", "nic", " - ", "not", " sy", "nci", "ng"] {
        within(machine.write_console(piece.into())).await.expect("it echoes");
    }
    within(machine.reset()).await.expect("the button works");
    // The next guest resets itself, and nothing on its own console speaks of a panic.
    until(&machine, |status| status.resets == ResetCounts { by_guest: 1, by_button: 1 }).await;
    until(&machine, |status| status.phase == MachinePhase::Running).await;
}

#[tokio::test]
async fn a_machine_that_does_not_come_to_rest_is_not_made_twice() {
    let (host, _, _gates) = host_of(&[Behaviour::ResetsUnsettled]);
    let machine = launch(&host, request("vm")).await;
    assert_eq!(within(machine.exited()).await, RESET);
}

#[tokio::test]
async fn the_button_works_on_running_and_paused_machines_and_costs_the_guest_nothing() {
    let (host, _) = host();
    let machine = launch(&host, limited(0)).await;
    within(machine.reset()).await.expect("it runs");
    until(&machine, |status| status.phase == MachinePhase::Running).await;
    within(machine.pause()).await.expect("it pauses");
    within(machine.reset()).await.expect("it is paused");
    let status = until(&machine, |status| status.phase == MachinePhase::Running).await;
    assert_eq!(status.resets, ResetCounts { by_guest: 0, by_button: 2 });

    let fixed = LaunchRequest { resets: ResetPolicy::EndsMachine, ..request("fixed") };
    let fixed = launch(&host, fixed).await;
    let error = within(fixed.reset()).await.expect_err("it is not made twice");
    assert_eq!(error.to_string(), "cannot reset VM fixed: it was launched as one whose resets end it");
    assert_eq!(phase(&fixed), MachinePhase::Running);
}

#[tokio::test]
async fn what_is_asked_while_the_machine_is_rebuilt_is_answered_after_it() {
    let (host, engine, mut gates) = host_of_patient(
        &[Behaviour::Resets, Behaviour::WaitsInBuild],
        HostOptions { hung_after: Duration::from_millis(20), ..HostOptions::default() },
    );
    let gate = gates.pop().expect("the second life's");
    let machine = launch(&host, request("vm")).await;
    until(&machine, |status| status.phase == MachinePhase::Booting).await;
    let asked = tokio::spawn({
        let machine = machine.clone();
        async move { (machine.write_console(b"abc".into()).await, machine.pause().await) }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!asked.is_finished());
    let status = machine.status().borrow().clone();
    assert_eq!(status.phase, MachinePhase::Booting);
    assert_eq!(*machine.health().borrow(), ThreadHealth::Turning, "building is no standstill");
    assert_eq!(status.timings, Default::default());
    assert_eq!(engine.alive.load(Ordering::SeqCst), 0, "the old one is gone first");
    drop(gate);
    let (typed, paused) = within(asked).await.expect("no panic");
    assert_eq!((typed, paused), (Ok(3), Ok(())));
    assert_eq!(phase(&machine), MachinePhase::Paused);
    assert!(machine.status().borrow().timings.first_entry >= Some(Duration::from_millis(100)));
}

#[tokio::test]
async fn a_kill_while_the_machine_is_rebuilt_ends_it() {
    for waits in [Behaviour::WaitsInBuild, Behaviour::WaitsInDrop] {
        let (lives, waiting): (&[_], _) = match waits {
            Behaviour::WaitsInDrop => (&[Behaviour::WaitsInDrop], 0),
            _ => (&[Behaviour::Resets, Behaviour::WaitsInBuild], 1),
        };
        let (host, engine, mut gates) = host_of(lives);
        let machine = launch(&host, request("vm")).await;
        if waits == Behaviour::WaitsInDrop {
            within(machine.reset()).await.expect("the button works");
        }
        until(&machine, |status| status.phase == MachinePhase::Booting).await;
        let stopping = tokio::spawn({
            let machine = machine.clone();
            async move { machine.stop(StopPolicy::KILL).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(gates.remove(waiting));
        let report = within(stopping).await.expect("no panic").expect("it stops");
        assert_eq!(report.exit, MachineExit::Killed, "{waits:?}");
        within(machine.released()).await;
        assert_eq!(engine.alive.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_machine_that_cannot_be_rebuilt_says_why_and_leaves_nothing() {
    let (host, engine, _gates) = host_of(&[Behaviour::Resets, Behaviour::FailsToBuild]);
    let machine = launch(&host, request("vm")).await;
    let reason = "its machine cannot be built: the kernel is no kernel".to_owned();
    let failed = MachineExit::NotBuilt { kind: FailureKind::Artifact, reason };
    assert_eq!(within(machine.exited()).await, failed);
    within(machine.released()).await;
    assert_eq!((host.counts(), engine.alive.load(Ordering::SeqCst)), (HostCounts::default(), 0));
}

#[tokio::test]
async fn a_panic_while_the_machine_is_rebuilt_is_contained() {
    for (lives, words) in [
        ([Behaviour::Resets, Behaviour::PanicsInBuild], "panic on thread vm:vm: no plan for vm at "),
        ([Behaviour::PanicsInDrop, Behaviour::Obedient], "panic on thread vm:vm: does not go quietly at "),
    ] {
        let (host, engine, _gates) = host_of(&lives);
        let (machine, other) = (launch(&host, request("vm")).await, launch(&host, request("other")).await);
        if lives[0] == Behaviour::PanicsInDrop {
            within(machine.reset()).await.expect("the button works");
        }
        let MachineExit::Failed(reason) = within(machine.exited()).await else {
            panic!("a panic is a failure");
        };
        assert!(reason.starts_with(words), "{reason}");
        within(machine.released()).await;
        assert_eq!((phase(&other), engine.alive.load(Ordering::SeqCst)), (MachinePhase::Running, 1));
    }
}

#[tokio::test]
async fn counters_grow_across_resets() {
    let (host, _) = host();
    let machine = launch(&host, request("vm")).await;
    let mut before = 0;
    for _ in 0..20 {
        within(machine.write_console(b"x".into())).await.expect("it runs");
        within(machine.reset()).await.expect("the button works");
        let exits = machine.counters().vcpus[0].exits;
        assert!(exits > before, "{exits} after {before}");
        before = exits;
    }
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    within(machine.released()).await;
    assert!(machine.counters().vcpus[0].exits >= before);
}

#[tokio::test]
async fn links_and_the_consoles_size_outlast_a_reset() {
    let (host, _) = host();
    let machine = launch(&host, request("vm")).await;
    let link = |link| machine.set_link("net0".to_owned(), link);
    within(link(LinkState::Up)).await.expect("it has it");
    within(link(LinkState::Down)).await.expect("it has it");
    within(machine.resize_console(132, 50)).await.expect("it has one");
    within(machine.set_link("net9".to_owned(), LinkState::Down)).await.expect_err("it has not");
    within(machine.reset()).await.expect("the button works");
    until(&machine, |status| status.timings.first_console_byte.is_some()).await;
    let start = machine.status().borrow().console_start;
    let lines = machine.console_recorder().expect("it is in this process").tail_lines_since(start, 9);
    assert_eq!(lines, ["net0 Down", "132 by 50", "hello"], "before the guest runs");
}

#[tokio::test]
async fn a_follower_of_the_console_follows_across_resets() {
    let (host, _, _gates) =
        host_of(&[Behaviour::Resets, Behaviour::Resets, Behaviour::Resets, Behaviour::PowersOffAtOnce]);
    let machine = launch(&host, request("vm")).await;
    let mut follower = machine.console_recorder().expect("it is in this process").follow(0);
    let mut all = Vec::new();
    while let Some(chunk) = within(follower.next()).await {
        all.extend(chunk.bytes);
    }
    assert_eq!(all, b"hello\n".repeat(4));
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
}

#[tokio::test]
async fn a_guest_that_stands_still_is_told_once_and_the_next_boot_is_well() {
    let (host, _engine, _gates) = host_of(&[]);
    let machine = launch(&host, request("vm")).await;
    let mut status = machine.status();
    for boot in 1..=2 {
        // It echoes, a few bytes at a time.
        let words = b"---[ end Kernel panic - not syncing: x ]---\n";
        let mut typed = 0;
        while typed < words.len() {
            assert!(!status.borrow().stands_still, "after {typed} bytes of its last line");
            typed += within(machine.write_console(words[typed..].to_vec())).await.expect("it runs");
        }
        within(status.wait_for(|status| status.stands_still)).await.expect("its thread tells");
        assert_eq!(status.borrow().phase, MachinePhase::Running);
        within(machine.reset()).await.expect("the button works");
        let booted =
            |status: &MachineStatus| status.resets.by_button == boot && status.phase == MachinePhase::Running;
        assert!(!until(&machine, booted).await.stands_still, "that was another guest");
    }
}

#[tokio::test]
async fn a_guest_that_waits_for_a_person_is_told_of_and_the_next_boot_is_well() {
    let (host, _engine, _gates) = host_of(&[]);
    let machine = launch(&host, request("vm")).await;
    // It echoes, a few bytes at a time.
    let line = b"ALERT!  /dev/vda9 does not exist.  Dropping to a shell!\n";
    let mut typed = 0;
    while typed < line.len() {
        typed += within(machine.write_console(line[typed..].to_vec())).await.expect("it runs");
    }
    let status = until(&machine, |status| status.boot_trouble.is_some()).await;
    assert_eq!(status.phase, MachinePhase::Running, "it goes on");
    let trouble = status.boot_trouble.expect("just seen");
    assert_eq!(trouble.class, vm_model::FailureClass::NoRootDevice);
    within(machine.reset()).await.expect("the button works");
    let booted =
        |status: &MachineStatus| status.resets.by_button == 1 && status.phase == MachinePhase::Running;
    assert_eq!(until(&machine, booted).await.boot_trouble, None, "that was another guest");
}
