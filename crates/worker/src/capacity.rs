//! What this host's VMs may have together: each start takes a share, which goes back when its machine is gone.
//!
//! - [`demand`] is what a machine takes of what runs out: memory, threads, descriptors, vCPUs.
//! - [`resources`] looks at what this host has of each.
//! - [`huge_pages`] foresees whether the kernel will promise those that a machine's memory is to lie on.
//! - [`admission`] is pure: whether a machine fits beside those that have shares, or what is said to who has it start.
//!
//! Pages are taken as guests touch them, and threads as devices are used. A host that promised more than it has ends processes
//! or fails calls then, and with them machines that were promised less; so a start that would promise too much is refused
//! instead.

mod admission;
mod demand;
mod huge_pages;
mod resources;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_model::{Bytes, Footprint};

pub(crate) use self::admission::{CapacityError, CapacityRules};
pub(crate) use self::demand::{Demand, DemandChange};
use self::huge_pages::HugePages;
pub(crate) use self::resources::HostResources;

/// The shares of all machines of a host.
#[derive(Debug)]
pub(crate) struct Capacity {
    rules: CapacityRules,
    /// Protects the sum. Held for moments, never while anything is waited for.
    promised: Mutex<Demand>,
}

/// One machine's share; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    of: Arc<Capacity>,
    demand: Demand,
    is_given_back: bool,
}

impl Share {
    /// How much it is.
    pub(crate) fn demand(&self) -> Demand {
        self.demand
    }
}

impl Capacity {
    pub(crate) fn new(rules: CapacityRules) -> Arc<Self> {
        Arc::new(Self { rules, promised: Mutex::default() })
    }

    /// What this host has now.
    pub(crate) fn observe_host(&self) -> HostResources {
        HostResources::observe(self.rules.machines)
    }

    /// How much memory machines may be promised together on `host`; `None` where that is not limited or not known.
    pub(crate) fn assignable_memory(&self, host: &HostResources) -> Option<Bytes> {
        self.rules.assignable_memory(host.memory?)
    }

    /// Whether a machine with `footprint` could be started on `host` now, if `freed` of what is promised were given back. One
    /// that takes no more than that always can, whatever the limits are by now: it makes nothing worse. That does not hold of
    /// huge pages, which the kernel may have been told to keep no more.
    ///
    /// # Errors
    /// See [`CapacityError`].
    pub(crate) fn check(
        &self,
        footprint: &Footprint,
        host: &HostResources,
        freed: Option<Demand>,
    ) -> Result<(), CapacityError> {
        let freed = freed.unwrap_or_default();
        let change = DemandChange { freed, ..DemandChange::default() };
        host.huge_pages.admit(HugePages::of(footprint), &change)?;
        if !Demand::of(footprint).exceeds(&freed) {
            return Ok(());
        }
        let promised = self.promised().without(&freed);
        self.rules.admit(host, &promised, footprint)
    }

    /// Whether a machine with `footprint` could be started on `host` once what is promised has changed so.
    ///
    /// # Errors
    /// See [`CapacityError`].
    pub(crate) fn check_after(
        &self,
        footprint: &Footprint,
        host: &HostResources,
        change: &DemandChange,
    ) -> Result<(), CapacityError> {
        host.huge_pages.admit(HugePages::of(footprint), change)?;
        let promised = self.promised().with(&change.added).without(&change.freed);
        self.rules.admit(host, &promised, footprint)
    }

    /// Takes the share of a machine with `footprint` on `host`, huge pages apart, which its launch is promised or refused; in exchange for that of the machine `before` it; a host that
    /// does not say what it has refuses nothing. A machine that takes no more than the one before it is always admitted.
    ///
    /// # Errors
    /// See [`CapacityError`]. The share of the machine before is given back then.
    pub(crate) fn take(
        self: &Arc<Self>,
        footprint: &Footprint,
        host: &HostResources,
        before: Option<Share>,
    ) -> Result<Share, CapacityError> {
        let mut promised = self.promised();
        let mut fits = false;
        if let Some(mut before) = before {
            *promised = promised.without(&before.demand);
            before.is_given_back = true;
            fits = !Demand::of(footprint).exceeds(&before.demand);
        }
        if !fits {
            self.rules.admit(host, &promised, footprint)?;
        }
        Ok(self.promise(promised, footprint))
    }

    /// Takes the share of a machine with `footprint` that runs already, whatever is promised.
    pub(crate) fn resume(self: &Arc<Self>, footprint: &Footprint) -> Share {
        self.promise(self.promised(), footprint)
    }

    fn promise(self: &Arc<Self>, mut promised: MutexGuard<'_, Demand>, footprint: &Footprint) -> Share {
        let demand = Demand::of(footprint);
        *promised = promised.with(&demand);
        drop(promised);
        Share { of: Arc::clone(self), demand, is_given_back: false }
    }

    fn promised(&self) -> MutexGuard<'_, Demand> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if !self.is_given_back {
            let mut promised = self.of.promised();
            *promised = promised.without(&self.demand);
        }
    }
}

#[cfg(test)]
mod tests;
