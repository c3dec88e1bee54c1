//! How many clients may be connected, and which of them go when there are too many.
//!
//! A client that is connected and asks nothing costs a descriptor, which a VM may need. So the number is bounded, and
//! where it is reached the client that has been idle for longest makes room for the new one. Clients whose request is
//! being answered stay; where all are, the new one is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::task::AbortHandle;

/// The clients that are connected.
#[derive(Debug)]
pub(crate) struct Connections {
    limit: usize,
    /// Protects the list. Held for moments.
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    clients: BTreeMap<u64, Client>,
    next_number: u64,
}

#[derive(Debug)]
struct Client {
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
    /// Room for `limit` clients.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default() })
    }

    /// Lets one more client in. Where it is one too many, the task of the one that must go is ended.
    pub(crate) fn admit(self: &Arc<Self>) -> Admission {
        let mut open = self.lock();
        let mut evicted = None;
        if open.clients.len() >= self.limit {
            let Some(number) = longest_idle(&open.clients) else { return Admission::Refused };
            evicted = open.clients.remove(&number).and_then(|client| client.task);
        }
        let number = open.next_number;
        open.next_number += 1;
        open.clients.insert(number, Client { activity: Activity::Idle(Instant::now()), task: None });
        Admission::Admitted { place: Place { connections: Arc::clone(self), number }, evicted }
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

/// The client that has asked nothing for longest.
fn longest_idle(clients: &BTreeMap<u64, Client>) -> Option<u64> {
    let idle = clients.iter().filter_map(|(number, client)| match client.activity {
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

    fn admitted(connections: &Arc<Connections>) -> Place {
        match connections.admit() {
            Admission::Admitted { place, .. } => place,
            Admission::Refused => panic!("there is room"),
        }
    }

    fn numbers(connections: &Connections) -> Vec<u64> {
        connections.lock().clients.keys().copied().collect()
    }

    #[test]
    fn the_longest_idle_makes_room_and_who_is_answered_stays() {
        let connections = Connections::new(2);
        let (first, second) = (admitted(&connections), admitted(&connections));
        let answering = first.answer();
        let third = admitted(&connections);
        assert_eq!(numbers(&connections), [first.number(), third.number()]);
        drop(second);
        assert_eq!(numbers(&connections).len(), 2, "it was gone already");
        let also = third.answer();
        assert!(matches!(connections.admit(), Admission::Refused));
        drop((answering, also));
        let fourth = admitted(&connections);
        assert_eq!(numbers(&connections), [third.number(), fourth.number()], "the first was idle first");
        drop((first, third, fourth));
        assert!(numbers(&connections).is_empty());
    }
}
