//! What the node asks of the VMs and has done with them: it observes, plans, and carries the plan out with these.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix_artifacts::NicRequest;
use vm_model::{Assignment, Bytes, DesiredState, FailureReason, Footprint, Generation, OperatorOrder, VmId};

use super::VmManager;
use crate::capacity::DemandChange;
use crate::failure::chain;
use crate::node::{self, Action, Described, Observed};
use crate::supervisor::{Freshness, PortClaims, foresee_leases};
use crate::vms::VmManagerError;
use crate::volumes::Thoroughness;

impl VmManager {
    /// What changed definitions would make of their VMs. One that is not known in time is left out.
    pub(crate) async fn describe(&self, changed: Vec<Assignment>, thoroughness: Thoroughness) -> Described {
        let context = Arc::clone(&self.shared.context);
        self.executor.run(node::describe(context, changed, thoroughness)).await.unwrap_or_default()
    }

    /// How much memory this host has, and how much of it machines may be promised together, as far as that is known.
    pub(crate) fn memory(&self) -> (Option<Bytes>, Option<Bytes>) {
        let capacity = &self.shared.context.capacity;
        let host = capacity.observe_host();
        (host.memory.map(|memory| memory.total), capacity.assignable_memory(&host))
    }

    /// Whether a machine with a footprint could be had once what is promised has changed; by what this host has now.
    pub(crate) fn capacity_check(&self) -> impl Fn(&Footprint, &DemandChange) -> Result<(), String> {
        let capacity = &self.shared.context.capacity;
        let host = capacity.observe_host();
        move |footprint, change| capacity.check_after(footprint, &host, change).map_err(|e| chain(&e))
    }

    /// Which of `vms` could not have what their interfaces wish for if all of them started now.
    pub(crate) fn foresee_leases(
        &self,
        vms: &[(Assignment, Vec<NicRequest>)],
    ) -> BTreeMap<VmId, FailureReason> {
        foresee_leases(self.shared.context.leases.pools(), vms)
    }

    /// What each VM is and the state it is meant to be in.
    pub(crate) fn observe(&self) -> Observed {
        self.shared.registry.observe()
    }

    /// Starts to bring a VM about, or makes one of the same name another.
    pub(crate) fn define(
        &self,
        assignment: Assignment,
        generation: Generation,
    ) -> Result<(), VmManagerError> {
        self.shared.registry.define(assignment, generation)
    }

    /// Starts to bring a VM into another state.
    pub(crate) fn desire(&self, id: &VmId, desired: DesiredState) -> Result<(), VmManagerError> {
        self.shared.registry.desire(id, desired, Freshness::Same)
    }

    /// Starts a VM again that has failed.
    pub(crate) fn start_afresh(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.shared.registry.start_afresh(id)
    }

    /// From now on, VMs are to have these ports of the host.
    pub(crate) fn claim_ports(&self, claims: PortClaims) {
        self.shared.context.ports.replace(claims);
    }

    /// These VMs are part of the desired state `generation`.
    pub(crate) fn number<'a>(&self, vms: impl Iterator<Item = &'a VmId>, generation: Generation) {
        self.shared.registry.number(vms, generation);
    }

    /// These are all orders of operators that are in force.
    pub(crate) fn tell_orders(&self, orders: &BTreeMap<VmId, OperatorOrder>) {
        self.shared.registry.tell_orders(orders);
    }

    /// What an order of `desired` does to VM `id` that is no change of its assignment; see [`node::order_action`].
    pub(crate) fn order_action(&self, id: &VmId, desired: DesiredState) -> Option<Action> {
        let status = self.get_vm_status(id).ok()?;
        node::order_action(id, desired, self.observe().get(id)?, &status)
    }

    /// These VMs should be where their records say.
    pub(crate) fn bring_back<'a>(&self, vms: impl Iterator<Item = &'a VmId>) {
        self.shared.registry.bring_back(vms);
    }

    /// VM `id` should be in this state, as far as nothing was desired of it since the worker started.
    pub(crate) fn settle(&self, id: &VmId, desired: DesiredState) {
        self.shared.registry.settle(id, desired);
    }

    /// Starts to remove a VM.
    pub(crate) fn order_removal(&self, id: &VmId) -> Result<(), VmManagerError> {
        self.shared.registry.remove(id)
    }
}
