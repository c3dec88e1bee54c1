//! Hosting on real KVM, through the public interface alone: each way in which a machine with a tiny guest lives and
//! ends.

mod support;

use std::time::Duration;

use machine_host::{LaunchRequest, MachineHandle, StopPolicy};
use tiny_guest::TinyGuest;
use vm_model::{
    FailureKind, InitialState, MachineExit, MachinePhase, ResetPolicy, ResetSource, SerialMode, StopMethod,
    VcpuActivity, VcpuDump, VcpuReport,
};
use vmm_host::VmmHost;

use support::{file_with, host, launch, request, within};

#[tokio::test]
async fn a_guest_that_says_its_word_and_powers_off() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("hello", &TinyGuest::hello("hello, host\n"))).await;
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    within(machine.released()).await;
    assert_eq!(machine.console().snapshot().head, b"hello, host\n");
    assert_eq!(
        machine.console_recorder().expect("it is in this process").tail_lines_since(0, 5),
        ["hello, host"]
    );
    let timings = machine.status().borrow().timings;
    let first_entry = timings.first_entry.expect("it was entered");
    let first_byte = timings.first_console_byte.expect("it wrote");
    assert!(first_entry <= first_byte, "{timings:?}");
    assert_eq!(host.counts().hosted, 0);
}

#[tokio::test]
async fn ways_to_end_are_told_apart() {
    let Some(host) = host() else { return };
    let guests = [
        (TinyGuest::acpi_reset(), MachineExit::Reset(ResetSource::Acpi)),
        (TinyGuest::keyboard_reset(), MachineExit::Reset(ResetSource::KeyboardController)),
        (TinyGuest::triple_fault(), MachineExit::TripleFault),
    ];
    for (guest, expected) in guests {
        let request = LaunchRequest { resets: ResetPolicy::EndsMachine, ..request("vm", &guest) };
        let machine = launch(&host, request).await;
        assert_eq!(within(machine.exited()).await, expected, "{guest:?}");
        within(machine.released()).await;
    }
}

#[tokio::test]
async fn the_power_button_stops_a_guest_that_listens() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::power_button())).await;
    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!((report.method, report.exit), (StopMethod::PowerButton, MachineExit::PoweredOff));
    within(machine.released()).await;
}

#[tokio::test]
async fn a_paused_guest_is_resumed_to_be_stopped() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::power_button())).await;
    within(machine.pause()).await.expect("it pauses");
    let report = within(machine.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!(report.method, StopMethod::PowerButton);
}

#[tokio::test]
async fn guests_that_do_not_listen_are_killed() {
    let Some(host) = host() else { return };
    let policy = StopPolicy { power_button: Duration::from_millis(50), ..StopPolicy::default() };
    for guest in [TinyGuest::spin(), TinyGuest::idle()] {
        let machine = launch(&host, request("vm", &guest)).await;
        let report = within(machine.stop(policy)).await.expect("it stops");
        assert_eq!((report.method, report.exit), (StopMethod::Kill, MachineExit::Killed), "{guest:?}");
        within(machine.released()).await;
    }
}

#[tokio::test]
async fn a_paused_guest_uses_no_processor_and_goes_on_where_it_was() {
    let Some(host) = host() else { return };
    let mut request = request("vm", &TinyGuest::spin());
    request.spec.cpus.boot_vcpus = 2;
    let machine = launch(&host, request).await;
    let cpu_time = || machine.counters().vcpus[0].cpu_time;
    grows(&cpu_time).await;
    within(machine.pause()).await.expect("it pauses");
    assert_eq!(machine.status().borrow().phase, MachinePhase::Paused);
    let parked = stands_still(&cpu_time).await;
    within(machine.resume()).await.expect("it goes on");
    grows(&cpu_time).await;
    within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
    assert!(cpu_time() > parked, "the last reading is kept");
}

