//! Hosting, with machines that misbehave on purpose. Real machines are in the crate's `tests` folder.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;
use vm_model::{
    BootSpec, Bytes, CommandKind, CpuSpec, FailureKind, InitialState, MachineExit, MachinePhase, MachineSpec,
    MemoryBacking, MemorySpec, ResetPolicy, SerialMode, StopMethod, ThreadHealth, VmId, error_chain,
};

use super::*;
use crate::engine::fake::{Behaviour, FakeEngine};
use machine_host::{CommandError, StopError, StopPolicy};

mod resets;

/// Long enough for anything here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn host_with(options: HostOptions) -> (VmmHost, Arc<FakeEngine>) {
    let engine = Arc::new(FakeEngine::default());
    let host = VmmHost::with_engine(engine.clone(), options).expect("a host starts");
    (host, engine)
}

fn host() -> (VmmHost, Arc<FakeEngine>) {
    host_with(HostOptions::default())
}

fn request(name: &str) -> LaunchRequest {
    LaunchRequest {
        isolation: vm_model::Isolation::default(),
        limits: machine_host::MachineLimits::default(),
        id: VmId::new(name),
        spec: MachineSpec {
            uuid: uuid::Uuid::nil(),
            cpus: CpuSpec::default(),
            memory: MemorySpec {
                size: Bytes::from_mib(16),
                backing: MemoryBacking::SharedMemfd,
                prefault: false,
            },
            boot: BootSpec {
                kernel: File::open("/dev/null").expect("it is there").into(),
                initrd: None,
                cmdline: String::new(),
            },
            disks: Vec::new(),
            nics: Vec::new(),
            serial: SerialMode::Console,
            rng: false,
            services: Default::default(),
        },
        verified: None,
        initial: InitialState::Running,
        resets: ResetPolicy::default(),
        console_dir: None,
        lock: None,
        notes: String::new(),
    }
}

fn paused(name: &str) -> LaunchRequest {
    LaunchRequest { initial: InitialState::Paused, ..request(name) }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this takes no time")
}

async fn launch(host: &VmmHost, request: LaunchRequest) -> MachineHandle {
    within(host.launch(request)).await.expect("the machine launches")
}

fn phase(machine: &MachineHandle) -> MachinePhase {
    machine.status().borrow().phase.clone()
}

fn is_hung(machine: &MachineHandle) -> bool {
    machine.status().borrow().is_hung(*machine.health().borrow())
}

#[tokio::test]
async fn a_machine_lives_and_is_stopped_by_its_button() {
    let (host, engine) = host();
    let machine = launch(&host, request("vm")).await;
    assert_eq!(phase(&machine), MachinePhase::Running);
    assert_eq!(host.counts(), HostCounts { hosted: 1, ..HostCounts::default() });

    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::PowerButton, MachineExit::PoweredOff));
    within(machine.released()).await;
    assert_eq!(host.counts(), HostCounts::default());
    assert_eq!(engine.alive.load(Ordering::SeqCst), 0);

    let timings = machine.status().borrow().timings;
    assert!(timings.first_entry <= timings.first_console_byte && timings.first_entry.is_some());
    assert_eq!(machine.console().snapshot().head, b"hello\n");
    assert!(machine.counters().vcpus[0].exits > 0, "the last reading is kept");
    let again = within(machine.stop(StopPolicy::default())).await.expect("it is stopped");
    assert_eq!(again.method, StopMethod::AlreadyStopped);
}

#[tokio::test]
async fn a_guest_that_ignores_its_button_is_killed_after_the_deadline() {
    let (host, engine) = host();
    let _gate = engine.will("vm", Behaviour::Deaf);
    let machine = launch(&host, request("vm")).await;
    let policy = StopPolicy { power_button: Duration::from_millis(30), ..StopPolicy::default() };
    let report = within(machine.stop(policy)).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::Kill, MachineExit::Killed));
    assert!(report.took >= policy.power_button);
}

