//! How many clients may be connected, and which of them go when there are too many.
//!
//! A client that is connected and asks nothing costs a descriptor, which a VM may need. So the number is bounded, and
//! where it is reached the client that has been idle for longest makes room for the new one, else one to which a stream
//! goes. Clients whose request is being answered stay; where all are, the new one is refused.
//!
//! Where anybody may connect, a client is a stranger until one of its requests was let in. Strangers go before all others,
//! the first to come first, whatever they are at: they can hold places from nobody. And streams stay there.
//!
//! A member of the sockets' groups shuts nobody out by requests that do not come to an end: a user other than the worker's
//! own has a quarter of the places at most, and all those users together three quarters. Beyond that they make room for
//! each other. So it is with networks of other hosts, of which none has more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::task::AbortHandle;
use vm_model::Caller;
use web_page::network_of;

/// The clients that are connected.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    /// Who may have all places.
    owner: Party,
    entry: Entry,
    /// Protects the list. Held for moments.
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    clients: BTreeMap<u64, Client>,
    next_number: u64,
}

/// Whose clients are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// A user of this host.
    User(u32),
    /// Other hosts, by what their addresses have in common that are one user's.
    Network(IpAddr),
}

/// Whether who connects is somebody who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Who may not cannot connect.
    Closed,
    /// Anybody connects, and each request has to be let in.
    Open,
}

impl Party {
    /// The worker's own user.
    pub(crate) fn worker() -> Self {
        Self::User(rustix::process::geteuid().as_raw())
    }
}

impl From<Caller> for Party {
    fn from(caller: Caller) -> Self {
        caller.address.map_or(Self::User(caller.uid), |address| Self::Network(network_of(address)))
    }
}

#[derive(Debug)]
struct Client {
    party: Party,
    /// Whether its last request was let in.
    is_known: bool,
    activity: Activity,
    /// Ends its task; absent until that was started.
    task: Option<AbortHandle>,
}

/// What a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// Nothing, since then.
    Idle(Instant),
    /// It is being answered.
    Answered,
    /// It has the head of an answer since then, and may have more to come.
    Streamed(Instant),
}

impl Connections {
    /// Room for `limit` clients, of which `owner` may have all.
    pub(crate) fn new(limit: usize, owner: Party, entry: Entry) -> Arc<Self> {
        Arc::new(Self { limit, owner, entry, open: Mutex::default() })
    }

    /// Lets one more client in, of `party`. Where it is one too many, the task of the one that must go is ended.
    pub(crate) fn admit(self: &Arc<Self>, party: Party) -> Admission {
        let mut open = self.lock();
        let mut evicted = None;
        if let Some(crowd) = self.crowd(&open.clients, party) {
            let owner = self.owner;
            let among = |client: &Client| match crowd {
                Crowd::Same => client.party == party,
                Crowd::Others => client.party != owner,
                Crowd::All => true,
            };
            let Some(number) = most_dispensable(&open.clients, self.entry, among) else {
                return Admission::Refused;
            };
            evicted = open.clients.remove(&number).and_then(|client| client.task);
        }
        let activity = Activity::Idle(Instant::now());
        let is_known = self.entry == Entry::Closed;
        let number = open.add(Client { party, is_known, activity, task: None });
        Admission::Admitted { place: Place { connections: Arc::clone(self), number }, evicted }
    }

    /// A place for one more of `party` that makes room for nobody; nothing where `party` may have no more.
    pub(crate) fn hold(self: &Arc<Self>, party: Party) -> Option<Place> {
        let mut open = self.lock();
        if self.crowd(&open.clients, party).is_some() {
            return None;
        }
        let held = Client { party, is_known: true, activity: Activity::Answered, task: None };
        let number = open.add(held);
        Some(Place { connections: Arc::clone(self), number })
    }

