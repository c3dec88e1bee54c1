//! The socket device between a driver's queues and real Unix sockets.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::super::connection::BUFFER_BYTES;
use super::super::packet::{HOST_CID, NO_MORE_RECEIVED, NO_MORE_SENT, Operation};
use super::super::{SOCKET_NAME, budget};
use super::*;
use crate::memory::GuestMemory;
use crate::virtio::queue::RingFeatures;
use crate::virtio::queue::testing::{Buffer, DriverQueue, small_memory};

const CID: u64 = 3;
const QUEUE: u16 = 64;
/// Bytes of each of the guest's buffers.
const BUFFER: u32 = 4096;
const RECEIVE_BUFFERS: u64 = 0x10_0000;
const TRANSMIT_BUFFERS: u64 = 0x20_0000;

type Packet = (Header, Vec<u8>);

struct Bench {
    device: VsockDevice,
    directory: TempDir,
    memory: Arc<GuestMemory>,
    receive: DriverQueue,
    transmit: DriverQueue,
    sent: u64,
    inbox: VecDeque<Packet>,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let opened = OwnedFd::from(File::open(directory.path()).unwrap());
    let mut device = VsockDevice::new(VsockDeviceConfig { cid: 3, directory: opened }).unwrap();
    let memory = small_memory(0x40_0000);
    let receive = DriverQueue::new(Arc::clone(&memory), GuestAddress(0), QUEUE);
    let transmit = DriverQueue::new(Arc::clone(&memory), GuestAddress(0x1_0000), QUEUE);
    let queues = [&receive, &transmit].map(|queue| Some(queue.device_queue(RingFeatures::default()).0));
    let queues = queues.into_iter().chain([None]).collect();
    device.activate(Activation { memory: Arc::clone(&memory), features: 0, queues }).unwrap();
    let mut bench = Bench { device, directory, memory, receive, transmit, sent: 0, inbox: VecDeque::new() };
    for slot in 0..QUEUE {
        bench.offer_buffer(slot);
    }
    bench
}

impl Bench {
    fn offer_buffer(&mut self, slot: u16) {
        let place = GuestAddress(RECEIVE_BUFFERS + u64::from(slot) * u64::from(BUFFER));
        self.receive
            .write_descriptor(slot, virtio_queue::desc::split::Descriptor::new(place.0, BUFFER, 2, 0));
        self.receive.publish(slot);
    }

    /// Lets everything that is due happen and takes what the guest got.
    fn pump(&mut self) {
        for _ in 0..64 {
            self.device.event(HOST);
            while let Some((head, length)) = self.receive.next_used() {
                let mut bytes = vec![0; length as usize];
                let place = RECEIVE_BUFFERS + u64::from(head) * u64::from(BUFFER);
                self.memory.read_slice(&mut bytes, GuestAddress(place)).unwrap();
                let header = Header::parse(&bytes[..HEADER_BYTES].try_into().unwrap());
                assert_eq!(header.length as usize, bytes.len() - HEADER_BYTES);
                assert_eq!((header.source_cid, header.destination_cid), (HOST_CID, CID));
                self.inbox.push_back((header, bytes.split_off(HEADER_BYTES)));
                self.offer_buffer(head);
            }
            self.transmit.drain_used();
            if !self.device.go_on.take() {
                return;
            }
        }
        panic!("the device never comes to rest");
    }

