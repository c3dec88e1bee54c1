//! Who holds which address, kept on disk before it is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipam::{AllocationError, LEASE_BOOK_VERSION, Lease, LeaseBook, Pool, PoolError, Wish, Wished};
use ipnetwork::Ipv4Network;
use thiserror::Error;
use tracing::warn;
use vm_model::{FailureKind, NetworkAccess, VmId, VmNic};

use super::atomic_file::{discard_unfinished, keep_aside};
use super::{ReadError, RecordWriter, WriteError, read_versioned};
use crate::failure::chain;

const FILE: &str = "leases.json";

/// Why a VM has no address.
#[derive(Debug, Error)]
pub(crate) enum LeaseError {
    #[error("no address could be given")]
    Allocation(#[source] AllocationError),
    /// The description contradicts itself.
    #[error(
        "\"vm-config.json\": $.net[{second}].{key} is \"{value}\", as is $.net[{first}].{key}; each interface needs one of its own"
    )]
    Twice { key: &'static str, value: String, first: usize, second: usize },
    #[error("the address could not be recorded")]
    Write(#[from] WriteError),
}

impl LeaseError {
    /// Whose matter it is: where other VMs hold what is wanted, or the disk is full, another try can help.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::Write(_) => FailureKind::Host,
            Self::Twice { .. } => FailureKind::Artifact,
            Self::Allocation(problem) => match problem {
                // What another VM holds may be free later; what one of its own interfaces has will not be.
                AllocationError::AddressInUse { interface, holder, .. }
                | AllocationError::MacInUse { interface, holder, .. }
                    if interface.vm == holder.vm =>
                {
                    FailureKind::Artifact
                }
                AllocationError::AddressInUse { .. }
                | AllocationError::MacInUse { .. }
                | AllocationError::Exhausted { .. }
                | AllocationError::MacsExhausted { .. } => FailureKind::Host,
                AllocationError::WishedTwice { .. }
                | AllocationError::OutsideSubnet { .. }
                | AllocationError::Reserved { .. }
                | AllocationError::MacNotUnicast { .. }
                | AllocationError::HoldsAnother { .. } => FailureKind::Artifact,
            },
        }
    }
}

