//! Cards with several pairs of queues, and the commands of their drivers, well and badly formed.

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_MQ,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::virtio::net::{KernelBackends, NetDeviceError};

const CONTROL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
pub(super) const SEVERAL: u64 = CONTROL | 1 << VIRTIO_NET_F_MQ;
const COMMAND: GuestAddress = GuestAddress(0xe_0000);
const ANSWER: GuestAddress = GuestAddress(0xe_f000);
const UNTOUCHED: u8 = 0xa5;

/// A port that notes what it is told.
#[derive(Clone, Default)]
pub(super) struct NotingPort {
    socket: Option<Arc<OwnedFd>>,
    index: usize,
    notes: Arc<Mutex<Vec<(usize, PortUse)>>>,
    refuses: Arc<Mutex<bool>>,
    pub(super) offloads: Arc<Mutex<Vec<Offloads>>>,
    pub(super) carriers: Arc<Mutex<Vec<LinkState>>>,
}

impl FramePort for NotingPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("a port in use has a socket").as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        assert_eq!(self.index, 0, "the ports are one interface's");
        self.offloads.lock().unwrap().push(offloads);
        Ok(())
    }

    fn set_use(&self, port_use: PortUse) -> io::Result<()> {
        if self.index == 2 && port_use == PortUse::Attached && *self.refuses.lock().unwrap() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.notes.lock().unwrap().push((self.index, port_use));
        Ok(())
    }

    fn set_carrier(&self, link: LinkState) -> io::Result<()> {
        self.carriers.lock().unwrap().push(link);
        Ok(())
    }

    fn udp_segmentation(&self) -> UdpSegmentation {
        UdpSegmentation::Unsupported
    }
}

pub(super) struct Several {
    pub(super) device: NetDevice,
    pub(super) queues: Vec<DriverQueue>,
    peers: Vec<OwnedFd>,
    /// What the ports were told.
    pub(super) told: NotingPort,
}

impl Several {
    pub(super) fn new(pairs: usize, features: u64) -> Self {
        Self::limited(pairs, features, RateLimits::default())
    }

    fn limited(pairs: usize, features: u64, rate_limits: RateLimits) -> Self {
        Self::on_sockets(pairs, features, rate_limits, None)
    }

    /// A driver of a card whose frames `backends` move, one a pair.
    pub(super) fn with_backends(backends: KernelBackends, features: u64) -> Self {
        Self::on_sockets(backends.backends.len(), features, RateLimits::default(), Some(backends))
    }

