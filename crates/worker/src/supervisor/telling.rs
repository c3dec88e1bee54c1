//! What a supervisor tells of its VM: its status, its start, and which of its definitions is in force.

use tracing::info;
use vm_model::{Assignment, Timestamp, VmNic, VmStatus, WantedChange};

use super::Target;
use super::adopted::misfit_warning;
use super::task::Task;
use crate::definition::is_same_definition;

impl Task {
    /// The definition in force, where it is another than the newest.
    pub(super) fn other_in_force(&self, target: &Target) -> Option<Assignment> {
        let in_force = self.in_force.as_ref().filter(|in_force| in_force.number != target.stamp.definition);
        in_force.map(|in_force| in_force.assignment.as_ref().clone())
    }

    /// Tells which definition is in force, and which one is wanted where that is another.
    pub(super) fn show_definitions(&self, target: &Target) {
        let other = self.other_in_force(target);
        let desired = target.assignment.desired;
        let wanted = other.as_ref().map(|_| target.assignment.as_ref().clone());
        let in_force = other.unwrap_or_else(|| target.assignment.as_ref().clone());
        self.info.send_if_modified(|info| {
            let before = (info.assignment.clone(), info.generation, info.wanted.clone(), info.order.clone());
            info.assignment = Assignment { desired, ..in_force };
            info.generation = target.generation;
            info.order.clone_from(&target.order);
            info.wanted = wanted.map(|assignment| match info.wanted.take() {
                // What was found out about it is still true.
                Some(known) if is_same_definition(&known.assignment, &assignment) => {
                    WantedChange { assignment, ..known }
                }
                Some(_) | None => WantedChange { assignment, refusal: None, next_try_at: None },
            });
            before != (info.assignment.clone(), info.generation, info.wanted.clone(), info.order.clone())
        });
    }

    /// Tells the addresses that the VM has on record, which it keeps while it is off.
    pub(super) fn show_held_nics(&self) {
        let held = self.context.leases.of(&self.id).into_iter();
        let nics = held.map(|nic| self.context.networks.given(nic)).collect();
        self.info.send_modify(|info| info.nics = nics);
    }

    /// Tells what of the interfaces of the machine that runs does, and does not, fit its networks as these are now.
    pub(super) fn show_networks(&self) {
        self.info.send_if_modified(|info| {
            let networks = &self.context.networks;
            let nics: Vec<VmNic> = info.nics.iter().cloned().map(|nic| networks.of_running(nic)).collect();
            if nics == info.nics {
                return false;
            }
            let before: Vec<String> = info.nics.iter().filter_map(misfit_warning).collect();
            info.warnings.retain(|warning| !before.contains(warning));
            info.warnings.extend(nics.iter().filter_map(misfit_warning));
            info.nics = nics;
            true
        });
    }

    pub(super) fn forget_taps(&self) {
        self.info.send_modify(|info| {
            for nic in &mut info.nics {
                (nic.tap, nic.mismatch) = (None, None);
            }
            // It was the machine's, which is gone.
            info.disk_trouble = None;
        });
    }

    pub(super) fn publish(&self, status: VmStatus) {
        self.info.send_if_modified(|info| {
            let changed = info.status != status;
            if changed {
                info!(vm_id = %self.id, phase = status.phase_name(), "now {status}");
                info.status = status;
            }
            changed
        });
    }

    /// Says that a machine has started. It is counted, because a short run may be over before anybody who waits for it
    /// has looked; and at once with the status, so that whoever sees the start sees no phase before it.
    pub(super) fn publish_start(&self, status: VmStatus, at: Timestamp) {
        info!(vm_id = %self.id, phase = status.phase_name(), "now {status}");
        self.info.send_modify(|info| {
            info.starts = info.starts.saturating_add(1);
            info.started_at = Some(at);
            info.status = status;
        });
    }
}
