//! Cards whose frames somebody else moves: what that one is told, and when.

use virtio_bindings::bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::EventFd;

use super::commands::{SEVERAL, Several};
use super::*;
use crate::memory::GuestMemory;
use crate::virtio::BucketLimits;
use crate::virtio::net::{FrameBackend, InterfaceStatistics, KernelBackends, NetDeviceError, Side};
use crate::virtio::queue::HostRings;

const VERSION_1: u64 = 1 << 32;
const ALL: u64 = VERSION_1 | MERGEABLE | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A back end that notes what it is told, and takes three entries of a queue whenever it is stopped.
#[derive(Default)]
struct Noting {
    features: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of each side that runs: where it began.
    running: [Option<u16>; 2],
    starts: Vec<(Side, u16)>,
    configured: Option<u64>,
    fault: Option<OwnedFd>,
    refuses: bool,
}

impl FrameBackend for Noting {
    fn features(&self) -> u64 {
        self.features
    }

    fn configure(&self, features: u64, _memory: &Arc<GuestMemory>, fault: BorrowedFd<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.running, [None, None]);
        state.configured = Some(features);
        state.fault = Some(fault.try_clone_to_owned()?);
        Ok(())
    }

    fn start(&self, side: Side, rings: &HostRings, _bell: &EventFd, _port: BorrowedFd<'_>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.refuses && side == Side::Transmit {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        assert_eq!(rings.size, 16);
        assert_eq!(state.running[side as usize], None);
        state.running[side as usize] = Some(rings.next);
        state.starts.push((side, rings.next));
        Ok(())
    }

    fn stop(&self, side: Side) -> io::Result<u16> {
        let began = self.state.lock().unwrap().running[side as usize].take();
        Ok(began.unwrap_or(0).wrapping_add(3))
    }

    fn interrupt(&self, _side: Side, _event: &EventFd) -> io::Result<()> {
        Ok(())
    }
}

impl Noting {
    fn is_running(&self) -> bool {
        let running = self.state.lock().unwrap().running.map(|side| side.is_some());
        assert_eq!(running[0], running[1], "both sides or none");
        running[0]
    }
}

fn statistics() -> InterfaceStatistics {
    let directory = tempfile::tempdir().unwrap();
    for name in ["tx_bytes", "tx_packets", "tx_dropped", "rx_bytes", "rx_packets", "rx_dropped"] {
        std::fs::write(directory.path().join(name), "0\n").unwrap();
    }
    InterfaceStatistics::new(std::fs::File::open(directory.path()).unwrap().into()).unwrap()
}

fn noting(count: usize, features: u64) -> Vec<Arc<Noting>> {
    (0..count).map(|_| Arc::new(Noting { features, ..Noting::default() })).collect()
}

fn kernel(backends: &[Arc<Noting>]) -> KernelBackends {
    let backends = backends.iter().map(|backend| Arc::clone(backend) as Arc<dyn FrameBackend>).collect();
    KernelBackends { backends, statistics: statistics() }
}

fn card(count: usize) -> (Several, Vec<Arc<Noting>>) {
    let backends = noting(count, ALL);
    (Several::with_backends(kernel(&backends), SEVERAL | MERGEABLE | VERSION_1), backends)
}

fn running(backends: &[Arc<Noting>]) -> Vec<bool> {
    backends.iter().map(|backend| backend.is_running()).collect()
}

#[test]
fn the_pairs_in_use_are_served_and_no_others() {
    let (mut card, backends) = card(3);
    assert_eq!(running(&backends), [true, false, false]);
    assert_eq!(backends[0].state.lock().unwrap().configured, Some(MERGEABLE | VERSION_1));
    assert_eq!(card.use_pairs(3), 0);
    card.device.event(GO_ON);
    assert_eq!(running(&backends), [true, true, true]);
    assert_eq!(card.use_pairs(2), 0);
    card.device.event(GO_ON);
    assert_eq!(running(&backends), [true, true, false]);
    card.device.reset();
    assert_eq!(running(&backends), [false, false, false]);
    card.start(SEVERAL | VERSION_1);
    assert_eq!(running(&backends), [true, false, false]);
    assert_eq!(backends[0].state.lock().unwrap().configured, Some(VERSION_1));
    drop(card);
    assert_eq!(running(&backends), [false, false, false]);
}