    /// The next packet for the guest that is no mere news of credit.
    fn next(&mut self) -> Packet {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            self.pump();
            while let Some(packet) = self.inbox.pop_front() {
                if !matches!(packet.0.operation, Operation::CreditUpdate | Operation::CreditRequest) {
                    return packet;
                }
            }
            assert!(Instant::now() < deadline, "no packet came");
            std::thread::yield_now();
        }
    }

    fn expect(&mut self, operation: Operation) -> Packet {
        let packet = self.next();
        assert_eq!(packet.0.operation, operation, "{packet:?}");
        packet
    }

    fn send_header(&mut self, header: Header, data: &[u8]) {
        let place = GuestAddress(TRANSMIT_BUFFERS + self.sent % 16 * 0x1_1000);
        self.sent += 1;
        self.memory.write_slice(&header.to_bytes(), place).unwrap();
        self.memory.write_slice(data, GuestAddress(place.0 + HEADER_BYTES as u64)).unwrap();
        let length = u32::try_from(HEADER_BYTES + data.len()).unwrap();
        self.transmit.add_chain(&[Buffer::Readable(place, length)]);
        self.device.doorbell(TRANSMIT);
    }

    fn send(&mut self, ports: (u32, u32), operation: Operation, flags: u32, data: &[u8]) {
        let header = Header { operation, flags, ..packet(ports) };
        self.send_header(Header { length: u32::try_from(data.len()).unwrap(), ..header }, data);
    }

    fn socket(&self, suffix: &str) -> std::path::PathBuf {
        self.directory.path().join(format!("{SOCKET_NAME}{suffix}"))
    }

    /// A connection that the host asked for and the guest accepted; the host's end and the ports.
    fn connected(&mut self, port: u32) -> (UnixStream, (u32, u32)) {
        let mut stream = UnixStream::connect(self.socket("")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        writeln!(stream, "CONNECT {port}").unwrap();
        let (request, _) = self.expect(Operation::Request);
        assert_eq!(request.destination_port, port);
        let ports = (port, request.source_port);
        self.send(ports, Operation::Response, 0, &[]);
        let line = format!("OK {}\n", ports.1);
        let mut answer = vec![0; line.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, line.as_bytes());
        (stream, ports)
    }
}

/// A packet of the guest with plenty of room; ports are the guest's and the host's.
fn packet(ports: (u32, u32)) -> Header {
    Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: ports.0,
        destination_port: ports.1,
        length: 0,
        operation: Operation::Data,
        flags: 0,
        buffer: 1 << 20,
        forwarded: 0,
    }
}

#[test]
fn the_host_connects_and_both_speak() {
    let mut bench = bench();
    let (mut stream, ports) = bench.connected(52);
    stream.write_all(b"hello guest").unwrap();
    assert_eq!(bench.expect(Operation::Data).1, b"hello guest");
    bench.send(ports, Operation::Data, 0, b"hello host");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello host");
}

#[test]
fn the_guest_connects_to_who_listens_and_is_refused_elsewhere() {
    let mut bench = bench();
    let listener = UnixListener::bind(bench.socket("_80")).unwrap();
    bench.send((1024, 80), Operation::Request, 0, &[]);
    let (response, _) = bench.expect(Operation::Response);
    assert_eq!((response.source_port, response.destination_port), (80, 1024));
    assert_eq!(response.buffer, BUFFER_BYTES);
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"x").unwrap();
    assert_eq!(bench.expect(Operation::Data).1, b"x");
    for port in [81, 0] {
        bench.send((1025, port), Operation::Request, 0, &[]);
        let (reset, _) = bench.expect(Operation::Reset);
        assert_eq!((reset.source_port, reset.destination_port), (port, 1025));
    }
    bench.send((1024, 80), Operation::Reset, 0, &[]);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "a reset ends the stream");
}

#[test]
fn only_privileged_programs_of_the_guest_report_its_state() {
    let mut bench = bench();
    let port = vm_model::SYSTEMD_NOTIFY_PORT;
    let listener = UnixListener::bind(bench.socket(&format!("_{port}"))).unwrap();
    listener.set_nonblocking(true).unwrap();
    bench.send((1024, port), Operation::Request, 0, &[]);
    bench.expect(Operation::Reset);
    assert!(listener.accept().is_err(), "nobody came");
    bench.send((1023, port), Operation::Request, 0, &[]);
    bench.expect(Operation::Response);
    listener.accept().unwrap();
}

