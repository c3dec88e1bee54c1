//! The steps of a supervisor that lead into a machine and out of existence: starting and removing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{error, info};
use vm_model::InitialState;
use vm_model::{DesiredState, FailureKind, FailureReason, VmStatus};

use super::Target;
use super::given_up::GivenUp;
use super::live::boot;
use super::policy::RunEnd;
use super::prepare::{Prepared, prepare};
use super::record::Power;
use super::step::{Addresses, Goal, Revision, Standing, Vcpus};
use super::task::{RETRY, Task};
use crate::failure::{chain, reason};
use crate::vms::VmTimings;

impl Task {
    /// Builds and starts a machine, unless another target comes meanwhile that has no use for it.
    pub(super) async fn boot(&mut self, target: &Target, vcpus: Vcpus) {
        self.info.send_modify(|info| {
            info.status = VmStatus::Creating;
            info.timings = VmTimings::default();
            info.hung = false;
        });
        // A machine that nobody would remember after a crash is none that can be taken care of.
        if let Err(reason) = self.record.keep(&target.assignment, Power::Wanted).await {
            return self.boot_failed(reason, target.revision).await;
        }
        let prepared = match self.prepared(target).await {
            Some(Ok(prepared)) => prepared,
            Some(Err(reason)) => return self.boot_failed(reason, target.revision).await,
            None => return,
        };
        self.restart = prepared.restart.unwrap_or(self.context.lifecycle.restart);
        self.info.send_modify(|info| {
            info.status = VmStatus::Booting;
            info.nics.clone_from(&prepared.nics);
            info.warnings.clone_from(&prepared.warnings);
            info.unverified.clone_from(&prepared.unverified);
            info.timings = prepared.timings;
        });
        let (initial, status) = match vcpus {
            Vcpus::Running => (InitialState::Running, VmStatus::Running),
            Vcpus::Parked => (InitialState::Paused, VmStatus::Paused),
        };
        let are_addresses_new = prepared.takings.addresses;
        match boot(&self.context, &self.id, prepared, initial).await {
            Ok(machine) => {
                self.slot.put(machine.handle());
                self.standing = Standing::Up { revision: target.revision, vcpus, machine };
                self.publish_start(status);
                self.look_at_machine().await;
            }
            Err(reason) => {
                if are_addresses_new {
                    self.info.send_modify(|info| info.nics.clear());
                }
                self.boot_failed(reason, target.revision).await;
            }
        }
    }

    /// What the machine is built of, or why there is none; `None` where it was given up because another target came.
    async fn prepared(&self, target: &Target) -> Option<Result<Prepared, FailureReason>> {
        let given_up = GivenUp::default();
        // A receiver of its own: what it sees is still news to the loop.
        let mut targets = self.target.clone();
        let revision = target.revision;
        let unwanted = async move {
            let is_unwanted = |target: &Target| match target.goal {
                Goal::Be(DesiredState::Running | DesiredState::Paused) => target.revision != revision,
                Goal::Be(DesiredState::Stopped) | Goal::Suspended | Goal::Gone(_) => true,
            };
            // An error is a manager that was dropped: nobody wants anything any more.
            let _ = targets.wait_for(is_unwanted).await;
        };
        let preparing = prepare(&self.context, &target.assignment, self.record.uuid(), &given_up);
        tokio::pin!(preparing);
        // Losing the second arm loses nothing: it only waits.
        let prepared = tokio::select! {
            prepared = &mut preparing => prepared,
            () = unwanted => {
                given_up.set();
                preparing.await
            }
        };
        match prepared {
            Err(_) if given_up.is_set() => {
                info!(vm_id = %self.id, "the start was given up");
                None
            }
            prepared => Some(prepared),
        }
    }

    async fn boot_failed(&mut self, reason: FailureReason, revision: Revision) {
        self.forget_taps();
        self.follow(RunEnd::Failed(reason), Duration::ZERO, revision).await;
    }

    /// Removes what belongs to the VM; whether it is gone. It is tried again where the host refuses.
    pub(super) async fn remove(&mut self, addresses: Addresses) -> bool {
        self.publish(VmStatus::Stopping);
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        // Deleting a large disk takes a while: not on a runtime's thread.
        let removing = tokio::task::spawn_blocking(move || {
            context.records.remove(&id).map_err(|problem| chain(&problem))?;
            match addresses {
                Addresses::Release => context.leases.release(&id).map_err(|problem| chain(&problem)),
                Addresses::Keep => Ok(()),
            }
        });
        let removed = removing.await.unwrap_or_else(|lost| Err(reason(FailureKind::Machine, &lost).message));
        match removed {
            Ok(()) => {
                info!(vm_id = %self.id, "removed");
                true
            }
            Err(message) => {
                error!(vm_id = %self.id, error = message, "the VM was not removed; trying again");
                sleep(RETRY).await;
                false
            }
        }
    }
}
