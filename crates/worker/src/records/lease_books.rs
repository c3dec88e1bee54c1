//! The leases of all networks of this host, as one VM holds them: in each network that it has interfaces in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use ipam::{Lease, Pool, Wish};
use tracing::warn;
use vm_model::{AddressSource, NetworkAccess, NetworkName, VmId, VmNic};

use super::WriteError;
#[cfg(test)]
use super::leases::LeasesError;
use super::leases::{LeaseError, Leases};
use crate::failure::chain;

/// An interface, the network that it is to be in, and what it wishes for there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NicWish<'a> {
    pub(crate) nic: &'a str,
    pub(crate) network: &'a NetworkName,
    pub(crate) wish: Wish,
}

/// The leases by the networks that they are of.
#[derive(Debug)]
pub(crate) struct LeaseBooks {
    books: BTreeMap<NetworkName, Leases>,
    /// Held by whoever gives one VM leases of several networks: what was found to be free in one must still be free when it
    /// is the turn of the next. Taken before the lock of any book.
    turn: Mutex<()>,
}

/// The wishes of one VM in one network, with their places among all of its wishes.
#[derive(Debug, Default)]
struct Share<'a> {
    places: Vec<usize>,
    wishes: Vec<(&'a str, Wish)>,
}

impl Share<'_> {
    /// A contradiction of wishes in one network, with the places that they have among all.
    fn in_place(&self, problem: LeaseError) -> LeaseError {
        match problem {
            LeaseError::Twice { key, value, first, second } => {
                let place = |index: usize| self.places.get(index).copied().unwrap_or(index);
                LeaseError::Twice { key, value, first: place(first), second: place(second) }
            }
            problem @ (LeaseError::Allocation(_)
            | LeaseError::NoSuchNetwork { .. }
            | LeaseError::Write(_)) => problem,
        }
    }
}

/// Whether each of the interfaces `nics` is to be in one of the networks `known`.
///
/// # Errors
/// The first that is not.
pub(crate) fn check_networks<'a>(
    known: impl Iterator<Item = &'a NetworkName> + Clone,
    mut nics: impl Iterator<Item = (&'a str, &'a NetworkName)>,
) -> Result<(), LeaseError> {
    match nics.find(|(_, network)| known.clone().all(|known| known != *network)) {
        None => Ok(()),
        Some((nic, network)) => Err(LeaseError::NoSuchNetwork {
            nic: nic.to_owned(),
            network: network.clone(),
            known: known.cloned().collect(),
        }),
    }
}

fn by_network<'a>(wishes: &[NicWish<'a>]) -> BTreeMap<&'a NetworkName, Share<'a>> {
    let mut shares: BTreeMap<&NetworkName, Share<'_>> = BTreeMap::new();
    for (place, NicWish { nic, network, wish }) in wishes.iter().enumerate() {
        let share = shares.entry(network).or_default();
        share.places.push(place);
        share.wishes.push((nic, *wish));
    }
    shares
}

