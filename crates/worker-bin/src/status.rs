//! What the worker tells of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use admin::{AssignmentsState, AssignmentsView, DamagedVm, StatusSource, StatusView};
use tokio::sync::watch;
use vm_model::{Timestamp, VmId};
use worker::vms::VmManager;

use crate::assignments::{SourceState, Verdict};
use crate::descriptors::OpenFiles;
use crate::logging;

/// Where the admin socket gets the worker's status from.
pub(crate) fn source(
    vm_manager: Arc<VmManager>,
    assignments: watch::Receiver<SourceState>,
    files: OpenFiles,
) -> StatusSource {
    let since = Timestamp::now();
    Arc::new(move || StatusView {
        damaged: damaged(vm_manager.list_damaged()),
        held: vm_manager.node_status().borrow().held.as_ref().map(|held| held.reason.clone()),
        log_lines_dropped: logging::dropped(),
        open_files_limit: files.limit(),
        ..of_assignments(since, assignments.borrow().clone())
    })
}

fn of_assignments(since: Timestamp, state: SourceState) -> StatusView {
    let SourceState { path, read_at, verdict, refused_entries, generation } = state;
    let (state, problem) = match verdict {
        Verdict::Pending => (AssignmentsState::Pending, None),
        Verdict::InForce => (AssignmentsState::InForce, None),
        Verdict::Held => (AssignmentsState::Held, None),
        Verdict::Missing(what) => (AssignmentsState::Missing, Some(what)),
        Verdict::Refused(problem) => (AssignmentsState::Refused, Some(problem)),
    };
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since,
        assignments: path.map(|path| AssignmentsView { path, state, problem, read_at }),
        generation,
        held: None,
        refused_entries,
        damaged: Vec::new(),
        degradations: Vec::new(),
        log_lines_dropped: 0,
        open_files_limit: None,
    }
}

fn damaged(vms: BTreeMap<VmId, String>) -> Vec<DamagedVm> {
    vms.into_iter().map(|(id, problem)| DamagedVm { id, problem }).collect()
}
