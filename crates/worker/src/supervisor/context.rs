//! What all supervisors of a host share.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use health::ProbePermits;
use ipam::{AllocationError, Lease};
use ipnetwork::Ipv4Network;
use machine_host::{MachineHost, Stranger};
use metrics::WorkerMeters;
use nix_artifacts::StoreRoots;
use tokio::sync::{Notify, watch};
use vm_model::{AddressSource, FailureKind, Ipv6Subnet, NicMismatch, RemovedVm, VmId, VmNic};

use super::{Changes, HostPorts, Networks, RestartPolicy, StartTurns};
use crate::capacity::Capacity;
use crate::events::EventLog;
use crate::fetching::Fetching;
use crate::gc_roots::GcRoots;
use crate::housekeeping::{DiskUse, RemovedVms};
use crate::own_threads::OwnThreads;
use crate::records::{LeaseBooks, LeaseError, NicWish, RecordStore, RecordWriter, StateLock, VerifiedPaths};
use crate::verification::Verifications;
use crate::vms::{HashVerification, LimitSettings, VhostNet};
use crate::volumes::VolumeStore;

/// The host as supervisors use it. None of it is specific to a VM; all of it may be used at once by many.
pub(crate) struct HostContext {
    /// Where machines run.
    pub(crate) machines: Arc<dyn MachineHost>,
    /// What the jails of their processes lack, a sentence each.
    pub(crate) jail_gaps: Vec<String>,
    /// How much memory they may have.
    pub(crate) capacity: Arc<Capacity>,
    /// Where their interfaces are attached.
    pub(crate) networks: Networks,
    /// Which ports of the host are to lead to which of them.
    pub(crate) ports: HostPorts,
    /// Who has which address.
    pub(crate) leases: LeaseBooks,
    /// What writes records, also to a full disk.
    pub(crate) writer: RecordWriter,
    /// What is kept of each VM.
    pub(crate) records: RecordStore,
    /// VMs that were removed and are kept for a while.
    pub(crate) removed: RemovedVms,
    /// How much of the host's disk their volumes take.
    pub(crate) disk_use: DiskUse,
    /// Told when something more is kept, or for another time.
    pub(crate) kept_changed: Arc<Notify>,
    /// Their writable disks.
    pub(crate) volumes: Arc<VolumeStore>,
    /// Artifacts that need no hashing.
    pub(crate) verified: VerifiedPaths,
    /// Where artifacts may lie.
    pub(crate) roots: Arc<StoreRoots>,
    /// What gets those that are missing.
    pub(crate) fetching: Fetching,
    /// What hashes them.
    pub(crate) verifications: Verifications,
    /// Threads for work on files of one VM, or of one store path.
    pub(crate) own_threads: OwnThreads,
    /// What keeps them from being collected as garbage.
    pub(crate) gc_roots: GcRoots,
    /// What keeps other workers out of the state directory.
    pub(crate) _lock: StateLock,
    /// Processes that may run VMs of ours and could not be taken over.
    pub(crate) strangers: watch::Sender<Vec<Stranger>>,
    /// How many probes ask guests at the same time.
    pub(crate) probes: ProbePermits,
    /// How many machines are started at the same time.
    pub(crate) start_turns: StartTurns,
    /// Below what directory files of credentials may lie.
    pub(crate) credentials_dir: PathBuf,
    /// Told of every change of what is told of a VM.
    pub(crate) changes: Changes,
    /// What happened lately.
    pub(crate) events: Arc<EventLog>,
    /// How long things took.
    pub(crate) meters: Arc<WorkerMeters>,
    /// Who moves the frames of VMs.
    pub(crate) vhost_net: VhostNet,
    /// What they may take of the host.
    pub(crate) limits: LimitSettings,
    /// How VMs live and end.
    pub(crate) lifecycle: Lifecycle,
}

impl fmt::Debug for HostContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HostContext").field("lifecycle", &self.lifecycle).finish_non_exhaustive()
    }
}

/// A network of VMs as a guest sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subnet {
    /// The host's address in it.
    pub(crate) gateway: Ipv4Addr,
    /// Which bits of an address name the network.
    pub(crate) mask: Ipv4Addr,
    /// The network of IPv6 addresses.
    pub(crate) ipv6: Option<Ipv6Subnet>,
    /// Who gives guests addresses of it.
    pub(crate) address_source: AddressSource,
}

