//! Where in a description the wish of an interface stands that cannot be met.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipam::{AllocationError, Pool, Wish};
use nix_artifacts::{CONFIG_NAME, NicRequest};
use thiserror::Error;
use vm_model::{Assignment, FailureReason, NetworkName, VmId};

use super::context::HostContext;
use crate::failure::reason;
use crate::records::{LeaseError, NicWish, allocate_in};

/// A wish that cannot be met.
#[derive(Debug, Error)]
#[error("{file:?}: $.net[{index}].{key} is \"{value}\"; accepted is {accepted}")]
struct UnmetWish {
    file: PathBuf,
    index: usize,
    key: &'static str,
    value: String,
    accepted: String,
    #[source]
    problem: LeaseError,
}

/// What the interfaces of a description wish for, in its order.
pub(super) fn wishes(requests: &[NicRequest]) -> Vec<NicWish<'_>> {
    let wish = |request: &NicRequest| Wish { ip: request.ip, mac: request.mac };
    let wishes = requests.iter().map(|request| NicWish {
        nic: &request.id,
        network: &request.network,
        wish: wish(request),
    });
    wishes.collect()
}

/// As [`unmet`], with what would free addresses that removed VMs hold.
pub(super) fn refused(
    context: &HostContext,
    assignment: &Assignment,
    requests: &[NicRequest],
    problem: LeaseError,
) -> FailureReason {
    let held = context.held_by_removed(&problem);
    let mut reason = unmet(assignment, requests, problem);
    if let Some(held) = held {
        reason.message.push_str(&format!("; {held}"));
    }
    reason
}

/// Which of `vms` could not have what their interfaces wish for if all of them started, by what is free in `pools`. Those that wish for
/// certain addresses come first, then each in its turn.
pub(crate) fn foresee_leases(
    mut pools: BTreeMap<NetworkName, Pool>,
    vms: &[(Assignment, Vec<NicRequest>)],
) -> BTreeMap<VmId, FailureReason> {
    let asks = |(_, nics): &&(Assignment, Vec<NicRequest>)| nics.iter().any(|nic| nic.ip.is_some());
    let (asking, others): (Vec<_>, Vec<_>) = vms.iter().partition(asks);
    let refused = asking.into_iter().chain(others).filter_map(|(assignment, nics)| {
        let problem = allocate_in(&mut pools, &assignment.id, &wishes(nics)).err()?;
        Some((assignment.id.clone(), unmet(assignment, nics, problem)))
    });
    refused.collect()
}

/// The reason for which the interfaces of the description of `assignment` have no leases.
fn unmet(assignment: &Assignment, requests: &[NicRequest], problem: LeaseError) -> FailureReason {
    // A network that is missing may be configured again, as a store path that is missing may come.
    let transient = matches!(problem, LeaseError::NoSuchNetwork { .. });
    let (kind, file) = (problem.kind(), assignment.store_path.join(CONFIG_NAME));
    let place = interface(&problem).and_then(|nic| requests.iter().position(|request| request.id == nic));
    match place.and_then(|index| Some((index, wish(&requests[index], &problem)?))) {
        Some((index, (key, value, accepted))) => {
            reason(kind, &UnmetWish { file, index, key, value, accepted, problem })
        }
        None => FailureReason { transient, ..reason(kind, &problem) },
    }
}

/// The interface that `problem` is about.
fn interface(problem: &LeaseError) -> Option<&str> {
    let LeaseError::Allocation(problem) = problem else {
        return None;
    };
    match problem {
        AllocationError::OutsideSubnet { interface, .. }
        | AllocationError::Reserved { interface, .. }
        | AllocationError::AddressInUse { interface, .. }
        | AllocationError::MacInUse { interface, .. }
        | AllocationError::MacNotUnicast { interface, .. }
        | AllocationError::HoldsAnother { interface, .. } => Some(&interface.nic),
        AllocationError::WishedTwice { .. }
        | AllocationError::Exhausted { .. }
        | AllocationError::MacsExhausted { .. } => None,
    }
}

/// Key and value of the wish that `problem` is about, and what would be accepted.
fn wish(request: &NicRequest, problem: &LeaseError) -> Option<(&'static str, String, String)> {
    let LeaseError::Allocation(problem) = problem else {
        return None;
    };
    match problem {
        AllocationError::OutsideSubnet { address, subnet, .. }
        | AllocationError::Reserved { address, subnet, .. }
        | AllocationError::AddressInUse { address, subnet, .. } => {
            let accepted =
                format!("a free address of the worker's network {subnet}, or none (the worker assigns one)");
            Some(("ip", address.to_string(), accepted))
        }
        AllocationError::MacInUse { mac, .. } | AllocationError::MacNotUnicast { mac, .. } => {
            let accepted = "a free unicast address, or none (the worker assigns one)".to_owned();
            Some(("mac", mac.to_string(), accepted))
        }
        AllocationError::HoldsAnother { .. } => {
            let ip = request.ip?;
            Some(("ip", ip.to_string(), "the address that it holds, or none".to_owned()))
        }
        AllocationError::WishedTwice { .. }
        | AllocationError::Exhausted { .. }
        | AllocationError::MacsExhausted { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use vm_model::FailureKind;

    use super::*;

    fn refused(ip: &str) -> FailureReason {
        let mut pool = Pool::new("10.100.0.0/24".parse().expect("a network")).expect("a pool");
        let ip = ip.parse().expect("an address");
        let problem = pool.allocate(&VmId::new("web-1"), "lan", Wish { ip: Some(ip), mac: None });
        let request = NicRequest {
            id: "lan".to_owned(),
            mac: None,
            ip: Some(ip),
            mask: None,
            tap: None,
            mtu: None,
            queue_size: 256,
            queue_pairs: std::num::NonZeroU16::MIN,
            options: vm_model::NicOptions::default(),
            access: vm_model::NetworkAccess::default(),
            network: vm_model::NetworkName::default(),
        };
        let problem = LeaseError::from(problem.expect_err("it is refused"));
        let other = NicRequest { id: "other".to_owned(), ip: None, ..request.clone() };
        unmet(&Assignment::new(VmId::new("web-1"), "", "/nix/store/x"), &[other, request], problem)
    }

    #[test]
    fn a_refused_address_names_file_place_network_and_what_to_do() {
        let outside = refused("192.0.2.1");
        assert_eq!(outside.kind, FailureKind::Artifact);
        insta::assert_snapshot!(outside.message, @r#""/nix/store/x/vm-config.json": $.net[1].ip is "192.0.2.1"; accepted is a free address of the worker's network 10.100.0.0/24, or none (the worker assigns one): no address could be given: web-1/lan cannot have address 192.0.2.1: it is outside the network 10.100.0.0/24"#);
        insta::assert_snapshot!(refused("10.100.0.1").message, @r#""/nix/store/x/vm-config.json": $.net[1].ip is "10.100.0.1"; accepted is a free address of the worker's network 10.100.0.0/24, or none (the worker assigns one): no address could be given: web-1/lan cannot have address 10.100.0.1: it is the gateway address of 10.100.0.0/24"#);
    }

    #[test]
    fn a_network_that_may_be_configured_again_is_worth_another_try() {
        let network = NetworkName::parse("lan").expect("a name");
        let problem = LeaseError::NoSuchNetwork { nic: "net0".to_owned(), network, known: Vec::new() };
        let missing = unmet(&Assignment::new(VmId::new("web-1"), "", "/nix/store/x"), &[], problem);
        assert_eq!((missing.kind, missing.can_retry_help()), (FailureKind::Artifact, true));
        assert!(!refused("192.0.2.1").can_retry_help());
    }
}
