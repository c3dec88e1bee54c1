//! `inspect`: all that is known of a VM.

use std::time::Duration;

use admin::{DiskView, HostUseView, InterfaceView, MetricsView, ProcessView, VmView};
use vm_model::{
    AddressSource, DiskAccess, DiskFormat, FailureReason, Health, Overrides, ProbeOutcome, ResourceLimits,
    RolloutFailure, Timestamp,
};

use super::amounts::{ago, ahead, size, span};
use super::boot_steps::boot_steps;
use super::list::{is_up, other_desire, state_of};
use super::table::Table;
use crate::printable::printable;

/// A guest that has written nothing for so long since its start is remarkable.
const SILENCE: Duration = Duration::from_secs(30);

/// The lines about `vm` as it is at `now`.
pub(super) fn details(vm: &VmView, now: Timestamp) -> String {
    let mut table = Table::without_heading();
    state(&mut table, vm, now);
    definition(&mut table, vm, now);
    machine(&mut table, vm);
    if !vm.limits.is_empty() {
        add(&mut table, "limits", vm.limits.to_string());
    }
    if let Some(process) = &vm.process {
        add(&mut table, "process", process_line(process));
    }
    network(&mut table, vm);
    if let Some(metrics) = vm.metrics.filter(|_| is_up(vm)) {
        figures(&mut table, &metrics, &vm.limits);
    }
    for end in vm.ends.iter().rev() {
        let ran = end.ran_for.map(|ran| format!(", had run for {}", super::amounts::span(ran)));
        add(&mut table, "ended", format!("{}: {end}{}", end.at, ran.unwrap_or_default()));
    }
    if let Some(reason) = vm.reason.as_ref().filter(|reason| !reason.console_tail.is_empty()) {
        let lines: Vec<String> = reason.console_tail.iter().map(|line| printable(line)).collect();
        return format!("{table}last console lines:\n  {}\n", lines.join("\n  "));
    }
    table.to_string()
}

fn add(table: &mut Table, name: &str, value: String) {
    table.row([name.to_owned(), value]);
}

/// Where it is and where it should be.
fn state(table: &mut Table, vm: &VmView, now: Timestamp) {
    add(table, "id", vm.id.to_string());
    add(table, "phase", vm.phase.clone());
    if let Some(desired) = other_desire(vm) {
        add(table, "desired", desired.to_owned());
    }
    if let Some(source) = vm.source {
        add(table, "assigned by", source.to_string());
    }
    if let Some(order) = &vm.order {
        add(table, "order", order.to_string());
    }
    if let Some(fetching) = &vm.fetching {
        add(table, "waits", format!("for {}: {fetching}", fetching.store_path.display()));
    }
    if let Some(verifying) = &vm.verifying {
        add(table, "waits", verifying.to_string());
    }
    if let Some(source) = vm.drained_by {
        add(table, "drained", format!("by {source}: it is off until the drain is taken back"));
    }
    if vm.waits_to_start {
        add(table, "waits", "for its turn: as many VMs as may are being started".to_owned());
    }
    if let Some(health) = &vm.health {
        readiness(table, health, now);
    }
    if let Some(start) = vm.started_at {
        add(table, "started", ago(start, now));
    }
    if let Some(next) = vm.next_start_at {
        add(table, "next start", ahead(next, now));
    }
    failure(table, vm);
    if let Some(trouble) = &vm.boot_trouble {
        add(table, "boot trouble", format!("{} ({})", trouble.line, trouble.class));
        add(table, "boot hint", trouble.hint.clone());
    }
    if let Some(since) = silence(vm, now) {
        add(table, "silence", format!("its guest has written nothing to its console in {}", span(since)));
    }
    if let Some(trouble) = &vm.disk_trouble {
        let what = format!("disk {}: {}; it goes on when the host can", trouble.disk, trouble.problem);
        add(table, "paused for", what);
    }
    if vm.hung {
        add(table, "hung", "its machine's thread stands still; nothing asked of it is done".to_owned());
    }
    for warning in &vm.warnings {
        add(table, "warning", warning.clone());
    }
    for path in &vm.unverified {
        add(table, "unverified", path.display().to_string());
    }
}

/// How its guest is, and what each probe finds.
fn readiness(table: &mut Table, health: &Health, now: Timestamp) {
    let why = health.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    add(table, "readiness", format!("{}, since {}{why}", health.ready, ago(health.since, now)));
    if let Some(text) = &health.status_text {
        add(table, "guest says", text.clone());
    }
    for probe in &health.probes {
        let outcome = match probe.outcome {
            ProbeOutcome::Untried => "not known yet",
            ProbeOutcome::Passing => "passes",
            ProbeOutcome::Failing => "fails",
        };
        let problem = probe.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        add(table, &format!("probe {}", probe.id), format!("{outcome} ({}){problem}", probe.role));
    }
}

