//! Statements about a VM that hold or do not, each with since when and why: what a program asks to know whether a VM is
//! where it was meant to be.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DesiredState, Readiness, Timestamp, VmInfo, VmStatus};

/// One statement about a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What is stated.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub holds: bool,
    /// Since when it does, or does not.
    pub since: Timestamp,
    /// Why it does not; absent where it holds.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What is stated about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// The definition in force is the one that was asked for last.
    Applied,
    /// It is in the phase in which it should be by its assignment: one that an operator keeps elsewhere is not.
    InPhase,
    /// It runs, and its probes, if it has any, find that it can serve.
    Ready,
    /// Its host carries out all that it asks for: disks work, its machine's thread turns.
    Undisturbed,
}

impl ConditionKind {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Applied, Self::InPhase, Self::Ready, Self::Undisturbed];

    /// Why the statement does not hold of `info`; nothing where it does.
    fn objection(self, info: &VmInfo) -> Option<String> {
        match self {
            Self::Applied => info.wanted.as_ref().map(|wanted| match &wanted.refusal {
                Some(refusal) => format!("the new definition cannot be used: {}", refusal.message),
                None => "the new definition is being made ready".to_owned(),
            }),
            Self::InPhase => out_of_phase(info),
            Self::Ready => unready(info),
            Self::Undisturbed => match (&info.disk_trouble, info.hung) {
                (Some(trouble), _) => Some(format!("disk {}: {}", trouble.disk, trouble.problem)),
                (None, true) => Some("its machine's thread stands still".to_owned()),
                (None, false) => None,
            },
        }
    }
}

fn out_of_phase(info: &VmInfo) -> Option<String> {
    match (&info.status, info.assignment.desired) {
        (VmStatus::Running, DesiredState::Running)
        | (VmStatus::Paused, DesiredState::Paused)
        | (VmStatus::Stopped, DesiredState::Stopped) => info.order.as_ref().map(ToString::to_string),
        (VmStatus::Failed(reason), _) => Some(reason.message.clone()),
        (VmStatus::Restarting, _) if info.last_failure.is_some() => {
            let reason = info.last_failure.as_ref()?;
            Some(format!("it is started again after a failure: {}", reason.message))
        }
        (VmStatus::Creating, _) if info.fetching.is_some() => info.fetching.as_ref().map(ToString::to_string),
        (VmStatus::Creating, _) if info.verifying.is_some() => {
            info.verifying.as_ref().map(ToString::to_string)
        }
        (VmStatus::Stopped, _) => Some("its guest has switched itself off".to_owned()),
        (VmStatus::Creating, _) if info.waits_to_start => {
            Some("it waits for its turn to start: as many VMs as may are being started".to_owned())
        }
        (status, _) => Some(format!("it is {}", status.phase_name())),
    }
}

fn unready(info: &VmInfo) -> Option<String> {
    if info.status != VmStatus::Running {
        return Some(format!("it is {}", info.status.phase_name()));
    }
    let health = info.health.as_ref().filter(|health| health.ready == Readiness::NotReady)?;
    Some(health.reason.clone().unwrap_or_else(|| "its probes have not succeeded yet".to_owned()))
}

/// Brings the statements about `info` up to date, as of `now`.
pub fn refresh_conditions(info: &mut VmInfo, now: Timestamp) {
    let before = std::mem::take(&mut info.conditions);
    info.conditions = ConditionKind::ALL
        .into_iter()
        .map(|kind| {
            let reason = kind.objection(info);
            let holds = reason.is_none();
            let same = before.iter().find(|condition| condition.kind == kind && condition.holds == holds);
            Condition { kind, holds, since: same.map_or(now, |condition| condition.since), reason }
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Assignment, FailureKind, FailureReason, Generation, OperatorOrder, VmId, WantedChange};

    fn held(info: &VmInfo) -> Vec<(ConditionKind, bool, u64)> {
        let conditions = info.conditions.iter();
        conditions.map(|condition| (condition.kind, condition.holds, condition.since.as_millis())).collect()
    }

    #[test]
    fn a_statement_keeps_its_time_until_it_turns() {
        use ConditionKind::{Applied, InPhase, Ready, Undisturbed};
        let assignment = Assignment::new(VmId::new("vm"), "", "/nix/store/x");
        let mut info = VmInfo::new(assignment.clone(), Generation::default());
        refresh_conditions(&mut info, Timestamp::from_millis(1));
        assert_eq!(
            held(&info),
            [(Applied, true, 1), (InPhase, false, 1), (Ready, false, 1), (Undisturbed, true, 1)]
        );
        info.status = VmStatus::Running;
        refresh_conditions(&mut info, Timestamp::from_millis(2));
        refresh_conditions(&mut info, Timestamp::from_millis(3));
        assert_eq!(
            held(&info),
            [(Applied, true, 1), (InPhase, true, 2), (Ready, true, 2), (Undisturbed, true, 1)]
        );

        info.order = Some(OperatorOrder {
            desired: DesiredState::Running,
            assigned: DesiredState::Paused,
            given_at: Timestamp::from_millis(0),
            by: None,
        });
        refresh_conditions(&mut info, Timestamp::from_millis(3));
        assert_eq!(held(&info)[1], (InPhase, false, 3), "its assignment says another phase");
        assert!(info.conditions[1].reason.as_ref().is_some_and(|reason| reason.contains("by an operator")));

        let refusal = FailureReason::new(FailureKind::Artifact, "no kernel".to_owned());
        info.wanted = Some(WantedChange { assignment, refusal: Some(refusal), next_try_at: None });
        refresh_conditions(&mut info, Timestamp::from_millis(4));
        assert_eq!(held(&info)[0], (Applied, false, 4));
        let reason = info.conditions[0].reason.as_deref().expect("a reason");
        assert_eq!(reason, "the new definition cannot be used: no kernel");
    }
}