    fn on_sockets(
        pairs: usize,
        features: u64,
        rate_limits: RateLimits,
        kernel: Option<KernelBackends>,
    ) -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let links: Vec<_> = (0..pairs)
            .map(|_| socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap())
            .collect();
        let (sockets, peers): (Vec<_>, Vec<_>) = links.into_iter().unzip();
        let told = NotingPort::default();
        let port = |(index, socket)| {
            let port = NotingPort { socket: Some(Arc::new(socket)), index, ..told.clone() };
            Box::new(port) as Box<dyn FramePort>
        };
        let ports = sockets.into_iter().enumerate().map(port).collect();
        Self { peers, told: told.clone(), ..Self::on(ports, features, rate_limits, kernel) }
    }

    /// A driver of a card with these ports, whose other ends are elsewhere.
    pub(super) fn on_ports(ports: Vec<Box<dyn FramePort>>, features: u64, rate_limits: RateLimits) -> Self {
        Self::on(ports, features, rate_limits, None)
    }

    fn on(
        ports: Vec<Box<dyn FramePort>>,
        features: u64,
        rate_limits: RateLimits,
        kernel: Option<KernelBackends>,
    ) -> Self {
        let config = NetDeviceConfig {
            ports,
            mac: MAC,
            mtu: None,
            queue_size: QueueSize::new(16).unwrap(),
            rate_limits,
            offloads: NicOffloads::default(),
            kernel,
        };
        let mut device = NetDevice::new(config).unwrap();
        let bells: Vec<_> =
            device.queue_sizes().iter().map(|_| EventFd::new(EFD_NONBLOCK).unwrap()).collect();
        device.connect(&bells).unwrap();
        let mut several = Self { device, queues: Vec::new(), peers: Vec::new(), told: NotingPort::default() };
        several.start(features);
        several
    }

    pub(super) fn start(&mut self, features: u64) {
        self.device.reset();
        let memory = small_memory(0x10_0000);
        let bases = (0u64..).map(|queue| GuestAddress(queue * 0x1000));
        let sizes = self.device.queue_sizes().to_vec();
        let queue = |(size, base): (&u16, _)| DriverQueue::new(Arc::clone(&memory), base, (*size).min(16));
        self.queues = sizes.iter().zip(bases).map(queue).collect();
        let queues = self.queues.iter().map(|queue| Some(queue.device_queue(RingFeatures::default()).0));
        let queues = queues.collect();
        self.device.activate(Activation { memory, features, queues }).unwrap();
    }

    fn notes(&self) -> Vec<(usize, PortUse)> {
        std::mem::take(&mut self.told.notes.lock().unwrap())
    }

    /// Gives a command in two buffers, as Linux does, over queue `index`: its answer.
    pub(super) fn command(&mut self, index: u16, bytes: &[u8]) -> u8 {
        let (header, data) = bytes.split_at(bytes.len().min(2));
        let queue = &mut self.queues[usize::from(index)];
        queue.memory.write_slice(header, COMMAND).unwrap();
        queue.memory.write_slice(data, GuestAddress(COMMAND.0 + 0x800)).unwrap();
        queue.memory.write_slice(&[UNTOUCHED], ANSWER).unwrap();
        let mut buffers = Vec::new();
        for (address, part) in [(COMMAND, header), (GuestAddress(COMMAND.0 + 0x800), data)] {
            if !part.is_empty() {
                buffers.push(Buffer::Readable(address, u32::try_from(part.len()).unwrap()));
            }
        }
        buffers.push(Buffer::Writable(ANSWER, 1));
        let head = queue.add_chain(&buffers);
        self.device.doorbell(index);
        assert_eq!(self.queues[usize::from(index)].drain_used(), [(head, 1)]);
        self.queues[0].memory.read_obj(ANSWER).unwrap()
    }

    pub(super) fn use_pairs(&mut self, count: u16) -> u8 {
        let control = u16::try_from(self.queues.len() - 1).unwrap();
        let [low, high] = count.to_le_bytes();
        self.command(control, &[4, 0, low, high])
    }

    fn receives(&mut self, pair: usize) -> bool {
        let queue = &mut self.queues[2 * pair];
        queue.add_chain(&[Buffer::Writable(RECEIVE_DATA, 2000)]);
        let _full = rustix::io::write(&self.peers[pair], &[1; 100]);
        self.device.doorbell(u16::try_from(2 * pair).unwrap());
        !self.queues[2 * pair].drain_used().is_empty()
    }

    fn sends(&mut self, pair: usize) -> bool {
        let queue = &mut self.queues[2 * pair + 1];
        queue.memory.write_slice(&[0; 100], TRANSMIT_DATA).unwrap();
        queue.add_chain(&[Buffer::Readable(TRANSMIT_DATA, 100)]);
        self.device.doorbell(u16::try_from(2 * pair + 1).unwrap());
        rustix::io::read(&self.peers[pair], &mut [0; 200]).is_ok()
    }
}

const fn attached(index: usize) -> (usize, PortUse) {
    (index, PortUse::Attached)
}

const fn detached(index: usize) -> (usize, PortUse) {
    (index, PortUse::Detached)
}

#[test]
fn a_card_says_how_many_pairs_it_has() {
    let several = Several::new(4, SEVERAL);
    assert_eq!(several.device.queue_sizes(), [16, 16, 16, 16, 16, 16, 16, 16, 64]);
    let mut pairs = [0; 2];
    several.device.read_config(8, &mut pairs);
    assert_eq!(pairs, [4, 0]);
    assert_eq!(several.device.offered_features() & SEVERAL, SEVERAL);
    assert_eq!(Several::new(1, 0).device.offered_features() & SEVERAL, CONTROL);
}

