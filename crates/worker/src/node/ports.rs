//! Which ports of the host lead to which VM once a desired state holds, and which changes cannot be for them. Pure.

use vm_model::{Assignment, AssignmentSet, DesiredState, PortForward, VmId};

use super::{Described, Observed};
use crate::supervisor::PortClaims;

/// What each VM has of the host's ports now.
pub(super) fn present(observed: &Observed) -> PortClaims {
    let known = observed.iter().filter_map(|(id, vm)| Some((id, vm, vm.forwards.as_ref()?)));
    let forwards =
        |desired, forwards: &[PortForward]| if runs(desired) { forwards.to_vec() } else { Vec::new() };
    known.map(|(id, vm, own)| (id.clone(), forwards(vm.assignment.desired, own))).collect()
}

/// What each VM has of them once `desired` holds, also where its change was under way before. A change that is refused changes
/// nothing; of a VM whose change could not be described, nothing is known.
pub(super) fn wanted(desired: &AssignmentSet, observed: &Observed, described: &Described) -> PortClaims {
    let mut claims: PortClaims = observed.keys().map(|id| (id.clone(), Vec::new())).collect();
    for vm in &desired.vms {
        match forwards_of(vm, observed, described) {
            Some(forwards) => drop(claims.insert(vm.id.clone(), forwards)),
            None => drop(claims.remove(&vm.id)),
        }
    }
    let present = present(observed);
    for entry in &desired.refused {
        if let Some(forwards) = present.get(&entry.id) {
            claims.insert(entry.id.clone(), forwards.clone());
        }
    }
    claims
}

fn forwards_of(vm: &Assignment, observed: &Observed, described: &Described) -> Option<Vec<PortForward>> {
    if !runs(vm.desired) {
        return Some(Vec::new());
    }
    let present = observed.get(&vm.id);
    match described.get(&vm.id) {
        Some(Ok(new)) => Some(new.description.forwards()),
        None if present.is_some_and(|present| present.is_redefined_by(vm)) => None,
        Some(Err(_)) | None => present?.forwards.clone(),
    }
}

fn runs(desired: DesiredState) -> bool {
    match desired {
        DesiredState::Running | DesiredState::Paused => true,
        DesiredState::Stopped => false,
    }
}

/// Refuses in `described` each change for which a VM would get a port of the host that another VM keeps, or gets by the same
/// state: of two that would both get it, the one whose name comes first does.
pub(super) fn refuse_conflicts(desired: &AssignmentSet, observed: &Observed, described: &mut Described) {
    let present = present(observed);
    // A refusal leaves its VM the ports that it has, which another may have been about to get.
    loop {
        let claims = wanted(desired, observed, described);
        let refused = described.iter().find_map(|(id, new)| {
            new.as_ref().ok()?;
            Some((id.clone(), conflict(id, &claims, &present)?))
        });
        match refused {
            Some((id, problem)) => drop(described.insert(id, Err(problem))),
            None => return,
        }
    }
}

/// Why `id` does not get what it claims.
fn conflict(id: &VmId, claims: &PortClaims, present: &PortClaims) -> Option<String> {
    let has = |vm: &VmId, port: &PortForward| {
        present.get(vm).is_some_and(|own| own.iter().any(|own| own.conflicts_with(port)))
    };
    let others = || claims.iter().filter(|(other, _)| *other != id);
    claims.get(id)?.iter().find_map(|port| {
        others().find_map(|(other, its)| {
            let its = its.iter().find(|its| its.conflicts_with(port))?;
            let goes_first = has(other, port) || (!has(id, port) && other < id);
            goes_first.then(|| cannot_be_had(id, port, other, its))
        })
    })
}

/// Has `id`, a VM that is new, have the ports `forwards` beside the `claims` of others.
///
/// # Errors
/// One of them is another's.
pub(super) fn claim(claims: &mut PortClaims, id: &VmId, forwards: Vec<PortForward>) -> Result<(), String> {
    for port in &forwards {
        let mut others = claims.iter().filter(|(other, _)| *other != id);
        let taken =
            others.find_map(|(other, its)| Some((other, its.iter().find(|its| its.conflicts_with(port))?)));
        if let Some((other, its)) = taken {
            return Err(cannot_be_had(id, port, other, its));
        }
    }
    claims.insert(id.clone(), forwards);
    Ok(())
}

fn cannot_be_had(id: &VmId, port: &PortForward, other: &VmId, its: &PortForward) -> String {
    format!(
        "the port forward {port} of {id} cannot be had: {its} of {other} has that port of this host, or is to have it"
    )
}

/// The ports that pass from one VM to another, in words.
pub(super) fn passing(before: &PortClaims, after: &PortClaims) -> Vec<String> {
    let mut notes = Vec::new();
    for (id, ports) in after {
        for port in ports {
            let giver = before.iter().find(|(other, its)| {
                *other != id && its.iter().any(|its| its.conflicts_with(port)) && after.contains_key(*other)
            });
            if let Some((giver, _)) = giver {
                notes.push(format!(
                    "port {}/{} of the host passes from {giver} to {id}, which waits until it is free",
                    port.host_port, port.transport
                ));
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(claims: &[(&str, &[&str])]) -> PortClaims {
        let ports = |ports: &[&str]| ports.iter().map(|port| port.parse().expect("a forward")).collect();
        claims.iter().map(|(id, own)| (VmId::new(id), ports(own))).collect()
    }

    #[test]
    fn of_two_vms_with_one_port_the_one_that_has_it_keeps_it() {
        let id = VmId::new;
        let both = claims(&[("a", &["80:80"]), ("b", &["127.0.0.1:80:81"])]);
        let has_none = claims(&[("a", &[]), ("b", &[])]);
        assert_eq!(conflict(&id("a"), &both, &has_none), None, "the first by name");
        let problem = conflict(&id("b"), &both, &has_none).expect("refused");
        assert!(problem.contains("127.0.0.1:80:81/tcp of b cannot be had: 80:80/tcp of a"), "{problem}");
        let b_has_it = claims(&[("a", &[]), ("b", &["80:80"])]);
        assert!(conflict(&id("a"), &both, &b_has_it).is_some());
        assert_eq!(conflict(&id("b"), &both, &b_has_it), None);
    }

    #[test]
    fn ports_that_are_exchanged_are_no_conflict_and_told() {
        let before = claims(&[("a", &["80:80"]), ("b", &["81:80"])]);
        let after = claims(&[("a", &["81:80"]), ("b", &["80:80"])]);
        for id in ["a", "b"] {
            assert_eq!(conflict(&VmId::new(id), &after, &before), None);
        }
        let notes = passing(&before, &after);
        assert_eq!(notes.len(), 2);
        assert!(notes[0].starts_with("port 81/tcp of the host passes from b to a"), "{notes:?}");
        assert_eq!(passing(&before, &before), [] as [String; 0]);
    }
}