#[test]
fn either_side_closes_its_direction_alone() {
    let mut bench = bench();
    let (mut stream, ports) = bench.connected(1);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.expect(Operation::Data).1, b"last words");
    assert_eq!(bench.expect(Operation::Shutdown).0.flags, NO_MORE_SENT);
    bench.send(ports, Operation::Data, 0, b"still here");
    bench.send(ports, Operation::Shutdown, NO_MORE_SENT, &[]);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "still here");
    bench.expect(Operation::Reset);

    let (mut stream, ports) = bench.connected(2);
    bench.send(ports, Operation::Shutdown, NO_MORE_SENT | NO_MORE_RECEIVED, &[]);
    bench.expect(Operation::Reset);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);

    let (mut stream, ports) = bench.connected(3);
    stream.write_all(b"bye").unwrap();
    drop(stream);
    assert_eq!(bench.expect(Operation::Data).1, b"bye", "what was written before the end arrives");
    assert_eq!(bench.expect(Operation::Shutdown).0.flags, NO_MORE_SENT | NO_MORE_RECEIVED);
    bench.send(ports, Operation::Data, 0, b"anybody?");
    bench.expect(Operation::Reset);
}

#[test]
fn a_stream_that_the_guest_half_closed_gives_no_more_to_do() {
    let mut bench = bench();
    let (_stream, ports) = bench.connected(1);
    bench.send(ports, Operation::Shutdown, NO_MORE_SENT, &[]);
    // As the machine's event loop watches it.
    let poller = Epoll::new().unwrap();
    let switch = bench.device.switch.wake_fd().as_raw_fd();
    let edges = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
    poller.ctl(ControlOperation::Add, switch, edges).unwrap();
    let mut turns = 0;
    while poller.wait(0, &mut [EpollEvent::default()]).unwrap() > 0 {
        bench.pump();
        turns += 1;
        assert!(turns < 10, "the device wakes itself");
    }
}

#[test]
fn nothing_is_read_beyond_the_guests_room() {
    let mut bench = bench();
    let (mut stream, ports) = bench.connected(1);
    let full = Header { operation: Operation::CreditUpdate, buffer: 100, ..packet(ports) };
    bench.send_header(full, &[]);
    stream.write_all(&[7; 250]).unwrap();
    let mut got = 0;
    for round in 1..=3_u32 {
        let (header, data) = bench.expect(Operation::Data);
        assert_eq!(header.length, [100, 100, 50][round as usize - 1]);
        got += data.len();
        bench.pump();
        assert!(!bench.inbox.iter().any(|(header, _)| header.operation == Operation::Data));
        bench.send_header(Header { forwarded: u32::try_from(got).unwrap(), ..full }, &[]);
    }
}

#[test]
fn a_guest_that_ignores_the_hosts_room_is_cut_off() {
    let mut bench = bench();
    let (mut stream, ports) = bench.connected(1);
    // Nobody reads: the socket's own buffer takes some, the rest is kept, then there is no room.
    let piece = vec![9; 0x1_0000];
    let mut sent = 0;
    let reset = loop {
        bench.send(ports, Operation::Data, 0, &piece);
        sent += piece.len();
        bench.pump();
        if let Some(packet) = bench.inbox.drain(..).find(|(header, _)| header.operation == Operation::Reset) {
            break packet;
        }
        assert!(sent < 64 << 20, "a socket's buffer has an end");
    };
    assert_eq!(reset.0.destination_port, 1);
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(received.len() < sent);
}