#[test]
fn a_card_has_at_least_one_port_and_not_too_many() {
    for count in [0, 33] {
        let port = || {
            let (socket, _peer) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            Box::new(SocketPort { socket, offloads: Arc::default(), carriers: Arc::default() })
                as Box<dyn FramePort>
        };
        let config = NetDeviceConfig {
            ports: (0..count).map(|_| port()).collect(),
            mac: MAC,
            mtu: None,
            queue_size: QueueSize::default(),
            rate_limits: RateLimits::default(),
            offloads: NicOffloads::default(),
            kernel: None,
        };
        assert!(
            matches!(NetDevice::new(config), Err(NetDeviceError::Ports { count: told }) if told == count)
        );
    }
}

#[test]
fn a_driver_starts_with_one_pair_and_gets_those_it_asks_for() {
    let mut several = Several::new(3, SEVERAL);
    assert_eq!(several.notes(), [detached(2), detached(1)]);
    assert!(several.receives(0) && several.sends(0));
    assert!(!several.receives(1) && !several.sends(1), "not in use");
    assert_eq!(several.use_pairs(3), 0);
    assert_eq!(several.notes(), [attached(1), attached(2)]);
    assert!(several.device.go_on.take(), "for bells that rang before");
    several.device.event(GO_ON);
    assert_eq!(several.queues[2].drain_used().len(), 1);
    assert_eq!(several.queues[3].drain_used().len(), 1);
    assert!(several.receives(2) && several.sends(2));
    assert_eq!(several.use_pairs(3), 0);
    assert_eq!(several.notes(), []);
    assert_eq!(several.use_pairs(1), 0);
    assert_eq!(several.notes(), [detached(2), detached(1)]);
    assert!(!several.receives(2));
}

#[test]
fn a_new_driver_starts_with_one_pair_again() {
    let mut several = Several::new(2, SEVERAL);
    assert_eq!(several.use_pairs(2), 0);
    several.notes();
    several.start(SEVERAL);
    assert_eq!(several.notes(), [detached(1)]);
    assert_eq!(several.use_pairs(2), 0);
    assert!(several.receives(1));
}

#[test]
fn offloads_are_taken_back_and_accepted_again_within_what_was_negotiated() {
    let (checksums, tcp) = (1 << VIRTIO_NET_F_GUEST_CSUM, 1 << VIRTIO_NET_F_GUEST_TSO4);
    let features = CONTROL | 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS | checksums | tcp;
    let mut card = Several::new(1, features);
    let set = |card: &mut Several, offloads: u64| {
        let [a, b, c, d, e, f, g, h] = offloads.to_le_bytes();
        card.command(2, &[5, 0, a, b, c, d, e, f, g, h])
    };
    card.told.offloads.lock().unwrap().clear();
    let answers = [0, checksums | tcp, checksums, checksums, 1 << 8 | checksums, 1, u64::MAX]
        .map(|wish| set(&mut card, wish));
    assert_eq!(answers, [0, 0, 0, 0, 1, 1, 1]);
    let told = [0, checksums | tcp, checksums].map(Offloads::accepted_by);
    assert_eq!(*card.told.offloads.lock().unwrap(), told);
    assert_eq!(card.command(2, &[5, 0, 0]), 1, "of another length");
    assert_eq!(set(&mut Several::new(1, CONTROL | checksums), 0), 1, "not negotiated");
}

#[test]
fn drivers_that_start_anew_with_other_offloads_again_and_again_are_slowed() {
    let mut card = Several::new(1, CONTROL);
    let starts = |card: &mut Several, features: u64| {
        card.device.reset();
        let queues = card.queues.iter().map(|queue| Some(queue.device_queue(RingFeatures::default()).0));
        let (memory, queues) = (Arc::clone(&card.queues[0].memory), queues.collect());
        card.device.activate(Activation { memory, features, queues }).is_ok()
    };
    assert!((0..1000).all(|_| starts(&mut card, CONTROL)), "nothing changes");
    let checksums = |round: u32| CONTROL | u64::from(round % 2) << VIRTIO_NET_F_GUEST_CSUM;
    let started = (1..1000).filter(|round| starts(&mut card, checksums(*round))).count();
    assert!(started < 999, "some are refused");
    let told = card.told.offloads.lock().unwrap().len();
    assert!((60..900).contains(&told), "{told} changes were told to the host");
}

