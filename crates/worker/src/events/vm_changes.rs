//! What happened to a VM between two states of what is told of it. Pure.

use vm_model::{
    Assignment, DesiredState, EventKind, EventReason, FailureReason, Readiness, VmInfo, VmStatus,
    WantedChange,
};

use crate::definition::is_same_definition;

/// What of a VM's state makes an event when it changes.
#[derive(Clone, Debug)]
pub(crate) struct Outline {
    status: VmStatus,
    assignment: Assignment,
    wanted: Option<WantedChange>,
    readiness: Readiness,
    resets: u64,
    disturbance: Option<String>,
}

impl Outline {
    /// The outline of `info`.
    pub(crate) fn of(info: &VmInfo) -> Self {
        Self {
            status: info.status.clone(),
            assignment: info.assignment.clone(),
            wanted: info.wanted.clone(),
            readiness: info.health.as_ref().map_or(Readiness::Unknown, |health| health.ready),
            resets: info.resets,
            disturbance: disturbance(info),
        }
    }

    /// What happened since, now that the VM is as `info` tells.
    pub(crate) fn changes(&self, info: &VmInfo) -> Vec<EventKind> {
        let changes = [
            self.definition_change(info),
            self.wanted_change(info),
            self.desired_change(info.assignment.desired),
            (info.resets != self.resets).then_some(EventKind::MachineReset { resets: info.resets }),
            self.phase_change(info),
            self.readiness_change(info),
            self.disturbance_change(info),
        ];
        changes.into_iter().flatten().collect()
    }

    fn phase_change(&self, info: &VmInfo) -> Option<EventKind> {
        if info.status == self.status {
            return None;
        }
        let (from, to) = (self.status.phase_name().to_owned(), info.status.phase_name().to_owned());
        let reason = match &info.status {
            VmStatus::Failed(reason) => Some(reason),
            VmStatus::Restarting => info.last_failure.as_ref(),
            VmStatus::Creating
            | VmStatus::Booting
            | VmStatus::Running
            | VmStatus::Paused
            | VmStatus::Stopping
            | VmStatus::Stopped => None,
        };
        Some(EventKind::PhaseChanged { from, to, reason: reason.map(EventReason::from) })
    }

    fn desired_change(&self, to: DesiredState) -> Option<EventKind> {
        let from = self.assignment.desired;
        (from != to).then_some(EventKind::DesiredChanged { from, to })
    }

    fn definition_change(&self, info: &VmInfo) -> Option<EventKind> {
        let Assignment { store_path, hash, .. } = &info.assignment;
        (!is_same_definition(&self.assignment, &info.assignment)).then(|| EventKind::DefinitionChanged {
            store_path: store_path.clone(),
            hash: hash.clone(),
            generation: info.generation,
        })
    }

    fn wanted_change(&self, info: &VmInfo) -> Option<EventKind> {
        let wanted = info.wanted.as_ref()?;
        let before =
            self.wanted.as_ref().filter(|before| is_same_definition(&before.assignment, &wanted.assignment));
        let Assignment { store_path, hash, .. } = &wanted.assignment;
        let refusal = |reason: &FailureReason| EventKind::DefinitionRefused {
            store_path: store_path.clone(),
            reason: reason.into(),
        };
        match (before, &wanted.refusal) {
            (_, Some(reason)) if before.and_then(|before| before.refusal.as_ref()) != Some(reason) => {
                Some(refusal(reason))
            }
            (None, None) => {
                Some(EventKind::DefinitionWanted { store_path: store_path.clone(), hash: hash.clone() })
            }
            (Some(_), None) | (_, Some(_)) => None,
        }
    }

    fn readiness_change(&self, info: &VmInfo) -> Option<EventKind> {
        let health = info.health.as_ref()?;
        (health.ready != self.readiness)
            .then(|| EventKind::ReadinessChanged { readiness: health.ready, reason: health.reason.clone() })
    }

    fn disturbance_change(&self, info: &VmInfo) -> Option<EventKind> {
        match disturbance(info) {
            now if now == self.disturbance => None,
            Some(problem) => Some(EventKind::Disturbed { problem }),
            None => Some(EventKind::Undisturbed),
        }
    }
}

/// What disturbs a VM that runs, in words.
fn disturbance(info: &VmInfo) -> Option<String> {
    let disk =
        info.disk_trouble.as_ref().map(|trouble| format!("disk {}: {}", trouble.disk, trouble.problem));
    let hung = info.hung.then(|| "its machine's thread stands still".to_owned());
    let boot = info.boot_trouble.as_ref().map(|trouble| format!("its boot waits: {}", trouble.hint));
    let all: Vec<String> = disk.into_iter().chain(hung).chain(boot).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
mod tests {
    use vm_model::{FailureKind, Generation, VmId};

    use super::*;

    fn info() -> VmInfo {
        VmInfo::new(Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x"), Generation::new(1))
    }

    fn names(before: &VmInfo, after: &VmInfo) -> Vec<&'static str> {
        Outline::of(before).changes(after).iter().map(EventKind::name).collect()
    }

    #[test]
    fn what_changed_is_told_and_nothing_else() {
        let before = info();
        assert_eq!(names(&before, &before.clone()), [""; 0]);
        let told = VmInfo { starts: 3, warnings: vec!["x".to_owned()], ..before.clone() };
        assert_eq!(names(&before, &told), [""; 0], "figures are no events");
        let failed = FailureReason::new(FailureKind::Guest, "it triple-faulted".to_owned());
        let down = VmInfo { status: VmStatus::Failed(failed), ..before.clone() };
        let changes = Outline::of(&before).changes(&down);
        let [EventKind::PhaseChanged { from, to, reason: Some(reason) }] = changes.as_slice() else {
            panic!("{changes:?}");
        };
        assert_eq!(
            (from.as_str(), to.as_str(), reason.message.as_str()),
            ("creating", "failed", "it triple-faulted")
        );
        let hung = VmInfo { hung: true, ..before.clone() };
        assert_eq!(names(&before, &hung), ["disturbed"]);
        assert_eq!(names(&hung, &before), ["undisturbed"]);
    }

    #[test]
    fn a_definition_is_wanted_refused_and_in_force() {
        let before = info();
        let newer = Assignment::new(VmId::new("a"), "sha256-y=", "/nix/store/y");
        let wanted = |refusal| WantedChange { assignment: newer.clone(), refusal, next_try_at: None };
        let asked = VmInfo { wanted: Some(wanted(None)), ..before.clone() };
        assert_eq!(names(&before, &asked), ["definition_wanted"]);
        assert_eq!(names(&asked, &asked.clone()), [""; 0]);
        let reason = FailureReason::new(FailureKind::HashMismatch, "other content".to_owned());
        let refused = VmInfo { wanted: Some(wanted(Some(reason))), ..before.clone() };
        assert_eq!(names(&asked, &refused), ["definition_refused"]);
        assert_eq!(names(&refused, &refused.clone()), [""; 0]);
        let stopped = Assignment { desired: DesiredState::Stopped, ..newer };
        let taken = VmInfo { assignment: stopped, ..before };
        assert_eq!(names(&asked, &taken), ["definition_changed", "desired_changed"]);
    }
}