/// What went wrong last, and how often.
fn failure(table: &mut Table, vm: &VmView) {
    if vm.failures_in_a_row > 1 {
        let is_loop = if vm.crash_looping { " (a crash loop)" } else { "" };
        add(table, "failures in a row", format!("{}{is_loop}", vm.failures_in_a_row));
    }
    let Some(reason) = &vm.reason else { return };
    // What it has overcome stays to be looked at, under another name.
    let is_over = !matches!(vm.phase.as_str(), "failed" | "restarting");
    add(table, if is_over { "last failure" } else { "reason" }, reason.message.clone());
    let FailureReason { kind, class, hint, timings, .. } = reason;
    let class = class.map(|class| format!(", {class}")).unwrap_or_default();
    add(table, "kind of failure", format!("{kind}{class}"));
    if let Some(hint) = hint {
        add(table, "hint", hint.clone());
    }
    if let Some(steps) = timings.as_deref().and_then(boot_steps) {
        add(table, "that run", steps);
    }
}

/// For how long a guest that runs has been silent since its start, where that is remarkable.
fn silence(vm: &VmView, now: Timestamp) -> Option<Duration> {
    let is_silent = vm.phase == "running"
        && vm.timings.first_entry_ms.is_some()
        && vm.timings.first_console_byte_ms.is_none();
    let since = now.since(vm.started_at.filter(|_| is_silent)?);
    (since >= SILENCE).then_some(since)
}

/// What it was defined as, and what it is to be defined as.
fn definition(table: &mut Table, vm: &VmView, now: Timestamp) {
    add(table, "store path", vm.store_path.display().to_string());
    add(table, "hash", vm.hash.clone());
    if let Some(overrides) = overrides(&vm.overrides) {
        add(table, "overrides", overrides);
    }
    add(table, "generation", vm.generation.to_string());
    if let Some(trial) = &vm.on_trial {
        let end = match trial.on_failure {
            RolloutFailure::RollBack => "the one before is put in force again",
            RolloutFailure::Keep => "it stays all the same",
        };
        let line = format!(
            "since {}; if it is not ready in {}, {end}",
            ago(trial.since, now),
            span(trial.deadline.since(now))
        );
        add(table, "on trial", line);
    }
    let Some(wanted) = &vm.wanted else { return };
    let assignment = &wanted.assignment;
    if assignment.store_path != vm.store_path {
        add(table, "wanted store path", assignment.store_path.display().to_string());
    }
    if assignment.hash != vm.hash {
        add(table, "wanted hash", assignment.hash.clone());
    }
    if assignment.overrides != vm.overrides {
        let wanted = overrides(&assignment.overrides).unwrap_or_else(|| "none".to_owned());
        add(table, "wanted overrides", wanted);
    }
    let waiting = match &wanted.refusal {
        Some(refusal) => format!("not in force: {}", refusal.message),
        None if vm.phase == "stopped" => "holds from its next start on".to_owned(),
        None => "is being verified and prepared".to_owned(),
    };
    add(table, "wanted change", waiting);
    if let Some(next) = wanted.next_try_at {
        add(table, "tried again", ahead(next, now));
    }
}

fn overrides(overrides: &Overrides) -> Option<String> {
    let parts = [
        overrides.vcpus.map(|vcpus| format!("{vcpus} vCPUs")),
        overrides.memory_bytes.map(|memory| format!("{memory} of memory")),
        overrides.cmdline_append.as_ref().map(|text| format!("{text:?} after the command line")),
    ];
    let given: Vec<String> = parts.into_iter().flatten().collect();
    (!given.is_empty()).then(|| given.join(", "))
}

/// What its machine is made of.
fn machine(table: &mut Table, vm: &VmView) {
    let Some(machine) = &vm.machine else { return };
    add(table, "vcpus", machine.vcpus.to_string());
    if vm.metrics.is_none() || !is_up(vm) {
        add(table, "memory", size(machine.memory_bytes));
    }
    add(table, "command line", machine.cmdline.clone());
    for disk in &machine.disks {
        add(table, "disk", disk_line(disk));
    }
}

fn disk_line(disk: &DiskView) -> String {
    let format = match disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let access = match (disk.access, disk.policy) {
        (DiskAccess::ReadOnly, _) => "read only".to_owned(),
        (DiskAccess::ReadWrite, Some(policy)) => format!("writable, {policy}"),
        (DiskAccess::ReadWrite, None) => "writable".to_owned(),
    };
    format!("{}: {}, {format}, {access}, {}", disk.id, size(disk.size_bytes), disk.path.display())
}