impl From<AllocationError> for LeaseError {
    /// Interfaces are in the order of the description, so a contradiction has places in it.
    fn from(problem: AllocationError) -> Self {
        match problem {
            AllocationError::WishedTwice { places: (first, second), wished, .. } => {
                let (key, value) = match wished {
                    Wished::Address(address) => ("ip", address.to_string()),
                    Wished::Mac(mac) => ("mac", mac.to_string()),
                };
                Self::Twice { key, value, first, second }
            }
            problem => Self::Allocation(problem),
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
    writer: RecordWriter,
    /// Held while the file is written, so that the file never falls behind an older state.
    pool: Mutex<Pool>,
}

impl Leases {
    /// The leases of `subnet` kept in `state_dir`. Leases of another subnet, or that make no sense, are set aside with a
    /// warning: their VMs get new ones.
    ///
    /// # Errors
    /// The subnet cannot be used, or the host refuses to read the file.
    pub(crate) fn open(
        state_dir: &Path,
        subnet: Ipv4Network,
        writer: RecordWriter,
    ) -> Result<Self, LeasesError> {
        let file = state_dir.join(FILE);
        let fresh = Pool::new(subnet)?;
        discard_unfinished(&file);
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
        Ok(Self { file, writer, pool: Mutex::new(pool) })
    }

    /// Whether `vm` has any lease.
    pub(crate) fn has(&self, vm: &VmId) -> bool {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.leases().any(|lease| lease.vm == *vm)
    }

    /// The interfaces of `vm` that hold an address, without their ends on the host.
    pub(crate) fn of(&self, vm: &VmId) -> Vec<VmNic> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let held = pool.leases().filter(|lease| lease.vm == *vm);
        let nic_of = |Lease { nic, address, mac, .. }| VmNic {
            id: nic,
            address,
            mac,
            tap: None,
            access: NetworkAccess::default(),
        };
        held.map(nic_of).collect()
    }

    /// Whether the interfaces of `vm` could have what they wish for now. Nothing is given.
    ///
    /// # Errors
    /// As those of [`Leases::ensure`].
    pub(crate) fn check(&self, vm: &VmId, wishes: &[(&str, Wish)]) -> Result<(), LeaseError> {
        let mut offered = self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(offered.allocate_all(vm, wishes).map(drop)?)
    }

    /// The leases of all interfaces of `vm`, named with their wishes in the order of its description: those it has where
    /// they are as wished, else new ones. Where one is not to be had, it keeps what it has.
    pub(crate) fn ensure(&self, vm: &VmId, wishes: &[(&str, Wish)]) -> Result<Vec<Lease>, LeaseError> {
        self.change(|pool| pool.allocate_all(vm, wishes).map_err(LeaseError::from))
    }

    /// Ends the leases of `vm`.
    pub(crate) fn release(&self, vm: &VmId) -> Result<(), WriteError> {
        self.change(|pool| {
            pool.release(vm);
            Ok(())
        })
    }

    /// Ends the leases of all VMs but `known`: of VMs whose removal a crash cut short.
    pub(crate) fn retain(&self, known: &BTreeSet<VmId>) -> Result<(), WriteError> {
        self.change(|pool| {
            let orphans: BTreeSet<VmId> =
                pool.leases().map(|lease| lease.vm).filter(|vm| !known.contains(vm)).collect();
            for orphan in &orphans {
                pool.release(orphan);
            }
            Ok(())
        })
    }

    /// Changes a copy, writes it, and only then lets it count: what is not on disk is neither given nor ended.
    fn change<T, E: From<WriteError>>(&self, change: impl FnOnce(&mut Pool) -> Result<T, E>) -> Result<T, E> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = pool.clone();
        let outcome = change(&mut changed)?;
        let book = changed.export();
        if book != pool.export() {
            self.writer.write_json(&self.file, &book)?;
            *pool = changed;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(state_dir: &Path, subnet: Ipv4Network) -> Result<Leases, LeasesError> {
        Leases::open(state_dir, subnet, RecordWriter::open(state_dir))
    }

    fn subnet() -> Ipv4Network {
        "10.9.0.0/29".parse().expect("a subnet")
    }

    fn ensure(leases: &Leases, vm: &VmId, nic: &str, wish: Wish) -> Result<Lease, LeaseError> {
        leases.ensure(vm, &[(nic, wish)]).map(|mut leases| leases.remove(0))
    }

    #[test]
    fn the_same_wish_twice_is_a_wrong_description_and_names_its_place() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = open(directory.path(), subnet()).expect("opened");
        let a = VmId::new("a");
        let ip = Wish { ip: Some("10.9.0.4".parse().expect("an address")), ..Wish::default() };
        let error = leases.ensure(&a, &[("net0", ip), ("net1", ip)]).expect_err("refused");
        assert_eq!(error.kind(), FailureKind::Artifact);
        assert_eq!(
            error.to_string(),
            "\"vm-config.json\": $.net[1].ip is \"10.9.0.4\", as is $.net[0].ip; each interface needs one of its own"
        );
        let mac = Wish { mac: Some("52:54:00:00:00:01".parse().expect("an address")), ..Wish::default() };
        let error = leases.ensure(&a, &[("net0", mac), ("net1", mac)]).expect_err("refused");
        assert_eq!(error.kind(), FailureKind::Artifact);
        assert!(error.to_string().contains("$.net[1].mac is \"52:54:00:00:00:01\""), "{error}");
        assert!(!leases.has(&a), "a refusal gives nothing");
    }

    #[test]
    fn a_lease_whose_end_cannot_be_written_goes_on() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("state");
        std::fs::create_dir(&directory).expect("made");
        let leases = open(&directory, subnet()).expect("opened");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let lease = ensure(&leases, &a, "net0", Wish::default()).expect("given");
        std::fs::rename(&directory, parent.path().join("away")).expect("moved");
        leases.release(&a).expect_err("not written");
        leases.retain(&BTreeSet::new()).expect_err("not written");
        std::fs::rename(parent.path().join("away"), &directory).expect("moved back");
        assert!(leases.has(&a));
        let wish = Wish { ip: Some(lease.address), ..Wish::default() };
        ensure(&leases, &b, "net0", wish).expect_err("it is still held");
        leases.release(&a).expect("written");
        ensure(&leases, &b, "net0", wish).expect("it is free");
    }

