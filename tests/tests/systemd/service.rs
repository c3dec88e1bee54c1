//! What becomes of guests and scopes when the service is restarted, killed and stopped.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, BOOT_DEADLINE, Echoes, SHORT_DEADLINE, Service, Unit, host_process_of, ping, scopes, until,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::environment;

/// The unit that all scopes and the worker are part of.
const SLICE: Unit = Unit("procurator.slice");

/// Waits until there are `count` scopes.
fn wait_for_scopes(count: usize) -> Result<()> {
    until(&format!("{count} scopes"), SHORT_DEADLINE, || {
        let scopes = scopes()?;
        ensure!(scopes.len() == count, "{scopes:?}");
        Ok(())
    })
}

/// The control group of the process that runs a VM.
fn control_group_of(id: &str) -> Result<String> {
    let process = host_process_of(id)?.with_context(|| format!("{id} has no host process"))?;
    let path = format!("/proc/{process}/cgroup");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

#[test]
fn the_shipped_units_are_sound() -> Result<()> {
    for unit in [Service::UNIT, SLICE] {
        // The lab's host has no manual.
        let output = Command::new("systemd-analyze").args(["verify", "--man=no", unit.0]).output()?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", unit.0);
    }
    Ok(())
}

#[test]
fn guests_outlive_restart_kill_and_stop_of_the_service() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let service = Service::start(&environment, "spare_host_processes = 1")?;
    service.assign(&[Assignment::of(&guest, "web")])?;
    let web = service.wait_until_answering("web")?;
    let scope = control_group_of("web")?;
    assert!(
        scope.contains("/procurator.slice/procurator-vm-") && scope.trim_end().ends_with(".scope/vm"),
        "{scope}"
    );
    wait_for_scopes(2)?;
    let is_same = |when: &str| -> Result<()> {
        let vm = service.vm("web")?;
        ensure!(vm.phase == "running" && vm.started_at == web.started_at, "{when}: {}", vm.state());
        assert_eq!(control_group_of("web")?, scope, "{when}");
        Ok(())
    };
    let address = web.address()?;
    let told = service.ask(&["upgrade", "--check"])?;
    assert!(told.contains("web") && told.contains("survives"), "{told}");

    let echoes = Echoes::of(address);
    let before = service.pid()?;
    let begun = Instant::now();
    Service::UNIT.systemctl("restart")?;
    let took = begun.elapsed();
    service.wait_until_restarted(before)?;
    is_same("after a restart")?;
    let heard = echoes.stop()?;
    println!("systemctl restart: {took:.1?}, echoes {heard:?}");
    assert_eq!(heard.lost, 0, "{heard:?}");

    let echoes = Echoes::of(address);
    let before = service.pid()?;
    kill_process(Pid::from_raw(before).context("a process id")?, Signal::KILL)?;
    service.wait_until_restarted(before)?;
    is_same("after a kill")?;
    let heard = echoes.stop()?;
    println!("kill -9: echoes {heard:?}");
    assert_eq!(heard.lost, 0, "{heard:?}");

    Service::UNIT.systemctl("stop")?;
    assert_eq!(Service::UNIT.property("ActiveState")?, "inactive");
    ping(address)?;
    wait_for_scopes(1)?;
    Service::UNIT.systemctl("start")?;
    is_same("after a stop")?;

    service.assign(&[])?;
    service.wait_until_gone("web")?;
    // What is left is the process that is kept ahead.
    wait_for_scopes(1)?;
    Service::UNIT.systemctl("stop")?;
    wait_for_scopes(0)
}

#[test]
fn a_service_that_is_to_stop_guests_does_so() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let service = Service::start(&environment, "stop_guests = true\nspare_host_processes = 0")?;
    service.assign(&[Assignment::of(&guest, "obeys")])?;
    service.wait_until_answering("obeys")?;
    Service::UNIT.systemctl("stop")?;
    assert_eq!(Service::UNIT.property("Result")?, "success");
    let console = Service::kept_console("obeys")?;
    assert!(console.contains("reboot: Power down"), "{console}");
    wait_for_scopes(0)?;
    forget(&service, "obeys")
}

#[test]
fn a_stop_of_the_slice_powers_guests_off_and_they_come_back() -> Result<()> {
    let environment = environment();
    let guest = environment.image("guest")?;
    let service = Service::start(&environment, "")?;
    service.assign(&[Assignment::of(&guest, "sliced")])?;
    let first = service.wait_until_answering("sliced")?;
    SLICE.systemctl("stop")?;
    assert_eq!(Service::UNIT.property("ActiveState")?, "inactive");
    let console = Service::kept_console("sliced")?;
    assert!(console.contains("reboot: Power down"), "{console}");
    wait_for_scopes(0)?;

    Service::UNIT.systemctl("start")?;
    let again = until("the guest is started again", BOOT_DEADLINE, || {
        let vm = service.vm("sliced")?;
        ensure!(vm.phase == "running" && vm.started_at != first.started_at, "{}", vm.state());
        Ok(vm)
    })?;
    assert_eq!((again.address, again.restarts), (first.address, 0), "{}", again.state());
    forget(&service, "sliced")
}

/// Removes the VM `id`, the last one, and stops the service.
pub(crate) fn forget(service: &Service, id: &str) -> Result<()> {
    service.configure("")?;
    service.assign(&[])?;
    Service::UNIT.systemctl("restart")?;
    service.wait_until_gone(id)?;
    Service::UNIT.systemctl("stop")?;
    wait_for_scopes(0)
}
