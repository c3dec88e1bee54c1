//! How many connections a master has, and whose: bounds on those that have not said who they are, and one a worker.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::listener::Limits;
use crate::wire::WorkerId;

/// The connections of one master.
#[derive(Clone, Debug)]
pub(super) struct Places {
    limits: Limits,
    /// Held for a few steps, never across an await.
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    connections: usize,
    greeting: usize,
    strangers: usize,
    greeting_by_address: HashMap<IpAddr, usize>,
    /// The newest connection of each worker.
    workers: BTreeMap<WorkerId, Newest>,
    numbers: u64,
}

/// The newest connection of a worker.
#[derive(Debug)]
struct Newest {
    number: u64,
    from: WorkerOrigin,
    standing: Standing,
    /// Dropping it ends the connection.
    _ended_by_drop: oneshot::Sender<()>,
}

/// Where a worker's connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkerOrigin {
    pub(super) address: SocketAddr,
    /// What the worker calls its host; absent where it does not say.
    pub(super) host: Option<String>,
}

/// Whether a worker's name means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its certificate says it, or the directory lists it.
    Known,
    /// Neither.
    Stranger,
}

/// Why a connection gets no worker's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoWorkerPlace {
    /// The worker is connected from there, on another host.
    Elsewhere(SocketAddr),
    /// There are as many strangers as the master lets in.
    TooManyStrangers,
}

/// Why a connection finds no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// There are as many connections as the master holds.
    Full,
    /// Too many have not said who they are.
    TooManyGreeting,
    /// Too many of the same address have not.
    TooManyOfAddress,
}

/// The place of a connection that has not said who it is; given back when dropped.
#[derive(Debug)]
pub(super) struct Greeting {
    places: Places,
    address: IpAddr,
}

/// The place of a worker's connection; given back when dropped.
#[derive(Debug)]
pub(super) struct WorkerPlace {
    places: Places,
    worker: WorkerId,
    standing: Standing,
    number: u64,
    /// Is over when a newer connection of the same worker takes the place.
    pub(super) replaced: oneshot::Receiver<()>,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, taken: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `address`.
    pub(super) fn greet(&self, address: IpAddr) -> Result<Greeting, NoPlace> {
        let mut taken = self.taken();
        if taken.connections >= self.limits.connections {
            return Err(NoPlace::Full);
        }
        if taken.greeting >= self.limits.greeting {
            return Err(NoPlace::TooManyGreeting);
        }
        let of_address = taken.greeting_by_address.entry(address).or_default();
        if *of_address >= self.limits.greeting_per_address {
            return Err(NoPlace::TooManyOfAddress);
        }
        *of_address += 1;
        taken.connections += 1;
        taken.greeting += 1;
        Ok(Greeting { places: self.clone(), address })
    }
}

impl Greeting {
    /// The connection is `worker`'s, and comes `from` there. An earlier one of it is ended, unless it is alive on another
    /// host: two hosts with one name would take turns for ever. Who does not say its host is another than one that does.
    ///
    /// # Errors
    /// Where it has to go.
    pub(super) fn become_worker(
        self,
        worker: WorkerId,
        from: WorkerOrigin,
        standing: Standing,
    ) -> Result<WorkerPlace, NoWorkerPlace> {
        let (sender, replaced) = oneshot::channel();
        let mut taken = self.places.taken();
        if let Some(Newest { from: other, .. }) = taken.workers.get(&worker)
            && other.host.is_some()
            && other.host != from.host
        {
            let address = other.address;
            drop(taken);
            return Err(NoWorkerPlace::Elsewhere(address));
        }
        if standing == Standing::Stranger {
            let is_there = taken.workers.get(&worker).is_some_and(|newest| newest.standing == standing);
            if !is_there && taken.strangers >= self.places.limits.strangers {
                drop(taken);
                return Err(NoWorkerPlace::TooManyStrangers);
            }
            taken.strangers += 1;
        }
        // It counts once: `self` gives its own back.
        taken.connections += 1;
        taken.numbers += 1;
        let number = taken.numbers;
        // Dropping the sender of the one before is what ends it.
        taken.workers.insert(worker.clone(), Newest { number, from, standing, _ended_by_drop: sender });
        drop(taken);
        Ok(WorkerPlace { places: self.places.clone(), worker, standing, number, replaced })
    }
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.connections = taken.connections.saturating_sub(1);
        taken.greeting = taken.greeting.saturating_sub(1);
        if let Some(count) = taken.greeting_by_address.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.greeting_by_address.remove(&self.address);
            }
        }
    }
}

