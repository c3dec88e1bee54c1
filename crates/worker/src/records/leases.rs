//! Who holds which address, kept on disk before it is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipam::{AllocationError, LEASE_BOOK_VERSION, Lease, LeaseBook, Pool, PoolError, Wish};
use ipnetwork::Ipv4Network;
use thiserror::Error;
use tracing::warn;
use vm_model::{FailureKind, VmId};

use super::atomic_file::{keep_aside, write_json};
use super::{ReadError, WriteError, read_versioned};
use crate::failure::chain;

const FILE: &str = "leases.json";

/// Why a VM has no address.
#[derive(Debug, Error)]
pub(crate) enum LeaseError {
    #[error("no address could be given")]
    Allocation(#[from] AllocationError),
    #[error("the address could not be recorded")]
    Write(#[from] WriteError),
}

impl LeaseError {
    /// Whose matter it is: where other VMs hold what is wanted, or the disk is full, another try can help.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Write(_) => FailureKind::Host,
            Self::Allocation(problem) => match problem {
                AllocationError::AddressInUse { .. }
                | AllocationError::MacInUse { .. }
                | AllocationError::Exhausted { .. }
                | AllocationError::MacsExhausted { .. } => FailureKind::Host,
                AllocationError::OutsideSubnet { .. }
                | AllocationError::Reserved { .. }
                | AllocationError::MacNotUnicast { .. }
                | AllocationError::HoldsAnother { .. } => FailureKind::Artifact,
            },
        }
    }
}

/// Why the leases cannot be used at all.
#[derive(Debug, Error)]
pub(crate) enum LeasesError {
    #[error("no addresses can be given")]
    Pool(#[from] PoolError),
    /// They may be whole: nothing is put in their place.
    #[error("who has which address cannot be known")]
    Unreadable(#[source] ReadError),
}

/// The leases of this host's subnet.
#[derive(Debug)]
pub(crate) struct Leases {
    file: PathBuf,
    /// Held while the file is written, so that the file never falls behind an older state.
    pool: Mutex<Pool>,
}

impl Leases {
    /// The leases of `subnet` kept in `state_dir`. Leases of another subnet, or that make no sense, are set aside with a
    /// warning: their VMs get new ones.
    ///
    /// # Errors
    /// The subnet cannot be used, or the host refuses to read the file.
    pub(crate) fn open(state_dir: &Path, subnet: Ipv4Network) -> Result<Self, LeasesError> {
        let file = state_dir.join(FILE);
        let fresh = Pool::new(subnet)?;
        let pool = match read_versioned::<LeaseBook>(&file, LEASE_BOOK_VERSION) {
            Ok(None) => fresh,
            Ok(Some(book)) => Pool::import(subnet, &book).unwrap_or_else(|error| {
                let kept =
                    keep_aside(&file).map_or_else(|error| chain(&error), |kept| kept.display().to_string());
                warn!(
                    error = chain(&error),
                    kept, "the leases are not of this network; starting without any"
                );
                fresh
            }),
            Err(error @ ReadError::Io { .. }) => return Err(LeasesError::Unreadable(error)),
            Err(error @ (ReadError::Damaged { .. } | ReadError::Newer { .. })) => {
                warn!(error = chain(&error), "the leases cannot be read; starting without any");
                fresh
            }
        };
        Ok(Self { file, pool: Mutex::new(pool) })
    }

    /// Whether `vm` has any lease.
    pub(crate) fn has(&self, vm: &VmId) -> bool {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.leases().any(|lease| lease.vm == *vm)
    }

    /// Whether interface `nic` of `vm` could have what it wishes for now. Nothing is given.
    ///
    /// # Errors
    /// As those of [`Leases::ensure`].
    pub(crate) fn check(&self, vm: &VmId, nic: &str, wish: Wish) -> Result<(), LeaseError> {
        let mut offered = self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone();
        offer(&mut offered, vm, nic, wish).map(drop)
    }

    /// The lease of interface `nic` of `vm`: the one it has, where that is as wished, else a new one. Where there is
    /// none to be had, it keeps what it has.
    pub(crate) fn ensure(&self, vm: &VmId, nic: &str, wish: Wish) -> Result<Lease, LeaseError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offered = pool.clone();
        let lease = offer(&mut offered, vm, nic, wish)?;
        if pool.lease(vm, nic).as_ref() != Some(&lease) {
            write_json(&self.file, &offered.export())?;
            *pool = offered;
        }
        Ok(lease)
    }

    /// Ends the leases of `vm`.
    pub(crate) fn release(&self, vm: &VmId) -> Result<(), WriteError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.release(vm).is_empty() { Ok(()) } else { write_json(&self.file, &pool.export()) }
    }

