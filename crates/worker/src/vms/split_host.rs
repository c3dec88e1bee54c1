//! Machines in this process, and those that are isolated strictly in processes of their own: two hosts as one.

use std::time::Duration;

use host_process::HostProcesses;
use machine_host::{
    Adoption, BoxFuture, HostCounts, HostingProcess, LaunchError, LaunchRequest, MachineHandle, MachineHost,
    MachineLimits, Recognize, ShutdownReport,
};
use tokio::join;
use vm_model::{Isolation, ResourceLimits, VmId};
use vmm_host::VmmHost;

/// The two hosts. Both end with the worker: what a worker's end does to its guests does not depend on how they are isolated.
pub(super) struct SplitHost {
    shared: VmmHost,
    strict: HostProcesses,
}

impl SplitHost {
    pub(super) fn new(shared: VmmHost, strict: HostProcesses) -> Self {
        Self { shared, strict }
    }
}

impl MachineHost for SplitHost {
    fn launch(&self, request: LaunchRequest) -> BoxFuture<'_, Result<MachineHandle, LaunchError>> {
        match request.isolation {
            Isolation::Shared => MachineHost::launch(&self.shared, request),
            Isolation::Strict => self.strict.launch(request),
        }
    }

    /// Those of a worker that was killed; its own machines were killed with it.
    fn adopt(&self, recognize: Recognize) -> BoxFuture<'_, Adoption> {
        self.strict.adopt(recognize)
    }

    fn adopt_late(&self) -> BoxFuture<'_, Adoption> {
        self.strict.adopt_late()
    }

    fn counts(&self) -> HostCounts {
        let (shared, strict) = (self.shared.counts(), self.strict.counts());
        HostCounts {
            hosted: shared.hosted + strict.hosted,
            ended: shared.ended + strict.ended,
            unsettled: shared.unsettled + strict.unsettled,
            unjailed: shared.unjailed + strict.unjailed,
            unfiltered: shared.unfiltered + strict.unfiltered,
        }
    }

    fn kill_all(&self) {
        self.shared.kill_all();
        self.strict.kill_all();
    }

    fn shut_down(&self, deadline: Duration) -> BoxFuture<'_, ShutdownReport> {
        Box::pin(async move {
            let (mut both, strict) =
                join!(MachineHost::shut_down(&self.shared, deadline), self.strict.shut_down(deadline));
            both.released.extend(strict.released);
            both.remaining.extend(strict.remaining);
            both
        })
    }

    fn leave(&self) {
        self.shared.kill_all();
        self.strict.kill_all();
    }

    fn machines_outlive_it(&self) -> bool {
        false
    }

    fn isolates(&self) -> bool {
        true
    }

    fn process_of(&self, vm: &VmId) -> Option<HostingProcess> {
        self.strict.process_of(vm)
    }

    fn cannot_limit(&self, limits: &ResourceLimits) -> Option<String> {
        self.strict.cannot_limit(limits)
    }

    fn limit(&self, vm: &VmId, limits: MachineLimits) -> BoxFuture<'_, Vec<String>> {
        self.strict.limit(vm, limits)
    }
}
