//! What the worker knows, in the words of the wire. The wire's types do not follow when `vm-model` grows; this does.

use vm_model::{
    FailureReason, HeldSet, HoldReason, NodeStatus, RefusedEntry, RemovedVm, SourceKind, Timestamp, VmInfo,
    VmNic, VmStatus,
};

use crate::wire::v1::{
    Address, Condition, ConditionKind, Held, HeldFor, InForce, Kept, NodeReport, Phase, Readiness, Reason,
    RefusedVm, Source, VmReport,
};
use crate::wire::{List, Text};
use crate::worker_state::WorkerState;

impl WorkerState {
    /// A worker and its VMs at `at`. What VMs have used and what the host has left is for the caller to add.
    pub fn of<'a>(
        at: Timestamp,
        status: &NodeStatus,
        vms: impl IntoIterator<Item = &'a VmInfo>,
        kept: &[RemovedVm],
    ) -> Self {
        let vm = |info: &VmInfo| {
            let source = status.owners.get(&info.id).copied().map(Source::from);
            (info.id.clone(), VmReport { source, ..VmReport::from(info) })
        };
        Self { node: NodeReport::of(at, status, kept), vms: vms.into_iter().map(vm).collect() }
    }
}

impl From<&VmInfo> for VmReport {
    /// All that is known of a VM but what it has used and whose word it follows, which are kept elsewhere.
    fn from(info: &VmInfo) -> Self {
        Self {
            vm: info.id.clone(),
            phase: Phase::from(&info.status),
            readiness: info.health.as_ref().map(|health| health.ready.into()).unwrap_or_default(),
            reason: reason_of(info),
            addresses: List::cut(info.nics.iter().map(Address::from)),
            image: Text::cut(info.assignment.store_path.to_string_lossy()),
            hash: Text::cut(info.assignment.hash.as_str()),
            generation: info.generation.get(),
            source: None,
            restarts: info.restarts,
            started_at_ms: info.started_at.map(Timestamp::as_millis),
            metrics: None,
            conditions: List::cut(conditions_of(info)),
        }
    }
}

/// Why a VM is in its phase. A failure of an earlier run is no reason while it runs again.
fn reason_of(info: &VmInfo) -> Option<Reason> {
    match &info.status {
        VmStatus::Failed(reason) => Some(Reason::from(reason)),
        VmStatus::Restarting => info.last_failure.as_ref().map(Reason::from),
        VmStatus::Creating
        | VmStatus::Booting
        | VmStatus::Running
        | VmStatus::Paused
        | VmStatus::Stopping
        | VmStatus::Stopped => None,
    }
}

fn conditions_of(info: &VmInfo) -> Vec<Condition> {
    let told = info.conditions.iter().map(Condition::from).map(|condition| match &info.on_trial {
        // It is in force, and may be taken back.
        Some(trial) if condition.kind == ConditionKind::Applied && condition.holds => {
            Condition { reason: Text::cut(format!("on trial until {}", trial.deadline)), ..condition }
        }
        Some(_) | None => condition,
    });
    let paths: Vec<_> = info.unverified.iter().map(|path| path.to_string_lossy()).collect();
    let crash_loop =
        info.is_crash_looping().then(|| format!("it failed {} times in a row", info.failures_in_a_row));
    let found = [
        (ConditionKind::Stable, crash_loop.unwrap_or_default()),
        (ConditionKind::Verified, paths.join(", ")),
        (ConditionKind::Complete, info.warnings.join("; ")),
    ];
    let found = found.map(|(kind, objection)| Condition {
        kind,
        holds: objection.is_empty(),
        since_ms: None,
        reason: Text::cut(objection),
    });
    told.chain(found).collect()
}

impl From<&vm_model::Condition> for Condition {
    fn from(condition: &vm_model::Condition) -> Self {
        let kind = match condition.kind {
            vm_model::ConditionKind::Applied => ConditionKind::Applied,
            vm_model::ConditionKind::InPhase => ConditionKind::InPhase,
            vm_model::ConditionKind::Ready => ConditionKind::Ready,
            vm_model::ConditionKind::Undisturbed => ConditionKind::Undisturbed,
        };
        let reason = Text::cut(condition.reason.as_deref().unwrap_or_default());
        Self { kind, holds: condition.holds, since_ms: Some(condition.since.as_millis()), reason }
    }
}

