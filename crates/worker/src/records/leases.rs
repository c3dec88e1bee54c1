//! Who holds which address, kept on disk before it is used.
//!
//! A start that fails changes nothing: until the network is up, what is changed is only remembered, and
//! [`Leases::put_in_force`] writes it. The leases of another subnet are kept aside then, and taken again when the subnet is
//! set back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipam::{AllocationError, LEASE_BOOK_VERSION, Lease, LeaseBook, Pool, PoolChange, Wish, Wished};
use thiserror::Error;
use tracing::{info, warn};
use vm_model::{FailureKind, NetworkName, VmId};

use super::atomic_file::{discard_unfinished, keep_aside, kept_files, read_in_place};
use super::{ReadError, RecordWriter, WriteError};
use crate::failure::chain;

const FILE: &str = "leases.json";

/// Why a VM has no address.
#[derive(Debug, Error)]
pub(crate) enum LeaseError {
    #[error("no address could be given")]
    Allocation(#[source] AllocationError),
    /// The worker has no such network.
    #[error(
        "the interface {nic} is to be in the network \"{network}\" (procurator.net), which this worker does not have; it has {}",
        quoted(.known)
    )]
    NoSuchNetwork {
        /// The interface.
        nic: String,
        /// The network that it names.
        network: NetworkName,
        /// Those that there are.
        known: Vec<NetworkName>,
    },
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
            Self::NoSuchNetwork { .. } | Self::Twice { .. } => FailureKind::Artifact,
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

/// `"a", "b" and "c"`.
fn quoted(names: &[NetworkName]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.as_slice() {
        [] => "none".to_owned(),
        [only] => format!("{only} alone"),
        [start @ .., last] => format!("{} and {last}", start.join(", ")),
    }
}

/// Why the leases cannot be used at all.
#[derive(Debug, Error)]
pub(crate) enum LeasesError {
    /// They may be whole: nothing is put in their place.
    #[error("who has which address cannot be known")]
    Unreadable(#[source] ReadError),
    #[error("who has which address cannot be recorded")]
    Write(#[from] WriteError),
}

/// The leases of one network of this host.
#[derive(Debug)]
pub(crate) struct Leases {
    file: PathBuf,
    writer: RecordWriter,
    /// Held while the file is written, so that the file never falls behind an older state.
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    pool: Pool,
    /// What is to be done before the pool counts on disk; `None` once it does.
    pending: Option<Pending>,
}

/// What a start does to the files of leases once its network is up.
#[derive(Debug, Default)]
struct Pending {
    /// The file is of another network, or cannot be used: it is kept aside.
    keeps_aside: bool,
    /// The file kept aside before from which the leases were taken again.
    taken_from: Option<PathBuf>,
    /// What the file holds, where that was used. A full disk is no reason not to start with what is there already.
    on_disk: Option<LeaseBook>,
}

impl Leases {
    /// The leases of the subnet of `fresh`, a pool without any, kept in `directory`. For leases of another subnet, or that make
    /// no sense, those that were kept aside of this one are taken, if there are any; else VMs get new ones. Nothing is changed
    /// on disk before [`Leases::put_in_force`].
    ///
    /// # Errors
    /// The host refuses to read the file.
    pub(crate) fn open(directory: &Path, fresh: Pool, writer: RecordWriter) -> Result<Self, LeasesError> {
        let file = directory.join(FILE);
        let mut on_disk = None;
        let (found, keeps_aside) = match read_in_place::<LeaseBook>(&file, LEASE_BOOK_VERSION) {
            Ok(None) => (None, false),
            Ok(Some(book)) => match fresh.clone().import(&book) {
                Ok(pool) => {
                    on_disk = Some(book);
                    (Some(pool), false)
                }
                Err(error) => {
                    warn!(error = chain(&error), "the leases are not of this network, and are kept aside");
                    (None, true)
                }
            },
            Err(error @ ReadError::Io { .. }) => return Err(LeasesError::Unreadable(error)),
            Err(error @ (ReadError::Damaged { .. } | ReadError::Newer { .. })) => {
                warn!(error = chain(&error), "the leases cannot be read; starting without any");
                (None, true)
            }
        };
        let (pool, taken_from) = match found {
            Some(pool) => (pool, None),
            None => match kept_leases(&file, &fresh) {
                Some((pool, kept)) => (pool, Some(kept)),
                None => (fresh, None),
            },
        };
        let pending = Some(Pending { keeps_aside, taken_from, on_disk });
        Ok(Self { file, writer, book: Mutex::new(Book { pool, pending }) })
    }

    /// Has the leases count on disk, with all that was changed since they were opened. From here on every change is written
    /// before it counts. Doing so twice is fine. Blocks.
    ///
    /// # Errors
    /// A file cannot be moved or written; the leases are as they were then.
    pub(crate) fn put_in_force(&self) -> Result<(), LeasesError> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Pending { keeps_aside, taken_from, on_disk }) = &book.pending else { return Ok(()) };
        discard_unfinished(&self.file);
        if *keeps_aside && self.file.exists() {
            let kept = keep_aside(&self.file).map_err(LeasesError::Unreadable)?;
            info!(kept = %kept.display(), "the leases of before are kept aside");
        }
        let leases = book.pool.export();
        if on_disk.as_ref() != Some(&leases) {
            self.writer.write_json(&self.file, &leases)?;
        }
        if let Some(kept) = taken_from {
            info!(from = %kept.display(), "the leases that this network had before hold again");
            // Left behind it would only be read once more.
            let _ = std::fs::remove_file(kept);
        }
        book.pending = None;
        Ok(())
    }

