//! `ls`: the VMs in a table.

use std::borrow::Cow;
use std::path::Path;

use admin::{InterfaceView, VmView};
use vm_model::{AddressSource, DesiredState, NicMismatch, Readiness, SourceKind, Timestamp};

use super::amounts::span;
use super::screen::{Screen, Tone};
use super::table::{Cell, Spare, Table};

const HEADING: [&str; 11] =
    ["ID", "PHASE", "READY", "DESIRED", "ADDRESS", "CPU", "MEMORY", "RESTARTS", "UPTIME", "IMAGE", "REASON"];
const WIDE_HEADING: [&str; 13] = [
    "ID", "PHASE", "READY", "DESIRED", "SOURCE", "ADDRESS", "IPV6", "CPU", "MEMORY", "RESTARTS", "UPTIME",
    "IMAGE", "REASON",
];
/// The image tells less than the reason; restarts, processor, memory and uptime go where that would be cut short.
const SPARE: Spare = Spare { before_cut: &[9], for_legible: &[7, 5, 6, 8] };
/// Length of the hash that begins the name of a store path, and of the hyphen after it.
const HASH: usize = 33;

/// Which columns are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Columns {
    /// Those that fit and say most.
    Usual,
    /// All, also of whom a VM is, uncut.
    Wide,
}

/// The table of `vms` as they are at `now`.
pub(super) fn list(vms: &[VmView], now: Timestamp, screen: Screen, columns: Columns) -> String {
    match columns {
        Columns::Usual => {
            let mut table = Table::new(HEADING);
            vms.iter().for_each(|vm| table.row(cells(vm, now)));
            table.on(screen, SPARE)
        }
        Columns::Wide => {
            let mut table = Table::new(WIDE_HEADING);
            for vm in vms {
                let [id, phase, ready, desired, address, cpu, memory, restarts, uptime, image, reason] =
                    cells(vm, now);
                let source = vm.source.map_or("", SourceKind::name).to_owned().into();
                let ipv6 = ipv6(vm).into();
                let row = [
                    id, phase, ready, desired, source, address, ipv6, cpu, memory, restarts, uptime, image,
                    reason,
                ];
                table.row(row);
            }
            table.on(Screen { width: None, ..screen }, Spare::default())
        }
    }
}

fn cells(vm: &VmView, now: Timestamp) -> [Cell; 11] {
    // What was sampled of a machine that is gone says nothing of now.
    let metrics = vm.metrics.filter(|_| is_up(vm));
    let uptime = vm.started_at.filter(|_| is_up(vm)).map(|start| span(now.since(start)));
    [
        vm.id.to_string().into(),
        Cell::new(vm.phase.clone(), tone(vm)),
        readiness(vm),
        Cell::new(other_desire(vm).unwrap_or_default(), Tone::Warning),
        addresses(vm).into(),
        metrics.map_or_else(String::new, |metrics| format!("{:.0} %", metrics.cpu_percent)).into(),
        metrics.map_or_else(String::new, |metrics| format!("{} MiB", metrics.memory_mb)).into(),
        vm.restarts.to_string().into(),
        uptime.unwrap_or_default().into(),
        image(&vm.store_path).into(),
        with_trial(reason(vm, now), vm, now).into(),
    ]
}

/// The address of its first interface, and those in other networks with the names of these.
fn addresses(vm: &VmView) -> String {
    let others = vm.interfaces.iter().filter(|nic| !nic.network.is_default());
    let others = others.map(|nic| match state_of(nic) {
        Some(state) => format!("{} ({}, {state})", nic.address, nic.network),
        None => format!("{} ({})", nic.address, nic.network),
    });
    let nic = vm.interfaces.first();
    let first = vm.address.filter(|_| nic.is_none_or(|nic| nic.network.is_default()));
    let first = first.map(|address| match nic.and_then(state_of) {
        Some(state) => format!("{address} ({state})"),
        None => address.to_string(),
    });
    first.into_iter().chain(others).collect::<Vec<_>>().join(", ")
}

/// In a word, what became of the network that an interface has its address of, or that its guest has another.
pub(super) fn state_of(nic: &InterfaceView) -> Option<&'static str> {
    match (&nic.mismatch, nic.address_source) {
        (Some(NicMismatch::NetworkRemoved), _) => Some("removed"),
        (Some(NicMismatch::AddressOutside { .. }), _) => Some("former"),
        (Some(NicMismatch::Ipv6Changed { .. }) | None, AddressSource::Others) => Some("kept"),
        (Some(NicMismatch::Ipv6Changed { .. }) | None, AddressSource::Worker) => None,
    }
}

/// The IPv6 address of its first interface, and what its guest was given where that is another.
fn ipv6(vm: &VmView) -> String {
    let address = vm.ipv6.map_or_else(String::new, |address| address.to_string());
    match vm.interfaces.first().and_then(|nic| nic.mismatch.as_ref()) {
        Some(NicMismatch::Ipv6Changed { given: Some(given) }) if vm.ipv6.is_none() => {
            format!("{given} (former)")
        }
        Some(NicMismatch::Ipv6Changed { given: Some(given) }) => format!("{address} (guest: {given})"),
        Some(NicMismatch::Ipv6Changed { given: None }) => format!("{address} (guest: none)"),
        Some(NicMismatch::NetworkRemoved | NicMismatch::AddressOutside { .. }) | None => address,
    }
}