impl From<vm_model::Readiness> for Readiness {
    fn from(readiness: vm_model::Readiness) -> Self {
        match readiness {
            vm_model::Readiness::Ready => Self::Ready,
            vm_model::Readiness::NotReady => Self::NotReady,
            vm_model::Readiness::Unknown => Self::Unknown,
        }
    }
}

impl From<SourceKind> for Source {
    fn from(kind: SourceKind) -> Self {
        match kind {
            SourceKind::Master => Self::Master,
            SourceKind::File => Self::File,
            SourceKind::Local => Self::Local,
        }
    }
}

impl From<&VmStatus> for Phase {
    fn from(status: &VmStatus) -> Self {
        match status {
            VmStatus::Creating => Self::Creating,
            VmStatus::Booting => Self::Booting,
            VmStatus::Running => Self::Running,
            VmStatus::Paused => Self::Paused,
            VmStatus::Stopping => Self::Stopping,
            VmStatus::Stopped => Self::Stopped,
            VmStatus::Restarting => Self::Restarting,
            VmStatus::Failed(_) => Self::Failed,
        }
    }
}

impl From<&FailureReason> for Reason {
    fn from(reason: &FailureReason) -> Self {
        Self {
            kind: Text::cut(reason.kind.to_string()),
            class: reason.class.map(|class| Text::cut(class.name())),
            message: Text::cut(reason.to_string()),
            hint: reason.hint.as_deref().map(Text::cut),
            retried: reason.can_retry_help(),
        }
    }
}

impl From<&VmNic> for Address {
    fn from(nic: &VmNic) -> Self {
        Self {
            nic: Text::cut(nic.id.as_str()),
            address: Text::cut(nic.address.to_string()),
            mac: Text::cut(nic.mac.to_string()),
        }
    }
}

impl NodeReport {
    /// How a worker stands at `at` to its master, and what it keeps of removed VMs. What its host has left is for the
    /// caller to add.
    pub fn of(at: Timestamp, status: &NodeStatus, kept: &[RemovedVm]) -> Self {
        let report =
            Self { at_ms: at.as_millis(), kept: List::cut(kept.iter().map(Kept::from)), ..Self::default() };
        // What other sources say is between the host and them.
        let Some(master) = status.sources.get(&SourceKind::Master) else { return report };
        Self {
            applied_generation: master.generation.map(vm_model::Generation::get),
            held: master.held.as_ref().map(Held::from),
            refusal: master.refusal.as_deref().map(Text::cut),
            refused_vms: List::cut(master.refused_entries.iter().map(RefusedVm::from)),
            ..report
        }
    }
}

impl InForce {
    /// The assignment in force that came from a master, if there is one.
    pub fn of(status: &NodeStatus) -> Option<Self> {
        let master = status.sources.get(&SourceKind::Master)?;
        let (lineage, generation) = (master.lineage.as_ref()?, master.generation?.get());
        Some(Self { master: Text::cut(lineage.master()), epoch: Text::cut(lineage.epoch()), generation })
    }
}

impl From<&HeldSet> for Held {
    fn from(held: &HeldSet) -> Self {
        Self {
            generation: held.generation.get(),
            since_ms: held.since.as_millis(),
            removals: u64::try_from(held.removals).unwrap_or(u64::MAX),
            waits_for: match held.waits_for {
                HoldReason::Removals => HeldFor::Removals,
                HoldReason::Lineage => HeldFor::Lineage,
            },
            reason: Text::cut(held.reason.as_str()),
        }
    }
}

impl From<&RefusedEntry> for RefusedVm {
    fn from(entry: &RefusedEntry) -> Self {
        Self { vm: entry.id.clone(), problem: Text::cut(entry.problem.as_str()) }
    }
}

