//! The card between a driver's queues and a packet socket in place of the TAP, and once with a real TAP.

mod commands;
mod kernel;
mod limits;
mod link;
mod real_tap;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Mutex;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use virtio_bindings::bindings::virtio_net::{VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU};
use vm_memory::{Bytes, GuestAddress};

use vm_model::{MacAddress, NicOffloads, Offload};

use super::*;
use crate::virtio::net::{FramePort, PortUse, UdpSegmentation};
use crate::virtio::queue::RingFeatures;
use crate::virtio::queue::testing::{Buffer, CountingInterrupt, DriverQueue, small_memory};
use crate::virtio::{QueueSize, RateLimits};

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const MAC: MacAddress = MacAddress::new([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// The only pair's queues.
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;
/// The only pair's events.
const PORT_READABLE: u16 = PORTS;
const PORT_WRITABLE: u16 = PORTS + 1;
const RECEIVE_DATA: GuestAddress = GuestAddress(0x2_0000);
const TRANSMIT_DATA: GuestAddress = GuestAddress(0x8_0000);

/// One end of a packet socket.
struct SocketPort {
    socket: OwnedFd,
    offloads: Arc<Mutex<Vec<Offloads>>>,
    carriers: Arc<Mutex<Vec<LinkState>>>,
}

impl FramePort for SocketPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.offloads.lock().unwrap().push(offloads);
        Ok(())
    }

    fn set_use(&self, _port_use: PortUse) -> io::Result<()> {
        unreachable!("a single port is always in use")
    }

    fn set_carrier(&self, link: LinkState) -> io::Result<()> {
        self.carriers.lock().unwrap().push(link);
        Ok(())
    }

    fn udp_segmentation(&self) -> UdpSegmentation {
        UdpSegmentation::Supported
    }
}

struct Guest {
    device: NetDevice,
    receive: DriverQueue,
    transmit: DriverQueue,
    receive_interrupt: Arc<CountingInterrupt>,
}

impl Guest {
    fn new(port: Box<dyn FramePort>, features: u64) -> Self {
        Self::limited(port, features, RateLimits::default())
    }

    fn limited(port: Box<dyn FramePort>, features: u64, rate_limits: RateLimits) -> Self {
        let queue_size = QueueSize::default();
        let offloads = NicOffloads::default();
        let ports = vec![port];
        let config =
            NetDeviceConfig { ports, mac: MAC, mtu: None, queue_size, rate_limits, offloads, kernel: None };
        let device = NetDevice::new(config).unwrap();
        let memory = small_memory(0x10_0000);
        let receive = DriverQueue::new(Arc::clone(&memory), GuestAddress(0), 256);
        let transmit = DriverQueue::new(memory, GuestAddress(0x1_0000), 256);
        let mut guest = Self { device, receive, transmit, receive_interrupt: Arc::default() };
        guest.activate(features);
        guest
    }

    /// Starts the card anew with empty rings.
    fn restart(&mut self, features: u64) {
        let memory = Arc::clone(&self.receive.memory);
        memory.write_slice(&[0; 0x2_0000], GuestAddress(0)).unwrap();
        self.receive = DriverQueue::new(Arc::clone(&memory), GuestAddress(0), 256);
        self.transmit = DriverQueue::new(memory, GuestAddress(0x1_0000), 256);
        self.activate(features);
    }

    fn activate(&mut self, features: u64) {
        let (receive_queue, receive_interrupt) = self.receive.device_queue(RingFeatures::default());
        let (transmit_queue, _interrupt) = self.transmit.device_queue(RingFeatures::default());
        self.receive_interrupt = receive_interrupt;
        let queues = vec![Some(receive_queue), Some(transmit_queue)];
        let memory = Arc::clone(&self.receive.memory);
        self.device.activate(Activation { memory, features, queues }).unwrap();
    }

