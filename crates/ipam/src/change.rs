//! A change of a pool that can be taken back until it is kept.
//!
//! Whoever writes leases to a disk makes the change, writes what the pool is then, and keeps it only when that is written.
//! Each step of a change remembers what undoes it, so that neither making nor taking back one copies the pool.

use std::net::Ipv4Addr;
use std::ops::Deref;

use vm_model::{MacAddress, VmId};

use crate::free::Place;
use crate::{AllocationError, Interface, Lease, Pool, Wish};

/// A pool with a change under way. Dropped without [`PoolChange::keep`], it leaves the pool exactly as it was, also in the
/// order in which free addresses are given.
#[derive(Debug)]
pub struct PoolChange<'pool> {
    pool: &'pool mut Pool,
    steps: Vec<Step>,
}

/// What was done, with what it takes to undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The interface was given an address that had this place among the free ones.
    Given { interface: Interface, place: Place },
    /// The interface's lease ended.
    Ended { interface: Interface, address: Ipv4Addr, mac: MacAddress },
}

impl Pool {
    /// Begins a change that can be taken back. Each call of it takes logarithmic time a lease that it looks at.
    pub fn change(&mut self) -> PoolChange<'_> {
        PoolChange { pool: self, steps: Vec::new() }
    }
}

impl PoolChange<'_> {
    /// As [`Pool::allocate`].
    ///
    /// # Errors
    /// As those of [`Pool::allocate`].
    pub fn allocate(&mut self, vm: &VmId, nic: &str, wish: Wish) -> Result<Lease, AllocationError> {
        let (lease, step) = self.pool.give(vm, nic, wish)?;
        self.steps.extend(step);
        Ok(lease)
    }

    /// As [`Pool::release`].
    pub fn release(&mut self, vm: &VmId) -> Vec<Lease> {
        let held: Vec<Lease> = self.pool.leases_of(vm).collect();
        for lease in &held {
            self.release_interface(vm, &lease.nic);
        }
        held
    }

    /// As [`Pool::release_interface`].
    pub fn release_interface(&mut self, vm: &VmId, nic: &str) -> Option<Lease> {
        let interface = Interface { vm: vm.clone(), nic: nic.to_owned() };
        let lease = self.pool.remove(&interface)?;
        self.steps.push(Step::Ended { interface, address: lease.address, mac: lease.mac });
        Some(lease)
    }

    /// Whether anything was given or ended.
    pub fn is_made(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Lets the change count.
    pub fn keep(mut self) {
        self.steps.clear();
    }
}

impl Deref for PoolChange<'_> {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        self.pool
    }
}

impl Drop for PoolChange<'_> {
    fn drop(&mut self) {
        while let Some(step) = self.steps.pop() {
            self.pool.undo(step);
        }
    }
}
