//! Guests that end by themselves: each ending is told from the others and has its consequence.

use anyhow::{Context, Result, ensure};
use end_to_end::{Assignment, BOOT_DEADLINE, ObservedVm, SHORT_DEADLINE, Worker, http_get, until};

use crate::environment;

#[test]
fn a_panic_is_a_failure_and_powering_off_is_none() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[
        Assignment::of(&guest, "panics").with_cmdline("root=/dev/nothing"),
        Assignment::of(&guest, "leaves"),
    ])?;

    let leaving = worker.wait_until_answering("leaves")?;
    end_from_within(&leaving, "poweroff")?;
    let off = worker.wait_for_phase("leaves", "stopped")?;
    assert_eq!(off.restarts, 0);

    let reason =
        until("a panic is noticed", BOOT_DEADLINE, || worker.vm("panics")?.reason.context("no reason yet"))?;
    assert_eq!(reason.kind, "guest", "{}", reason.message);
    assert!(reason.message.contains("Kernel panic - not syncing"), "{}", reason.message);
    assert!(reason.console_tail.len() > 1, "the guest's last words: {:?}", reason.console_tail);
    // Where the host is slow it runs again by now.
    let consoles = [worker.console_before("panics").unwrap_or_default(), worker.console_of("panics")?];
    assert!(
        consoles.iter().any(|console| console.contains("/dev/nothing is no block device")),
        "{consoles:?}"
    );

    assert_eq!(worker.vm("leaves")?.phase, "stopped", "it stays off");
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: boots twice"]
fn a_guest_that_reboots_comes_back_in_the_same_machine() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&guest, "reboots")])?;
    let first = worker.wait_until_answering("reboots")?;
    end_from_within(&first, "reboot")?;
    until("the reset is counted", SHORT_DEADLINE, || {
        let vm = worker.vm("reboots")?;
        ensure!(vm.restarts == 1, "{} restarts; {}", vm.restarts, vm.state());
        Ok(())
    })?;
    let second = worker.wait_until_answering("reboots")?;
    assert_eq!((second.restarts, second.resets), (1, 1), "its worker launched no other");
    assert_eq!((second.address, &second.tap), (first.address, &first.tap));
    assert!(second.timings.get("artifact_ms").is_none_or(serde_json::Value::is_null), "{:?}", second.timings);
    for console in [worker.console_before("reboots")?, worker.console_of("reboots")?] {
        assert_eq!(console.matches("procurator-guest ready").count(), 1, "boots are told apart: {console}");
    }
    assert!(second.reason.is_none(), "{}", second.state());
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: boots twice"]
fn a_guest_that_panics_later_is_started_again() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&guest, "panics")])?;
    let first = worker.wait_until_answering("panics")?;
    end_from_within(&first, "panic")?;
    until("the failure is counted", SHORT_DEADLINE, || {
        let vm = worker.vm("panics")?;
        ensure!(vm.restarts == 1, "{} restarts; {}", vm.restarts, vm.state());
        Ok(())
    })?;
    worker.wait_until_answering("panics")?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

pub(crate) fn end_from_within(vm: &ObservedVm, how: &str) -> Result<()> {
    http_get(vm.address()?, &format!("/cgi-bin/end?{how}")).map(drop)
}
