//! Connections under any order of events.

use proptest::prelude::*;

use super::*;

fn packet(operation: Operation) -> Incoming {
    Incoming { operation, flags: 0, length: 0, buffer: 4096, forwarded: 0 }
}

fn established() -> Connection {
    let mut connection = Connection::accepted(&packet(Operation::Request));
    assert_eq!(connection.next_notice().map(|notice| notice.operation), Some(Operation::Response));
    assert_eq!(connection.announce(BUFFER_BYTES), (BUFFER_BYTES, 0));
    connection
}

fn shutdown(flags: u32) -> Incoming {
    Incoming { flags, ..packet(Operation::Shutdown) }
}

#[test]
fn the_host_waits_for_the_guest_to_accept() {
    let mut connection = Connection::requested();
    assert_eq!(connection.next_notice().map(|notice| notice.operation), Some(Operation::Request));
    assert_eq!((connection.room(), connection.next_notice()), (0, None));
    assert_eq!(connection.receive(&packet(Operation::Response)), Reaction::Opened);
    assert_eq!(connection.room(), 4096);
    assert_eq!(connection.receive(&packet(Operation::Response)), Reaction::Broken);
    assert_eq!(Connection::requested().receive(&packet(Operation::Data)), Reaction::Broken);
    assert_eq!(Connection::requested().receive(&packet(Operation::Reset)), Reaction::Gone);
}

#[test]
fn each_direction_closes_alone_and_both_are_the_end() {
    let mut connection = established();
    let data = Incoming { length: 10, ..packet(Operation::Data) };
    assert_eq!(connection.receive(&data), Reaction::Data);
    assert_eq!(connection.receive(&shutdown(NO_MORE_SENT)), Reaction::Shut);
    assert!(!connection.guest_ended(), "the host has not got everything");
    connection.forward(10);
    assert!(connection.guest_ended() && !connection.is_over());
    assert_eq!(connection.room(), 4096, "the other direction goes on");
    assert_eq!(connection.receive(&data), Reaction::Broken, "what is closed stays closed");
    connection.host_ended(Receiving::GoesOn);
    assert!(!connection.is_over(), "the guest does not know yet");
    let last = Notice { operation: Operation::Shutdown, flags: NO_MORE_SENT };
    assert_eq!(connection.next_notice(), Some(last));
    assert!(connection.is_over());
    let mut connection = established();
    assert_eq!(connection.receive(&shutdown(NO_MORE_RECEIVED)), Reaction::Shut);
    assert_eq!((connection.room(), connection.is_over()), (0, false));
    assert_eq!(connection.receive(&shutdown(NO_MORE_SENT)), Reaction::Shut);
    assert!(connection.is_over());
}

#[test]
fn a_guest_without_room_is_asked_once() {
    let mut connection = established();
    connection.send(4096);
    for _ in 0..3 {
        connection.ask_for_room();
        let _ = connection.receive(&packet(Operation::CreditUpdate));
    }
    assert_eq!(connection.next_notice().map(|notice| notice.operation), Some(Operation::CreditRequest));
    connection.ask_for_room();
    assert_eq!(connection.next_notice(), None);
    let update = Incoming { forwarded: 4096, ..packet(Operation::CreditUpdate) };
    assert_eq!(connection.receive(&update), Reaction::Noted);
    assert_eq!(connection.room(), 4096);
}

#[derive(Clone, Debug)]
enum Event {
    Packet(Incoming),
    Forward(u32),
    Send(u32),
    HostEnded,
    AskForRoom,
    Notice(u32),
}

fn any_event() -> impl Strategy<Value = Event> {
    let operation = proptest::sample::select(vec![
        Operation::Response,
        Operation::Shutdown,
        Operation::Data,
        Operation::Data,
        Operation::CreditUpdate,
        Operation::CreditRequest,
        Operation::Unknown,
    ]);
    let incoming =
        (operation, 0..4_u32, prop_oneof![0..BUFFER_BYTES, any::<u32>()], any::<u32>(), any::<u32>());
    prop_oneof![
        4 => incoming.prop_map(|(operation, flags, length, buffer, forwarded)| {
            Event::Packet(Incoming { operation, flags, length, buffer, forwarded })
        }),
        2 => any::<u32>().prop_map(Event::Forward),
        2 => any::<u32>().prop_map(Event::Send),
        1 => Just(Event::HostEnded),
        1 => Just(Event::AskForRoom),
        3 => (1..=BUFFER_BYTES).prop_map(Event::Notice),
    ]
}

proptest! {
    /// However a guest and a host behave: never is more kept than the buffer, never is anything sent without room or
    /// after the end, each notice comes at most once a cause, and what is closed stays closed.
    #[test]
    fn no_order_of_events_breaks_the_rules(events in proptest::collection::vec(any_event(), 0..80)) {
        let mut connection = established();
        let (mut guest_sends, mut guest_receives, mut host_sends) = (true, true, true);
        let mut kept = 0_u64;
        let mut shutdowns = 0;
        for event in events {
            match event {
                Event::Packet(packet) => match connection.receive(&packet) {
                    Reaction::Data => {
                        prop_assert!(guest_sends);
                        kept += u64::from(packet.length);
                    }
                    Reaction::Shut => {
                        guest_receives &= packet.flags & NO_MORE_RECEIVED == 0;
                        guest_sends &= packet.flags & NO_MORE_SENT == 0;
                    }
                    Reaction::Noted => {}
                    Reaction::Broken => break,
                    Reaction::Opened | Reaction::Gone => prop_assert!(false, "there is no such packet"),
                },
                Event::Forward(bytes) => {
                    connection.forward(bytes);
                    kept -= kept.min(u64::from(bytes));
                }
                Event::Send(wanted) => {
                    let room = connection.room();
                    prop_assert!(room == 0 || (guest_receives && host_sends));
                    connection.send(wanted.min(room));
                }
                Event::HostEnded => {
                    connection.host_ended(Receiving::GoesOn);
                    host_sends = false;
                }
                Event::AskForRoom => connection.ask_for_room(),
                Event::Notice(window) => if let Some(notice) = connection.next_notice() {
                    shutdowns += u32::from(notice.operation == Operation::Shutdown);
                    prop_assert!(notice.operation != Operation::Shutdown || !host_sends);
                    connection.announce(window);
                }
            }
            prop_assert_eq!(u64::from(connection.unforwarded()), kept);
            prop_assert!(kept <= u64::from(connection.promised()) && shutdowns <= 1);
            prop_assert!(connection.promised() <= BUFFER_BYTES);
            prop_assert!(!connection.is_over() || (!guest_sends && kept == 0));
        }
        let mut notices = 0;
        while connection.next_notice().is_some() {
            notices += 1;
            prop_assert!(notices <= 5);
        }
    }

    /// As long as a guest keeps to its credit and the host reads, the guest hears of room before it has none left.
    #[test]
    fn an_honest_guest_never_starves(
        pieces in proptest::collection::vec((1..BUFFER_BYTES, 1..=BUFFER_BYTES), 1..60),
    ) {
        let mut connection = established();
        let (mut sent, mut buffer, mut known) = (0_u32, BUFFER_BYTES, 0_u32);
        for (piece, window) in pieces {
            let piece = piece.min(buffer - sent.wrapping_sub(known));
            prop_assert!(piece > 0, "the guest is stuck");
            let data = Incoming { length: piece, ..packet(Operation::Data) };
            prop_assert_eq!(connection.receive(&data), Reaction::Data);
            sent = sent.wrapping_add(piece);
            connection.forward(piece);
            while connection.next_notice().is_some() {
                (buffer, known) = connection.announce(window);
            }
        }
    }
}