    /// Among whom one must go for a client of `party` to come in; nothing where there is room.
    fn crowd(&self, clients: &BTreeMap<u64, Client>, party: Party) -> Option<Crowd> {
        let count =
            |is_one: &dyn Fn(&Client) -> bool| clients.values().filter(|client| is_one(client)).count();
        let quarter = (self.limit / 4).max(1);
        let is_other = party != self.owner;
        if is_other && count(&|client| client.party == party) >= quarter {
            Some(Crowd::Same)
        } else if is_other && count(&|client| client.party != self.owner) >= (self.limit - quarter).max(1) {
            Some(Crowd::Others)
        } else {
            (clients.len() >= self.limit).then_some(Crowd::All)
        }
    }

    /// How the task of client `number` is ended when it must make room.
    pub(crate) fn set_task(&self, number: u64, task: AbortHandle) {
        self.set(number, |client| client.task = Some(task));
    }

    fn set(&self, number: u64, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.lock().clients.get_mut(&number) {
            change(client);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Its number.
    fn add(&mut self, client: Client) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.clients.insert(number, client);
        number
    }
}

/// Clients that have too many places together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowd {
    /// All of one party.
    Same,
    /// All but the owner's.
    Others,
    All,
}

/// Who goes first among those that are meant: the stranger that came first, else the client that has asked nothing for
/// longest, else, where nobody is a stranger, the one to which a stream goes for longest.
fn most_dispensable(
    clients: &BTreeMap<u64, Client>,
    entry: Entry,
    among: impl Fn(&Client) -> bool,
) -> Option<u64> {
    let meant = clients.iter().filter(|(_, client)| among(client));
    if let Some((stranger, _)) = meant.clone().find(|(_, client)| !client.is_known) {
        return Some(*stranger);
    }
    let ranked = meant.filter_map(|(number, client)| match (client.activity, entry) {
        (Activity::Idle(since), _) => Some((0, since, *number)),
        (Activity::Streamed(since), Entry::Closed) => Some((1, since, *number)),
        (Activity::Streamed(_), Entry::Open) | (Activity::Answered, _) => None,
    });
    ranked.min().map(|(_, _, number)| number)
}

/// Whether a client may come in.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may, until its place is dropped.
    Admitted {
        /// Its place.
        place: Place,
        /// The task of the client that makes room for it, to be ended.
        evicted: Option<AbortHandle>,
    },
    /// All others are being answered.
    Refused,
}

/// A client's place among the others.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Place {
    /// Its number among all that ever came.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The client is being answered for as long as the returned value lives. Where each request has to be let in, this one
    /// is not yet.
    pub(crate) fn answer(&self) -> Answering {
        let is_known = self.connections.entry == Entry::Closed;
        self.connections.set(self.number, |client| {
            (client.activity, client.is_known) = (Activity::Answered, is_known);
        });
        Answering { connections: Arc::clone(&self.connections), number: self.number }
    }

    /// The client's request was let in.
    pub(crate) fn let_in(&self) {
        self.connections.set(self.number, |client| client.is_known = true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().clients.remove(&self.number);
    }
}

/// An answer under way.
#[derive(Debug)]
pub(crate) struct Answering {
    connections: Arc<Connections>,
    number: u64,
}