/// What its phase means to who looks.
fn tone(vm: &VmView) -> Tone {
    match vm.phase.as_str() {
        _ if vm.hung || vm.crash_looping => Tone::Bad,
        "failed" => Tone::Bad,
        "running" if vm.boot_trouble.is_some() || vm.disk_trouble.is_some() => Tone::Warning,
        "running" => Tone::Good,
        "stopped" => Tone::Faint,
        _ => Tone::Warning,
    }
}

/// Whether its guest can serve, as far as anything tells.
fn readiness(vm: &VmView) -> Cell {
    let health = vm.health.as_ref().filter(|_| is_up(vm));
    match health.map(|health| health.ready) {
        Some(Readiness::Ready) => Cell::new("yes", Tone::Good),
        Some(Readiness::NotReady) => Cell::new("no", Tone::Bad),
        Some(Readiness::Unknown) => Cell::new("?", Tone::Warning),
        None => Cell::default(),
    }
}

/// What an artifact is called, without the hash in the name of its store path.
fn image(store_path: &Path) -> String {
    let name = store_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match name.split_at_checked(HASH) {
        Some((hash, name)) if hash.ends_with('-') && !name.is_empty() => name.to_owned(),
        Some(_) | None => name,
    }
}

/// Whether there is a machine whose figures are those of now.
pub(super) fn is_up(vm: &VmView) -> bool {
    matches!(vm.phase.as_str(), "running" | "paused" | "stopping")
}

/// Where the VM should be, where that is not where it is.
pub(super) fn other_desire(vm: &VmView) -> Option<&'static str> {
    if vm.removing {
        return Some("removed");
    }
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
    if vm.removing {
        return Some("is being removed".to_owned());
    }
    let crash_loop =
        vm.crash_looping.then(|| format!("crash loop, {} failures in a row: ", vm.failures_in_a_row));
    let is_down = matches!(vm.phase.as_str(), "failed" | "restarting");
    if let Some(reason) = vm.reason.as_ref().filter(|_| is_down || vm.crash_looping) {
        let next = vm.next_start_at.filter(|_| is_down);
        let again = next.map(|at| format!(" (again in {})", span(at.since(now))));
        return Some(format!(
            "{}{}{}",
            crash_loop.unwrap_or_default(),
            without_leading_path(&reason.message),
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
    if let Some(order) = &vm.order {
        return Some(order.to_string());
    }
    if let Some(source) = vm.drained_by {
        return Some(format!("drained by {source}"));
    }
    let has_ended_itself = vm.phase == "stopped" && vm.desired == DesiredState::Running;
    if let Some(end) = vm.ends.last().filter(|_| has_ended_itself) {
        return Some(end.to_string());
    }
    if let Some(refusal) = vm.wanted.as_ref().and_then(|wanted| wanted.refusal.as_ref()) {
        return Some(format!("a change is not in force: {}", without_leading_path(&refusal.message)));
    }
    if let Some(fetching) = &vm.fetching {
        return Some(fetching.to_string());
    }
    if let Some(verifying) = &vm.verifying {
        return Some(verifying.to_string());
    }
    if vm.waits_to_start {
        return Some("waits for its turn to start".to_owned());
    }
    let misfits = vm.interfaces.iter().filter_map(|nic| Some((nic, nic.mismatch.as_ref()?)));
    let told: Vec<String> =
        misfits.map(|(nic, mismatch)| format!("interface {}: {mismatch}", nic.id)).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// `message` with a path at its beginning cut to its last name: what is wrong is to be in sight, and `inspect` tells where.
fn without_leading_path(message: &str) -> Cow<'_, str> {
    let (path, rest) = match message.strip_prefix("\"/").map(|quoted| quoted.split_once('"')) {
        Some(Some((path, rest))) => (path, rest),
        Some(None) => return message.into(),
        None => match message.strip_prefix('/').and_then(|path| path.split_once(": ")) {
            Some((path, _)) if !path.contains(' ') => (path, &message[path.len() + 1..]),
            Some(_) | None => return message.into(),
        },
    };
    format!("{}{rest}", image(Path::new(path))).into()
}

/// What there is to say of a VM, and that its definition is on trial, which all of that may come from.
fn with_trial(reason: Option<String>, vm: &VmView, now: Timestamp) -> String {
    let trial = vm.on_trial.as_ref();
    let trial = trial.map(|trial| format!("on trial, {} left", span(trial.deadline.since(now))));
    match (reason, trial) {
        (Some(reason), Some(trial)) => format!("{reason} ({trial})"),
        (None, Some(trial)) => format!("its definition is {trial}"),
        (reason, None) => reason.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_does_not_begin_with_a_long_path() {
        let store_path = "/nix/store/00000000000000000000000000000000-web";
        for (message, shown) in [
            (format!("\"{store_path}/vm-config.json\": $.cpus is 7"), "vm-config.json: $.cpus is 7"),
            (format!("{store_path}: its NAR hash is another"), "web: its NAR hash is another"),
            ("/ nothing".to_owned(), "/ nothing"),
            ("\"/unended".to_owned(), "\"/unended"),
            ("no memory at /x: y".to_owned(), "no memory at /x: y"),
        ] {
            assert_eq!(without_leading_path(&message), shown);
        }
    }
}