#[tokio::test]
async fn pausing_and_resuming_follow_the_rules() {
    let (host, _) = host();
    let machine = launch(&host, paused("vm")).await;
    assert_eq!(phase(&machine), MachinePhase::Paused);
    assert_eq!(machine.status().borrow().timings.first_entry, None);

    let error = within(machine.press_power_button()).await.expect_err("it is paused");
    assert_eq!(
        error,
        CommandError::Denied {
            vm: VmId::new("vm"),
            command: CommandKind::PressPowerButton,
            phase: MachinePhase::Paused,
        }
    );
    within(machine.pause()).await.expect("it is so already");
    within(machine.resume()).await.expect("it goes on");
    assert_eq!(phase(&machine), MachinePhase::Running);
    within(machine.pause()).await.expect("it pauses");

    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!(report.method, StopMethod::PowerButton, "it was resumed first");
    assert_eq!(
        within(machine.pause()).await,
        Err(CommandError::Ended { vm: VmId::new("vm"), command: CommandKind::Pause })
    );
}

#[tokio::test]
async fn typing_tells_how_much_fitted() {
    let (host, _) = host();
    let machine = launch(&host, request("vm")).await;
    let accepted = within(machine.write_console(b"typed".to_vec())).await;
    assert_eq!(accepted, Ok(3));
    let chunk = machine.console_recorder().expect("it is in this process").read_from(6, 100);
    assert_eq!(chunk.bytes, b"typ");
}

#[tokio::test]
async fn more_commands_than_fit_a_turn_or_the_mailbox_are_all_answered() {
    let (host, _) = host_with(HostOptions { mailbox_capacity: 4, ..HostOptions::default() });
    let machine = launch(&host, request("vm")).await;
    let typing: Vec<_> = (0..100)
        .map(|_| {
            let machine = machine.clone();
            tokio::spawn(async move { machine.write_console(b"x".to_vec()).await })
        })
        .collect();
    for typing in typing {
        assert_eq!(within(typing).await.expect("no panic"), Ok(1));
    }
    assert_eq!(machine.console().snapshot().total, 106);
}

#[tokio::test]
async fn a_machine_that_cannot_be_built_leaves_its_reason_and_nothing_else() {
    let (host, engine) = host();
    let _gate = engine.will("vm", Behaviour::FailsToBuild);
    let error = within(host.launch(request("vm"))).await.expect_err("it cannot be built");
    assert_eq!(error.kind(), FailureKind::Artifact);
    assert_eq!(
        error_chain(&error),
        "cannot launch VM vm: its machine cannot be built: the kernel is no kernel"
    );
    assert_eq!(host.counts(), HostCounts::default());
    launch(&host, request("vm")).await;
}

#[tokio::test]
async fn a_panic_while_building_is_an_error_with_its_place() {
    let (host, engine) = host();
    let _gate = engine.will("vm", Behaviour::PanicsInBuild);
    let error = within(host.launch(request("vm"))).await.expect_err("it panics");
    let text = error_chain(&error);
    assert!(
        text.contains("panic on thread vm:vm: no plan for vm at ") && text.contains("fake.rs:"),
        "{text}"
    );
    assert_eq!(error.kind(), FailureKind::Machine);
}

#[tokio::test]
async fn a_machine_that_ends_before_it_runs_was_not_launched_but_one_that_ran_was() {
    let (host, engine) = host();
    let _gates =
        [engine.will("dud", Behaviour::EndsBeforeEntry), engine.will("quick", Behaviour::PowersOffAtOnce)];
    let error = within(host.launch(request("dud"))).await.expect_err("it never ran");
    assert!(error_chain(&error).contains("the vCPU cannot be entered"), "{error:?}");
    let quick = launch(&host, request("quick")).await;
    assert_eq!(within(quick.exited()).await, MachineExit::PoweredOff);
}