    /// The network's addresses with what is leased of them. What is done to it gives and ends nothing.
    pub(crate) fn pool(&self) -> Pool {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).pool.clone()
    }

    /// Whether `vm` has any lease.
    pub(crate) fn has(&self, vm: &VmId) -> bool {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.pool.leases_of(vm).next().is_some()
    }

    /// What `vm` holds.
    pub(crate) fn of(&self, vm: &VmId) -> Vec<Lease> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.pool.leases_of(vm).collect()
    }

    /// Whether the interfaces of `vm` could have what they wish for now. Nothing is given.
    ///
    /// # Errors
    /// As those of [`Leases::ensure`].
    pub(crate) fn check(&self, vm: &VmId, wishes: &[(&str, Wish)]) -> Result<(), LeaseError> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        // The change is not kept.
        Ok(book.pool.change().allocate_all(vm, wishes).map(drop)?)
    }

    /// The leases of all interfaces of `vm`, named with their wishes in the order of its description: those it has where
    /// they are as wished, else new ones. Where one is not to be had, it keeps what it has.
    pub(crate) fn ensure(&self, vm: &VmId, wishes: &[(&str, Wish)]) -> Result<Vec<Lease>, LeaseError> {
        self.change(|pool| pool.allocate_all(vm, wishes).map_err(LeaseError::from))
    }

    /// Has `vm` hold the addresses that its interfaces `present` have at this moment, and nobody else. Who holds one of them and
    /// `may_lose` it is to have another; those leases are answered.
    ///
    /// # Errors
    /// Somebody else has one of them who may not lose it, or it is none of this network; or the change cannot be written.
    pub(crate) fn seize(
        &self,
        vm: &VmId,
        present: &[(&str, Wish)],
        may_lose: impl Fn(&VmId) -> bool,
    ) -> Result<Vec<Lease>, LeaseError> {
        let meets =
            |lease: &Lease, wish: &Wish| wish.ip == Some(lease.address) || wish.mac == Some(lease.mac);
        self.change(|pool| {
            let lost: Vec<Lease> = pool
                .leases()
                .filter(|lease| lease.vm != *vm && may_lose(&lease.vm))
                .filter(|lease| present.iter().any(|(_, wish)| meets(lease, wish)))
                .collect();
            for lease in &lost {
                pool.release_interface(&lease.vm, &lease.nic);
            }
            pool.allocate_all(vm, present)?;
            Ok(lost)
        })
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

    /// Makes a change, writes the leases as they are then, and only then lets it count: what is not on disk is neither given
    /// nor ended. A change that fails, or is not written, is taken back.
    fn change<T, E: From<WriteError>>(
        &self,
        change: impl FnOnce(&mut PoolChange<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { pool, pending } = &mut *book;
        let mut changed = pool.change();
        let outcome = change(&mut changed)?;
        if changed.is_made() && pending.is_none() {
            self.writer.write_json(&self.file, &changed.export())?;
        }
        changed.keep();
        Ok(outcome)
    }
}

/// Removes the leases in `directory`, those kept aside among them, if no VM of `known` has one; answers whether.
///
/// # Errors
/// What is there cannot be read, or not removed.
pub(crate) fn forget_leases(directory: &Path, known: &BTreeSet<VmId>) -> Result<bool, ReadError> {
    let file = directory.join(FILE);
    let files: Vec<PathBuf> = kept_files(&file).into_iter().chain([file]).collect();
    for file in &files {
        if let Some(book) = read_in_place::<LeaseBook>(file, LEASE_BOOK_VERSION)?
            && book.leases.iter().any(|lease| known.contains(&lease.vm))
        {
            return Ok(false);
        }
    }
    for file in files.iter().filter(|file| file.exists()) {
        std::fs::remove_file(file).map_err(|source| ReadError::Io { path: file.clone(), source })?;
    }
    Ok(true)
}

/// The leases of the subnet of `fresh` that were kept aside last, and where.
fn kept_leases(file: &Path, fresh: &Pool) -> Option<(Pool, PathBuf)> {
    kept_files(file).into_iter().rev().find_map(|kept| {
        let book = read_in_place::<LeaseBook>(&kept, LEASE_BOOK_VERSION).ok()??;
        Some((fresh.clone().import(&book).ok()?, kept))
    })
}

#[cfg(test)]
mod tests {
    use ipnetwork::Ipv4Network;

    use super::*;

    fn open(state_dir: &Path, subnet: Ipv4Network) -> Result<Leases, LeasesError> {
        let fresh = Pool::new(subnet).expect("a subnet for VMs");
        let leases = Leases::open(state_dir, fresh, RecordWriter::open(state_dir))?;
        leases.put_in_force()?;
        Ok(leases)
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
    fn who_has_an_address_at_this_moment_keeps_it_and_who_only_held_it_gets_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = open(directory.path(), subnet()).expect("opened");
        let [stopped, present, running] = ["stopped", "present", "running"].map(VmId::new);
        let held = ensure(&leases, &stopped, "net0", Wish::default()).expect("given");
        let kept = ensure(&leases, &running, "net0", Wish::default()).expect("given");
        let wish = |lease: &Lease| Wish { ip: Some(lease.address), mac: Some(lease.mac) };
        let may_lose = |vm: &VmId| *vm != running;
        let free = Wish { ip: Some("10.9.0.6".parse().expect("an address")), mac: None };
        let lost =
            leases.seize(&present, &[("net0", wish(&held)), ("net1", free)], may_lose).expect("seized");
        assert_eq!(lost, std::slice::from_ref(&held));
        assert_eq!(leases.of(&present).len(), 2, "all of its interfaces");
        let other = ensure(&leases, &stopped, "net0", Wish::default()).expect("given anew");
        assert_ne!(other.address, held.address);
        ensure(&leases, &VmId::new("static"), "net0", Wish { ip: Some(held.address), mac: None })
            .expect_err("held");
        leases.seize(&present, &[("net0", wish(&kept))], may_lose).expect_err("its holder runs too");
        assert_eq!(leases.of(&running), [kept]);
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
            read_in_place::<LeaseBook>(&directory.path().join(FILE), 1).expect("read").expect("is there");
        assert_eq!(book.leases, []);
    }

    #[test]
    fn leases_of_another_network_are_set_aside_and_taken_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let leases = open(directory.path(), subnet()).expect("opened");
        let wish = Wish { ip: Some("10.9.0.5".parse().expect("an address")), ..Wish::default() };
        let before = ensure(&leases, &a, "net0", wish).expect("given");
        let elsewhere = "10.8.0.0/24".parse().expect("a subnet");
        let other = open(directory.path(), elsewhere).expect("opened");
        let in_between = ensure(&other, &b, "net0", Wish::default()).expect("given anew");
        assert!(directory.path().join("leases.json.kept-1").exists());

        let back = open(directory.path(), subnet()).expect("opened");
        assert_eq!(ensure(&back, &a, "net0", Wish::default()).expect("kept"), before);
        let other = open(directory.path(), elsewhere).expect("opened");
        assert_eq!(ensure(&other, &b, "net0", Wish::default()).expect("kept"), in_between);
        let names = std::fs::read_dir(directory.path()).expect("listed").flatten();
        let kept = names.filter(|entry| entry.file_name().to_string_lossy().contains(".kept-")).count();
        assert_eq!(kept, 1, "one that is taken again is not kept aside as well");
    }

    #[test]
    fn a_start_that_fails_before_its_network_is_up_changes_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let leases = open(directory.path(), subnet()).expect("opened");
        ensure(&leases, &VmId::new("a"), "net0", Wish::default()).expect("given");
        let file = directory.path().join(FILE);
        let before = std::fs::read(&file).expect("read");
        for other in ["10.9.0.0/29", "10.8.0.0/24"] {
            let subnet = other.parse().expect("a subnet");
            let writer = RecordWriter::open(directory.path());
            let fresh = Pool::new(subnet).expect("a subnet for VMs");
            let failed = Leases::open(directory.path(), fresh, writer).expect("opened");
            failed.retain(&BTreeSet::new()).expect("remembered");
            assert!(!failed.has(&VmId::new("a")));
        }
        assert_eq!(std::fs::read(&file).expect("read"), before);
        assert!(!directory.path().join("leases.json.kept-1").exists());
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
    fn addresses_that_are_reserved_later_stay_with_whoever_has_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, b) = (VmId::new("a"), VmId::new("b"));
        let leases = open(directory.path(), subnet()).expect("opened");
        let before = ensure(&leases, &a, "net0", Wish::default()).expect("given");
        assert_eq!(before.address.to_string(), "10.9.0.2");
        let reserved = ["10.9.0.2-10.9.0.4".parse().expect("a range")];
        let fresh = Pool::with_reserved(subnet(), &reserved).expect("a pool");
        let writer = RecordWriter::open(directory.path());
        let leases = Leases::open(directory.path(), fresh, writer).expect("opened");
        leases.put_in_force().expect("written");
        assert_eq!(ensure(&leases, &a, "net0", Wish::default()).expect("kept"), before);
        let other = ensure(&leases, &b, "net0", Wish::default()).expect("given");
        assert_eq!(other.address.to_string(), "10.9.0.5");
        let wish = Wish { ip: Some("10.9.0.3".parse().expect("an address")), ..Wish::default() };
        ensure(&leases, &b, "net1", wish).expect("a reserved address is given to whoever asks for it");
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
        let gone = directory.path().join("gone");
        std::fs::create_dir(&gone).expect("made");
        let leases = open(&gone, subnet()).expect("opened");
        std::fs::remove_dir_all(&gone).expect("removed");
        let error = ensure(&leases, &VmId::new("a"), "net0", Wish::default()).expect_err("no directory");
        assert_eq!(error.to_string(), "the address could not be recorded");
        assert!(!leases.has(&VmId::new("a")));
    }
}