/// Its id, and what keeps it to what it needs.
fn process_line(process: &ProcessView) -> String {
    let ProcessView { pid, jailed, user, jail_gaps, seccomp } = process;
    let user = user.map_or_else(String::new, |user| format!(" as user {user}"));
    let gaps: Vec<String> = jail_gaps.iter().map(|gap| printable(gap)).collect();
    let jail = match (jailed, gaps.is_empty()) {
        (false, _) => "in no jail".to_owned(),
        (true, true) => format!("jailed{user}"),
        (true, false) => format!("jailed{user}, in part ({})", gaps.join("; ")),
    };
    let calls = match seccomp.as_str() {
        "trap" => "system calls filtered".to_owned(),
        other => format!("system calls not filtered (seccomp = \"{}\")", printable(other)),
    };
    format!("{pid}, {jail}, {calls}")
}

fn interface_line(nic: &InterfaceView) -> String {
    let InterfaceView { id, network, address: _, address_source: _, ipv6, mac, tap, mismatch: _ } = nic;
    let ipv6 = ipv6.map_or_else(String::new, |ipv6| format!(", {ipv6}"));
    let tap = tap.as_ref().map_or_else(String::new, |tap| format!(", {tap}"));
    format!("{id}: network {network}, {}{ipv6}, {mac}{tap}", address_of(nic))
}

/// The guest's address, or that only others know it.
fn address_of(nic: &InterfaceView) -> String {
    let state = state_of(nic).map_or_else(String::new, |state| format!(" ({state})"));
    match nic.address_source {
        AddressSource::Worker => format!("{}{state}", nic.address),
        AddressSource::Others => format!("given by others ({} is kept for it)", nic.address),
    }
}

fn network(table: &mut Table, vm: &VmView) {
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let address = vm.interfaces.first().map(address_of);
    add(table, "address", or_none(address.or_else(|| vm.address.map(|address| address.to_string()))));
    if let Some(ipv6) = vm.ipv6 {
        add(table, "ipv6", ipv6.to_string());
    }
    add(table, "mac", or_none(vm.mac.map(|mac| mac.to_string())));
    add(table, "tap", or_none(vm.tap.clone()));
    if vm.interfaces.len() > 1 || vm.interfaces.iter().any(|nic| !nic.network.is_default()) {
        for nic in &vm.interfaces {
            add(table, "interface", interface_line(nic));
        }
    }
    for forward in &vm.ports {
        add(table, "port", forward.to_string());
    }
    match vm.egress.as_deref() {
        None => {}
        Some([]) => add(table, "egress", "nowhere".to_owned()),
        Some(rules) => {
            let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
            add(table, "egress", rules.join(", "));
        }
    }
    add(table, "restarts", vm.restarts.to_string());
    add(table, "resets in place", vm.resets.to_string());
}

/// What its process takes of the host, beside what it may take, and what it has waited for.
fn of_the_host(table: &mut Table, used: &HostUseView, limits: &ResourceLimits) {
    let most = limits.memory_max.map_or_else(String::new, |most| format!(" of {most}"));
    add(table, "host memory", format!("{}{most}", size(used.memory_bytes)));
    let time = |milliseconds| span(Duration::from_millis(milliseconds));
    let held_back = match limits.cpu {
        Some(cpu) => format!(", held back for {} at {cpu} cores", time(used.throttled_ms)),
        None => String::new(),
    };
    add(table, "host processors", format!("{}{held_back}", time(used.cpu_ms)));
    let waits = [
        ("processors", used.cpu_pressure_ms),
        ("memory", used.memory_pressure_ms),
        ("disks", used.io_pressure_ms),
    ];
    let waits = waits.map(|(what, waited)| format!("{what} {}", time(waited)));
    add(table, "waited for", waits.join(", "));
}

/// What it uses.
fn figures(table: &mut Table, metrics: &MetricsView, limits: &ResourceLimits) {
    add(table, "cpu", format!("{:.1} % of one core", metrics.cpu_percent));
    add(table, "memory", format!("{} of {} MiB", metrics.memory_mb, metrics.memory_size_bytes >> 20));
    if let Some(used) = &metrics.host {
        of_the_host(table, used, limits);
    }
    if let Some(balloon) = metrics.balloon {
        let (actual, target) = (balloon.actual_bytes >> 20, balloon.target_bytes >> 20);
        add(table, "balloon", format!("{actual} of {target} MiB given up"));
    }
    add(table, "network", format!("{} B in, {} B out", metrics.network_rx_bytes, metrics.network_tx_bytes));
    add(
        table,
        "disk traffic",
        format!("{} B read, {} B written", metrics.disk_read_bytes, metrics.disk_write_bytes),
    );
}
