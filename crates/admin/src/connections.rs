//! How many clients may be connected, and which of them go when there are too many.
//!
//! A client that is connected and asks nothing costs a descriptor, which a VM may need. So the number is bounded, and
//! where it is reached the client that has been idle for longest makes room for the new one. Clients whose request is
//! being answered stay; where all are, the new one is refused.
//!
//! A member of the sockets' groups shuts nobody out by requests that do not come to an end: a user other than the worker's
//! own has a quarter of the places at most, and all those users together three quarters. Beyond that they make room for
//! each other. So it is with addresses of other hosts, of which none has more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::task::AbortHandle;
use vm_model::Caller;

/// The clients that are connected.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    /// Who may have all places.
    owner: Party,
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
    /// Another host.
    Address(IpAddr),
}

impl From<Caller> for Party {
    fn from(caller: Caller) -> Self {
        caller.address.map_or(Self::User(caller.uid), Self::Address)
    }
}

#[derive(Debug)]
struct Client {
    party: Party,
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
}

impl Connections {
    /// Room for `limit` clients, of which `owner` may have all.
    pub(crate) fn new(limit: usize, owner: Party) -> Arc<Self> {
        Arc::new(Self { limit, owner, open: Mutex::default() })
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
            let Some(number) = longest_idle(&open.clients, among) else { return Admission::Refused };
            evicted = open.clients.remove(&number).and_then(|client| client.task);
        }
        let number = open.next_number;
        open.next_number += 1;
        let activity = Activity::Idle(Instant::now());
        open.clients.insert(number, Client { party, activity, task: None });
        Admission::Admitted { place: Place { connections: Arc::clone(self), number }, evicted }
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

/// Clients that have too many places together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowd {
    /// All of one party.
    Same,
    /// All but the owner's.
    Others,
    All,
}

/// The client that has asked nothing for longest, among those that are meant.
fn longest_idle(clients: &BTreeMap<u64, Client>, among: impl Fn(&Client) -> bool) -> Option<u64> {
    let meant = clients.iter().filter(|(_, client)| among(client));
    let idle = meant.filter_map(|(number, client)| match client.activity {
        Activity::Idle(since) => Some((since, *number)),
        Activity::Answered => None,
    });
    idle.min().map(|(_, number)| number)
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

    /// The client is being answered for as long as the returned value lives.
    pub(crate) fn answer(&self) -> Answering {
        self.connections.set(self.number, |client| client.activity = Activity::Answered);
        Answering { connections: Arc::clone(&self.connections), number: self.number }
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
        let connections = Connections::new(2, OWNER);
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
        drop((first, third, fourth));
        assert!(numbers(&connections).is_empty());
    }

    #[test]
    fn users_shut_out_neither_each_other_nor_the_owner() {
        let connections = Connections::new(16, OWNER);
        let mut busy = Vec::new();
        let address = |number: u32| Party::Address(IpAddr::V4(number.into()));
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
}