async fn grows(figure: &impl Fn() -> Duration) {
    let before = figure();
    within(async {
        while figure() <= before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Waits until `figure` is the same twice in a row. A parked thread may still be on its way to sleep at first.
async fn stands_still(figure: &impl Fn() -> Duration) -> Duration {
    within(async {
        let mut before = figure();
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = figure();
            if std::mem::replace(&mut before, now) == now {
                return now;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_machine_launched_paused_runs_nothing_until_it_is_resumed() {
    let Some(host) = host() else { return };
    let request = LaunchRequest { initial: InitialState::Paused, ..request("vm", &TinyGuest::hello("late")) };
    let machine = launch(&host, request).await;
    assert_eq!(machine.status().borrow().phase, MachinePhase::Paused);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(machine.console().snapshot().total, 0);
    within(machine.resume()).await.expect("it goes on");
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    assert_eq!(machine.console().snapshot().head, b"late");
}

#[tokio::test]
async fn what_is_typed_reaches_the_guest() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::echo())).await;
    let accepted = within(machine.write_console(b"abc".to_vec())).await;
    assert_eq!(accepted, Ok(3));
    wrote(&machine, "abc").await;
}

#[tokio::test]
async fn a_virtio_console_takes_the_serial_ports_place() {
    let Some(host) = host() else { return };
    let mut request = request("vm", &TinyGuest::console());
    request.spec.serial = SerialMode::Null;
    request.spec.services.console = true;
    let machine = launch(&host, request).await;
    wrote(&machine, "ready").await;
    assert_eq!(within(machine.write_console(b"abcd".to_vec())).await, Ok(4));
    within(machine.resize_console(300, 50)).await.expect("it has a console");
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    assert_eq!(machine.console().snapshot().head, b"ready\nabcd");

    let plain = launch(&host, self::request("plain", &TinyGuest::spin())).await;
    let refused = within(plain.resize_console(300, 50)).await.expect_err("it has none");
    assert_eq!(refused.to_string(), "cannot resize console VM plain: the machine has no virtio console");
}

#[tokio::test]
async fn a_stuck_guest_is_looked_at_and_interrupted() {
    let Some(host) = host() else { return };
    let machine = launch(&host, request("vm", &TinyGuest::nmi())).await;
    wrote(&machine, "ready").await;
    let halted = async {
        loop {
            let dumps = machine.dump_vcpus().await.expect("it runs");
            let [VcpuDump { index: 0, report: VcpuReport::Registers(registers) }] = dumps[..] else {
                panic!("{dumps:?}");
            };
            if registers.activity == VcpuActivity::Halted {
                return registers;
            }
        }
    };
    let registers = within(halted).await;
    assert_eq!(registers.rflags & 1 << 9, 0, "it takes no interrupts");
    within(machine.inject_nmi()).await.expect("it runs");
    assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
    assert_eq!(machine.console().snapshot().head, b"ready\nnmi\n");
}

#[tokio::test]
async fn a_kernel_that_is_none_is_an_error_that_leaves_nothing() {
    let Some(host) = host() else { return };
    let mut request = request("vm", &TinyGuest::idle());
    request.spec.boot.kernel = file_with(b"certainly no kernel");
    let error = within(host.launch(request)).await.expect_err("no kernel");
    assert_eq!(error.kind(), FailureKind::Artifact, "{error:?}");
    assert_eq!(host.counts().hosted, 0);
}

#[tokio::test]
async fn sixteen_machines_run_side_by_side() {
    let Some(host) = host() else { return };
    let launching = (0..16).map(|number| {
        let text = format!("I am number {number}\n");
        let host = &host;
        async move {
            let guest = TinyGuest::hello(text.clone());
            let machine = launch(host, request(&format!("vm-{number}"), &guest)).await;
            assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
            within(machine.released()).await;
            assert_eq!(String::from_utf8_lossy(&machine.console().snapshot().head), text);
        }
    });
    concurrently(launching).await;
    assert_eq!(host.counts().hosted, 0);
}

#[tokio::test]
async fn one_that_dies_does_not_take_the_others_along() {
    let Some(host) = host() else { return };
    let idle = launch(&host, request("idle", &TinyGuest::idle())).await;
    let listening = launch(&host, request("listening", &TinyGuest::power_button())).await;
    let dying = launch(&host, request("dying", &TinyGuest::triple_fault())).await;
    assert_eq!(within(dying.exited()).await, MachineExit::TripleFault);
    drop(idle);
    within(dying.released()).await;
    within_zero_but(&host, 1).await;
    assert_eq!(listening.status().borrow().phase, MachinePhase::Running);
    let report = within(listening.stop(StopPolicy::default())).await.expect("it stops");
    assert_eq!(report.method, StopMethod::PowerButton);
}

/// Waits until all but `count` machines are released.
async fn within_zero_but(host: &VmmHost, count: usize) {
    within(async {
        while host.counts().hosted > count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Polls all of `futures` on this task until each has ended.
async fn concurrently<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Waits until the guest has written `text`.
async fn wrote(machine: &MachineHandle, text: &str) {
    let mut follower = machine.console_recorder().expect("it is in this process").follow(0);
    let mut seen = Vec::new();
    within(async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            let chunk = follower
                .next()
                .await
                .unwrap_or_else(|| panic!("the guest ended after {:?}", String::from_utf8_lossy(&seen)));
            seen.extend(chunk.bytes);
        }
    })
    .await;
}
