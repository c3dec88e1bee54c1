//! `ls`: the VMs in a table.

use admin::VmView;
use vm_model::{DesiredState, Readiness, Timestamp};

use super::amounts::span;
use super::table::Table;

const HEADING: [&str; 10] =
    ["ID", "PHASE", "READY", "DESIRED", "ADDRESS", "CPU", "MEMORY", "RESTARTS", "UPTIME", "REASON"];

/// The table of `vms` as they are at `now`.
pub(super) fn list(vms: &[VmView], now: Timestamp) -> String {
    let mut table = Table::new(HEADING);
    for vm in vms {
        // What was sampled of a machine that is gone says nothing of now.
        let metrics = vm.metrics.filter(|_| is_up(vm));
        let uptime = vm.started_at.filter(|_| is_up(vm)).map(|start| span(now.since(start)));
        table.row([
            vm.id.to_string(),
            vm.phase.clone(),
            readiness(vm).to_owned(),
            other_desire(vm).unwrap_or_default().to_owned(),
            vm.address.map_or_else(String::new, |address| address.to_string()),
            metrics.map_or_else(String::new, |metrics| format!("{:.0} %", metrics.cpu_percent)),
            metrics.map_or_else(String::new, |metrics| format!("{} MiB", metrics.memory_mb)),
            vm.restarts.to_string(),
            uptime.unwrap_or_default(),
            reason(vm, now).unwrap_or_default(),
        ]);
    }
    table.to_string()
}

/// Whether its guest can serve, as far as anything tells.
fn readiness(vm: &VmView) -> &'static str {
    let health = vm.health.as_ref().filter(|_| is_up(vm));
    match health.map(|health| health.ready) {
        Some(Readiness::Ready) => "yes",
        Some(Readiness::NotReady) => "no",
        Some(Readiness::Unknown) => "?",
        None => "",
    }
}

/// Whether there is a machine whose figures are those of now.
pub(super) fn is_up(vm: &VmView) -> bool {
    matches!(vm.phase.as_str(), "running" | "paused" | "stopping")
}

/// Where the VM should be, where that is not where it is.
pub(super) fn other_desire(vm: &VmView) -> Option<&'static str> {
    let desired = desired_name(vm.desired);
    (desired != vm.phase).then_some(desired)
}

/// The phase that a VM should be in, as it is called.
pub(super) fn desired_name(desired: DesiredState) -> &'static str {
    match desired {
        DesiredState::Running => "running",
        DesiredState::Paused => "paused",
        DesiredState::Stopped => "stopped",
    }
}

/// What there is to say of a VM: what keeps it from where it should be, before what else is not as it should be. What it
/// has overcome is left out.
fn reason(vm: &VmView, now: Timestamp) -> Option<String> {
    let crash_loop =
        vm.crash_looping.then(|| format!("crash loop, {} failures in a row: ", vm.failures_in_a_row));
    let is_down = matches!(vm.phase.as_str(), "failed" | "restarting");
    if let Some(reason) = vm.reason.as_ref().filter(|_| is_down || vm.crash_looping) {
        let next = vm.next_start_at.filter(|_| is_down);
        let again = next.map(|at| format!(" (again in {})", span(at.since(now))));
        return Some(format!(
            "{}{}{}",
            crash_loop.unwrap_or_default(),
            reason.message,
            again.unwrap_or_default()
        ));
    }
    if let Some(trouble) = &vm.boot_trouble {
        return Some(format!("its boot waits for a person: {}", trouble.line));
    }
    let unready = vm.health.as_ref().filter(|health| health.ready == Readiness::NotReady && is_up(vm));
    if let Some(reason) = unready.and_then(|health| health.reason.as_ref()) {
        return Some(format!("not ready: {reason}"));
    }
    if let Some(trouble) = &vm.disk_trouble {
        return Some(format!("disk {}: {}", trouble.disk, trouble.problem));
    }
    if vm.hung {
        return Some("its machine's thread stands still".to_owned());
    }
    let refusal = vm.wanted.as_ref()?.refusal.as_ref()?;
    Some(format!("a change is not in force: {}", refusal.message))
}