impl WorkerPlace {
    /// Tells the connections of one master apart; later ones have higher numbers.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for WorkerPlace {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.connections = taken.connections.saturating_sub(1);
        if self.standing == Standing::Stranger {
            taken.strangers = taken.strangers.saturating_sub(1);
        }
        if taken.workers.get(&self.worker).is_some_and(|newest| newest.number == self.number) {
            taken.workers.remove(&self.worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn become_worker(greeting: Greeting, host: Option<&str>) -> Result<WorkerPlace, NoWorkerPlace> {
        let from =
            WorkerOrigin { address: SocketAddr::new(greeting.address, 7), host: host.map(str::to_owned) };
        greeting.become_worker("a".parse().expect("valid"), from, Standing::Known)
    }

    #[test]
    fn names_that_nobody_vouches_for_are_few_and_those_that_are_listed_always_come_in() {
        let places = Places::new(Limits { strangers: 2, ..Limits::default() });
        let come = |name: &str, standing| {
            let from = WorkerOrigin { address: SocketAddr::new(address(1), 7), host: None };
            let greeting = places.greet(address(1)).expect("a place");
            greeting.become_worker(name.parse().expect("valid"), from, standing)
        };
        let first = come("made-up-1", Standing::Stranger).expect("a place");
        let second = come("made-up-2", Standing::Stranger).expect("a place");
        assert_eq!(
            come("made-up-3", Standing::Stranger).expect_err("two are there"),
            NoWorkerPlace::TooManyStrangers
        );
        let known = come("worker-1", Standing::Known).expect("it is listed");
        let again = come("made-up-2", Standing::Stranger).expect("it replaces itself");
        drop((second, first));
        assert_eq!(places.taken().strangers, 1);
        drop((again, known));
        let taken = places.taken();
        assert_eq!((taken.strangers, taken.connections, taken.workers.len()), (0, 0, 0));
    }

    #[test]
    fn a_worker_that_is_alive_on_another_host_is_not_replaced() {
        let places = Places::new(Limits::default());
        let from = |last, host| become_worker(places.greet(address(last)).expect("a place"), host);
        let mut first = from(1, Some("host-1")).expect("let in");
        let other = NoWorkerPlace::Elsewhere(SocketAddr::new(address(1), 7));
        assert_eq!(from(2, Some("host-2")).expect_err("another host"), other);
        assert_eq!(places.taken().connections, 1, "its place is given back");
        assert!(
            first.replaced.try_recv().is_err_and(|problem| problem == oneshot::error::TryRecvError::Empty)
        );
        let same = from(3, Some("host-1")).expect("the same host, as after a restart");
        drop((first, same));
        let second = from(2, Some("host-2")).expect("the first has gone");
        let first = Err(NoWorkerPlace::Elsewhere(SocketAddr::new(address(2), 7)));
        assert_eq!(from(4, None).map(drop), first, "who does not say is not the one that does");
        drop(second);
        let silent = from(4, None).expect("nobody is there");
        drop((from(5, Some("host-1")).expect("nothing is known of the one before"), silent));
    }

    #[test]
    fn strangers_are_few_and_fewer_of_one_address() {
        let places =
            Places::new(Limits { connections: 4, greeting: 3, greeting_per_address: 2, strangers: 4 });
        let first = places.greet(address(1)).expect("a place");
        let second = places.greet(address(1)).expect("a place");
        assert_eq!(places.greet(address(1)).expect_err("two are there"), NoPlace::TooManyOfAddress);
        let third = places.greet(address(2)).expect("a place");
        assert_eq!(places.greet(address(3)).expect_err("three are there"), NoPlace::TooManyGreeting);
        let workers = [first, second, third].map(|greeting| become_worker(greeting, None));
        let fourth = places.greet(address(1)).expect("they have said who they are");
        assert_eq!(places.greet(address(9)).expect_err("four are there"), NoPlace::Full);
        drop((workers, fourth));
        let taken = places.taken();
        assert_eq!((taken.connections, taken.greeting, taken.workers.len()), (0, 0, 0));
        assert!(taken.greeting_by_address.is_empty());
    }

    #[test]
    fn a_newer_connection_of_a_worker_ends_the_one_before() {
        let places = Places::new(Limits::default());
        let worker =
            || become_worker(places.greet(address(1)).expect("a place"), Some("host-1")).expect("let in");
        let mut first = worker();
        assert!(
            first.replaced.try_recv().is_err_and(|problem| problem == oneshot::error::TryRecvError::Empty)
        );
        let mut second = worker();
        assert!(
            first.replaced.try_recv().is_err_and(|problem| problem == oneshot::error::TryRecvError::Closed)
        );
        assert!(second.number() > first.number());
        drop(first);
        assert!(
            second.replaced.try_recv().is_err_and(|problem| problem == oneshot::error::TryRecvError::Empty)
        );
    }
}
