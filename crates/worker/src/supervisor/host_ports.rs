//! Ports of the host that pass from one VM to another: who is to have which, and waiting for one that is given up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Held for moments.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A VM of which nothing is known is not in it.
    claims: PortClaims,
    /// VMs whose next machine could not be made ready when that was tried last.
    obstacles: BTreeMap<VmId, Obstacle>,
}

/// Why a VM's next machine could not be made ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// A port of the host is another's. That one may be waiting for this VM, too.
    Port,
    /// Anything else: it keeps what it has until that is mended.
    Other,
}

impl HostPorts {
    /// From now on, VMs are to have these.
    pub(crate) fn replace(&self, claims: PortClaims) {
        let mut state = self.state();
        state.obstacles.retain(|vm, _| claims.contains_key(vm));
        state.claims = claims;
    }

    /// The next machine of `vm` begins to be made ready.
    pub(super) fn begin(&self, vm: &VmId) {
        self.state().obstacles.remove(vm);
    }

    /// It could not be made ready.
    pub(super) fn failed(&self, vm: &VmId) {
        self.state().obstacles.entry(vm.clone()).or_insert(Obstacle::Other);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the holder of a port has it for now only: it is to stop, or to have another and nothing is in its way.
    fn is_giving_up(&self, conflict: &ForwardConflict) -> bool {
        let state = self.state();
        let own = state.claims.get(&conflict.holder);
        state.obstacles.get(&conflict.holder) != Some(&Obstacle::Other)
            && own.is_some_and(|own| !own.iter().any(|own| own.conflicts_with(&conflict.wanted)))
    }

    /// Another VM that is to have a port of `forwards` of `vm`, with that forward and its own.
    fn rival(&self, vm: &VmId, forwards: &[PortForward]) -> Option<(VmId, PortForward, PortForward)> {
        let state = self.state();
        let others = state.claims.iter().filter(|(other, _)| *other != vm);
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
    check(context, vm, nics, is_up).inspect_err(|_| {
        context.ports.state().obstacles.insert(vm.clone(), Obstacle::Port);
    })
}

fn check(context: &HostContext, vm: &VmId, nics: &[NicRequest], is_up: bool) -> Result<(), FailureReason> {
    let forwards = forwards_of(nics);
    if let Some((other, wanted, own)) = context.ports.rival(vm, &forwards).filter(|_| is_up) {
        let problem = format!(
            "the port forward {wanted} of {vm} cannot be had: {own} of {other} has that port of this host, or is to have it"
        );
        return Err(plain(FailureKind::Host, problem));
    }
    forwards.iter().try_for_each(|forward| {
        match context.networks.check_forwards(vm, std::slice::from_ref(forward)) {
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
        let checking = tokio::task::spawn_blocking(move || host.networks.check_forwards(&vm_id, &own));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_up_by_who_is_to_have_another_and_can() {
        let (vm, holder) = (VmId::new("a"), VmId::new("b"));
        let forward = |text: &str| text.parse::<PortForward>().expect("a forward");
        let conflict =
            ForwardConflict { vm, wanted: forward("80:80"), holder: holder.clone(), held: forward("80:81") };
        let ports = HostPorts::default();
        assert!(!ports.is_giving_up(&conflict), "nothing is known of it");
        let claims = |text: &str| PortClaims::from([(holder.clone(), vec![forward(text)])]);
        ports.replace(claims("80:81"));
        assert!(!ports.is_giving_up(&conflict), "it keeps it");
        ports.replace(claims("81:81"));
        assert!(ports.is_giving_up(&conflict));
        ports.failed(&holder);
        assert!(!ports.is_giving_up(&conflict), "its change cannot be used");
        ports.begin(&holder);
        assert!(ports.is_giving_up(&conflict), "it is tried again");
        let rival = ports.rival(&VmId::new("a"), &[forward("127.0.0.1:81:1")]);
        assert_eq!(rival, Some((holder.clone(), forward("127.0.0.1:81:1"), forward("81:81"))));
        assert_eq!(ports.rival(&holder, &[forward("81:81")]), None, "its own");
    }
}
