//! The interfaces of a machine: their addresses, and their ends on the host.

use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use host_network::{NicAttachment, Tap};
use ipam::Lease;
use nix_artifacts::NicRequest;
use vm_model::{AddressSource, Assignment, FailureKind, FailureReason, MachineSpec, NicSpec, VmId, VmNic};

use super::acquired::AcquiredResources;
use super::context::HostContext;
use super::live::detach;
use super::nic_wish::{refused, wishes};
use super::notes::NotedNic;
use super::vhost;
use crate::failure::reason;
use crate::vms::VhostNet;

/// Gives each interface its addresses; `requests` are in the order of the description.
pub(super) fn lease(
    context: &HostContext,
    assignment: &Assignment,
    requests: Vec<NicRequest>,
    acquired: &mut AcquiredResources,
) -> Result<Vec<(NicRequest, Lease)>, FailureReason> {
    let vm = &assignment.id;
    // First: one that fails halfway may have changed them.
    acquired.addresses_before = Some(context.leases.of(vm));
    let leases = context
        .lease(vm, &wishes(&requests))
        .map_err(|problem| refused(context, assignment, &requests, problem))?;
    Ok(requests.into_iter().zip(leases).collect())
}

/// Gives each interface of the machine `spec` its TAP, and notes in `warnings` what is not as it could be. On failure
/// nothing stays attached.
pub(super) async fn attach_all(
    context: &HostContext,
    vm: &VmId,
    spec: &mut MachineSpec<OwnedFd>,
    requests: Vec<(NicRequest, Lease)>,
    warnings: &mut Vec<String>,
) -> Result<Vec<NotedNic>, FailureReason> {
    let mut nics: Vec<NotedNic> = Vec::with_capacity(requests.len());
    let vcpus = NonZeroU16::new(spec.cpus.boot_vcpus.into()).unwrap_or(NonZeroU16::MIN);
    for (request, lease) in requests {
        match attach(context, vm, vcpus, request, lease).await {
            Ok((nic, device, told)) => {
                nics.push(nic);
                spec.nics.push(device);
                warnings.extend(told);
            }
            Err(problem) => {
                detach(context, vm, nics.iter().map(|noted| &noted.nic)).await;
                return Err(problem);
            }
        }
    }
    Ok(nics)
}

/// Gives one interface of a machine with `vcpus` its TAP; with warnings where it is not served as it could be.
async fn attach(
    context: &HostContext,
    vm: &VmId,
    vcpus: NonZeroU16,
    request: NicRequest,
    lease: Lease,
) -> Result<(NotedNic, NicSpec<OwnedFd>, Vec<String>), FailureReason> {
    let attachment = NicAttachment {
        vm: vm.clone(),
        nic: request.id.clone(),
        mac: lease.mac,
        address: lease.address,
        mask: request.mask,
        mtu: request.mtu,
        tap_hint: request.tap,
        queues: request.queue_pairs.min(vcpus),
        access: request.access.clone(),
    };
    let attached = context.networks.attach(&request.network, attachment).await;
    let Tap { fds, name, warnings, .. } = attached.map_err(|problem| reason(FailureKind::Host, &problem))?;
    let vhost = match context.vhost_net {
        VhostNet::Off => Ok(None),
        VhostNet::WherePossible => {
            let limits = request.options.rate_limits;
            vhost::back_end(&request.id, name.to_string(), fds.len(), limits).await.map(Some)
        }
    };
    let warnings = warnings.iter().map(ToString::to_string).chain(vhost.as_ref().err().cloned()).collect();
    let nic = VmNic {
        id: request.id.clone(),
        network: request.network,
        address: lease.address,
        address_source: AddressSource::default(),
        ipv6: None,
        mac: lease.mac,
        tap: Some(name.to_string()),
        access: request.access,
        mismatch: None,
    };
    let device = NicSpec {
        id: request.id,
        taps: fds,
        mac: lease.mac,
        mtu: request.mtu,
        queue_size: request.queue_size,
        vhost: vhost.unwrap_or_default(),
        options: request.options,
    };
    let nic = context.networks.given(nic);
    Ok((NotedNic { nic, mask: request.mask, mtu: request.mtu }, device, warnings))
}