    /// Sends `frame` after a header, in one buffer.
    fn send(&mut self, frame: &[u8]) {
        let memory = &self.transmit.memory;
        memory.write_slice(&[0; 12], TRANSMIT_DATA).unwrap();
        memory.write_slice(frame, GuestAddress(TRANSMIT_DATA.0 + 12)).unwrap();
        let length = u32::try_from(12 + frame.len()).unwrap();
        self.transmit.add_chain(&[Buffer::Readable(TRANSMIT_DATA, length)]);
        self.device.doorbell(TRANSMIT_QUEUE);
    }

    fn add_receive_buffer(&mut self, offset: u64, length: u32) {
        let address = GuestAddress(RECEIVE_DATA.0 + offset);
        self.receive.add_chain(&[Buffer::Writable(address, length)]);
    }

    fn received_bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let address = GuestAddress(RECEIVE_DATA.0 + offset);
        self.receive.memory.read_slice(&mut bytes, address).unwrap();
        bytes
    }

    fn counts(&self) -> crate::virtio::net::NetCounts {
        self.device.counters().counts()
    }
}

struct Bench {
    guest: Guest,
    peer: OwnedFd,
    offloads: Arc<Mutex<Vec<Offloads>>>,
    carriers: Arc<Mutex<Vec<LinkState>>>,
}

fn bench(features: u64) -> Bench {
    limited_bench(features, RateLimits::default())
}

fn limited_bench(features: u64, limits: RateLimits) -> Bench {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let offloads = Arc::new(Mutex::new(Vec::new()));
    let carriers = Arc::default();
    let port = SocketPort { socket, offloads: Arc::clone(&offloads), carriers: Arc::clone(&carriers) };
    let guest = Guest::limited(Box::new(port), features, limits);
    Bench { guest, peer, offloads, carriers }
}

impl Bench {
    fn peer_receives(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 0x1_0000];
        let length = rustix::io::read(&self.peer, &mut frame[..]).ok()?;
        frame.truncate(length);
        Some(frame)
    }

    /// A frame whose header is full of `0x11` and whose bytes are `fill`.
    fn peer_sends(&self, length: usize, fill: u8) {
        let mut frame = vec![0x11; 12];
        frame.extend(std::iter::repeat_n(fill, length));
        assert_eq!(rustix::io::write(&self.peer, &frame).unwrap(), frame.len());
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut watched = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut watched, Some(&now)).unwrap() > 0
}

#[test]
fn a_sent_frame_leaves_with_its_header_and_is_counted() {
    let mut bench = bench(0);
    let memory = Arc::clone(&bench.guest.transmit.memory);
    memory.write_slice(&[7; 12 + 60], TRANSMIT_DATA).unwrap();
    let head = bench.guest.transmit.add_chain(&[
        Buffer::Readable(TRANSMIT_DATA, 5),
        Buffer::Readable(GuestAddress(TRANSMIT_DATA.0 + 5), 67),
    ]);
    bench.guest.device.doorbell(TRANSMIT_QUEUE);
    assert_eq!(bench.peer_receives(), Some(vec![7; 72]));
    assert_eq!(bench.guest.transmit.drain_used(), [(head, 0)]);
    let counts = bench.guest.counts();
    assert_eq!((counts.transmit_frames, counts.transmit_bytes), (1, 60));
}

#[test]
fn malformed_frames_are_dropped_and_counted() {
    let mut bench = bench(0);
    bench.guest.transmit.add_chain(&[Buffer::Readable(TRANSMIT_DATA, 25)]);
    bench.guest.transmit.add_chain(&[Buffer::Writable(TRANSMIT_DATA, 100)]);
    bench.guest.transmit.add_chain(&[Buffer::Readable(TRANSMIT_DATA, 70_000)]);
    bench.guest.device.doorbell(TRANSMIT_QUEUE);
    assert_eq!(bench.peer_receives(), None);
    assert_eq!(bench.guest.transmit.drain_used().len(), 3);
    assert_eq!(bench.guest.counts().transmit_dropped, 3);
    assert!(!bench.guest.device.is_broken());
}

