//! Many connections, slow hosts and honest guests under one budget.

use proptest::prelude::*;

use super::super::connection::{Connection, Incoming, Reaction};
use super::super::packet::{NO_MORE_SENT, Operation};
use super::*;

/// What a device keeps in the worst case.
const TOTAL_BYTES: u64 = 2 << 20;

fn incoming(operation: Operation) -> Incoming {
    Incoming { operation, flags: 0, length: 0, buffer: 4096, forwarded: 0 }
}

/// A connection with a guest that sends what it may, and a host program that reads when it likes.
struct Pair {
    connection: Connection,
    share: Share,
    sent: u32,
    /// As the guest was told.
    buffer: u32,
    forwarded: u32,
    /// What the host program read.
    read: u32,
}

impl Pair {
    fn new(budget: &mut Budget) -> Self {
        let connection = Connection::accepted(&incoming(Operation::Request));
        let mut pair =
            Self { connection, share: Share::default(), sent: 0, buffer: 0, forwarded: 0, read: 0 };
        pair.hear(budget);
        pair
    }

    /// The guest gets all packets that are due.
    fn hear(&mut self, budget: &mut Budget) {
        while self.connection.next_notice().is_some() {
            let limit = self.forwarded + self.buffer;
            (self.buffer, self.forwarded) = self.connection.announce(budget.window(&self.share));
            assert!(self.forwarded + self.buffer >= limit, "a promise was taken back");
            self.recount(budget);
        }
    }

    fn recount(&mut self, budget: &mut Budget) {
        budget.recount(&mut self.share, self.connection.promised());
    }

    /// The guest sends up to `wanted` bytes, as many as it has credit for.
    fn send(&mut self, wanted: u32, budget: &mut Budget) -> u32 {
        let length = wanted.min(self.forwarded + self.buffer - self.sent);
        let packet = Incoming { length, ..incoming(Operation::Data) };
        assert_eq!(self.connection.receive(&packet), Reaction::Data, "an honest guest was cut off");
        self.sent += length;
        self.recount(budget);
        length
    }

    /// The host program reads up to `wanted` bytes.
    fn read(&mut self, wanted: u32, budget: &mut Budget) {
        let length = wanted.min(self.connection.unforwarded());
        self.connection.forward(length);
        self.read += length;
        self.recount(budget);
    }
}

/// All that guests were promised, or that is kept for their hosts.
fn promised(pairs: &[Pair]) -> u64 {
    pairs.iter().map(|pair| u64::from(pair.connection.promised())).sum()
}

#[test]
fn the_numbers_add_up() {
    let least = u64::try_from(CONNECTIONS_MAX).unwrap() * u64::from(LEAST_BYTES);
    assert_eq!(least + u64::from(SHARED_BYTES), TOTAL_BYTES);
    const { assert!(LEAST_BYTES < BUFFER_BYTES) };
}

#[test]
fn few_connections_have_all_and_many_have_some() {
    let mut budget = Budget::new();
    let mut pairs: Vec<_> = (0..8).map(|_| Pair::new(&mut budget)).collect();
    assert!(pairs.iter().all(|pair| pair.buffer == BUFFER_BYTES));
    pairs.extend((8..CONNECTIONS_MAX).map(|_| Pair::new(&mut budget)));
    assert!(pairs.iter().all(|pair| pair.buffer >= LEAST_BYTES));
    assert!(promised(&pairs) <= TOTAL_BYTES);
    for pair in &mut pairs {
        let shutdown = Incoming { flags: NO_MORE_SENT, ..incoming(Operation::Shutdown) };
        assert_eq!(pair.connection.receive(&shutdown), Reaction::Shut);
        pair.recount(&mut budget);
    }
    assert_eq!(budget.free(), SHARED_BYTES, "what cannot be sent any more is given back");
}

#[derive(Clone, Debug)]
enum Event {
    Open,
    Close,
    Send(u32),
    Read(u32),
    Hear,
}

fn any_event() -> impl Strategy<Value = (Event, prop::sample::Index)> {
    let event = prop_oneof![
        3 => Just(Event::Open),
        1 => Just(Event::Close),
        4 => (0..2 * BUFFER_BYTES).prop_map(Event::Send),
        3 => prop_oneof![Just(1), 0..BUFFER_BYTES].prop_map(Event::Read),
        3 => Just(Event::Hear),
    ];
    (event, any::<prop::sample::Index>())
}

proptest! {
    /// However connections come and go and hosts dawdle: promises are kept, all of them together stay within the
    /// budget, no honest guest is cut off, and once hosts read, every guest can send on and every byte arrives.
    #[test]
    fn promises_fit_and_nobody_is_stuck(
        opened in 0..CONNECTIONS_MAX,
        events in proptest::collection::vec(any_event(), 0..400),
    ) {
        let mut budget = Budget::new();
        let mut pairs: Vec<_> = (0..opened).map(|_| Pair::new(&mut budget)).collect();
        for (event, which) in events {
            if let Event::Open = event {
                if pairs.len() < CONNECTIONS_MAX {
                    pairs.push(Pair::new(&mut budget));
                }
            } else if !pairs.is_empty() {
                let index = which.index(pairs.len());
                match event {
                    Event::Open => {}
                    Event::Close => budget.recount(&mut pairs.swap_remove(index).share, 0),
                    Event::Send(wanted) => {
                        pairs[index].send(wanted, &mut budget);
                    }
                    Event::Read(wanted) => pairs[index].read(wanted, &mut budget),
                    Event::Hear => pairs[index].hear(&mut budget),
                }
            }
            prop_assert!(promised(&pairs) <= TOTAL_BYTES);
        }
        for pair in &mut pairs {
            let mut left = 3 * BUFFER_BYTES;
            let mut rounds = 0;
            while left > 0 || pair.connection.unforwarded() > 0 {
                left -= pair.send(left, &mut budget);
                pair.read(BUFFER_BYTES, &mut budget);
                pair.hear(&mut budget);
                rounds += 1;
                prop_assert!(rounds < 1000, "a guest is stuck");
            }
            prop_assert_eq!(pair.read, pair.sent);
        }
        for mut pair in pairs {
            budget.recount(&mut pair.share, 0);
        }
        prop_assert_eq!(budget.free(), SHARED_BYTES);
    }
}
