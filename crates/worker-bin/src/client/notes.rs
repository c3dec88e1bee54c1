//! What stands below a table: what of the worker is not as it should be, each in a sentence.

use admin::{AssignmentsState, AssignmentsView, MasterState, MasterView, StatusView};
use vm_model::{SourceStatus, Timestamp, VmId};

use super::amounts::{ago, ahead};
use super::table::Table;
use crate::printable::printable;

/// Fewer open files than this are worth a word: a VM takes a few dozen.
const FEW_FILES: u64 = 4096;

/// Everything that is not as it should be.
pub(crate) fn notes(status: &StatusView) -> Vec<String> {
    let mut notes = source(status);
    notes.extend(status.refused_entries.iter().map(|entry| {
        format!("the entry of VM {} was refused, and the VM stays as it is: {}", entry.id, entry.problem)
    }));
    notes.extend(
        status
            .damaged
            .iter()
            .map(|vm| format!("VM {} is left alone: its record cannot be used: {}", vm.id, vm.problem)),
    );
    notes.extend(status.unclaimed.iter().map(|vm| {
        format!(
            "VM {vm} is assigned by nobody, because what was assigned was lost, and stays as it is: assign it again, or \
             `procurator-worker rm {vm}`"
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
    let entries = status.refused_entries.iter().filter(|entry| entry.id == *id);
    notes.extend(entries.map(|entry| {
        format!("its entry in the assignments was refused, and it stays as it is: {}", entry.problem)
    }));
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

/// What is wrong with the assignments as a whole: what is held, and what has become of the file since.
fn source(status: &StatusView) -> Vec<String> {
    let held = status.held.as_ref().map(|held| {
        format!("the newest assignments (generation {}) are held: {}", held.generation, held.reason)
    });
    held.into_iter().chain(status.assignments.as_ref().and_then(file)).collect()
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
fn standing(source: &SourceStatus) -> String {
    let in_force = match source.generation {
        Some(generation) => format!("generation {generation} in force"),
        None => "nothing yet".to_owned(),
    };
    let newest = source.observed.filter(|observed| Some(*observed) != source.generation);
    let newest = newest.map(|observed| format!(", {observed} came")).unwrap_or_default();
    let refused = source.refusal.as_ref().map(|why| format!(", refused: {why}")).unwrap_or_default();
    let gone = if source.listened_to { "" } else { " (listened to no longer)" };
    format!("{in_force}{newest}{refused}{gone}")
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
        add(&format!("from {source}"), standing(known));
    }
    add("generation", status.generation.map_or_else(|| "none".to_owned(), |number| number.to_string()));
    let limit = status.open_files_limit.map_or_else(|| "without limit".to_owned(), |limit| limit.to_string());
    add("open files", limit);
    add("log lines lost", status.log_lines_dropped.to_string());
    format!("{table}{}", lines(&notes(status)))
}