/// Takes from `pools` what the interfaces of `vm` wish for. In a network of which there is no pool, nothing is looked at.
///
/// # Errors
/// One of the wishes cannot be granted; those in other networks may have been.
pub(crate) fn allocate_in(
    pools: &mut BTreeMap<NetworkName, Pool>,
    vm: &VmId,
    wishes: &[NicWish<'_>],
) -> Result<(), LeaseError> {
    by_network(wishes).into_iter().try_for_each(|(network, share)| match pools.get_mut(network) {
        Some(pool) => match pool.allocate_all(vm, &share.wishes) {
            Ok(_) => Ok(()),
            Err(problem) => Err(share.in_place(problem.into())),
        },
        None => Ok(()),
    })
}

/// Has `vm` hold in `book` what it `held` before a change of several books was cut short.
fn put_back(book: &Leases, vm: &VmId, held: &[Lease]) {
    if book.of(vm) == held {
        return;
    }
    let wishes: Vec<(&str, Wish)> = held
        .iter()
        .map(|lease| (lease.nic.as_str(), Wish { ip: Some(lease.address), mac: Some(lease.mac) }))
        .collect();
    let done = match wishes.as_slice() {
        [] => book.release(vm).map_err(LeaseError::from),
        wishes => book.ensure(vm, wishes).map(drop),
    };
    if let Err(problem) = done {
        warn!(vm_id = %vm, error = chain(&problem), "the VM has other addresses than before, though it was not given all that it wants");
    }
}

impl LeaseBooks {
    pub(crate) fn new(books: BTreeMap<NetworkName, Leases>) -> Self {
        Self { books, turn: Mutex::new(()) }
    }

    /// The leases of one network.
    pub(crate) fn book(&self, network: &NetworkName) -> Option<&Leases> {
        self.books.get(network)
    }

    /// Has all leases count on disk; see [`Leases::put_in_force`].
    ///
    /// # Errors
    /// As there; those of the networks before are in force then.
    #[cfg(test)]
    pub(crate) fn put_in_force(&self) -> Result<(), LeasesError> {
        self.books.values().try_for_each(Leases::put_in_force)
    }

    /// The addresses of each network with what is leased of them; see [`Leases::pool`].
    pub(crate) fn pools(&self) -> BTreeMap<NetworkName, Pool> {
        self.books.iter().map(|(network, book)| (network.clone(), book.pool())).collect()
    }

    /// The interfaces of `vm` that hold an address, by their names, without their ends on the host.
    pub(crate) fn of(&self, vm: &VmId) -> Vec<VmNic> {
        let held = self.books.iter().flat_map(|(network, book)| {
            book.of(vm).into_iter().map(|Lease { nic, address, mac, .. }| VmNic {
                id: nic,
                network: network.clone(),
                address,
                address_source: AddressSource::default(),
                ipv6: None,
                mac,
                tap: None,
                access: NetworkAccess::default(),
                mismatch: None,
            })
        });
        let mut nics: Vec<VmNic> = held.collect();
        nics.sort_by(|one, other| one.id.cmp(&other.id));
        nics
    }

    /// Whether the interfaces of `vm` could have what they wish for now. Nothing is given.
    ///
    /// # Errors
    /// As those of [`LeaseBooks::ensure`].
    pub(crate) fn check(&self, vm: &VmId, wishes: &[NicWish<'_>]) -> Result<(), LeaseError> {
        let shares = self.shares(wishes)?;
        self.check_shares(vm, &shares)
    }

    /// The leases of all interfaces of `vm`, in the order of `wishes`, which is that of its description. Where one is not to be had, or
    /// a book cannot be written, it keeps what it has in all networks; otherwise what it has in others ends.
    ///
    /// # Errors
    /// As those of [`Leases::ensure`]; or an interface is to be in a network that there is not.
    pub(crate) fn ensure(&self, vm: &VmId, wishes: &[NicWish<'_>]) -> Result<Vec<Lease>, LeaseError> {
        let shares = self.shares(wishes)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() > 1 {
            // One that is refused must not cost what others hold.
            self.check_shares(vm, &shares)?;
        }
        let before: Vec<(&Leases, Vec<Lease>)> =
            self.books.values().map(|book| (book, book.of(vm))).collect();
        let given = self.give(vm, &shares);
        if given.is_err() {
            // Nobody else was given any of them meanwhile: it is still this one's turn.
            before.into_iter().for_each(|(book, held)| put_back(book, vm, &held));
        }
        let mut leases = given?;
        leases.sort_by_key(|(place, _)| *place);
        Ok(leases.into_iter().map(|(_, lease)| lease).collect())
    }

    /// Has `vm` hold what `shares` wish for, book by book, and nothing else; with the places of the wishes. Stops at the first book
    /// that refuses, with those before it changed.
    fn give(
        &self,
        vm: &VmId,
        shares: &BTreeMap<&NetworkName, Share<'_>>,
    ) -> Result<Vec<(usize, Lease)>, LeaseError> {
        let mut leases = Vec::new();
        for (network, share) in shares {
            let Some(book) = self.books.get(*network) else { continue };
            let given = book.ensure(vm, &share.wishes).map_err(|problem| share.in_place(problem))?;
            leases.extend(share.places.iter().copied().zip(given));
        }
        self.release_elsewhere(vm, shares)?;
        Ok(leases)
    }

    /// Ends the leases of `vm`.
    pub(crate) fn release(&self, vm: &VmId) -> Result<(), WriteError> {
        let mut held = self.books.values().filter(|book| book.has(vm));
        held.try_for_each(|book| book.release(vm))
    }

    /// Ends the leases of all VMs but `known`; see [`Leases::retain`].
    pub(crate) fn retain(&self, known: &BTreeSet<VmId>) -> Result<(), WriteError> {
        self.books.values().try_for_each(|book| book.retain(known))
    }

    fn shares<'a>(&self, wishes: &[NicWish<'a>]) -> Result<BTreeMap<&'a NetworkName, Share<'a>>, LeaseError> {
        check_networks(
            self.books.keys(),
            wishes.iter().map(|NicWish { nic, network, .. }| (*nic, *network)),
        )?;
        Ok(by_network(wishes))
    }

    fn check_shares(&self, vm: &VmId, shares: &BTreeMap<&NetworkName, Share<'_>>) -> Result<(), LeaseError> {
        shares.iter().try_for_each(|(network, share)| match self.books.get(*network) {
            Some(book) => book.check(vm, &share.wishes).map_err(|problem| share.in_place(problem)),
            None => Ok(()),
        })
    }

    /// Ends what `vm` holds in networks that it has no interface in any more.
    fn release_elsewhere(
        &self,
        vm: &VmId,
        shares: &BTreeMap<&NetworkName, Share<'_>>,
    ) -> Result<(), WriteError> {
        let left = self.books.iter().filter(|(network, book)| !shares.contains_key(network) && book.has(vm));
        left.into_iter().try_for_each(|(_, book)| book.release(vm))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::Path;

    use proptest::prelude::*;
    use vm_model::FailureKind;

    use super::*;
    use crate::records::RecordWriter;

    fn name(text: &str) -> NetworkName {
        NetworkName::parse(text).expect("a name")
    }

    fn books(directory: &Path) -> LeaseBooks {
        let open = |network: &str, subnet: &str| {
            let directory = directory.join(network);
            std::fs::create_dir_all(&directory).expect("made");
            let subnet = Pool::new(subnet.parse().expect("a subnet")).expect("a pool");
            let leases = Leases::open(&directory, subnet, RecordWriter::open(&directory)).expect("opened");
            (name(network), leases)
        };
        let books = LeaseBooks::new([open("default", "10.9.0.0/29"), open("storage", "10.8.0.0/29")].into());
        books.put_in_force().expect("written");
        books
    }

    fn wish<'a>(nic: &'a str, network: &'a NetworkName, ip: Option<&str>) -> NicWish<'a> {
        let ip = ip.map(|ip| ip.parse().expect("an address"));
        NicWish { nic, network, wish: Wish { ip, mac: None } }
    }

    fn addresses(books: &LeaseBooks, vm: &VmId) -> Vec<String> {
        books.of(vm).iter().map(|nic| format!("{} {} {}", nic.id, nic.network, nic.address)).collect()
    }

    #[test]
    fn a_vm_holds_addresses_of_each_of_its_networks_in_the_order_of_its_description() {
        let directory = tempfile::tempdir().expect("a directory");
        let (default, storage, vm) = (name("default"), name("storage"), VmId::new("a"));
        let held = books(directory.path());
        let wishes = [wish("net0", &storage, None), wish("net1", &default, Some("10.9.0.4"))];
        let leases = held.ensure(&vm, &wishes).expect("given");
        let given: Vec<Ipv4Addr> = leases.iter().map(|lease| lease.address).collect();
        assert_eq!(given, [Ipv4Addr::new(10, 8, 0, 2), Ipv4Addr::new(10, 9, 0, 4)]);
        drop(held);
        let held = books(directory.path());
        assert_eq!(addresses(&held, &vm), ["net0 storage 10.8.0.2", "net1 default 10.9.0.4"]);
        held.ensure(&vm, &[wish("net0", &default, None)]).expect("moved");
        assert_eq!(addresses(&held, &vm), ["net0 default 10.9.0.2"], "what it had elsewhere is free");
        held.release(&vm).expect("released");
        assert_eq!(held.of(&vm), []);
    }

    #[test]
    fn what_one_network_refuses_costs_nothing_in_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let (default, storage, vm) = (name("default"), name("storage"), VmId::new("a"));
        let books = books(directory.path());
        books.ensure(&vm, &[wish("net0", &default, None)]).expect("given");
        let before = addresses(&books, &vm);
        let outside = [wish("net0", &default, Some("10.9.0.5")), wish("net1", &storage, Some("192.0.2.1"))];
        books.ensure(&vm, &outside).expect_err("refused");
        assert_eq!(addresses(&books, &vm), before);
        let twice = [
            wish("net0", &default, None),
            wish("net1", &storage, Some("10.8.0.3")),
            wish("net2", &storage, Some("10.8.0.3")),
        ];
        let problem = books.check(&vm, &twice).expect_err("refused").to_string();
        assert!(problem.contains("$.net[2].ip is \"10.8.0.3\", as is $.net[1].ip"), "{problem}");
    }

    #[test]
    fn an_unknown_network_is_a_wrong_description_and_names_those_there_are() {
        let directory = tempfile::tempdir().expect("a directory");
        let lan = name("lan");
        let problem =
            books(directory.path()).check(&VmId::new("a"), &[wish("net0", &lan, None)]).expect_err("refused");
        assert_eq!(problem.kind(), FailureKind::Artifact);
        assert_eq!(
            problem.to_string(),
            "the interface net0 is to be in the network \"lan\" (procurator.net), which this worker does not have; it has \
             \"default\" and \"storage\""
        );
    }

    /// Takes the book of one network away while `step` runs, so that it cannot be written.
    fn without_book<T>(directory: &Path, network: Option<&NetworkName>, step: impl FnOnce() -> T) -> T {
        let Some(network) = network else { return step() };
        let (book, away) = (directory.join(network.as_str()), directory.join("away"));
        std::fs::rename(&book, &away).expect("taken away");
        let done = step();
        std::fs::rename(&away, &book).expect("put back");
        done
    }

    #[test]
    fn a_book_that_cannot_be_written_costs_no_address_in_another() {
        let directory = tempfile::tempdir().expect("a directory");
        let (default, storage, vm) = (name("default"), name("storage"), VmId::new("a"));
        let held = books(directory.path());
        held.ensure(&vm, &[wish("net0", &default, Some("10.9.0.5"))]).expect("given");
        let wanted = [wish("net0", &default, Some("10.9.0.6")), wish("net1", &storage, None)];
        without_book(directory.path(), Some(&storage), || held.ensure(&vm, &wanted)).expect_err("refused");
        assert_eq!(addresses(&held, &vm), ["net0 default 10.9.0.5"]);
        assert_eq!(addresses(&books(directory.path()), &vm), ["net0 default 10.9.0.5"], "on disk, too");
        let other = [wish("net0", &default, Some("10.9.0.6"))];
        held.ensure(&VmId::new("b"), &other).expect("it is nobody's");

        // What it has elsewhere ends last.
        let moved = [wish("net0", &storage, None)];
        let refused = without_book(directory.path(), Some(&default), || held.ensure(&vm, &moved));
        assert_eq!(refused.expect_err("refused").kind(), FailureKind::Host);
        assert_eq!(addresses(&held, &vm), ["net0 default 10.9.0.5"]);
        assert_eq!(addresses(&books(directory.path()), &vm), ["net0 default 10.9.0.5"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_two_interfaces_hold_one_address_and_refusals_change_nothing(
            steps in prop::collection::vec(
                (0..4_u8, prop::collection::vec(any::<Option<bool>>(), 0..4), prop::option::weighted(0.3, any::<bool>())),
                1..24,
            ),
        ) {
            let directory = tempfile::tempdir()?;
            let (books, networks) = (books(directory.path()), [name("default"), name("storage")]);
            let nics = ["net0", "net1", "net2"];
            for (vm, wanted, unwritable) in steps {
                let vm = VmId::new(&format!("vm-{vm}"));
                let wishes: Vec<NicWish<'_>> = wanted.iter().zip(nics).filter_map(|(network, nic)| {
                    Some(wish(nic, &networks[usize::from((*network)?)], None))
                }).collect();
                let before = addresses(&books, &vm);
                let unwritable = unwritable.map(|network| &networks[usize::from(network)]);
                match without_book(directory.path(), unwritable, || books.ensure(&vm, &wishes)) {
                    Ok(leases) => {
                        let given: Vec<&str> = leases.iter().map(|lease| lease.nic.as_str()).collect();
                        prop_assert_eq!(given, wishes.iter().map(|wish| wish.nic).collect::<Vec<_>>());
                        prop_assert_eq!(books.of(&vm).len(), wishes.len());
                    }
                    Err(_) => prop_assert_eq!(addresses(&books, &vm), before),
                }
                let held: Vec<_> = (0..4).flat_map(|vm| books.of(&VmId::new(&format!("vm-{vm}")))).collect();
                let distinct: BTreeSet<Ipv4Addr> = held.iter().map(|nic| nic.address).collect();
                prop_assert_eq!(distinct.len(), held.len());
                let reopened = self::books(directory.path());
                for vm in (0..4).map(|vm| VmId::new(&format!("vm-{vm}"))) {
                    prop_assert_eq!(reopened.of(&vm), books.of(&vm), "what is on disk is what counts");
                }
            }
        }
    }
}