#[test]
fn impossible_numbers_of_pairs_are_refused() {
    let mut several = Several::new(2, SEVERAL);
    several.notes();
    for count in [0, 3, 0x8000, u16::MAX] {
        assert_eq!(several.use_pairs(count), 1, "{count}");
    }
    assert_eq!(several.notes(), []);
    assert_eq!(several.use_pairs(2), 0);
}

#[test]
fn pairs_whose_queues_are_not_enabled_are_refused() {
    let mut several = Several::new(2, SEVERAL);
    several.device.reset();
    let mut queues: Vec<_> =
        several.queues.iter().map(|queue| Some(queue.device_queue(RingFeatures::default()).0)).collect();
    queues[3] = None;
    let memory = Arc::clone(&several.queues[0].memory);
    several.device.activate(Activation { memory, features: SEVERAL, queues }).unwrap();
    assert_eq!(several.use_pairs(2), 1);
    assert_eq!(several.use_pairs(1), 0);
    several.device.doorbell(2);
    several.device.doorbell(3);
}

#[test]
fn a_host_that_refuses_is_an_error_and_changes_nothing() {
    let mut several = Several::new(3, SEVERAL);
    several.notes();
    *several.told.refuses.lock().unwrap() = true;
    assert_eq!(several.use_pairs(3), 1);
    assert_eq!(several.notes(), [attached(1), detached(1)]);
    *several.told.refuses.lock().unwrap() = false;
    assert_eq!(several.use_pairs(3), 0);
}

#[test]
fn a_driver_that_changes_its_pairs_again_and_again_is_stopped() {
    let mut several = Several::new(32, SEVERAL);
    several.notes();
    let answers: Vec<u8> =
        (0..200).map(|turn| several.use_pairs(if turn % 2 == 0 { 32 } else { 1 })).collect();
    assert_eq!(answers[..2], [0, 0]);
    assert!(answers.iter().filter(|answer| **answer == 1).count() > 50, "{answers:?}");
    assert!(several.notes().len() < 31 * 20, "the host is not kept busy");
    assert!(!several.device.is_broken());
}

#[test]
fn without_multiqueue_the_control_queue_is_the_third() {
    let mut several = Several::new(2, CONTROL);
    assert_eq!(several.command(2, &[4, 0, 1, 0]), 1, "a command of a feature that was not accepted");
    let queue = &mut several.queues[4];
    queue.add_chain(&[Buffer::Readable(COMMAND, 4), Buffer::Writable(ANSWER, 1)]);
    several.device.doorbell(4);
    assert_eq!(several.queues[4].used_index(), 0, "no queue of this driver's");
}

#[test]
fn without_a_control_queue_frames_go_on() {
    let mut several = Several::new(1, 0);
    several.queues[2].add_chain(&[Buffer::Readable(COMMAND, 4), Buffer::Writable(ANSWER, 1)]);
    several.device.doorbell(2);
    assert_eq!(several.queues[2].used_index(), 0);
    assert!(several.sends(0) && several.receives(0));
}

#[test]
fn unknown_and_malformed_commands_are_answered_with_an_error() {
    let mut several = Several::new(2, SEVERAL);
    several.notes();
    let malformed: [&[u8]; 9] = [
        &[4],
        &[4, 0],
        &[4, 0, 2],
        &[4, 0, 2, 0, 0],
        &[4, 1, 2, 0],
        &[0, 0, 1],
        &[1, 1, 2, 0, 0, 0, 0, 1],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[255, 255],
    ];
    for bytes in malformed {
        assert_eq!(several.command(4, bytes), 1, "{bytes:?}");
    }
    assert_eq!(several.notes(), []);
    assert_eq!(several.use_pairs(2), 0, "the queue stays live");
}

