//! Ports of the host that pass from one VM to another: who is to have which, and waiting for one that is given up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use host_network::ForwardConflict;
use nix_artifacts::NicRequest;
use tokio::time::{Instant, sleep};
use tracing::info;
use vm_model::{FailureKind, FailureReason, PortForward, VmId};

use super::context::HostContext;
use crate::failure::{plain, reason};

/// How often it is looked whether a port is free.
const LOOK: Duration = Duration::from_millis(50);
/// How long a machine that is being stopped may take beyond its guest's time.
const AFTER_STOP: Duration = Duration::from_secs(30);

/// The ports of the host that lead to each VM, as far as that is known; none to one that does not run or is to go.
pub(crate) type PortClaims = BTreeMap<VmId, Vec<PortForward>>;

/// Which VM is to have which ports of the host, as the newest desired state has it.
#[derive(Debug, Default)]
pub(crate) struct HostPorts {
    /// Held for moments. A VM of which nothing is known is not in it.
    claims: Mutex<PortClaims>,
}

impl HostPorts {
    /// From now on, VMs are to have these.
    pub(crate) fn replace(&self, claims: PortClaims) {
        *self.claims.lock().unwrap_or_else(PoisonError::into_inner) = claims;
    }

    /// Whether `holder` has the port of `wanted` for now only: it is to stop, or to have another.
    fn is_giving_up(&self, conflict: &ForwardConflict) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let own = claims.get(&conflict.holder);
        own.is_some_and(|own| !own.iter().any(|own| own.conflicts_with(&conflict.wanted)))
    }

    /// Another VM that is to have a port of `forwards` of `vm`, with that forward and its own.
    fn rival(&self, vm: &VmId, forwards: &[PortForward]) -> Option<(VmId, PortForward, PortForward)> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let others = claims.iter().filter(|(other, _)| *other != vm);
        others.flat_map(|(other, own)| own.iter().map(move |own| (other, own))).find_map(|(other, own)| {
            let wanted = forwards.iter().find(|wanted| wanted.conflicts_with(own))?;
            Some((other.clone(), *wanted, *own))
        })
    }
}

/// All ports of the host that are to lead to `nics`.
fn forwards_of<'a>(nics: impl IntoIterator<Item = &'a NicRequest>) -> Vec<PortForward> {
    nics.into_iter().flat_map(|nic| nic.access.forwards.clone()).collect()
}

/// Makes sure that no other VM has, and keeps, a port of the host that is to lead to `vm`; while a machine of it runs
/// (`is_up`), also that no other is to have one. Blocks.
pub(super) fn check_forwards(
    context: &HostContext,
    vm: &VmId,
    nics: &[NicRequest],
    is_up: bool,
) -> Result<(), FailureReason> {
    let forwards = forwards_of(nics);
    if let Some((other, wanted, own)) = context.ports.rival(vm, &forwards).filter(|_| is_up) {
        let problem = format!(
            "the port forward {wanted} of {vm} cannot be had: {own} of {other} has that port of this host, or is to have it"
        );
        return Err(plain(FailureKind::Host, problem));
    }
    forwards.iter().try_for_each(|forward| {
        match context.network.check_forwards(vm, std::slice::from_ref(forward)) {
            Err(conflict) if !context.ports.is_giving_up(&conflict) => {
                Err(reason(FailureKind::Host, &conflict))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    })
}

/// Waits until the ports of the host that `nics` of `vm` are to have are given up by those who give them up. Whoever does
/// not in time has them still: attaching says so.
pub(super) async fn await_forwards<'a>(
    context: &Arc<HostContext>,
    vm: &VmId,
    nics: impl IntoIterator<Item = &'a NicRequest>,
) {
    let forwards = forwards_of(nics);
    let deadline = Instant::now() + context.lifecycle.stop_timeout + AFTER_STOP;
    let mut is_told = false;
    while !forwards.is_empty() && Instant::now() < deadline {
        let (host, vm_id, own) = (Arc::clone(context), vm.clone(), forwards.clone());
        let checking = tokio::task::spawn_blocking(move || host.network.check_forwards(&vm_id, &own));
        match checking.await {
            Ok(Err(conflict)) if context.ports.is_giving_up(&conflict) => {
                if !std::mem::replace(&mut is_told, true) {
                    info!(vm_id = %vm, holder = %conflict.holder, port = %conflict.wanted, "waiting for a port of the host");
                }
            }
            Ok(Ok(()) | Err(_)) | Err(_) => return,
        }
        sleep(LOOK).await;
    }
}