#[test]
fn a_port_without_room_delays_frames_and_loses_none() {
    let mut bench = bench(0);
    let mut sent = 0u8;
    while !bench.guest.device.is_blocked() {
        bench.guest.send(&[sent; 1000]);
        sent += 1;
        assert!(sent < 250, "the socket fills up");
    }
    assert!(!is_readable(bench.guest.device.room()));
    let mut received = Vec::new();
    while received.len() < usize::from(sent) {
        let frame = bench.peer_receives().expect("frames come in order without end");
        received.push(frame[12]);
        if is_readable(bench.guest.device.room()) {
            bench.guest.device.event(PORT_WRITABLE);
        }
    }
    // All frames lie in the same buffer, which the last one sent overwrote while the port was full.
    assert_eq!(received.len(), usize::from(sent));
    assert_eq!(bench.guest.counts().transmit_frames, u64::from(sent));
    assert_eq!(bench.guest.counts().transmit_dropped, 0);
    assert!(!bench.guest.device.is_blocked());
}

impl NetDevice {
    fn is_blocked(&mut self) -> bool {
        let State::Active(active) = &mut self.state else { return false };
        active.pairs().any(|pair| pair.transmitter.is_blocked())
    }

    fn port(&self) -> BorrowedFd<'_> {
        self.tap_queues.port(0).unwrap()
    }

    fn room(&self) -> BorrowedFd<'_> {
        self.tap_queues.descriptors().next().unwrap().1
    }
}

#[test]
fn a_long_backlog_takes_several_turns() {
    let mut bench = bench(0);
    for _ in 0..200 {
        bench.guest.transmit.add_chain(&[Buffer::Readable(TRANSMIT_DATA, 1)]);
    }
    bench.guest.device.doorbell(TRANSMIT_QUEUE);
    assert_eq!(bench.guest.transmit.used_index(), 128);
    assert!(bench.guest.device.go_on.take());
    bench.guest.device.event(GO_ON);
    assert_eq!(bench.guest.transmit.used_index(), 200);
    assert!(!bench.guest.device.go_on.take());
}

#[test]
fn a_frame_fills_one_buffer_and_says_so() {
    let mut bench = bench(0);
    bench.guest.add_receive_buffer(0, 2000);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    bench.peer_sends(100, 0xab);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 112)]);
    let frame = bench.guest.received_bytes(0, 113);
    assert_eq!(frame[..13], [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 1, 0, 0xab]);
    assert_eq!(frame[111..], [0xab, 0]);
    assert_eq!(bench.guest.receive_interrupt.take(), 1);
    let counts = bench.guest.counts();
    assert_eq!((counts.receive_frames, counts.receive_bytes), (1, 100));
}

#[test]
fn a_port_that_lost_its_far_end_gives_nothing_more_to_do() {
    let Bench { mut guest, peer, .. } = bench(0);
    drop(peer);
    guest.add_receive_buffer(0, 2000);
    guest.device.doorbell(RECEIVE_QUEUE);
    guest.device.event(PORT_READABLE);
    assert!(!guest.device.go_on.take());
    assert_eq!(guest.receive.used_index(), 0);
    assert_eq!(guest.counts().receive_dropped, 0);
}

#[test]
fn frames_wait_for_buffers() {
    let mut bench = bench(0);
    bench.peer_sends(100, 1);
    bench.guest.device.event(PORT_READABLE);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.used_index(), 0);
    bench.guest.add_receive_buffer(0, 2000);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 112)]);
    assert_eq!(bench.guest.counts().receive_dropped, 0);
}

#[test]
fn a_frame_runs_over_into_merged_buffers() {
    let mut bench = bench(MERGEABLE);
    for position in 0..5 {
        bench.guest.add_receive_buffer(position * 0x1000, 600);
    }
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    bench.peer_sends(1400, 0xcd);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 600), (1, 600), (2, 212)]);
    assert_eq!(bench.guest.received_bytes(10, 2), [3, 0]);
    assert_eq!(bench.guest.received_bytes(0x1000, 601)[598..], [0xcd, 0xcd, 0]);
    // Two buffers of 600 bytes are left: not enough for any frame.
    bench.peer_sends(100, 0xef);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.drain_used(), []);
    bench.guest.add_receive_buffer(0x5000, 600);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.drain_used(), [(3, 112)]);
    assert_eq!(bench.guest.received_bytes(0x3000 + 10, 3), [1, 0, 0xef]);
}

