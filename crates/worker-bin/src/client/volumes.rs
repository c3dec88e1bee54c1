//! Volumes and removed VMs, as tables.

use admin::DeletionView;
use vm_model::{RemovedVm, Timestamp, VolumeInfo, VolumeKeep, VolumePolicy};

use super::amounts::{ago, ahead};
use super::natural_order::natural_order;
use super::table::Table;
use crate::printable::printable;

/// Every content of every volume.
pub(super) fn volumes(volumes: &[VolumeInfo], now: Timestamp) -> String {
    let mut table = Table::new(["VOLUME", "CONTENT", "POLICY", "SIZE", "ON DISK", "MADE", "KEPT"]);
    let mut volumes: Vec<&VolumeInfo> = volumes.iter().collect();
    volumes.sort_by(|one, other| {
        natural_order(one.vm.as_str(), other.vm.as_str())
            .then_with(|| natural_order(&one.disk, &other.disk))
            .then_with(|| one.number.cmp(&other.number))
    });
    for volume in volumes {
        table.row([
            format!("{}/{}", volume.vm, printable(&volume.disk)),
            volume.number.to_string(),
            volume.policy.map_or("-", VolumePolicy::name).to_owned(),
            volume.size.to_string(),
            volume.allocated.to_string(),
            made(volume.created, now),
            kept(volume, now),
        ]);
    }
    table.to_string()
}

/// When a content was made; of one that is not found that is not known.
fn made(created: Timestamp, now: Timestamp) -> String {
    if created == Timestamp::from_millis(0) { "-".to_owned() } else { ago(created, now) }
}

/// Why a content is there, for how long, and what is wrong with it.
fn kept(volume: &VolumeInfo, now: Timestamp) -> String {
    match (&volume.problem, volume.keep) {
        (None, state) => keep(state, now),
        (Some(problem), VolumeKeep::Unknown) => format!("cannot be used: {}", printable(problem)),
        (Some(problem), state) => format!("{}; cannot be used: {}", keep(state, now), printable(problem)),
    }
}

/// Why a content is there, and for how long.
fn keep(keep: VolumeKeep, now: Timestamp) -> String {
    match keep {
        VolumeKeep::InUse => "in use".to_owned(),
        VolumeKeep::Unknown => "not known".to_owned(),
        VolumeKeep::Replaced { until: None } => "replaced, until the VM has started".to_owned(),
        VolumeKeep::Replaced { until: Some(end) } => format!("replaced, until {}", ahead(end, now)),
        VolumeKeep::Removed { until: end } => format!("VM removed, until {}", ahead(end, now)),
        VolumeKeep::Unused { until: None } => "no such disk any more, until deleted by gc".to_owned(),
        VolumeKeep::Unused { until: Some(end) } => {
            format!("no such disk any more, until {}", ahead(end, now))
        }
    }
}

/// VMs that were removed.
pub(super) fn removed(vms: &[RemovedVm], now: Timestamp) -> String {
    let mut table = Table::new(["ID", "REMOVED", "KEPT", "IMAGE"]);
    let mut vms: Vec<&RemovedVm> = vms.iter().collect();
    vms.sort_by(|one, other| natural_order(one.assignment.id.as_str(), other.assignment.id.as_str()));
    for vm in vms {
        table.row([
            vm.assignment.id.to_string(),
            ago(vm.removed_at, now),
            ahead(vm.kept_until, now),
            vm.assignment.store_path.display().to_string(),
        ]);
    }
    table.to_string()
}

/// What was deleted or set aside, one a line.
pub(super) fn deleted(view: &DeletionView, dry_run: bool) -> String {
    if view.deleted.is_empty() && view.set_aside.is_empty() {
        return "nothing is kept of that beside what is in use\n".to_owned();
    }
    let would = if dry_run { "would be " } else { "" };
    let line = |done: &str, what: &String| format!("{would}{done}: {}\n", printable(what));
    let deleted = view.deleted.iter().map(|what| line("deleted", what));
    deleted.chain(view.set_aside.iter().map(|what| line("set aside", what))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_not_told_as_deleted() {
        let view = DeletionView { deleted: vec!["a".to_owned()], set_aside: vec!["b".to_owned()] };
        assert_eq!(deleted(&view, false), "deleted: a\nset aside: b\n");
        assert_eq!(deleted(&view, true), "would be deleted: a\nwould be set aside: b\n");
    }
}