#[tokio::test]
async fn a_panic_ends_one_machine_alone() {
    let (host, engine) = host();
    let _gate = engine.will("bad", Behaviour::PanicsOnPause);
    let good = launch(&host, request("good")).await;
    let bad = launch(&host, request("bad")).await;
    within(bad.pause()).await.expect_err("it panicked");
    let MachineExit::Failed(reason) = within(bad.exited()).await else {
        panic!("a panic is a failure");
    };
    assert!(reason.contains("panic on thread vm:bad: cannot bear to pause at "), "{reason}");
    within(bad.released()).await;
    assert_eq!(phase(&good), MachinePhase::Running);
    within(good.pause()).await.expect("the other is well");
    assert_eq!(engine.alive.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failed_command_leaves_the_machine_as_it_was() {
    let (host, engine) = host();
    let _gate = engine.will("vm", Behaviour::RefusesPause);
    let machine = launch(&host, request("vm")).await;
    let error = within(machine.pause()).await.expect_err("it refuses");
    assert_eq!(error.to_string(), "cannot pause VM vm: vCPU 0 does not park");
    assert_eq!(phase(&machine), MachinePhase::Running);
}

#[tokio::test]
async fn a_stop_is_answered_before_the_release_and_one_slow_close_after_it() {
    let (host, engine) = host();
    let gate = engine.will("vm", Behaviour::WaitsInDrop);
    let machine = launch(&host, request("vm")).await;
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    assert!(timeout(Duration::from_millis(20), machine.released()).await.is_err());
    let error = within(host.launch(request("vm"))).await.expect_err("not yet released");
    let LaunchError::Unsettled { obstacle, .. } = &error else { panic!("{error:?}") };
    assert_eq!(obstacle, "the host does not finish closing its files and memory");
    assert_eq!((host.counts().hosted, host.counts().ended), (1, 1));
    drop(gate);
    within(machine.released()).await;
    assert_eq!(host.counts(), HostCounts::default());
}

#[tokio::test]
async fn machines_that_do_not_settle_keep_nobody_else_waiting() {
    let (host, engine) = host();
    let gates = [
        engine.will("io", Behaviour::NeverSettles),
        engine.will("close", Behaviour::WaitsInDrop),
        engine.will("more-io", Behaviour::NeverSettles),
    ];
    let mut stuck = Vec::new();
    for name in ["io", "close", "more-io"] {
        stuck.push(launch(&host, request(name)).await);
    }
    for machine in &stuck {
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    }
    for round in 0..3 {
        let other = launch(&host, request("other")).await;
        within(other.stop(StopPolicy::KILL)).await.expect("it stops");
        within(other.released()).await;
        assert_eq!(host.counts().unsettled, 3, "round {round}: it came after them");
    }
    let told = stuck.iter().map(|machine| machine.status().borrow().obstacle.clone().expect("it is told"));
    let (io, closing) = ("I/O that is in flight on its disk root", "closing its files and memory");
    for (told, expected) in told.zip([io, closing, io]) {
        assert!(told.contains(expected), "{told}");
    }
    let error = within(host.launch(request("io"))).await.expect_err("its disk may still be written to");
    assert_eq!(error.kind(), FailureKind::Host);
    assert!(error.to_string().contains("I/O that is in flight on its disk root"), "{error}");
    drop(gates);
    for machine in &stuck {
        within(machine.released()).await;
    }
    assert_eq!(host.counts(), HostCounts::default());
    launch(&host, request("io")).await;
}

#[tokio::test]
async fn a_panic_in_the_last_destructor_neither_stops_the_reaper_nor_hides_the_release() {
    let (host, engine) = host();
    let _gate = engine.will("bad", Behaviour::PanicsInDrop);
    for name in ["bad", "good"] {
        let machine = launch(&host, request(name)).await;
        within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
        within(machine.released()).await;
    }
    assert_eq!(host.counts(), HostCounts::default());
}

#[tokio::test]
async fn a_machine_without_handles_is_killed() {
    let (host, engine) = host();
    let machine = launch(&host, request("vm")).await;
    let (mut status, released) = (machine.status(), machine.clone());
    drop(machine);
    assert_eq!(phase(&released), MachinePhase::Running, "one handle is left");
    drop(released);
    let ended = within(status.wait_for(|status| status.phase.exit().is_some())).await;
    assert_eq!(ended.expect("it told").phase, MachinePhase::Exited(MachineExit::Killed));

    within(host.shut_down(PATIENCE)).await;
    assert_eq!(engine.alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    let (host, engine) = host();
    let gate = engine.will("vm", Behaviour::WaitsInBuild);
    let given_up = timeout(Duration::from_millis(20), host.launch(request("vm"))).await;
    assert!(given_up.is_err());
    assert_eq!(host.counts().hosted, 1);
    drop(gate);
    let report = within(host.shut_down(PATIENCE)).await;
    assert_eq!(report.remaining, []);
    assert_eq!(engine.alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_launch_has_a_deadline() {
    let (host, engine) =
        host_with(HostOptions { launch_deadline: Duration::from_millis(20), ..HostOptions::default() });
    let _gate = engine.will("vm", Behaviour::WaitsInBuild);
    let error = within(host.launch(request("vm"))).await.expect_err("too slow");
    assert_eq!(error.to_string(), "cannot launch VM vm: its machine was not under way within 20ms");
}

#[tokio::test]
async fn a_stuck_machine_is_reported_at_every_deadline_and_others_go_on() {
    let (host, engine) =
        host_with(HostOptions { command_deadline: Duration::from_millis(20), ..HostOptions::default() });
    let gate = engine.will("stuck", Behaviour::WaitsOnPause);
    let stuck = launch(&host, request("stuck")).await;
    let error = within(stuck.pause()).await.expect_err("it is stuck");
    assert_eq!(error.to_string(), "VM stuck did not answer \"pause\" within 20ms");

    let policy = StopPolicy { power_button: Duration::from_millis(20), kill: Duration::from_millis(20) };
    let error = within(stuck.stop(policy)).await.expect_err("it is stuck");
    assert!(matches!(error, StopError::Deadline { .. }), "{error:?}");

    let other = launch(&host, request("other")).await;
    within(other.stop(StopPolicy::default())).await.expect("it stops");
    within(other.released()).await;
    let report = within(host.shut_down(Duration::from_millis(20))).await;
    assert_eq!(report.remaining, [VmId::new("stuck")]);

    drop(gate);
    assert_eq!(within(stuck.exited()).await, MachineExit::Killed, "the kill had not been lost");
}

#[tokio::test]
async fn a_machine_whose_thread_stands_still_is_hung_until_it_turns_again() {
    let (host, engine) =
        host_with(HostOptions { hung_after: Duration::from_millis(50), ..HostOptions::default() });
    let gate = engine.will("stuck", Behaviour::WaitsOnPause);
    let (stuck, idle) = (launch(&host, request("stuck")).await, launch(&host, request("idle")).await);
    let mut health = stuck.health();
    let pausing = tokio::spawn({
        let stuck = stuck.clone();
        async move { stuck.pause().await }
    });
    within(health.wait_for(|health| *health == ThreadHealth::Hung)).await.expect("it is told");
    assert_eq!(phase(&stuck), MachinePhase::Running);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!is_hung(&idle), "an idle machine is well");
    drop(gate);
    within(health.wait_for(|health| *health == ThreadHealth::Turning)).await.expect("it is told");
    within(pausing).await.expect("no panic").expect("it pauses at last");
    assert_eq!(phase(&stuck), MachinePhase::Paused);
    within(stuck.stop(StopPolicy::KILL)).await.expect("it stops");
    assert!(!is_hung(&stuck), "an ended machine is not hung");
}

#[tokio::test]
async fn a_machine_that_takes_long_to_build_is_not_hung() {
    let (host, engine) =
        host_with(HostOptions { hung_after: Duration::from_millis(20), ..HostOptions::default() });
    let gate = engine.will("vm", Behaviour::WaitsInBuild);
    let host = Arc::new(host);
    let launching = tokio::spawn({
        let host = host.clone();
        async move { host.launch(request("vm")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(gate);
    let machine = within(launching).await.expect("no panic").expect("it launches");
    assert_eq!(*machine.health().borrow(), ThreadHealth::Turning);
}

#[tokio::test]
async fn names_and_places_are_limited() {
    let (host, _) = host_with(HostOptions { machine_limit: 1, ..HostOptions::default() });
    let _machine = launch(&host, request("vm")).await;
    let error = within(host.launch(request("vm"))).await.expect_err("taken");
    assert!(matches!(error, LaunchError::AlreadyHosted { .. }), "{error:?}");
    let error = within(host.launch(request("other"))).await.expect_err("full");
    assert!(matches!(error, LaunchError::Full { limit: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn shutting_down_kills_what_runs_and_takes_nothing_in() {
    let (host, engine) = host();
    let mut machines = Vec::new();
    for number in 0..8 {
        machines.push(launch(&host, request(&format!("vm-{number}"))).await);
    }
    let report = within(host.shut_down(PATIENCE)).await;
    assert_eq!(report.released.len(), 8);
    assert_eq!(report.remaining, []);
    assert_eq!(engine.alive.load(Ordering::SeqCst), 0);
    assert_eq!(within(machines[3].exited()).await, MachineExit::Killed);
    let error = within(host.launch(request("late"))).await.expect_err("closed");
    assert!(matches!(error, LaunchError::ShuttingDown { .. }), "{error:?}");
    assert_eq!(within(host.shut_down(PATIENCE)).await, ShutdownReport::default());
}
