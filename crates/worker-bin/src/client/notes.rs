//! What stands below a table: what of the worker is not as it should be, each in a sentence.

use std::time::Duration;

use admin::{AssignmentsState, AssignmentsView, MasterState, MasterView, NetworkView, StatusView};
use vm_model::{HeldSet, HoldReason, RefusedEntry, SourceKind, SourceStatus, Timestamp, VmId};

use super::amounts::{ago, ahead};
use super::table::Table;
use crate::printable::printable;

/// Fewer open files than this are worth a word: a VM takes a few dozen.
const FEW_FILES: u64 = 4096;
/// What a source takes away is counted over so long.
const HOUR: Duration = Duration::from_secs(3600);

/// Everything that is not as it should be.
pub(crate) fn notes(status: &StatusView) -> Vec<String> {
    let mut notes = source(status);
    notes.extend(
        refused_entries(status).into_iter().map(|(whose, entry)| {
            format!("the entry of VM {}{whose} was refused: {}", entry.id, entry.problem)
        }),
    );
    notes.extend(
        status
            .damaged
            .iter()
            .map(|vm| format!("VM {} is left alone: its record cannot be used: {}", vm.id, vm.problem)),
    );
    notes.extend(status.unclaimed.iter().map(|vm| {
        format!(
            "VM {vm} is assigned by nobody, because what was assigned was lost, and stays as it is: `procurator-worker \
             create {vm} STORE_PATH` assigns it again, `procurator-worker rm {vm}` removes it"
        )
    }));
    notes.extend(status.degradations.iter().cloned());
    if status.log_lines_dropped > 0 {
        notes.push(format!("{} lines of the worker's log were lost", status.log_lines_dropped));
    }
    if let Some(limit) = status.open_files_limit.filter(|&limit| limit < FEW_FILES) {
        notes.push(format!("the worker may have {limit} files open only: many VMs do not fit"));
    }
    notes.extend(status.refused_configuration.iter().map(|problem| {
        format!(
            "the configuration was not taken when it was read last, and the one before is in force: {problem}"
        )
    }));
    if !status.settings_for_restart.is_empty() {
        notes.push(format!(
            "these settings have changed and hold after a restart of the worker: {}",
            status.settings_for_restart.join(", ")
        ));
    }
    notes
}

/// What of that concerns VM `id`.
pub(super) fn notes_of(status: &StatusView, id: &VmId) -> Vec<String> {
    let mut notes = source(status);
    let entries = refused_entries(status).into_iter().filter(|(_, entry)| entry.id == *id);
    notes.extend(entries.map(|(whose, entry)| format!("its entry{whose} was refused: {}", entry.problem)));
    // A sentence about an interface names it as `<VM>/<interface>`.
    let interface = format!("{id}/");
    let names_it = |told: &&String| told.split_whitespace().any(|word| word.starts_with(&interface));
    notes.extend(status.degradations.iter().filter(names_it).cloned());
    notes
}

/// Notes as lines below a table.
pub(super) fn lines(notes: &[String]) -> String {
    notes.iter().map(|note| format!("note: {}\n", printable(note))).collect()
}

/// What is wrong with what sources say as a whole: what is held, what was refused, what has become of the file since, and a
/// master that does not answer.
fn source(status: &StatusView) -> Vec<String> {
    let held: Vec<(Option<SourceKind>, &HeldSet)> = if status.sources.is_empty() {
        // An older worker does not say whose it is.
        status.held.iter().map(|held| (None, held)).collect()
    } else {
        let sources = status.sources.iter();
        sources.filter_map(|(kind, source)| Some((Some(*kind), source.held.as_ref()?))).collect()
    };
    let mut notes: Vec<String> = held
        .into_iter()
        .map(|(kind, held)| {
            let HeldSet { generation, reason, .. } = held;
            match kind {
                Some(kind) => {
                    format!("the newest that {kind} says (generation {generation}) is held: {reason}")
                }
                None => format!("the newest assignments (generation {generation}) are held: {reason}"),
            }
        })
        .collect();
    // What is wrong with a file is told with the file.
    let refused = status.sources.iter().filter(|(kind, _)| **kind != SourceKind::File);
    notes.extend(refused.filter_map(|(kind, source)| {
        let why = source.refusal.as_ref()?;
        Some(format!("the newest that {kind} says is refused, and what was in force stays: {why}"))
    }));
    notes.extend(status.assignments.as_ref().and_then(file));
    notes.extend(status.master.as_ref().and_then(lost_link));
    notes
}

/// A master that is not spoken with.
fn lost_link(MasterView { address, state, problem, .. }: &MasterView) -> Option<String> {
    match state {
        MasterState::Waiting => {
            let problem = problem.as_deref().unwrap_or("nobody knows why");
            Some(format!("there is no link to the master {address}, and VMs stay as they were: {problem}"))
        }
        MasterState::Connecting | MasterState::Connected | MasterState::Ended => None,
    }
}

/// Entries that were refused, and whose they are where that is known.
fn refused_entries(status: &StatusView) -> Vec<(String, &RefusedEntry)> {
    if status.sources.is_empty() {
        return status.refused_entries.iter().map(|entry| (String::new(), entry)).collect();
    }
    let mut all = Vec::new();
    for (kind, source) in &status.sources {
        let whose = format!(" (from {kind})");
        all.extend(source.refused_entries.iter().map(|entry| (whose.clone(), entry)));
    }
    all
}