    /// Ends the leases of all VMs but `known`: of VMs whose removal a crash cut short.
    pub(crate) fn retain(&self, known: &BTreeSet<VmId>) -> Result<(), WriteError> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let orphans: BTreeSet<VmId> =
            pool.leases().map(|lease| lease.vm).filter(|vm| !known.contains(vm)).collect();
        for orphan in &orphans {
            pool.release(orphan);
        }
        if orphans.is_empty() { Ok(()) } else { write_json(&self.file, &pool.export()) }
    }
}

/// The lease of an interface in `pool`, given where there is none or another one.
fn offer(pool: &mut Pool, vm: &VmId, nic: &str, wish: Wish) -> Result<Lease, LeaseError> {
    match pool.allocate(vm, nic, wish) {
        // Its definition has another wish now.
        Err(AllocationError::HoldsAnother { .. }) => {
            pool.release_interface(vm, nic);
            Ok(pool.allocate(vm, nic, wish)?)
        }
        decided => Ok(decided?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Ipv4Network {
        "10.9.0.0/29".parse().expect("a subnet")
    }

    #[test]
    fn an_address_survives_a_restart_and_ends_with_its_vm() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let leases = Leases::open(directory.path(), subnet()).expect("opened");
        let lease = leases.ensure(&a, "net0", Wish::default()).expect("given");
        leases.ensure(&b, "net0", Wish::default()).expect("given");
        drop(leases);

        let leases = Leases::open(directory.path(), subnet()).expect("opened");
        assert_eq!(leases.ensure(&a, "net0", Wish::default()).expect("kept"), lease);
        leases.release(&b).expect("released");
        leases.retain(&BTreeSet::new()).expect("released");
        let book =
            read_versioned::<LeaseBook>(&directory.path().join(FILE), 1).expect("read").expect("is there");
        assert_eq!(book.leases, []);
    }

    #[test]
    fn leases_of_another_network_are_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = Leases::open(directory.path(), subnet()).expect("opened");
        leases.ensure(&VmId::new("a"), "net0", Wish::default()).expect("given");
        let other = Leases::open(directory.path(), "10.8.0.0/24".parse().expect("a subnet")).expect("opened");
        other.ensure(&VmId::new("a"), "net0", Wish::default()).expect("given anew");
        assert!(directory.path().join("leases.json.kept-1").exists());
    }

    #[test]
    fn a_changed_wish_is_granted_or_leaves_what_there_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = Leases::open(directory.path(), subnet()).expect("opened");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let wish = |text: &str| Wish { ip: Some(text.parse().expect("an address")), ..Wish::default() };
        let first = leases.ensure(&a, "net0", Wish::default()).expect("given");
        let other = leases.ensure(&b, "net0", wish("10.9.0.5")).expect("given");
        let error = leases.ensure(&a, "net0", wish("10.9.0.5")).expect_err("held");
        assert_eq!(error.kind(), FailureKind::Host, "it may be free later");
        let error = leases.ensure(&a, "net0", wish("10.8.0.5")).expect_err("not ours");
        assert_eq!(error.kind(), FailureKind::Artifact);
        assert_eq!(leases.ensure(&a, "net0", Wish::default()).expect("kept"), first);
        assert_eq!(
            leases.ensure(&a, "net0", wish("10.9.0.6")).expect("moved").address.to_string(),
            "10.9.0.6"
        );
        assert_eq!(leases.ensure(&b, "net0", Wish::default()).expect("kept"), other);
    }

    #[test]
    fn leases_that_the_host_refuses_to_read_are_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join(FILE)).expect("in the way");
        let error = Leases::open(directory.path(), subnet()).expect_err("refused");
        assert!(chain(&error).contains(FILE), "{}", chain(&error));
    }

    #[test]
    fn an_address_that_cannot_be_recorded_is_not_given() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = Leases::open(&directory.path().join("missing"), subnet()).expect("opened");
        let error = leases.ensure(&VmId::new("a"), "net0", Wish::default()).expect_err("no directory");
        assert_eq!(error.to_string(), "the address could not be recorded");
        assert_eq!(leases.pool.lock().expect("whole").leases().count(), 0);
    }
}
