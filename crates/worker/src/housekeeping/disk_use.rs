//! How much of the host's disk each VM's volumes take: looked at now and then, VM by VM, so that whoever asks is answered at
//! once and a disk that does not answer spoils the figures of its own VM alone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use vm_model::{Bytes, VmId};

use crate::supervisor::HostContext;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(15);
/// A disk that takes longer to answer has no figures in that round.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct DiskUse(Mutex<BTreeMap<VmId, BTreeMap<String, Bytes>>>);

impl DiskUse {
    /// What each volume of `vm` takes, everything included that is kept of it.
    pub(crate) fn of(&self, vm: &VmId) -> BTreeMap<String, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(vm).cloned().unwrap_or_default()
    }

    fn replace(&self, seen: BTreeMap<VmId, BTreeMap<String, Bytes>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }
}

/// Looks at all volumes for as long as the host is there.
pub(crate) async fn account_disk_use(context: Weak<HostContext>) {
    loop {
        let Some(host) = context.upgrade() else { return };
        let seen = look(&host).await;
        host.disk_use.replace(seen);
        drop(host);
        sleep(EVERY).await;
    }
}

async fn look(host: &Arc<HostContext>) -> BTreeMap<VmId, BTreeMap<String, Bytes>> {
    let listing = Arc::clone(host);
    let vms = tokio::task::spawn_blocking(move || listing.volumes.vms()).await;
    let mut looking = JoinSet::new();
    for vm in vms.ok().and_then(Result::ok).unwrap_or_default() {
        let host = Arc::clone(host);
        looking.spawn(async move {
            let (owner, looked_at) = (Arc::clone(&host), vm.clone());
            let taken = move || owner.volumes.taken_by(&looked_at);
            let taken = timeout(PATIENCE, host.own_threads.run(vm.as_str(), "use", taken)).await;
            Some((vm, taken.ok()?.ok()?))
        });
    }
    looking.join_all().await.into_iter().flatten().collect()
}