impl Answering {
    /// The head is there, the rest comes as it comes.
    pub(crate) fn stream(&self) {
        let now = Instant::now();
        self.connections.set(self.number, |client| client.activity = Activity::Streamed(now));
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.connections.set(self.number, |client| client.activity = Activity::Idle(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Party = Party::User(0);

    fn admitted_as(connections: &Arc<Connections>, party: Party) -> Place {
        match connections.admit(party) {
            Admission::Admitted { place, .. } => place,
            Admission::Refused => panic!("there is room"),
        }
    }

    fn admitted(connections: &Arc<Connections>) -> Place {
        admitted_as(connections, OWNER)
    }

    fn numbers(connections: &Connections) -> Vec<u64> {
        connections.lock().clients.keys().copied().collect()
    }

    #[test]
    fn the_longest_idle_makes_room_and_who_is_answered_stays() {
        let connections = Connections::new(2, OWNER, Entry::Closed);
        let (first, second) = (admitted(&connections), admitted(&connections));
        let answering = first.answer();
        let third = admitted(&connections);
        assert_eq!(numbers(&connections), [first.number(), third.number()]);
        drop(second);
        assert_eq!(numbers(&connections).len(), 2, "it was gone already");
        let also = third.answer();
        assert!(matches!(connections.admit(OWNER), Admission::Refused));
        drop((answering, also));
        let fourth = admitted(&connections);
        assert_eq!(numbers(&connections), [third.number(), fourth.number()], "the first was idle first");
        let (busy, streaming) = (third.answer(), fourth.answer());
        streaming.stream();
        let fifth = admitted(&connections);
        assert_eq!(numbers(&connections), [third.number(), fifth.number()], "a stream is asked for again");
        drop((busy, streaming, first, third, fourth, fifth));
        assert!(numbers(&connections).is_empty());
    }

    #[test]
    fn users_shut_out_neither_each_other_nor_the_owner() {
        let connections = Connections::new(16, OWNER, Entry::Closed);
        let mut busy = Vec::new();
        let address = |number: u32| Party::from(Caller::at(IpAddr::V4(number.into())));
        for party in [Party::User(1), Party::User(2), address(1)] {
            for _ in 0..4 {
                let place = admitted_as(&connections, party);
                let answering = place.answer();
                busy.push((place, answering));
            }
            assert!(matches!(connections.admit(party), Admission::Refused), "{party:?} has a quarter");
        }
        assert!(
            matches!(connections.admit(address(4)), Admission::Refused),
            "the last quarter is the owner's"
        );
        let owners: Vec<Place> = (0..4).map(|_| admitted(&connections)).collect();
        assert_eq!(numbers(&connections).len(), 16);
        busy.remove(0);
        let idle = admitted_as(&connections, Party::User(1));
        admitted_as(&connections, Party::User(4));
        assert!(!numbers(&connections).contains(&idle.number()), "users make room for each other");
        drop(owners);
    }

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let connections = Connections::new(16, OWNER, Entry::Closed);
        let at = |text: &str| Party::from(Caller::at(text.parse().expect("an address")));
        let busy: Vec<_> = (1..=4)
            .map(|number| {
                let place = admitted_as(&connections, at(&format!("2001:db8::{number}")));
                let answering = place.answer();
                (place, answering)
            })
            .collect();
        assert!(matches!(connections.admit(at("2001:db8::5:5")), Admission::Refused));
        admitted_as(&connections, at("2001:db8:0:1::1"));
        drop(busy);
    }

    #[test]
    fn strangers_keep_nobody_out_whatever_they_are_at() {
        let connections = Connections::new(16, OWNER, Entry::Open);
        let address = |number: u32| Party::from(Caller::at(IpAddr::V4(number.into())));
        let known = admitted_as(&connections, address(0));
        let (streaming, idle) = (known.answer(), admitted_as(&connections, address(1)));
        drop(idle.answer());
        for place in [&known, &idle] {
            place.let_in();
        }
        streaming.stream();
        let trickling: Vec<_> = (10..100)
            .map(|number| {
                let place = admitted_as(&connections, address(number));
                let answering = place.answer();
                (place, answering)
            })
            .collect();
        let there = numbers(&connections);
        assert_eq!(there.len(), 12);
        assert!(there.contains(&known.number()) && there.contains(&idle.number()), "{there:?}");
        drop((streaming, trickling));
        let answering = known.answer();
        for number in 10..100 {
            std::mem::forget(admitted_as(&connections, address(number)));
        }
        assert!(!numbers(&connections).contains(&known.number()), "each request has to be let in");
        drop(answering);
    }

    #[test]
    fn who_holds_places_for_long_keeps_some_for_others_and_all_for_the_owner() {
        let connections = Connections::new(16, OWNER, Entry::Closed);
        let mut held = Vec::new();
        for user in 1..=3 {
            held.extend((0..4).map(|_| connections.hold(Party::User(user)).expect("a quarter is theirs")));
            assert!(connections.hold(Party::User(user)).is_none());
        }
        assert!(connections.hold(Party::User(4)).is_none());
        held.extend((0..4).map(|_| connections.hold(OWNER).expect("the owner has the rest")));
        assert!(connections.hold(OWNER).is_none());
        held.clear();
        assert!(numbers(&connections).is_empty());
    }
}
