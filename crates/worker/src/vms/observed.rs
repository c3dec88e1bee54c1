//! What a plan is told of a VM that is there.

use vm_model::{Assignment, DesiredState, PortForward, VmStatus};

use super::VmInfo;
use crate::capacity::Demand;
use crate::definition::{Description, is_same_definition};
use crate::node::ObservedVm;
use crate::supervisor::{Goal, Supervisor};

/// What the VM of `supervisor` is, with the state it is meant to be in now; `None` of one on its way out.
pub(super) fn observed(supervisor: &Supervisor) -> Option<ObservedVm> {
    let target = supervisor.target();
    let desired = match target.goal {
        Goal::Gone => return None,
        Goal::Suspended => DesiredState::Stopped,
        Goal::Be(desired) => desired,
    };
    let info = supervisor.info();
    let info = info.borrow();
    let description = supervisor.description();
    let forwards = match &description {
        Some(description) => Some(description.forwards()),
        None => attached_forwards(&info),
    };
    let promised = promised(&info.status, description.as_deref());
    Some(ObservedVm {
        can_retry_help: can_retry_help(&info.status),
        description,
        forwards,
        is_changing: is_changing(&info, &target.assignment),
        promised,
        assignment: Assignment { desired, ..target.assignment.as_ref().clone() },
    })
}

/// What of the host is promised to the machine of `supervisor`; `None` where that is not known.
pub(super) fn promised_to(supervisor: &Supervisor) -> Option<Demand> {
    let info = supervisor.info();
    promised(&info.borrow().status, supervisor.description().as_deref())
}

fn can_retry_help(status: &VmStatus) -> bool {
    match status {
        VmStatus::Failed(reason) => reason.can_retry_help(),
        VmStatus::Creating
        | VmStatus::Booting
        | VmStatus::Running
        | VmStatus::Paused
        | VmStatus::Stopping
        | VmStatus::Stopped
        | VmStatus::Restarting => false,
    }
}

/// What of the host is promised to the machine of a VM which is `status`, whose newest machine is as described.
fn promised(status: &VmStatus, description: Option<&Description>) -> Option<Demand> {
    match status {
        VmStatus::Booting | VmStatus::Running | VmStatus::Paused | VmStatus::Stopping => {
            description.map(|description| Demand::of(&description.machine.footprint()))
        }
        VmStatus::Creating | VmStatus::Stopped | VmStatus::Restarting | VmStatus::Failed(_) => {
            Some(Demand::default())
        }
    }
}

/// The ports of the host that lead to a machine which was taken over; `None` where there is none.
fn attached_forwards(info: &VmInfo) -> Option<Vec<PortForward>> {
    let attached: Vec<_> = info.nics.iter().filter(|nic| nic.tap.is_some()).collect();
    let forwards = || attached.iter().flat_map(|nic| nic.access.forwards.clone()).collect();
    (!attached.is_empty()).then(forwards)
}

/// Whether the VM is still to be what `newest` says: that is not in force, and not refused for good.
fn is_changing(info: &VmInfo, newest: &Assignment) -> bool {
    let is_refused = info.wanted.as_ref().is_some_and(|wanted| {
        let is_final = wanted.refusal.is_some() && wanted.next_try_at.is_none();
        is_final && is_same_definition(&wanted.assignment, newest)
    });
    !is_refused && !is_same_definition(&info.assignment, newest)
}

#[cfg(test)]
mod tests {
    use vm_model::{FailureKind, FailureReason, Generation, Timestamp, VmId, WantedChange};

    use super::*;

    #[test]
    fn a_vm_is_changing_until_its_newest_definition_is_in_force_or_refused_for_good() {
        let assignment = |hash: &str| Assignment::new(VmId::new("a"), hash, "/nix/store/x");
        let (before, newest) = (assignment("one"), assignment("two"));
        let mut info = VmInfo::new(before.clone(), Generation::default());
        assert!(!is_changing(&info, &before));
        assert!(is_changing(&info, &newest));
        let refusal = Some(FailureReason::new(FailureKind::Host, "no".to_owned()));
        let wanted =
            WantedChange { assignment: newest.clone(), refusal, next_try_at: Some(Timestamp::now()) };
        info.wanted = Some(wanted.clone());
        assert!(is_changing(&info, &newest), "it is tried again");
        info.wanted = Some(WantedChange { next_try_at: None, ..wanted });
        assert!(!is_changing(&info, &newest));
        assert!(is_changing(&info, &assignment("three")), "another was refused");
    }
}