impl From<&RemovedVm> for Kept {
    fn from(removed: &RemovedVm) -> Self {
        Self {
            vm: removed.assignment.id.clone(),
            removed_at_ms: removed.removed_at.as_millis(),
            kept_until_ms: removed.kept_until.as_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vm_model::{
        Assignment, DiskTrouble, FailureClass, FailureKind, Generation, Lineage, SourceStatus, VmId,
        refresh_conditions,
    };

    use super::*;

    fn failure(message: &str) -> FailureReason {
        let reason =
            FailureReason::new(FailureKind::Guest, message.to_owned()).of_class(FailureClass::KernelPanic);
        FailureReason { console_tail: vec!["Kernel panic".to_owned()], ..reason }
    }

    #[test]
    fn a_vm_is_told_with_what_its_master_must_know() {
        let mut info =
            VmInfo::new(Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x"), Generation::new(3));
        info.last_failure = Some(failure("the guest triple-faulted"));
        info.hung = true;
        info.disk_trouble =
            Some(DiskTrouble { disk: "root".to_owned(), problem: "No space left".to_owned() });
        info.status = VmStatus::Running;
        let report = VmReport::from(&info);
        assert_eq!((report.phase, report.reason, report.generation), (Phase::Running, None, 3));
        refresh_conditions(&mut info, Timestamp::from_millis(9));
        info.unverified.push("/nix/store/y".into());
        let report = VmReport::from(&info);
        let broken: Vec<_> = report.conditions.iter().filter(|condition| !condition.holds).collect();
        let said: Vec<_> = broken
            .iter()
            .map(|condition| (condition.kind, condition.since_ms, condition.reason.as_str()))
            .collect();
        let disk = "disk root: No space left";
        let expected =
            [(ConditionKind::Undisturbed, Some(9), disk), (ConditionKind::Verified, None, "/nix/store/y")];
        assert_eq!(said, expected);
        assert_eq!(report.conditions.len(), 7);
        info.on_trial = Some(vm_model::OnTrial {
            since: Timestamp::from_millis(9),
            deadline: Timestamp::from_millis(1_709_212_029_250),
            on_failure: vm_model::RolloutFailure::RollBack,
        });
        let applied =
            VmReport::from(&info).conditions.iter().find(|one| one.kind == ConditionKind::Applied).cloned();
        let applied = applied.map(|condition| (condition.holds, condition.reason.to_string()));
        assert_eq!(applied, Some((true, "on trial until 2024-02-29T13:07:09Z".to_owned())));
        info.on_trial = None;
        info.status = VmStatus::Restarting;
        let reason = VmReport::from(&info).reason.expect("it failed");
        assert_eq!((reason.kind.as_str(), reason.retried), ("guest", true));
        assert_eq!(reason.class.as_ref().map(Text::as_str), Some("kernel_panic"));
        assert!(reason.message.contains("last console line: \"Kernel panic\""), "{}", reason.message);
        info.status = VmStatus::Failed(failure(&"x".repeat(10_000)));
        let message = VmReport::from(&info).reason.expect("it failed").message;
        assert!(message.len() <= 2048 && message.ends_with('…'));
    }

    #[test]
    fn a_master_hears_of_its_own_word_and_whose_each_vm_follows() {
        let info =
            VmInfo::new(Assignment::new(VmId::new("a"), "sha256-x=", "/nix/store/x"), Generation::new(3));
        let lineage = Lineage::new("master-1", "e1").expect("valid");
        let of_master = SourceStatus {
            lineage: Some(lineage),
            generation: Some(Generation::new(3)),
            ..SourceStatus::default()
        };
        let of_file = SourceStatus { generation: Some(Generation::new(80)), ..SourceStatus::default() };
        let status = NodeStatus {
            unclaimed: std::collections::BTreeSet::new(),
            sources: BTreeMap::from([(SourceKind::File, of_file), (SourceKind::Master, of_master)]),
            owners: BTreeMap::from([(VmId::new("a"), SourceKind::File)]),
            ..NodeStatus::default()
        };
        let state = WorkerState::of(Timestamp::from_millis(1), &status, [&info], &[]);
        assert_eq!(state.node.applied_generation, Some(3));
        assert_eq!(state.vms[&VmId::new("a")].source, Some(Source::File));
        let in_force = InForce::of(&status).expect("the master's");
        assert_eq!((in_force.master.as_str(), in_force.generation), ("master-1", 3));
        assert_eq!(InForce::of(&NodeStatus::default()), None);
    }
}