/// What is wrong with the assignments' file.
fn file(AssignmentsView { path, state, problem, .. }: &AssignmentsView) -> Option<String> {
    let problem = problem.as_deref().unwrap_or("nobody knows why");
    match state {
        AssignmentsState::Missing => {
            Some(format!("the assignments {} are missing: {problem}; VMs stay as they were", path.display()))
        }
        AssignmentsState::Refused => {
            Some(format!("the assignments {} are refused: {problem}; VMs stay as they were", path.display()))
        }
        AssignmentsState::Pending | AssignmentsState::InForce | AssignmentsState::Held => None,
    }
}

/// How the link to a master is.
fn link(master: &MasterView, now: Timestamp) -> String {
    match master.state {
        MasterState::Connecting => "connecting".to_owned(),
        MasterState::Connected => {
            let since = master.since.map(|since| format!(", since {}", ago(since, now))).unwrap_or_default();
            let who = master.lineage.as_ref().map(|lineage| format!(" to {lineage}")).unwrap_or_default();
            format!("connected{who}{since}")
        }
        MasterState::Waiting => {
            let next =
                master.next_try_at.map(|at| format!(" (again {})", ahead(at, now))).unwrap_or_default();
            format!("none: {}{next}", master.problem.as_deref().unwrap_or("nobody knows why"))
        }
        MasterState::Ended => "ended".to_owned(),
    }
}

/// How the worker stands to one source.
fn standing(source: &SourceStatus, now: Timestamp) -> String {
    let in_force = match source.generation {
        Some(generation) => format!("generation {generation} in force"),
        None => "nothing yet".to_owned(),
    };
    let newest = source.observed.filter(|observed| Some(*observed) != source.generation);
    let newest = newest.map(|observed| format!(", {observed} came")).unwrap_or_default();
    let refused = source.refusal.as_ref().map(|why| format!(", refused: {why}")).unwrap_or_default();
    let held = source.held.as_ref().map(|held| match held.waits_for {
        HoldReason::Removals => ", held for what it removes",
        HoldReason::Lineage => ", held until the master is accepted",
    });
    let drained = if source.drained { ", which drains this host" } else { "" };
    let taken = source.disruptions.iter().filter(|at| now.since(**at) < HOUR).count();
    let taken =
        if taken == 0 { String::new() } else { format!("; removed or replaced in the last hour: {taken}") };
    let gone = if source.listened_to { "" } else { " (listened to no longer)" };
    format!("{in_force}{drained}{newest}{}{refused}{taken}{gone}", held.unwrap_or_default())
}

/// `status`: the worker itself, as it is at `now`.
pub(super) fn status_lines(status: &StatusView, now: Timestamp) -> String {
    let mut table = Table::without_heading();
    let mut add = |name: &str, value: String| table.row([name.to_owned(), value]);
    add("version", status.version.clone());
    add("running since", ago(status.since, now));
    match &status.assignments {
        None => add("assignments", "none were given".to_owned()),
        Some(view) => {
            add("assignments", view.path.display().to_string());
            let state = match view.state {
                AssignmentsState::Pending => "not looked at yet",
                AssignmentsState::InForce => "in force",
                AssignmentsState::Held => "held",
                AssignmentsState::Missing => "missing",
                AssignmentsState::Refused => "refused",
            };
            add("their state", state.to_owned());
            if let Some(read_at) = view.read_at {
                add("last read", ago(read_at, now));
            }
        }
    }
    if let Some(master) = &status.master {
        add("master", format!("{} (this host is {})", master.address, master.worker));
        add("link to it", link(master, now));
    }
    for (source, known) in &status.sources {
        add(&format!("from {source}"), standing(known, now));
    }
    add("generation", status.generation.map_or_else(|| "none".to_owned(), |number| number.to_string()));
    for network in &status.networks {
        add("network", of_network(network));
    }
    let limit = status.open_files_limit.map_or_else(|| "without limit".to_owned(), |limit| limit.to_string());
    add("open files", limit);
    add("log lines lost", status.log_lines_dropped.to_string());
    format!("{table}{}", lines(&notes(status)))
}

/// A network on one line: its addresses, what is kept of them, and where it leads.
fn of_network(network: &NetworkView) -> String {
    let NetworkView { name, bridge, next_bridge, subnet, ipv6_subnet, reserved, uplink, next_uplink } =
        network;
    let subnets: Vec<&str> = [subnet.as_str()].into_iter().chain(ipv6_subnet.as_deref()).collect();
    let mut text = format!("{name}: {} on {bridge}", subnets.join(" and "));
    if let Some(next) = next_bridge {
        text += &format!(" until it can be on {next}");
    }
    if let Some(uplink) = uplink {
        text += &format!(" with {uplink}");
    }
    if let Some(next) = next_uplink {
        text += &format!(" until it can have {next}");
    }
    if !reserved.is_empty() {
        text += &format!(" (reserved: {})", reserved.join(", "));
    }
    text
}