impl Subnet {
    /// An interface with what this network gives it beside the address that is kept for it, whatever was noted before.
    pub(crate) fn given(&self, nic: VmNic) -> VmNic {
        let ipv6 = self.ipv6.map(|subnet| subnet.address_of(nic.mac));
        VmNic { ipv6, address_source: self.address_source, ..nic }
    }

    /// What of `nic`, as the guest of a running machine was told of it, does not fit this network.
    pub(crate) fn mismatch(&self, nic: &VmNic) -> Option<NicMismatch> {
        let network = Ipv4Network::with_netmask(self.gateway, self.mask).ok()?;
        if !network.contains(nic.address) {
            let subnet = format!("{}/{}", network.network(), network.prefix());
            return Some(NicMismatch::AddressOutside { subnet });
        }
        let now = self.ipv6.map(|subnet| subnet.address_of(nic.mac));
        (now != nic.ipv6).then_some(NicMismatch::Ipv6Changed { given: nic.ipv6 })
    }
}

/// How the VMs of a host live and end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifecycle {
    /// What follows a failure.
    pub(crate) restart: RestartPolicy,
    /// How long a guest may take to switch itself off.
    pub(crate) stop_timeout: Duration,
    /// When artifacts are hashed.
    pub(crate) hash_verification: HashVerification,
    /// How long what was removed or replaced is kept.
    pub(crate) removal_grace: Duration,
}

impl HostContext {
    /// The leases of all interfaces of `vm`, in the order of `wishes`. Addresses of VMs that were removed go where there are
    /// no others.
    pub(crate) fn lease(&self, vm: &VmId, wishes: &[NicWish<'_>]) -> Result<Vec<Lease>, LeaseError> {
        let problem = match self.leases.ensure(vm, wishes) {
            Err(problem) if problem.kind() == FailureKind::Host => problem,
            decided => return decided,
        };
        let mut removed: Vec<_> = self.removed.list().into_iter().filter(|(id, _)| id != vm).collect();
        removed.sort_by_key(|(_, removed)| removed.kept_until);
        let is_in_the_way = |id: &VmId| {
            let held = self.leases.of(id);
            held.iter().any(|nic| wishes.iter().any(|wish| *wish.network == nic.network))
        };
        for (id, _) in removed.into_iter().filter(|(id, _)| is_in_the_way(id)) {
            self.leases.release(&id)?;
            match self.leases.ensure(vm, wishes) {
                Err(problem) if problem.kind() == FailureKind::Host => {}
                decided => return decided,
            }
        }
        Err(problem)
    }

    /// What is told where removed VMs hold what `problem` is about: who, until when, and what frees it.
    pub(crate) fn held_by_removed(&self, problem: &LeaseError) -> Option<String> {
        let LeaseError::Allocation(problem) = problem else { return None };
        let removed = self.removed.list();
        match problem {
            AllocationError::AddressInUse { holder, .. } | AllocationError::MacInUse { holder, .. } => {
                let (id, until) = (&holder.vm, removed.get(&holder.vm)?.kept_until);
                Some(format!(
                    "{id} was removed and is kept until {until}: `procurator-worker gc {id}` frees it"
                ))
            }
            AllocationError::Exhausted { subnet, .. } => {
                self.held_in_all(&removed, |nic| subnet.contains(nic.address))
            }
            AllocationError::MacsExhausted { .. } => self.held_in_all(&removed, |_| true),
            AllocationError::WishedTwice { .. }
            | AllocationError::OutsideSubnet { .. }
            | AllocationError::Reserved { .. }
            | AllocationError::MacNotUnicast { .. }
            | AllocationError::HoldsAnother { .. } => None,
        }
    }

    /// That removed VMs hold what is wanted, as far as they have interfaces that `counts`.
    fn held_in_all(
        &self,
        removed: &BTreeMap<VmId, RemovedVm>,
        counts: impl Fn(&VmNic) -> bool,
    ) -> Option<String> {
        let nics = removed.keys().flat_map(|id| self.leases.of(id));
        let held = nics.filter(counts).count();
        (held > 0).then(|| {
            format!("{held} of them are held by removed VMs that are kept: `procurator-worker gc --all` frees them")
        })
    }
}