    #[test]
    fn an_address_survives_a_restart_and_ends_with_its_vm() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let leases = open(directory.path(), subnet()).expect("opened");
        let lease = ensure(&leases, &a, "net0", Wish::default()).expect("given");
        ensure(&leases, &b, "net0", Wish::default()).expect("given");
        drop(leases);

        let leases = open(directory.path(), subnet()).expect("opened");
        assert_eq!(ensure(&leases, &a, "net0", Wish::default()).expect("kept"), lease);
        leases.release(&b).expect("released");
        leases.retain(&BTreeSet::new()).expect("released");
        let book =
            read_versioned::<LeaseBook>(&directory.path().join(FILE), 1).expect("read").expect("is there");
        assert_eq!(book.leases, []);
    }

    #[test]
    fn leases_of_another_network_are_set_aside() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = open(directory.path(), subnet()).expect("opened");
        ensure(&leases, &VmId::new("a"), "net0", Wish::default()).expect("given");
        let other = open(directory.path(), "10.8.0.0/24".parse().expect("a subnet")).expect("opened");
        ensure(&other, &VmId::new("a"), "net0", Wish::default()).expect("given anew");
        assert!(directory.path().join("leases.json.kept-1").exists());
    }

    #[test]
    fn a_changed_wish_is_granted_or_leaves_what_there_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = open(directory.path(), subnet()).expect("opened");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let wish = |text: &str| Wish { ip: Some(text.parse().expect("an address")), ..Wish::default() };
        let first = ensure(&leases, &a, "net0", Wish::default()).expect("given");
        let other = ensure(&leases, &b, "net0", wish("10.9.0.5")).expect("given");
        let error = ensure(&leases, &a, "net0", wish("10.9.0.5")).expect_err("held");
        assert_eq!(error.kind(), FailureKind::Host, "it may be free later");
        let error = ensure(&leases, &a, "net0", wish("10.8.0.5")).expect_err("not ours");
        assert_eq!(error.kind(), FailureKind::Artifact);
        assert_eq!(ensure(&leases, &a, "net0", Wish::default()).expect("kept"), first);
        assert_eq!(
            ensure(&leases, &a, "net0", wish("10.9.0.6")).expect("moved").address.to_string(),
            "10.9.0.6"
        );
        assert_eq!(ensure(&leases, &b, "net0", Wish::default()).expect("kept"), other);
    }

    #[test]
    fn leases_that_the_host_refuses_to_read_are_not_overwritten() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join(FILE)).expect("in the way");
        let error = open(directory.path(), subnet()).expect_err("refused");
        assert!(chain(&error).contains(FILE), "{}", chain(&error));
    }

    #[test]
    fn an_address_that_cannot_be_recorded_is_not_given() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = open(&directory.path().join("missing"), subnet()).expect("opened");
        let error = ensure(&leases, &VmId::new("a"), "net0", Wish::default()).expect_err("no directory");
        assert_eq!(error.to_string(), "the address could not be recorded");
        assert_eq!(leases.pool.lock().expect("whole").leases().count(), 0);
    }
}