#[test]
fn a_command_without_room_for_an_answer_is_not_obeyed() {
    let mut several = Several::new(2, SEVERAL);
    several.notes();
    let memory = Arc::clone(&several.queues[4].memory);
    memory.write_slice(&[4, 0, 2, 0], COMMAND).unwrap();
    let head = several.queues[4].add_chain(&[Buffer::Readable(COMMAND, 4)]);
    let empty = several.queues[4].add_chain(&[Buffer::Writable(ANSWER, 1)]);
    several.device.doorbell(4);
    assert_eq!(several.queues[4].drain_used(), [(head, 0), (empty, 1)]);
    assert_eq!(memory.read_obj::<u8>(ANSWER).unwrap(), 1);
    assert_eq!(several.notes(), []);
}

#[test]
fn a_looping_chain_of_commands_breaks_the_device() {
    let mut several = Several::new(2, SEVERAL);
    let queue = &mut several.queues[4];
    queue.add_chain(&[Buffer::Raw(COMMAND.0, 4, 1); 16]);
    let looping = virtio_queue::desc::split::Descriptor::new(COMMAND.0, 4, 1, 0);
    queue.write_descriptor(15, looping);
    several.device.doorbell(4);
    assert!(several.device.is_broken());
}

#[test]
fn commands_are_obeyed_while_frames_are_held_back() {
    let limit = crate::virtio::BucketLimits::new(1, 0, std::time::Duration::from_secs(3600)).unwrap();
    let limits = RateLimits { bandwidth: None, operations: Some(limit) };
    let mut several = Several::limited(2, SEVERAL, limits);
    assert!(several.sends(0) && !several.sends(0));
    assert!(several.receives(0) && !several.receives(0));
    assert_eq!(several.use_pairs(2), 0);
    assert!(!several.sends(1), "a second pair has no rate of its own");
}

#[test]
fn pairs_take_turns_at_a_limit() {
    let limit = crate::virtio::BucketLimits::new(1, 0, std::time::Duration::from_millis(20)).unwrap();
    let limits = RateLimits { bandwidth: None, operations: Some(limit) };
    let mut several = Several::limited(2, SEVERAL, limits);
    assert_eq!(several.use_pairs(2), 0);
    for _ in 0..6 {
        several.sends(0);
        several.sends(1);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while several.queues[1].used_index() + several.queues[3].used_index() < 8 {
        assert!(Instant::now() < deadline);
        let events = several.device.events();
        let timer = events.iter().find(|event| event.token == TRANSMIT_TIMER).unwrap().fd;
        poll(&mut [PollFd::from_borrowed_fd(timer, PollFlags::IN)], None).unwrap();
        several.device.event(TRANSMIT_TIMER);
    }
    let used = [several.queues[1].used_index(), several.queues[3].used_index()];
    assert!(used.iter().all(|used| *used >= 3), "{used:?}");
}

fn any_command() -> impl Strategy<Value = Vec<Buffer>> {
    let at = || 0xe_0000u64..0xe_0100;
    let buffer = prop_oneof![
        6 => (at(), 1u32..8).prop_map(|(at, length)| Buffer::Readable(GuestAddress(at), length)),
        6 => (at(), 1u32..8).prop_map(|(at, length)| Buffer::Writable(GuestAddress(at), length)),
        1 => (any::<u64>(), any::<u32>(), 0u16..8).prop_map(|(at, length, flags)| Buffer::Raw(at, length, flags)),
    ];
    proptest::collection::vec(buffer, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn hostile_commands_harm_nobody(
        features in prop_oneof![Just(CONTROL), Just(SEVERAL), Just(0)],
        bytes in proptest::collection::vec(prop_oneof![Just(4u8), Just(0), 0u8..6, any::<u8>()], 256),
        commands in proptest::collection::vec(any_command(), 0..40),
    ) {
        let mut several = Several::new(3, features);
        let memory = Arc::clone(&several.queues[0].memory);
        memory.write_slice(&bytes, GuestAddress(0xe_0000)).unwrap();
        let control = if features == SEVERAL { 6 } else { 2 };
        for command in &commands {
            several.queues[control].add_chain(command);
        }
        for _turn in 0..commands.len() + 2 {
            several.device.doorbell(u16::try_from(control).unwrap());
            several.device.event(GO_ON);
        }
        prop_assert!(usize::from(several.queues[control].used_index()) <= commands.len());
        let used = several.device.tap_queues.attached();
        prop_assert!((1..=3).contains(&used) && (used == 1 || features == SEVERAL));
    }
}