#[test]
fn a_frame_too_long_for_its_buffer_is_dropped_and_the_buffer_used_again() {
    let mut bench = bench(0);
    bench.guest.add_receive_buffer(0, 100);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    bench.peer_sends(89, 1);
    bench.peer_sends(88, 2);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 100)]);
    assert_eq!(bench.guest.received_bytes(12, 1), [2]);
    assert_eq!(bench.guest.counts().receive_dropped, 1);
}

#[test]
fn buffers_too_small_for_a_header_go_back_empty() {
    let mut bench = bench(MERGEABLE);
    bench.guest.add_receive_buffer(0, 11);
    bench.guest.receive.add_chain(&[Buffer::Readable(RECEIVE_DATA, 2000)]);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 0), (1, 0)]);
}

#[test]
fn draining_gives_held_buffers_back_until_the_next_doorbell() {
    let mut bench = bench(0);
    bench.guest.add_receive_buffer(0, 2000);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert!(bench.guest.device.drain(Instant::now()));
    bench.peer_sends(100, 1);
    bench.guest.device.event(PORT_READABLE);
    assert_eq!(bench.guest.receive.used_index(), 0);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert_eq!(bench.guest.receive.drain_used(), [(0, 112)]);
}

#[test]
fn each_buffer_is_completed_once_however_useless_ones_lie_between_and_whenever_it_pauses() {
    // With room for the longest frame only together; 0 stands for one that is not writable.
    let lengths = [600, 11, 600, 0, 5, 600, 600, 11, 600, 600, 600, 600];
    for pauses in 0..8_u32 {
        let mut bench = bench(MERGEABLE);
        for (position, length) in (0..).zip(lengths) {
            match length {
                0 => {
                    bench.guest.receive.add_chain(&[Buffer::Readable(RECEIVE_DATA, 600)]);
                }
                _ => bench.guest.add_receive_buffer(position * 0x1000, length),
            }
        }
        let mut used = Vec::new();
        for frame in 0..3 {
            bench.guest.device.doorbell(RECEIVE_QUEUE);
            if pauses >> frame & 1 != 0 {
                assert!(bench.guest.device.drain(Instant::now()));
                bench.guest.device.doorbell(RECEIVE_QUEUE);
            }
            bench.peer_sends(1000, 0xcd);
            bench.guest.device.event(PORT_READABLE);
            used.extend(bench.guest.receive.drain_used());
        }
        let filled: Vec<_> = used.iter().copied().filter(|(_, length)| *length > 0).collect();
        assert_eq!(filled, [(0, 600), (2, 412), (5, 600), (6, 412), (8, 600), (9, 412)], "pauses {pauses:b}");
        let mut useless: Vec<_> = used.iter().filter(|(_, length)| *length == 0).map(|used| used.0).collect();
        useless.sort_unstable();
        assert_eq!(useless, [1, 3, 4, 7], "pauses {pauses:b}");
        assert_eq!(bench.guest.counts().receive_dropped, 4);
    }
}

#[test]
fn a_reset_lets_go_of_guest_memory() {
    let mut bench = bench(MERGEABLE);
    bench.guest.add_receive_buffer(0, 2000);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    bench.guest.device.reset();
    let Guest { receive, transmit, .. } = &bench.guest;
    assert_eq!(Arc::strong_count(&receive.memory), 2, "the test's own two");
    assert!(Arc::ptr_eq(&receive.memory, &transmit.memory));
    for token in 0..8 {
        bench.guest.device.event(token);
        bench.guest.device.doorbell(token);
    }
}