#[test]
fn a_pause_holds_the_queues_and_they_go_on_where_they_were() {
    let (mut card, backends) = card(1);
    for _ in 0..2 {
        assert!(card.device.drain(Instant::now()));
        assert!(!backends[0].is_running());
    }
    card.device.event(GO_ON);
    let starts = [(Side::Receive, 0), (Side::Transmit, 0), (Side::Receive, 3), (Side::Transmit, 3)];
    assert_eq!(backends[0].state.lock().unwrap().starts, starts);
}

#[test]
fn a_link_that_is_down_is_not_served() {
    let (mut card, backends) = card(2);
    let handle = card.device.handle();
    handle.set_link(LinkState::Down);
    card.device.event(GO_ON);
    assert_eq!(running(&backends), [false, false]);
    assert_eq!(card.use_pairs(2), 0);
    card.device.event(GO_ON);
    assert_eq!(running(&backends), [false, false]);
    card.device.reset();
    card.start(SEVERAL | VERSION_1);
    assert_eq!(running(&backends), [false, false], "it stays down across resets");
    handle.set_link(LinkState::Up);
    card.device.event(GO_ON);
    assert_eq!(running(&backends), [true, false]);
    assert_eq!(*card.told.carriers.lock().unwrap(), [LinkState::Down, LinkState::Up]);
}

#[test]
fn a_malformed_queue_breaks_the_card_until_it_is_reset() {
    let (mut card, backends) = card(2);
    card.device.event(KERNEL_FAULT);
    assert!(!card.device.is_broken(), "an event alone is no fault");
    let fault = backends[0].state.lock().unwrap().fault.take().unwrap();
    rustix::io::write(&fault, &1u64.to_ne_bytes()).unwrap();
    card.device.event(KERNEL_FAULT);
    assert!(card.device.is_broken());
    card.device.event(GO_ON);
    assert_eq!(running(&backends), [false, false]);
    card.start(SEVERAL | VERSION_1);
    assert!(!card.device.is_broken());
    assert_eq!(running(&backends), [true, false]);
}

#[test]
fn a_host_that_refuses_breaks_the_card_and_serves_nothing() {
    let (mut card, backends) = card(1);
    card.device.drain(Instant::now());
    backends[0].state.lock().unwrap().refuses = true;
    card.device.event(GO_ON);
    assert!(card.device.is_broken());
    assert!(!backends[0].is_running());
}

#[test]
fn what_a_back_end_cannot_serve_is_not_offered() {
    let features = |backends: &[Arc<Noting>]| {
        Several::with_backends(kernel(backends), VERSION_1).device.offered_features()
    };
    let all = features(&noting(1, ALL));
    assert_eq!(all, Several::new(1, 0).device.offered_features());
    assert_eq!(features(&noting(1, ALL & !MERGEABLE)), all & !(1 << VIRTIO_NET_F_MRG_RXBUF));
    assert_eq!(features(&noting(1, VERSION_1)), all & !ALL);
}

#[test]
fn only_the_bells_of_frames_are_anothers() {
    let (pair, several) = (card(1).0, card(3).0);
    let elsewhere = |card: &Several, queues: std::ops::Range<u16>| -> Vec<u16> {
        queues.filter(|queue| card.device.is_served_elsewhere(*queue)).collect()
    };
    assert_eq!(elsewhere(&pair, 0..8), [0, 1]);
    // Queue 2 is the control queue of a driver that knows one pair.
    assert_eq!(elsewhere(&several, 0..8), [0, 1, 3, 4, 5]);
    assert_eq!(pair.device.events().len(), 2, "no port is watched");
}

#[test]
fn impossible_combinations_are_refused() {
    let refused = |backends: usize, rate_limits| {
        let (socket, _peer) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let port = SocketPort { socket, offloads: Arc::default(), carriers: Arc::default() };
        let config = NetDeviceConfig {
            ports: vec![Box::new(port)],
            mac: MAC,
            mtu: None,
            queue_size: QueueSize::default(),
            rate_limits,
            offloads: NicOffloads::default(),
            kernel: Some(kernel(&noting(backends, ALL))),
        };
        NetDevice::new(config).err()
    };
    let two = refused(2, RateLimits::default());
    assert!(matches!(two, Some(NetDeviceError::Backends { backends: 2, ports: 1 })));
    let bandwidth = Some(BucketLimits::new(1, 0, std::time::Duration::from_secs(1)).unwrap());
    let limited = refused(1, RateLimits { bandwidth, ..RateLimits::default() });
    assert!(matches!(limited, Some(NetDeviceError::LimitedBackends)));
}