#[test]
fn a_slow_host_gets_everything_in_order() {
    let mut bench = bench();
    let (mut stream, ports) = bench.connected(1);
    let content: Vec<u8> =
        (0..2_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    let (mut sent, mut known, mut received) = (0_usize, 0_u32, Vec::new());
    while received.len() < content.len() {
        let room = BUFFER_BYTES.wrapping_sub(u32::try_from(sent).unwrap().wrapping_sub(known));
        let length = (room as usize).min(content.len() - sent).min(30_000);
        if length > 0 {
            bench.send(ports, Operation::Data, 0, &content[sent..sent + length]);
            sent += length;
        }
        let mut piece = vec![0; 20_000];
        let count = stream.read(&mut piece).unwrap();
        received.extend_from_slice(&piece[..count]);
        bench.pump();
        for (header, _) in bench.inbox.drain(..) {
            assert_eq!(header.operation, Operation::CreditUpdate);
            known = header.forwarded;
        }
    }
    assert!(received == content);
}

#[test]
fn connections_are_bounded_and_a_reset_hangs_up_on_all() {
    let mut bench = bench();
    let listener = UnixListener::bind(bench.socket("_9")).unwrap();
    let mut streams = Vec::new();
    for port in 1..u32::try_from(budget::CONNECTIONS_MAX).unwrap() {
        bench.send((port, 9), Operation::Request, 0, &[]);
        bench.expect(Operation::Response);
        streams.push(listener.accept().unwrap().0);
    }
    // A caller has its place before it says what it wants.
    let mut caller = UnixStream::connect(bench.socket("")).unwrap();
    bench.pump();
    bench.send((5000, 9), Operation::Request, 0, &[]);
    bench.expect(Operation::Reset);
    writeln!(caller, "CONNECT 7").unwrap();
    assert_eq!(bench.expect(Operation::Request).0.destination_port, 7);
    streams.push(caller);
    let mut refused = UnixStream::connect(bench.socket("")).unwrap();
    bench.pump();
    assert_eq!(refused.read(&mut [0]).unwrap(), 0, "there is no place for another");
    bench.device.reset();
    for mut stream in streams {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    let mut early = UnixStream::connect(bench.socket("")).unwrap();
    bench.device.event(HOST);
    assert_eq!(early.read(&mut [0]).unwrap(), 0, "nobody is there to speak to");
}

/// What a guest has sent on a connection, and what it knows of the host's side.
struct Sender {
    ports: (u32, u32),
    stream: UnixStream,
    sent: u32,
    buffer: u32,
    forwarded: u32,
}

/// What a guest sends on the connection of `port` at `position`.
fn sent_byte(port: u32, position: u32) -> u8 {
    (position.wrapping_mul(31) ^ position >> 8 ^ port).to_le_bytes()[0]
}

impl Bench {
    /// Every guest sends as much as it has credit for, until nothing changes any more.
    fn send_all_credit(&mut self, senders: &mut [Sender], limit: u32) {
        loop {
            let mut any = false;
            for sender in &mut *senders {
                let credit = sender.forwarded.wrapping_add(sender.buffer).wrapping_sub(sender.sent);
                let length = credit.min(limit - sender.sent);
                if length > 0 {
                    any = true;
                    let data: Vec<u8> = (sender.sent..sender.sent + length)
                        .map(|position| sent_byte(sender.ports.0, position))
                        .collect();
                    self.send(sender.ports, Operation::Data, 0, &data);
                    sender.sent += length;
                }
                self.pump();
            }
            for (header, _) in std::mem::take(&mut self.inbox) {
                assert!(
                    matches!(header.operation, Operation::CreditUpdate | Operation::Shutdown),
                    "an honest guest is cut off: {header:?}"
                );
                let sender = senders.iter_mut().find(|sender| sender.ports.0 == header.destination_port);
                let sender = sender.unwrap();
                (sender.buffer, sender.forwarded) = (header.buffer, header.forwarded);
            }
            if !any {
                return;
            }
        }
    }
}

#[test]
fn what_is_kept_for_all_slow_hosts_together_is_bounded_and_none_of_it_is_lost() {
    /// More than a stream and the device keep for one connection.
    const EACH: u32 = 600_000;
    let mut bench = bench();
    let listener = UnixListener::bind(bench.socket("_9")).unwrap();
    let mut senders = Vec::new();
    for port in 0..u32::try_from(budget::CONNECTIONS_MAX).unwrap() {
        bench.send((port, 9), Operation::Request, 0, &[]);
        let (response, _) = bench.expect(Operation::Response);
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let buffer = response.buffer;
        assert!(buffer >= budget::LEAST_BYTES);
        senders.push(Sender { ports: (port, 9), stream, sent: 0, buffer, forwarded: 0 });
    }
    bench.send_all_credit(&mut senders, EACH);
    assert!(senders.iter().all(|sender| sender.sent < EACH), "every host is slow");
    let kept = bench.device.switch.kept_bytes();
    assert!(kept > 256 * 1024 && kept <= 2 << 20, "{kept} bytes are kept");
    let mut received = vec![0; senders.len()];
    while received.iter().any(|count| *count < EACH) {
        for (sender, count) in senders.iter_mut().zip(&mut received) {
            let mut piece = vec![0; 0x4_0000];
            let Ok(length) = sender.stream.read(&mut piece) else { continue };
            assert!(length > 0, "the stream ended after {count} bytes");
            for byte in &piece[..length] {
                assert_eq!(*byte, sent_byte(sender.ports.0, *count));
                *count += 1;
            }
        }
        bench.send_all_credit(&mut senders, EACH);
    }
    assert_eq!(bench.device.switch.kept_bytes(), 0, "what is empty is let go");
}

#[test]
fn a_guest_that_connects_and_hangs_up_for_ever_makes_nothing_grow() {
    let mut bench = bench();
    let listener = UnixListener::bind(bench.socket("_9")).unwrap();
    // Without buffers for answers.
    for slot in 0..QUEUE {
        bench
            .receive
            .write_descriptor(slot, virtio_queue::desc::split::Descriptor::new(RECEIVE_BUFFERS, 44, 2, 0));
    }
    for _ in 0..1000 {
        bench.send((1, 9), Operation::Request, 0, &[]);
        drop(listener.accept().unwrap());
        bench.send((1, 9), Operation::Reset, 0, &[]);
    }
    assert!(bench.device.switch.ready() <= 1);
}

#[test]
fn without_buffers_the_guest_is_not_heard_for_ever() {
    let mut bench = bench();
    for slot in 0..QUEUE {
        bench
            .receive
            .write_descriptor(slot, virtio_queue::desc::split::Descriptor::new(RECEIVE_BUFFERS, 44, 2, 0));
    }
    for _ in 0..1000 {
        bench.send((1, 1), Operation::Data, 0, &[]);
    }
    assert!(bench.device.switch.has_packets() && !bench.device.switch.takes_packets());
    bench.receive.drain_used();
    for slot in 0..QUEUE {
        bench.offer_buffer(slot);
    }
    bench.expect(Operation::Reset);
}

#[test]
fn impossible_addresses_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for cid in [0, 2, u32::MAX] {
        let opened = OwnedFd::from(File::open(directory.path()).unwrap());
        let error = VsockDevice::new(VsockDeviceConfig { cid, directory: opened }).err().unwrap();
        assert!(error.to_string().contains(&cid.to_string()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever headers a guest sends: no panic, no turn without end, and another connection goes on.
    #[test]
    fn any_packets_leave_other_connections_alone(
        packets in proptest::collection::vec((any::<[u8; HEADER_BYTES]>(), 0..9_u16, any::<[bool; 4]>(), 0..200_usize), 1..60),
    ) {
        let mut bench = bench();
        let (mut stream, ports) = bench.connected(77);
        let _listener = UnixListener::bind(bench.socket("_80")).unwrap();
        for (mut bytes, operation, [known_cid, known_port, stream_type, honest], length) in packets {
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            if stream_type {
                bytes[28..30].copy_from_slice(&[1, 0]);
            }
            if known_cid {
                bytes[..16].copy_from_slice(packet(ports).to_bytes()[..16].as_ref());
            }
            if known_port {
                bytes[16..24].copy_from_slice(&[1, 0, 0, 0, 80, 0, 0, 0]);
            }
            if honest {
                bytes[24..28].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            }
            bench.send_header(Header::parse(&bytes), &vec![0; length]);
            bench.pump();
        }
        bench.inbox.clear();
        prop_assert!(!bench.device.is_broken());
        stream.write_all(b"alive").unwrap();
        prop_assert_eq!(bench.expect(Operation::Data).1, b"alive");
    }
}