#[test]
fn a_broken_queue_breaks_the_device() {
    let mut bench = bench(0);
    bench.guest.receive.set_available_index(1000);
    bench.guest.device.doorbell(RECEIVE_QUEUE);
    assert!(bench.guest.device.is_broken());
    bench.guest.device.doorbell(TRANSMIT_QUEUE);
}

#[test]
fn the_port_learns_what_the_guest_accepts() {
    let features = 1 << 1 | 1 << 7;
    let bench = bench(features);
    assert_eq!(*bench.offloads.lock().unwrap(), [Offloads::accepted_by(features)]);
}

#[test]
fn configuration_tells_address_status_and_mtu() {
    let (socket, _peer) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let port = SocketPort { socket, offloads: Arc::default(), carriers: Arc::default() };
    let config = NetDeviceConfig {
        ports: vec![Box::new(port)],
        mac: MAC,
        mtu: Some(9000),
        queue_size: QueueSize::default(),
        rate_limits: RateLimits::default(),
        offloads: NicOffloads { tcp_segmentation: Offload::Withheld, ..NicOffloads::default() },
        kernel: None,
    };
    let device = NetDevice::new(config).unwrap();
    let mut space = [0xff; 14];
    device.read_config(0, &mut space);
    assert_eq!(space, [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0x28, 0x23, 0, 0]);
    assert_ne!(device.offered_features() & 1 << VIRTIO_NET_F_MTU, 0);
    assert_eq!(device.offered_features() & (0x3b80 | 3 | 7 << 54), 3 | 7 << 54, "no TCP segmentation");
}

fn any_buffer() -> impl Strategy<Value = Buffer> {
    prop_oneof![
        8 => (0u64..0x4000, 1u32..3000).prop_map(|(at, length)| Buffer::Writable(GuestAddress(RECEIVE_DATA.0 + at), length)),
        3 => (0u64..0x4000, 1u32..3000).prop_map(|(at, length)| Buffer::Readable(GuestAddress(TRANSMIT_DATA.0 + at), length)),
        1 => (any::<u64>(), any::<u32>(), 0u16..8).prop_map(|(at, length, flags)| Buffer::Raw(at, length, flags)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn hostile_buffers_harm_nobody(
        features in prop_oneof![Just(0), Just(MERGEABLE), Just(MERGEABLE | 1 << 1 | 1 << 7)],
        receive in proptest::collection::vec(proptest::collection::vec(any_buffer(), 1..5), 0..20),
        transmit in proptest::collection::vec(proptest::collection::vec(any_buffer(), 1..5), 0..20),
        frames in proptest::collection::vec(0usize..4000, 0..8),
    ) {
        let mut bench = bench(features);
        let guard = [0xee; 64];
        let guards = [GuestAddress(RECEIVE_DATA.0 - 64), GuestAddress(RECEIVE_DATA.0 + 0x4000 + 3000)];
        let memory = Arc::clone(&bench.guest.receive.memory);
        for place in guards {
            memory.write_slice(&guard, place).unwrap();
        }
        let honest = receive.iter().flatten().all(|buffer| !matches!(buffer, Buffer::Raw(..)));
        for chain in &receive {
            bench.guest.receive.add_chain(chain);
        }
        for chain in &transmit {
            bench.guest.transmit.add_chain(chain);
        }
        for length in &frames {
            bench.peer_sends(*length, 0x77);
        }
        for token in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
            bench.guest.device.doorbell(token);
        }
        for token in [PORT_READABLE, PORT_WRITABLE, GO_ON] {
            bench.guest.device.event(token);
        }
        prop_assert!(usize::from(bench.guest.receive.used_index()) <= receive.len());
        prop_assert!(usize::from(bench.guest.transmit.used_index()) <= transmit.len());
        let counts = bench.guest.counts();
        prop_assert!(counts.receive_frames <= frames.len() as u64);
        if honest {
            for place in guards {
                let mut bytes = [0; 64];
                memory.read_slice(&mut bytes, place).unwrap();
                prop_assert_eq!(bytes, guard);
            }
        }
        bench.guest.device.reset();
    }
}
